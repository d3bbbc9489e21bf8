"""Several processes on a CPU (gloo): one result, the gradients and the error
messages of one process."""

import csv
import os
import sys
from datetime import timedelta
from functools import partial

import pytest
import speechbrain
import torch

import train
from hamsb.dataio.audio import random_crop
from hamsb.utils import command_line
from hamsb.utils.command_line import main_or_exit
from runs import contents, launch, quick  # noqa: F401
from stand_ins import watched

GLOO = ["--device=cpu", "--distributed_backend=gloo"]


# ------------------------------------------------------------------- training


def tiny_yaml(repository, folder):
    """small_ham.yaml with a tiny model, SGD and a learned ball, without dropout or
    normalization over a batch: each step is a function of its utterances alone."""
    text = (repository / "hparams" / "small_ham.yaml").read_text()

    def put(begin, end, replacement):
        nonlocal text
        start = text.index(begin)
        text = text[:start] + replacement + text[text.index(end, start) :]

    put("# Augmentation", "# Features", "")
    put(
        "embedding_model: !new:",
        "# Head and loss",
        "embedding_model: !new:stand_ins.Embedding\n"
        "    input_size: !ref <n_mels>\n    lin_neurons: !ref <lin_neurons>\n\n",
    )
    put(
        "ball: !new:",
        "compute_cost",
        "ball: !new:hamsb.PoincareBall\n        curvature: 1.0\n        learnable: True\n",
    )
    put("opt_class: !name:", "    lr:", "opt_class: !name:torch.optim.SGD\n")
    path = folder / "tiny.yaml"
    path.write_text(text)
    return path


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="autograd does not outlive a fork there"
)
def test_two_processes_train_as_one_and_report_once(
    repository, tiny_options, tmp_path, monkeypatch
):
    """A first epoch: the utterances that two processes draw a step, in the order in
    which they draw them, are a step of one process. Then ECAPA-TDNN."""
    tiny = str(tiny_yaml(repository, tmp_path))
    ecapa = str(repository / "hparams" / "small_ham.yaml")
    brain_class, steps = train.SpeakerBrain, []
    Watched = watched(brain_class, steps)

    def options(name, **changes):
        """The crops are whole files; the rates change the weights."""
        changes |= {"sentence_len": 3.0, "base_lr": 0.05, "max_lr": 0.1}
        given = tiny_options(output_folder=tmp_path / name, baselines=False, **changes)
        return [o for o in given if name == "ecapa" or "embedding_model" not in o]

    def process():
        train.SpeakerBrain = Watched
        train.main([tiny, *options("two", batch_size=2), *GLOO])
        torch.save(steps, tmp_path / f"{os.environ['RANK']}.pt")
        train.SpeakerBrain = brain_class
        speechbrain.utils.distributed.ddp_init_group = lambda run_opts: None  # is there
        train.main([ecapa, *options("ecapa", batch_size=2), *GLOO])

    statuses, screens = launch([process, process], tmp_path)
    assert statuses == [0, 0], screens
    screen = "".join(screens)
    for name in ("two", "ecapa"):
        assert screen.count(f"Report: {tmp_path / name}/report.md") == 1
        assert len((tmp_path / name / "train_log.txt").read_text().splitlines()) == 1
        assert len(list((tmp_path / name / "save").glob("CKPT*"))) == 1
        assert (tmp_path / name / "export" / "hyperparams.yaml").is_file()

    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    drawn = [sum((step[0] for step in pair), []) for pair in zip(*ranks)]
    with open(tmp_path / "two" / "save" / "train.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    ids = [row["ID"] for row in rows]
    assert max(float(row["duration"]) for row in rows) < 3.0
    assert len(drawn) == 6 and sorted(sum(drawn, [])) == sorted(ids)

    monkeypatch.setattr(train, "SpeakerBrain", Watched)
    sampler = [ids.index(utterance) for step in drawn for utterance in step]
    loader = f"{{shuffle: False, sampler: {sampler}}}"
    train.main([tiny, *options("one", batch_size=4, dataloader_options=loader)])
    assert [step[0] for step in steps] == drawn

    def same_as(joined, single):
        largest = max(value.abs().max().item() for value in single.values())
        assert joined.keys() == single.keys() and len(single) == 7
        for name, value in single.items():
            # The curvature's gradient is a sum that nearly cancels at the origin.
            error, scale = (x.abs().max().item() for x in (joined[name] - value, value))
            assert error < 1e-3 * scale + 3e-5 * largest, name
            assert scale > 0, name

    for rank in ranks:
        for (_, gradients, weights), (_, *single) in zip(rank, steps):
            same_as(gradients, single[0])
            same_as(weights, single[1])
    for name, last in steps[-1][2].items():  # the steps matter
        moved = (last - steps[0][2][name]).abs().max().item()
        assert moved > 1e-3 * last.abs().max().item(), name


# ------------------------------------------------------------------- messages


@pytest.fixture
def ends(monkeypatch, tmp_path, repository):
    """A function: the ends of two processes of ``main_or_exit``: statuses, screens."""
    monkeypatch.setattr(command_line, "PATIENCE", 0.5)
    script = repository / "recipes" / "VoxCeleb" / "train.py"
    monkeypatch.setattr(sys, "argv", [str(script)])

    def ends(*mains):
        return launch([partial(main_or_exit, main) for main in mains], tmp_path)

    return ends


@pytest.mark.parametrize(
    "change, message",
    [
        ({"device": "gpu"}, "device=gpu: no device"),  # before the processes meet
        ({"compute_cost": "{margin: -1}"}, "compute_cost: margin=-1"),  # in all of them
        ({"dev_speakers": 7}, "too few data. dev_speakers=7"),  # in the first alone
    ],
)
def test_an_error_of_all_processes_is_printed_once(
    ends, repository, tiny_options, tmp_path, change, message
):
    small = str(repository / "hparams" / "small_ham.yaml")
    given = tiny_options(**{"device": "cpu", "distributed_backend": "gloo", **change})
    statuses, screens = ends(*[lambda _: train.main([small, *given])] * 2)
    errors = [line for line in screens[0].splitlines() if "error: " in line]
    assert len(errors) == 1 and errors[0].startswith("train.py: error: ")
    assert message in errors[0]
    assert "rror" not in screens[1] and "Traceback" not in screens[0]
    assert statuses[0] == 2 and statuses[1] != 0
    assert "export/hyperparams.yaml" not in contents(tmp_path)


def meet():
    torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=30))
    torch.distributed.barrier()


def waiting(_):
    meet()
    torch.distributed.barrier()


def failing(_):
    meet()
    random_crop("/no/such.wav", 0, 10, 10)


def bug(_):
    meet()
    raise KeyError("a bug")


@pytest.mark.parametrize(
    "first, second, speaker",
    [
        (failing, waiting, 0),
        (waiting, failing, 1),
        (bug, waiting, 0),
        (waiting, bug, 1),
    ],
)
def test_an_error_of_one_process_is_printed_by_it(ends, first, second, speaker):
    """And not that the other lost it."""
    statuses, screens = ends(first, second)
    if bug in (first, second):
        assert screens[speaker].endswith("KeyError: 'a bug'\n")
        assert statuses[speaker] == 1
    else:
        assert screens[speaker].startswith("train.py: error: /no/such.wav: cannot be read")
        assert screens[speaker].count("\n") == 1 and statuses[speaker] == 2
    assert "rror" not in screens[1 - speaker] and statuses[1 - speaker] != 0


def test_an_interruption_is_told_once(ends):
    def interrupted(_):
        meet()
        raise KeyboardInterrupt

    statuses, screens = ends(interrupted, interrupted)
    assert [screen.count("interrupted; ") for screen in screens] == [1, 0]
    assert 130 in statuses and 0 not in statuses


def test_accelerators_are_not_joined_on_a_cpu(ends, repository, tiny_options, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    small = str(repository / "hparams" / "small_ham.yaml")
    statuses, screens = ends(*[lambda _: train.main([small, *tiny_options()])] * 2)
    assert "distributed_backend=nccl: it joins" in screens[0]
    assert statuses[0] == 2 and screens[1] == ""
