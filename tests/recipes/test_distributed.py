"""Several processes on a CPU (gloo): one result, the gradients and the error
messages of one process."""

import csv
import json
import os
import sys
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import speechbrain
import torch
import torch._dynamo  # noqa: F401  # by optimizers, seconds in each process otherwise

import train
import train_ssl
from hamsb.dataio.audio import random_crop
from hamsb.training import run
from hamsb.utils import command_line
from hamsb.utils.command_line import main_or_exit
from runs import contents, launch, quick, same  # noqa: F401
from stand_ins import watched

GLOO = ["--device=cpu", "--distributed_backend=gloo"]


# ------------------------------------------------------------------- training

ECHO = (
    "!new:speechbrain.augment.augmenter.Augmenter {min_augmentations: 1, "
    "max_augmentations: 1, augmentations: [!new:stand_ins.Echo {} ], concat_original: "
)
SGD = "!name:torch.optim.SGD {lr: 0.1}"
BALL = "ball: !new:hamsb.PoincareBall {curvature: 1.0, learnable: True}"
PARTED = "classifier.centers"  # each process has a part of its rows
REFRESH = "{every: 1, k: 2, utterances: 2, seconds: 0.5, hard_ratio: 1.0}"
# What two processes train as one does: the script, changes of the yaml, and in two
# processes alone.
JOINED = {
    "train_ecapa_blend": (
        train,
        {
            "sentence_len": 0.5,
            "classifier": f"{{sharded: True, {BALL}}}",
            "global_batch_size": 12,
        },
        {},
    ),
    "small/supcon": (
        train,
        {"batch_size": 8, "fea_augment": "null"},
        {"batch_size": 4, "cluster_refresh": REFRESH, "number_of_epochs": 2},
    ),
    "small/moco": (
        train_ssl,
        {"wav_augment": ECHO + "False}", "global_batch_size": 12, "queue_size": 8},
        {"debug": True},  # two batches an epoch, and checkpoints elsewhere
    ),
}
BRAINS = {train: "SpeakerBrain", train_ssl: "ContrastiveBrain"}
needs_forks = pytest.mark.skipif(
    torch.accelerator.is_available(), reason="autograd does not outlive a fork there"
)


class Stop(Exception):
    """The end of a run of which the steps are enough."""


@contextmanager
def recorded(script, frozen=False, steps_alone=False):
    """What the script's Brain does: its steps, the states of its modules at the ends of
    epochs, mean losses, seeds, and the number of utterances embedded.

    Arguments
    ---------
    frozen : bool
        Batch normalization with the statistics that it began with.
    """
    record = {"steps": [], "states": [], "losses": [], "seeds": [], "embedded": 0}
    original = getattr(script, BRAINS[script])

    class Recorded(watched(original, record["steps"])):
        def on_stage_start(self, stage, epoch=None):
            super().on_stage_start(stage, epoch)
            record["seeds"].append(torch.initial_seed())

        def on_fit_batch_start(self, batch, should_step):
            super().on_fit_batch_start(batch, should_step)
            for part in self.modules.modules():
                if frozen and getattr(part, "track_running_stats", False):
                    part.eval()

        def on_stage_end(self, stage, stage_loss, epoch=None):
            if steps_alone:
                raise Stop
            record["losses"].append(stage_loss)
            super().on_stage_end(stage, stage_loss, epoch)
            state = self.modules.state_dict().items()
            record["states"].append({name: value.clone() for name, value in state})

        def encode(self, wavs):
            record["embedded"] += len(wavs)
            return super().encode(wavs)

    setattr(script, BRAINS[script], Recorded)
    try:
        yield record
    except Stop:
        pass
    finally:
        setattr(script, BRAINS[script], original)


@pytest.fixture
def tiny(repository, tiny_options, tiny_distortions):
    """A function: the command line of a yaml on tiny data, whose crops are whole files."""

    def tiny(name, changes):
        path = repository / "hparams" / f"{name}.yaml"
        changes = {"sentence_len": 3.0, "baselines": False, **changes}
        if "data_folder_noise" in path.read_text(encoding="utf-8"):
            changes |= tiny_distortions
        given = tiny_options(**changes)
        both = "global_batch_size" in changes
        return [str(path), *(o for o in given if not (both and "--batch_size" in o))]

    return tiny


def records(folder, processes, parted=False):
    """What the processes of a run have done; all end with one model, of which each may
    have a part."""
    found = [torch.load(f"{folder}.{rank}.pt") for rank in range(processes)]
    alike = [
        [{n: v for n, v in s.items() if n != PARTED or not parted} for s in each["states"]]
        for each in found
    ]
    for other in alike[1:]:
        for ours, theirs in zip(alike[0], other, strict=True):
            assert same(ours, theirs)
    return found


def whole(values, of_all):
    """Gradients or weights of a process, by parameter, with all rows of what each has a
    part of."""
    return {**values, PARTED: torch.cat([each[PARTED] for each in of_all])}


def close(joined, single):
    """Whether gradients or weights, by parameter, are equal but for rounding."""
    largest = max(value.abs().max().item() for value in single.values())
    assert joined.keys() == single.keys()
    for name, value in single.items():
        # A learned curvature's gradient is a sum that nearly cancels at the origin.
        error, scale = (x.abs().max().item() for x in (joined[name] - value, value))
        assert error <= 1e-3 * scale + 3e-5 * largest, name


@needs_forks
def test_two_processes_train_as_one(tiny, tmp_path):
    """The utterances that two processes draw a step are a step of one process, whose
    gradients are the same. Batch normalization is frozen: it would take each process's
    own batch. The first of the cases draws crops, noises and rooms; where the order of a
    batch's utterances matters, their files are whole and the one process is told it."""

    def process():
        leave, run.leave_together = run.leave_together, torch.distributed.barrier
        for name, (script, changes, further) in JOINED.items():
            folder = tmp_path / Path(name).name
            changes = {**changes, **further, "opt_class": SGD, "output_folder": folder}
            with recorded(script, frozen=True) as record:
                script.main([*tiny(name, changes), *GLOO])
            torch.save(record, f"{folder}.{os.environ['RANK']}.pt")
            speechbrain.utils.distributed.ddp_init_group = lambda run_opts: None  # is there
        leave()

    statuses, screens = launch([process, process], tmp_path)
    assert statuses == [0, 0], screens
    for name, (script, changes, _) in JOINED.items():
        folder = tmp_path / Path(name).name
        assert "".join(screens).count(f"Report: {folder}/report.md") == 1
        parted = "sharded" in changes.get("classifier", "")
        ranks = records(folder, 2, parted)
        epochs = len(ranks[0]["losses"])
        # Development speakers in each epoch and at the end, trials, clusters.
        together = 8 * (epochs + 1) + 16 + (epochs > 1) * 12
        assert sum(rank["embedded"] for rank in ranks) == together

        with open(folder / "save" / "train.csv", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        ids = [row["ID"] for row in rows]
        assert max(float(row["duration"]) for row in rows) < 3.0
        drawn = [one[0] + other[0] for one, other in zip(*(r["steps"] for r in ranks))]
        drawn = drawn[: len(drawn) // epochs]  # of the first
        changes = {**changes, "opt_class": SGD, "output_folder": f"{folder}.one"}
        if "sentence_len" in changes:
            half = len(drawn[0]) // 2
            drawn = [sum(map(list, zip(s[:half], s[half:])), []) for s in drawn]
        else:
            loader = {"sampler": [ids.index(utterance) for utterance in sum(drawn, [])]}
            loader |= {"batch_sampler": None, "batch_size": len(drawn[0])}
            changes["dataloader_options"] = json.dumps({**loader, "shuffle": False})
        with recorded(script, frozen=True, steps_alone=True) as one:
            script.main(tiny(name, changes))
        assert [step[0] for step in one["steps"][:2]] == drawn[:2]
        for rank in ranks:
            for i, single in enumerate(one["steps"][:2]):
                for values in (1, 2):  # gradients, weights
                    ours = rank["steps"][i][values]
                    if parted:
                        ours = whole(ours, [each["steps"][i][values] for each in ranks])
                    close(ours, single[values])
        assert max(value.abs().max() for value in single[1].values()) > 0


@needs_forks
@pytest.mark.parametrize("processes", [1, 3])
def test_the_published_yaml_trains_in_processes(processes, tiny, tmp_path):
    """With its two views, noises, and batches normalized by each process."""
    folder = tmp_path / "run"

    def process():
        with recorded(train) as record:
            changes = {"batch_size": 4, "output_folder": folder}
            train.main([*tiny("train_ecapa_ham", changes), *GLOO])
        torch.save(record, f"{folder}.{os.environ['RANK']}.pt")
        assert not torch.distributed.is_initialized()

    statuses, screens = launch([process] * processes, tmp_path)
    assert statuses == [0] * processes, screens
    assert "".join(screens).count(f"Report: {folder}/report.md") == 1
    assert len((folder / "train_log.txt").read_text().splitlines()) == 1
    assert len(list((folder / "save").glob("CKPT*"))) == 1
    ranks = records(folder, processes)
    assert len({rank["seeds"][0] for rank in ranks}) == processes
    losses = [rank["losses"][0] for rank in ranks]
    (epoch,) = json.loads((folder / "epochs.json").read_text())
    assert epoch["loss"] == pytest.approx(sum(losses) / processes)


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
        ({"sync_batch_norm": True}, "sync_batch_norm=True: torch synchronizes"),
        ({"dev_speakers": 7}, "too few data. dev_speakers=7"),  # in the first alone
    ],
)
def test_an_error_of_all_processes_is_printed_once(
    ends, repository, tiny_options, tmp_path, change, message
):
    small = str(repository / "hparams" / "small.yaml")
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
    small = str(repository / "hparams" / "small.yaml")
    statuses, screens = ends(*[lambda _: train.main([small, *tiny_options()])] * 2)
    assert "distributed_backend=nccl: it joins" in screens[0]
    assert statuses[0] == 2 and screens[1] == ""
