"""A training that is sent SIGTERM, as SLURM does before it kills."""

import functools
import os
import signal
import sys

import pytest
import torch

import train
from hamsb.utils.command_line import main_or_exit
from runs import fork, launch, quick, same, status_of, untimed, weights  # noqa: F401

SMALL = "hparams/small.yaml"
GLOO = ["--device=cpu", "--distributed_backend=gloo"]


@pytest.fixture
def begin(repository, tiny_options, tmp_path, monkeypatch):
    """A function: the arguments of a run, the body of a process that does it and, after
    so many batches, gets SIGTERM."""
    monkeypatch.chdir(repository)

    def begin(name, signaled=(), extra=(), **changes):
        given = tiny_options(output_folder=tmp_path / name, baselines=False, **changes)
        arguments = [SMALL, *given, *extra]

        def process():
            sys.argv = ["train.py", *arguments]
            batches, fit_batch = [], train.SpeakerBrain.fit_batch

            def watched(self, batch):
                batches.append(batch)
                if len(batches) in signaled:
                    os.kill(os.getpid(), signal.SIGTERM)
                return fit_batch(self, batch)

            train.SpeakerBrain.fit_batch = watched
            main_or_exit(train.main)

        return process

    return begin


def test_the_run_goes_on_as_if_nothing_had_been(begin, tmp_path):
    """In the middle of an epoch of six batches; and at its last one, whose end is still
    to come. With a worker, as without."""
    screen, out = tmp_path / "screen", tmp_path / "cut"

    def end(*arguments, **changes):
        process = begin(*arguments, **changes, verification_file="null", number_of_epochs=2)
        return status_of(fork(process, screen))

    assert end("whole") == 0, screen.read_text()
    for signaled, step in ((10, 4), (2, 6)):
        assert end("cut", [signaled], num_workers=1) == 143
        assert screen.read_text().splitlines()[-1] == (
            "train.py: SIGTERM: a checkpoint is saved; the same command goes on from there."
        )
        within = [
            path.read_text()
            for path in (out / "save").glob("CKPT*/brain.ckpt")
            if "step: 0\n" not in path.read_text()
        ]
        assert len(within) == 1 and f"step: {step}\n" in within[0]
    assert end("cut", num_workers=1) == 0, screen.read_text()
    assert same(weights(out), weights(tmp_path / "whole"))
    assert untimed(out / "epochs.json") == untimed(tmp_path / "whole" / "epochs.json")
    assert untimed(out / "train_log.txt") == untimed(tmp_path / "whole" / "train_log.txt")


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="autograd does not outlive a fork there"
)
def test_processes_save_together(begin, tmp_path):
    """Though one alone got the signal; torchrun's follows."""
    begin = functools.partial(begin, batch_size=2, extra=GLOO, verification_file="null")
    whole = begin("whole")
    statuses, screens = launch([whole, whole], tmp_path)
    assert statuses == [0, 0], screens
    statuses, screens = launch([begin("cut"), begin("cut", signaled=[3])], tmp_path)
    assert statuses == [143, 143], screens
    assert [screen.count("SIGTERM: a checkpoint") for screen in screens] == [1, 0]
    statuses, screens = launch([begin("cut")] * 2, tmp_path)
    assert statuses == [0, 0], screens
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    files = [tmp_path / name / "epochs.json" for name in ("cut", "whole")]
    assert untimed(files[0]) == untimed(files[1])
