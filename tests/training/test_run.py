"""A run's parts; whole runs are in tests/recipes."""

import ctypes
import functools
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hamsb.training import run
from hamsb.training.keys import PREPARED


def test_counts_replace_only_keys_that_the_yaml_has():
    preparation = SimpleNamespace(speakers=7, utterances=100)
    whole = {"drop_last": True}
    plain = {"batch_size": 8, "out_n_neurons": 1, "dataloader_options": whole}
    assert run.count_overrides("", plain, preparation) == "out_n_neurons: 7"
    plain["steps_per_epoch"] = 0
    assert run.count_overrides("seed: 3", plain, preparation) == (
        "seed: 3\nout_n_neurons: 7\nsteps_per_epoch: 12"
    )
    assert run.count_overrides("steps_per_epoch: 5", plain, preparation) == (
        "steps_per_epoch: 5\nout_n_neurons: 7"
    )
    assert run.count_overrides("steps_per_epoch: null", plain, preparation) == (
        "out_n_neurons: 7\nsteps_per_epoch: 12"
    )


def test_steps_per_epoch_are_those_of_one_process(monkeypatch):
    preparation = SimpleNamespace(speakers=6, utterances=27)
    plain = {"batch_size": 4, "steps_per_epoch": 0, "speeds": None}
    plain["dataloader_options"] = {"drop_last": True}
    for processes, steps in ((1, 6), (2, 3)):
        monkeypatch.setattr(run, "share", lambda n=processes: (0, n))
        counted = run.count_overrides("", plain, preparation)
        assert counted == f"steps_per_epoch: {steps}"
    monkeypatch.setattr(run, "share", lambda: (0, 7))
    with pytest.raises(ValueError, match="batch_size=4 in 7 process"):
        run.count_overrides("", plain, preparation)


def test_steps_are_those_of_the_optimizer_and_the_loader(monkeypatch):
    preparation = SimpleNamespace(speakers=6, utterances=27)
    plain = {"batch_size": 4, "batches_per_epoch": 0, "steps_per_epoch": 0}
    plain["dataloader_options"] = {"drop_last": True}
    count = functools.partial(run.count_overrides, preparation=preparation)

    def counted(batches, steps):
        return f"batches_per_epoch: {batches}\nsteps_per_epoch: {steps}"

    assert count("", plain) == counted(6, 6)
    assert count("", plain, accumulated=4) == counted(6, 1)
    with pytest.raises(ValueError, match="grad_accumulation_factor=7: .* an epoch has 6"):
        count("", plain, accumulated=7)
    plain["dataloader_options"]["batch_size"] = 5
    assert count("", plain) == counted(5, 5)
    del plain["dataloader_options"]["drop_last"]
    assert count("", plain) == counted(6, 6)  # as torch does
    plain["dataloader_options"]["drop_last"] = False
    assert count("", plain) == counted(6, 6)
    monkeypatch.setattr(run, "share", lambda: (0, 2))
    assert count("", plain) == counted(3, 3)  # 14 utterances
    del plain["dataloader_options"]  # an object in it makes whole batches
    assert count("", plain) == counted(3, 3)  # 13
    monkeypatch.setattr(run, "share", lambda: (0, 1))
    assert count("", plain) == counted(6, 6)
    given = "batches_per_epoch: 8"
    assert count(given, plain, accumulated=2) == f"{given}\nsteps_per_epoch: 4"


def test_a_preparation_is_told_what_the_yaml_and_the_processes_ask(
    tiny_options, monkeypatch
):
    """Whether namesakes in two data folders are one person, and the least utterances:
    a batch, or one where the last batch need not be whole."""

    class Told(Exception):
        pass

    def prepare(**options):
        raise Told(options)

    monkeypatch.setattr(run, "share", lambda: (0, 3))
    yaml = str(Path(__file__).parents[2] / "hparams" / "small.yaml")
    brain_class = SimpleNamespace(script="train.py")
    for changes, told, least in (
        ({}, {}, 12),
        ({"merge_speakers": True}, {"merge_speakers": True}, 12),
        ({"prefix_speakers": True}, {"prefix_speakers": True}, 12),
        ({"dataloader_options": "{drop_last: False}"}, {}, 3),
    ):
        with pytest.raises(Told) as error:
            run.main([yaml, *tiny_options(**changes)], brain_class, prepare)
        (options,) = error.value.args
        others = {"least_utterances", "test_data_folder"}
        assert options.keys() - {*PREPARED, *told} == others
        assert told.items() <= options.items()
        assert options["least_utterances"] == least


def test_memory_is_kept_where_the_c_library_can(monkeypatch):
    run.keep_memory()

    def missing(name):
        raise TypeError("as on Windows")

    with monkeypatch.context() as patch:  # pytest itself asks os.name
        patch.setattr(os, "name", "nt")
        patch.setattr(ctypes, "CDLL", missing)
        run.keep_memory()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace())  # as on macOS
    run.keep_memory()
