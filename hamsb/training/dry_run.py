"""What a yaml's objects would fail at, found before any data are read.

Arguments that an object does not take, sample rates that differ, options that the data
loader refuses; and the modules are built and given a batch of noise, one after the
other, and the losses what the heads make of it. All of it is thrown away, and random
numbers are drawn from copies of the generators, so a training does not depend on it.
"""

import inspect
import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ruamel.yaml.comments import CommentedMap
from torch.utils.data import DataLoader, TensorDataset

from hamsb.training.branches import (
    check_form,
    check_loss,
    check_trained,
    expects,
    gives,
)
from hamsb.training.card import check_card
from hamsb.training.schedules import next_rate
from hamsb.utils.checks import check_not_negative, check_whole
from hamsb.utils.hparams import (
    build,
    check_arguments,
    check_names,
    error_text,
    known_arguments,
    objects,
    read_resolved,
)
from hamsb.utils.yaml_tree import bracketed

#: The modules that every training script passes a batch through, in this order.
CHAIN = ("compute_features", "mean_var_norm", "embedding_model")
BUILT = ("modules", "compute_cost", "branches", "fea_augment", "margin_schedule")
LONGEST = 3.0  # seconds of noise
TURNS = 100  # optimizer steps whose learning rates are looked at
OF_DATA = ("sampler", "batch_sampler", "collate_fn")  # of the data loader's options


def check_objects(hparams_file: str | os.PathLike, overrides: str = "") -> None:
    """ValueError where a training with this yaml would fail at one of its objects.

    Arguments
    ---------
    hparams_file : str or Path
    overrides : str
        As for `hamsb.utils.hparams.resolve`.
    """
    document = read_resolved(hparams_file, overrides)
    counted = [k for k in ("batches_per_epoch", "steps_per_epoch") if document.get(k) == 0]
    if counted:
        lines = [overrides, *(f"{key}: 1000" for key in counted)]
        document = read_resolved(hparams_file, "\n".join(filter(None, lines)))
    check_arguments(document, hparams_file)
    check_used(document, hparams_file)
    check_sample_rates(document, hparams_file)
    check_card(build(_part(document, "card"), hparams_file).get("card"), hparams_file)
    with same_random_state():
        check_dataloader_options(document, hparams_file)
        check_optimizer(document, hparams_file)
        dry_run(document, hparams_file)


def check_used(document: Mapping, hparams_file: str | os.PathLike) -> None:
    """ValueError where a key does nothing, since what takes it is not there: a training
    would go on without it, and say nothing."""
    speeds = document.get("speeds")
    if speeds not in (None, [100]) and document.get("speed_perturb") is None:
        raise ValueError(
            f"{hparams_file}: speeds={list(speeds)}: makes classes that nothing fills, "
            "without speed_perturb; give it, !new:hamsb.augment.time_domain.SpeedPerturb "
            "{speeds: !ref <speeds>, out_neurons: !ref <out_n_neurons>}."
        )
    modules = document["modules"]
    if document.get("momentum_encoder") is not None and "momentum_encoder" not in modules:
        raise ValueError(
            f"{hparams_file}: momentum_encoder: none of the modules, so nothing asks it; "
            "leave it out, or begin with a yaml of MoCo."
        )
    loader = document["dataloader_options"] or {}
    if document.get("batch_sampler") is not None and "batch_sampler" not in loader:
        raise ValueError(
            f"{hparams_file}: batch_sampler: makes no batch unless the data loader has it; "
            "write batch_sampler: !ref <batch_sampler> in dataloader_options, in the place "
            "of batch_size, shuffle and drop_last."
        )


@contextmanager
def same_random_state() -> Iterator[None]:
    """The random number generators are afterwards what they were."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def check_sample_rates(document: Mapping, hparams_file: str | os.PathLike) -> None:
    """ValueError where an object is made for another rate than the audio's."""
    rate = document["sample_rate"]
    for path, node in objects(document):
        known = known_arguments(node) or {}
        if "sample_rate" not in known:
            continue
        given = node.get("sample_rate") if isinstance(node, Mapping) else None
        theirs = known["sample_rate"].default if given is None else given
        if isinstance(theirs, (int, float)) and theirs != rate:
            here = bracketed((*path, "sample_rate"))
            raise ValueError(
                f"{hparams_file}: {here}={theirs}, but the audio has sample_rate={rate}. "
                f"Write sample_rate: !ref <sample_rate> in {bracketed(path)}."
            )


def check_dataloader_options(document: Mapping, hparams_file: str | os.PathLike) -> None:
    """ValueError where the data loader does not take its options."""
    options = document["dataloader_options"]
    where = f"{hparams_file}: dataloader_options"
    if not isinstance(options, Mapping):
        raise ValueError(f"{where}={options}: a group of keys, as batch_size.")
    known = [*inspect.signature(DataLoader).parameters, "looped_nominal_epoch"]
    check_names(where, options, known[1:], "torch's DataLoader")
    plain = CommentedMap((k, v) for k, v in options.items() if k not in OF_DATA)
    tree = CommentedMap(dataloader_options=plain)
    values = build(tree, hparams_file)["dataloader_options"]
    values.pop("looped_nominal_epoch", None)
    try:
        DataLoader(TensorDataset(torch.zeros(1)), **values)
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"{where}: {error_text(error)}") from error


def check_optimizer(document: CommentedMap, hparams_file: str | os.PathLike) -> None:
    """ValueError where the optimizer cannot be made, the epochs are no whole number, or
    the schedule gives it no learning rate in the first of its epochs or steps."""
    check_epochs(document, hparams_file)
    parts = _part(document, "opt_class", "epoch_counter", "lr_annealing")
    built = build(parts, hparams_file)
    try:
        optimizer = built["opt_class"]([torch.nn.Parameter(torch.zeros(1))])
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"{hparams_file}: opt_class: {error_text(error)}") from error
    anneal, where = built["lr_annealing"], f"{hparams_file}: lr_annealing"
    by_step = hasattr(anneal, "on_batch_end")
    for turn in range(1, TURNS + 1 if by_step else built["epoch_counter"].limit + 1):
        try:
            rate = anneal.on_batch_end(optimizer) if by_step else next_rate(anneal, turn, 0)
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"{where}: {error_text(error)}") from error
        rate = optimizer.param_groups[0]["lr"] if by_step else rate
        turns = "optimizer step" if by_step else "epoch"
        check_not_negative(f"{where}: the learning rate after {turns} {turn}", rate)


def check_epochs(document: Mapping, hparams_file: str | os.PathLike) -> None:
    """ValueError where the limit that the yaml gives its ``epoch_counter`` is no whole
    number of epochs; SpeechBrain's drops a fraction."""
    counter = document["epoch_counter"]
    limit = counter.get("limit") if isinstance(counter, Mapping) else None
    same = document.get("number_of_epochs", limit) == limit
    name = "number_of_epochs" if same else "epoch_counter[limit]"
    check_whole(f"{hparams_file}: {name}", limit, 1)


def dry_run(document: CommentedMap, hparams_file: str | os.PathLike) -> None:
    """Build the modules, and pass noise through features, network, heads and losses.

    Raises
    ------
    ValueError
        An object that refuses its arguments; a module that is not there, or does not
        take what the one before it gives.
    """
    hparams = build(_part(document, *document["modules"], *BUILT), hparams_file)
    modules = hparams["modules"]
    names = dict.fromkeys([*CHAIN, *modules])
    absent = [name for name in names if modules.get(name) is None]
    if absent:
        raise ValueError(f"{hparams_file}: modules: no {', '.join(absent)}; add them.")
    costs = {"classifier": ("compute_cost", hparams.get("compute_cost"))}
    if branches := hparams.get("branches"):
        check_form(branches, f"{hparams_file}: branches")
        costs = {
            name: (f"branches[{name}][cost]", branch["cost"])
            for name, branch in branches.items()
        }
    try:
        given = hparams.get("compute_cost"), modules, hparams.get("margin_schedule")
        check_trained(branches, *given)
    except ValueError as error:
        raise ValueError(f"{hparams_file}: {error}") from None
    seconds = min(document["sentence_len"], LONGEST)
    batch = torch.randn(2, max(int(seconds * document["sample_rate"]), 1)) / 10
    lengths, before = torch.ones(2), f"crops of {seconds:g} s"
    for name in CHAIN:  # normalization by running means has none before it trains
        modules[name].train(name == "mean_var_norm")
    with torch.no_grad():
        for name in CHAIN:
            inputs = (batch,) if name == CHAIN[0] else (batch, lengths)
            batch = _pass(name, modules[name], inputs, before, document, hparams_file)
            before = f"what {name} gives"
    for name, (where, cost) in costs.items():  # as in training, with gradients
        check_loss(f"{hparams_file}: {where}", cost)
        if name not in modules:
            continue
        head = modules[name].train()
        predictions = _pass(name, head, (batch,), before, document, hparams_file)
        if {*gives(head)} & {*expects(cost)} - {"embedding"}:  # speakers, not pairs
            inputs = predictions, torch.zeros(len(batch), 1, dtype=torch.long)
            _pass(where, cost, inputs, f"what {name} gives", document, hparams_file)


def _part(document: CommentedMap, *names: str) -> CommentedMap:
    return CommentedMap((name, document[name]) for name in names if name in document)


def _pass(
    name: str,
    module: Any,
    inputs: tuple,
    before: str,
    document: Mapping,
    hparams_file: str | os.PathLike,
) -> torch.Tensor:
    """A module's output; ValueError where it fails."""
    try:
        return module(*inputs)
    except Exception as error:
        shape, node = list(inputs[0].shape), _node(document, name)
        why = (error_text(error).strip().splitlines() or [""])[0]
        message = (
            f"{hparams_file}: {name} does not take {before}, a tensor of shape {shape}: "
            f"{why.rstrip('.')}." + _advice(name, node, shape, document)
        )
        raise ValueError(message) from error


def _advice(name: str, node: Any, shape: list[int], document: Mapping) -> str:
    """What to do, where the usual causes are there."""
    given = node if isinstance(node, Mapping) else {}
    size = given.get("input_size")
    if size is not None and size != shape[-1]:
        return f" Its input_size={size} must be that {shape[-1]}, or the other way round."
    known = known_arguments(node) or {}
    if {"n_fft", "win_length"} <= known.keys():
        values = {key: known[key].default for key in known} | dict(given)
        window = values["win_length"] * document["sample_rate"] // 1000
        if values["n_fft"] < window:
            return f" Give it n_fft: {window:g}, at least."
    if name == "embedding_model" and len(shape) == 3 and shape[1] < 20:
        seconds = document["sentence_len"]
        return f" Is sentence_len={seconds} too short, with its {shape[1]} frames?"
    return ""


def _node(document: Mapping, name: str) -> Any:
    return document["modules"].get(name, document.get(name))
