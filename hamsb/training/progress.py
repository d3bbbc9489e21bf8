"""What a training shows on the screen: one line of progress, and few lines of the log."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from hamsb.utils.progress import progress_bar

#: Whose lines, but warnings, are in ``log.txt`` alone: the screen has the line of
#: progress and the lines of the train log in their place.
LOG_ONLY = (
    "hamsb.training.checkpoints",
    "speechbrain.core",
    "speechbrain.nnet.schedulers",
    "speechbrain.utils.checkpoints",
    "speechbrain.utils.epoch_loop",
    "speechbrain.utils.parameter_transfer",
    "speechbrain.utils.seed",
)

#: Warnings of what is as it should be: a front end is frozen that the yaml freezes,
#: torchvision draws figures that no script here draws, and a loss that learns nothing has
#: nothing to save.
MEANINGLESS = {
    "speechbrain.integrations.huggingface.huggingface": "is frozen",
    "speechbrain.utils.train_logger": "torchvision is not available",
    "speechbrain.utils.checkpoints": "Saving an empty state_dict",
}


def quiet_imports() -> None:
    """Before a yaml is read: do not log SpeechBrain's quirks, which are its defaults, nor
    the warnings of MEANINGLESS."""
    logging.getLogger("speechbrain.utils.quirks").setLevel(logging.WARNING)
    for name in MEANINGLESS:
        logging.getLogger(name).addFilter(_means_something)


@contextmanager
def quiet_screen() -> Iterator[None]:
    """Around ``create_experiment_directory``, which makes the handlers of the log."""
    yield
    for handler in logging.getLogger().handlers:
        screen = isinstance(handler, logging.StreamHandler)
        if screen and not isinstance(handler, logging.FileHandler):
            handler.addFilter(_is_for_the_screen)


def _means_something(record: logging.LogRecord) -> bool:
    return MEANINGLESS[record.name] not in record.getMessage()


def _is_for_the_screen(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or record.name not in LOG_ONLY


class Progress:
    """A bar over all batches of all epochs, with the time left.

    Arguments
    ---------
    epochs : int
    batches : int
        Of an epoch.
    done : int
        Batches of all epochs that an earlier start has done.
    shown : bool
    color : str
        As tqdm's ``colour``; "" for the terminal's.

    Example
    -------
    >>> progress = Progress(epochs=2, batches=10, done=5, shown=False)
    >>> progress.start_epoch(1)
    >>> progress.step(loss=7.3)
    >>> progress.end_epoch(eer=0.05)
    >>> progress.close()
    """

    def __init__(
        self, epochs: int, batches: int, done: int = 0, shown: bool = True, color: str = ""
    ) -> None:
        self.epochs = epochs
        self.told: dict[str, str] = {}
        self.bar = progress_bar(
            total=epochs * batches,
            initial=done,
            unit="batch",
            smoothing=0,  # the time left counts the ends of epochs, too
            colour=color or None,
            leave=True,
            shown=shown,
        )

    def start_epoch(self, epoch: int) -> None:
        """The epoch's number, from 1."""
        self.bar.set_description(f"epoch {epoch}/{self.epochs}", refresh=False)

    def step(self, loss: float) -> None:
        """A batch is done; the mean loss of those before it in this epoch, or 0."""
        if loss:
            self._tell(loss=f"{loss:.3g}")
        self.bar.update()

    def end_epoch(self, eer: float | None) -> None:
        """The development EER, a fraction, or None without development speakers."""
        if eer is not None:
            self._tell(EER=f"{100 * eer:.2f} %")
        self.bar.refresh()

    def close(self) -> None:
        """The bar stays where it is."""
        self.bar.close()

    def _tell(self, **values: str) -> None:
        self.told.update(values)
        self.bar.set_postfix(self.told, refresh=False)
