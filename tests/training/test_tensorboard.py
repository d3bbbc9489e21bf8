"""What TensorBoard is shown is what the text log has."""

import json
import sys

import pytest

import hamsb
import train
from hamsb.training.dry_run import check_objects
from hamsb.utils import packages
from runs import in_processes, quick  # noqa: F401

accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

from hamsb import TensorBoardLogger  # noqa: E402


def scalars(folder):
    """Name -> the steps and values that TensorBoard shows."""
    shown = accumulators.EventAccumulator(str(folder)).Reload()
    return {
        name: [(each.step, each.value) for each in shown.Scalars(name)]
        for name in shown.Tags()["scalars"]
    }


def log(logger, epoch, loss):
    meta = {"epoch": epoch, "lr": 0.5, "batch": 64, "waited": "0.2 s (3%)"}
    logger.log_stats(meta, {"loss": loss}, {"EER": 100 * loss})


def test_the_numbers_of_each_line_and_its_texts(tmp_path):
    logger = TensorBoardLogger(tmp_path / "log.txt", precision=3)
    log(logger, 1, 0.5)
    log(logger, 2, 0.25)
    assert (tmp_path / "log.txt").read_text().splitlines()[1] == (
        "epoch: 2, lr: 5.000e-01, batch: 64, waited: 0.2 s (3%) - train loss: 2.500e-01 "
        "- valid EER: 25.000"
    )
    assert scalars(tmp_path / "tensorboard") == {
        "lr": [(1, 0.5), (2, 0.5)],
        "batch": [(1, 64.0), (2, 64.0)],
        "train/loss": [(1, 0.5), (2, 0.25)],
        "valid/EER": [(1, 50.0), (2, 25.0)],
    }
    shown = accumulators.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (text,) = shown.Tags()["tensors"]
    assert text.startswith("waited") and len(shown.Tensors(text)) == 2


def test_an_epoch_that_is_trained_again_takes_the_place_of_the_first(tmp_path):
    for first, last, shift in ((1, 3, 0.0), (3, 4, 1.0)):  # the second start repeats one
        logger = TensorBoardLogger(tmp_path / "log.txt", tmp_path / "board")
        for epoch in range(first, last + 1):
            log(logger, epoch, epoch + shift)
    expected = [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0)]
    assert scalars(tmp_path / "board")["train/loss"] == expected


def test_what_is_no_epoch_is_in_the_text_alone(tmp_path):
    logger = TensorBoardLogger(tmp_path / "log.txt")
    logger.log_stats({"Epoch loaded": 3}, test_stats={"loss": 1.5})  # SpeechBrain's
    assert (tmp_path / "log.txt").read_text() == "Epoch loaded: 3 - test loss: 1.50\n"
    assert not (tmp_path / "tensorboard").exists()


def test_the_main_process_alone_writes(tmp_path):
    def work(rank):
        logger = TensorBoardLogger(tmp_path / "log.txt")
        log(logger, 1, 0.5)
        return logger.writer is not None

    assert in_processes(work, 2, tmp_path) == [True, False]
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 1
    assert len(list((tmp_path / "tensorboard").iterdir())) == 1


def test_one_key_and_a_run_has_both_logs(repository, tiny_options, tmp_path):
    """Given at the second start, and the run goes on."""
    yaml = str(repository / "hparams" / "small.yaml")
    changes = {"baselines": False, "verification_file": "null", "test_data_folder": "null"}
    key = "!new:hamsb.TensorBoardLogger {save_file: !ref <train_log>}"
    train.main([yaml, *tiny_options(**changes)])
    more = {"number_of_epochs": 3, "train_logger": key}
    train.main([yaml, *tiny_options(**changes, **more)])
    run = tmp_path / "run"
    entries = json.loads((run / "epochs.json").read_text())
    assert [each["epoch"] for each in entries] == [1, 2, 3]
    shown = scalars(run / "tensorboard")
    for name, key, factor in (("train/loss", "loss", 1), ("valid/EER", "EER", 100)):
        expected = [(each["epoch"], factor * each[key]) for each in entries[1:]]
        assert shown[name] == [pytest.approx(each, rel=1e-6) for each in expected]
    assert len((run / "train_log.txt").read_text().splitlines()) == 3


def test_without_the_extra_the_command_that_installs_it_is_told_at_once(
    repository, monkeypatch
):
    monkeypatch.delitem(sys.modules, TensorBoardLogger.__module__)
    monkeypatch.delattr(hamsb, "TensorBoardLogger")
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    overrides = "data_folder: a\nverification_file: b\ntrain_logger: !new:hamsb."
    overrides += "TensorBoardLogger {save_file: c}"
    with pytest.raises(ValueError, match=r"yaml: train_logger: .*pip install tensorboard"):
        check_objects(repository / "hparams" / "small.yaml", overrides)
