"""One line for a training, and few of the log."""

import logging

import pytest

from hamsb.training.progress import Progress, quiet_imports, quiet_screen
from hamsb.utils import progress as bars


def train(progress, epochs):
    for epoch in epochs:
        progress.start_epoch(epoch)
        for _ in range(5):
            progress.step(loss=2.5)
        progress.end_epoch(eer=0.125)
    progress.close()


def test_one_line_for_all_epochs(terminal):
    train(Progress(epochs=3, batches=5, done=5), epochs=(2, 3))
    text = terminal.getvalue()
    assert text.count("\n") == 1 and "5/15" in text and "10/15" in text
    assert "epoch 3/3: 100%" in text.split("\r")[-1]
    assert "loss=2.5, EER=12.50 %" in text


@pytest.mark.parametrize("reason", ["not wanted", "noprogressbar", "no terminal"])
def test_nothing_is_shown(terminal, monkeypatch, reason):
    if reason == "noprogressbar":
        monkeypatch.setenv(bars.OFF, "1")
    if reason == "no terminal":
        terminal.is_one = False
    train(Progress(epochs=1, batches=5, shown=reason != "not wanted"), epochs=(1,))
    assert list(bars.progress_bar([1], shown=reason != "not wanted")) == [1]
    assert terminal.getvalue() == ""


def test_a_bar_of_something_else_vanishes(terminal):
    list(bars.progress_bar([1, 2], desc="embed"))
    text = terminal.getvalue()
    assert "embed" in text and "\n" not in text
    assert set(text.split("\r")[-2]) == {" "}


def test_lines_of_the_log(monkeypatch, tmp_path):
    """What is for log.txt alone, and warnings, which are for the screen as well."""
    root, lines = logging.getLogger(), []
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", logging.DEBUG)
    file = logging.FileHandler(tmp_path / "log.txt")
    quiet_imports()
    with quiet_screen():
        screen = logging.StreamHandler()
        root.handlers += [screen, file]
    screen.emit = lambda record: lines.append(record.getMessage())
    for name in ("speechbrain.core", "speechbrain.utils.train_logger", "hamsb.x"):
        logging.getLogger(name).setLevel(logging.DEBUG)
        logging.getLogger(name).info(f"told by {name}")
        logging.getLogger(name).warning(f"warned by {name}")
    quirks = logging.getLogger("speechbrain.utils.quirks")
    quirks.info("Applied quirks")
    logging.getLogger("speechbrain.utils.train_logger").warning(
        "torchvision is not available - cannot save figures"
    )
    logging.getLogger("speechbrain.utils.checkpoints").warning(
        "Saving an empty state_dict for NTXent() in compute_cost.ckpt."
    )
    file.close()
    assert lines == [
        "warned by speechbrain.core",
        "told by speechbrain.utils.train_logger",
        "warned by speechbrain.utils.train_logger",
        "told by hamsb.x",
        "warned by hamsb.x",
    ]
    assert (tmp_path / "log.txt").read_text().splitlines() == [
        "told by speechbrain.core",
        *lines,
    ]
