"""What a run began as, and whether it goes on as that.

A run's folder continues only where script, settings, run options, versions and data are
those that its ``run.json`` notes. Weights trained with one margin would else be
reported as trained with another. What may change is stated here, in `MAY_CHANGE` and
`LOADER_MAY_CHANGE`, and for the number of processes in `bound_to_processes`; everything
else is refused, with the key and both values, before anything is written.
"""

import io
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from speechbrain.utils.run_opts import RunOptions

from hamsb.utils.conditions import versions
from hamsb.utils.hparams import plain_keys, resolve
from hamsb.utils.run_folder import RUN, check_script, read_run
from hamsb.utils.yaml_tree import bracketed, option_text, read_yaml

#: Keys of a yaml that may change from one start to the next, and what must hold.
MAY_CHANGE = {
    "number_of_epochs": "it may be raised",
    "num_workers": "",
    "output_folder": "the folder may be moved",
    "device": "",
    "precision": "",
    "eval_precision": "",
    "ckpt_interval_minutes": "",
    "card": "",
    "export_classifier": "",
    "train_logger": "",
}
#: Of the data loader, what changes no batch.
LOADER_MAY_CHANGE = (
    "num_workers",
    "pin_memory",
    "pin_memory_device",
    "persistent_workers",
    "prefetch_factor",
    "multiprocessing_context",
    "timeout",
)
#: Run options that change what is trained, whether or not the yaml has them as keys.
RUN_OPTIONS = (
    "grad_accumulation_factor",
    "optimizer_step_limit",
    "max_grad_norm",
    "skip_nonfinite_grads",
    "remove_vector_weight_decay",
    "debug",
)
#: Keys that follow from the number of processes where ``global_batch_size`` is given.
SHARES = (("batch_size",), ("dataloader_options", "batch_size"))
#: Augmentations that draw for each utterance, whatever else is in the batch.
OWN_DRAWS = ("!new:hamsb.AddNoise", "!new:hamsb.AddReverb")
#: Software whose version may change what is trained.
SOFTWARE = ("hamsb", "speechbrain", "torch")

_MISSING = "nothing"


def identity(
    script: str,
    hparams_file: str | os.PathLike,
    overrides: str,
    run_opts: RunOptions,
    processes: int,
    together: bool,
) -> dict:
    """What a run is, but for its data.

    Arguments
    ---------
    script : str
        Its file name.
    hparams_file : str or Path
    overrides : str
        As for `hamsb.utils.hparams.resolve`.
    run_opts : RunOptions
    processes : int
    together : bool
        Whether batch normalization takes the statistics of all processes' batches.

    Returns
    -------
    dict
        ``script``, ``settings`` (the resolved yaml), ``options`` and ``versions``, for
        `hamsb.utils.run_folder.write_run`.
    """
    software = versions("cpu")
    return {
        "script": script,
        "settings": resolve(hparams_file, overrides),
        "options": {name: run_opts[name] for name in RUN_OPTIONS}
        | {"processes": processes, "normalized_together": together},
        "versions": {name: software[name].partition("+")[0] for name in SOFTWARE},
    }


def begun(
    now: Mapping, hparams_file: str | os.PathLike, overrides: str, output_folder: Path
) -> dict | None:
    """What the run in a folder began as, where this one goes on with it.

    Arguments
    ---------
    now : mapping
        From `identity`, with the same yaml and overrides.
    hparams_file : str or Path
    overrides : str
    output_folder : Path
        With the run's checkpoints or export, or nothing yet.

    Returns
    -------
    dict or None
        What ``run.json`` notes. None where nothing is trained there yet, so that the
        run may be another one.

    Raises
    ------
    ValueError
        Another script, other settings, options or versions: names each key with
        both values. A trained run that has noted nothing.
    """
    check_script(output_folder, now["script"])
    began = read_run(output_folder)
    if not _is_trained(output_folder, plain_keys(now["settings"]).get("save_folder")):
        return None
    where = f"output_folder={output_folder}"
    if began is None:
        raise ValueError(
            f"{where}: holds a trained model, but no {RUN} that says what it was "
            "trained with, so this run cannot go on with it. Give another output_folder."
        )
    if not _is_whole(began):
        raise ValueError(
            f"{Path(output_folder, RUN)}: lacks part of what the run there began as. "
            "Restore the file, or give another output_folder."
        )
    changed = list(_differences(began, now, hparams_file, overrides))
    if changed:
        raise ValueError(
            f"{where}: the run there began with {'; '.join(changed)}. A folder "
            "continues only as what it began as. Give another output_folder, or remove "
            "this one to begin anew."
        )
    return began


def check_data(began: Mapping | None, data: Mapping[str, str], folder: Path) -> None:
    """ValueError where data are not those that a run began with.

    Arguments
    ---------
    began : mapping or None
        From `begun`; of None everything goes.
    data : mapping of str to str
        Name -> SHA-256 of its contents.
    folder : Path
        The ``output_folder``.
    """
    if began is None:
        return
    earlier = began["data"]
    changed = [n for n in {**earlier, **data} if earlier.get(n) != data.get(n)]
    if changed:
        raise ValueError(
            f"output_folder={folder}: {', '.join(changed)} changed since the run there "
            "began. Restore the data, or give another output_folder."
        )


def _is_whole(run: Mapping) -> bool:
    """Whether a ``run.json`` has all that is compared, each part of its kind."""
    try:
        settings = YAML().load(str(run.get("settings")))
    except Exception:  # ruamel raises some eight kinds, by the damage
        return False
    parts = settings, *(run.get(key) for key in ("options", "versions", "prepared", "data"))
    return all(isinstance(part, Mapping) for part in parts)


def _is_trained(output_folder: Path, save_folder: object) -> bool:
    saves = {Path(output_folder, "save"), Path(str(save_folder or output_folder))}
    checkpoints = any(True for save in saves for _ in save.glob("CKPT+*"))
    return checkpoints or Path(output_folder, "export").is_dir()


def _differences(
    began: Mapping, now: Mapping, hparams_file: str | os.PathLike, overrides: str
) -> Iterator[str]:
    """Each difference in words: ``margin=0.2, and now it is 0.5``."""
    earlier = YAML().load(began["settings"])
    epochs = earlier.get("number_of_epochs"), _epochs(now)
    if all(isinstance(number, int) for number in epochs) and epochs[1] < epochs[0]:
        yield _words("number_of_epochs", *epochs) + ", and it may only be raised"
    present = YAML().load(_settings(hparams_file, overrides, earlier))
    theirs, ours = dict(_flat(earlier)), dict(_flat(present))
    bound = bound_to_processes(earlier, began["options"], now["options"])
    for path in dict.fromkeys([*theirs, *ours]):
        pair = theirs.get(path, _MISSING), ours.get(path, _MISSING)
        allowed = _may_change(path) or (path in SHARES and bound is None)
        if pair[0] != pair[1] and not allowed:
            yield _words(bracketed(path), *pair)
    for kind in ("options", "versions"):
        for name, value in now[kind].items():
            other = began[kind].get(name, _MISSING)
            if other == value or name in theirs:
                continue
            if name != "processes":
                yield _words(name, other, value)
            elif bound is not None:
                yield f"{_words(name, other, value)} ({bound})"


def bound_to_processes(settings: Mapping, began: Mapping, now: Mapping) -> str | None:
    """Why a run cannot go on with another number of processes; None where it can.

    It can where that changes no batch of an optimizer step, nothing that is drawn, and
    nothing that is computed but for rounding.

    Arguments
    ---------
    settings : mapping
        What the run began with, with the yaml's tags.
    began, now : mapping
        The ``options`` of `identity`.
    """
    loader = settings.get("dataloader_options") or {}
    if began.get("processes") == now["processes"]:
        return "it is the same"
    if settings.get("global_batch_size") is None:
        return "batch_size is that of each; with global_batch_size it may change"
    if loader.get("batch_sampler") is not None or not loader.get("drop_last"):
        return "it may change where the loader shuffles and drops the last batch"
    if not (began.get("normalized_together") and now["normalized_together"]):
        return "it may change where all batches are normalized together, sync_batch_norm"
    if any(path[-1] == "class_fraction" and part != 1 for path, part in _flat(settings)):
        return "each process draws for class_fraction from its own speakers"
    if settings.get("fea_augment") is not None:
        return "each process draws the masks of fea_augment by itself"
    if not _draws_by_utterance(settings.get("wav_augment")):
        return "each process draws for wav_augment by itself, but rooms and noises"
    return None


def _draws_by_utterance(augmenter: Any) -> bool:
    """Whether all that a yaml's ``wav_augment`` draws is a room and a noise for each
    utterance: it chooses none of its augmentations at random."""
    if augmenter is None:
        return True
    chain = augmenter.get("augmentations") or []
    tags = [getattr(getattr(each, "tag", None), "value", None) for each in chain]
    counts = [augmenter.get(f"{which}_augmentations") for which in ("min", "max")]
    chooses = augmenter.get("shuffle_augmentations") or augmenter.get("augment_prob", 1) < 1
    return all(t in OWN_DRAWS for t in tags) and counts == [len(tags)] * 2 and not chooses


def _epochs(now: Mapping) -> Any:
    return plain_keys(now["settings"]).get("number_of_epochs")


def _settings(
    hparams_file: str | os.PathLike, overrides: str, earlier: CommentedMap
) -> str:
    """The resolved yaml as it is with the earlier values of what may change, so that
    what is computed from these is compared with its like."""
    changes = YAML().load(overrides) if overrides else CommentedMap()
    names = read_yaml(hparams_file).keys() | changes.keys()
    for name in MAY_CHANGE:
        if name in names and name in earlier:
            changes[name] = earlier[name]
    stream = io.StringIO()
    YAML().dump(changes, stream)
    return resolve(hparams_file, stream.getvalue() if changes else "")


def _flat(node: Any, path: tuple = ()) -> Iterator[tuple[tuple, object]]:
    """The path of every value of a tree, and the value, a number or a text; of a
    mapping with a tag also the tag."""
    if isinstance(node, Mapping):
        tag = getattr(getattr(node, "tag", None), "value", None)
        if tag or not node:
            yield path, tag or "{}"
        for key, value in node.items():
            yield from _flat(value, (*path, str(key)))
    elif isinstance(node, (int, float)):
        yield path, node
    else:
        yield path, " ".join(option_text(node).split())


def _may_change(path: tuple) -> bool:
    if path[0] == "dataloader_options" and path[-1] in LOADER_MAY_CHANGE:
        return True
    return path[0] in MAY_CHANGE


def _words(name: str, began: object, now: object) -> str:
    return f"{name}={began}, and now it is {now}"
