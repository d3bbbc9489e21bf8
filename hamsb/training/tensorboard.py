"""The lines of ``train_log.txt`` as curves, in TensorBoard."""

import os
from collections.abc import Mapping
from pathlib import Path

from speechbrain.utils.distributed import if_main_process

from hamsb.utils.packages import optional

with optional("tensorboard"):
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger:
    """SpeechBrain's ``FileTrainLogger``, and the numbers of each of its lines for
    TensorBoard.

    SpeechBrain's ``TensorboardLogger`` takes the place of the text, counts its steps from
    1 after every interruption, and refuses what is no number. Here a step is an epoch; an
    epoch that is trained again after an interruption takes the place of the first one. A
    text is in TensorBoard's tab of texts.

    Arguments
    ---------
    save_file : str or Path
        The text log.
    folder : str or Path, optional
        For ``tensorboard --logdir``; by default ``tensorboard`` beside the text log. It is
        made with the first line.
    precision : int
        Of the text log, digits behind the point.

    Raises
    ------
    ImportError
        The extra ``[tensorboard]`` is not installed.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> logger = TensorBoardLogger(folder / "train_log.txt")
    >>> logger.log_stats({"epoch": 1, "lr": 0.1}, {"loss": 3.0}, {"EER": 5.0})
    >>> print((folder / "train_log.txt").read_text().strip())
    epoch: 1, lr: 1.00e-01 - train loss: 3.00 - valid EER: 5.00
    >>> [path.name[:10] for path in (folder / "tensorboard").iterdir()]
    ['events.out']
    """

    def __init__(
        self,
        save_file: str | os.PathLike,
        folder: str | os.PathLike | None = None,
        precision: int = 2,
    ):
        # Its import warns of torchvision, unless `hamsb.training.progress` is told first.
        from speechbrain.utils.train_logger import FileTrainLogger

        self.text = FileTrainLogger(save_file, precision)
        self.folder = Path(save_file).parent / "tensorboard" if folder is None else folder
        self.writer: SummaryWriter | None = None

    def log_stats(
        self,
        stats_meta: Mapping,
        train_stats: Mapping | None = None,
        valid_stats: Mapping | None = None,
        test_stats: Mapping | None = None,
        verbose: bool = True,
    ) -> None:
        """Write a line, and its numbers; the main process does.

        Arguments
        ---------
        stats_meta : mapping
            Beside others ``epoch``; without it nothing is written for TensorBoard.
        train_stats, valid_stats, test_stats : mapping, optional
            Name -> number.
        verbose : bool
            Whether the line goes to the screen as well.
        """
        self.text.log_stats(stats_meta, train_stats, valid_stats, test_stats, verbose)
        epoch = stats_meta.get("epoch")
        if epoch is None or not if_main_process():
            return
        if (
            self.writer is None
        ):  # what an earlier start wrote of this epoch and later is void
            self.writer = SummaryWriter(str(self.folder), purge_step=epoch)
        stages = {"train": train_stats, "valid": valid_stats, "test": test_stats}
        values = {name: value for name, value in stats_meta.items() if name != "epoch"}
        for stage, stats in stages.items():
            values |= {f"{stage}/{name}": value for name, value in (stats or {}).items()}
        for name, value in values.items():
            if isinstance(value, str):
                self.writer.add_text(name, value, epoch)
            else:
                self.writer.add_scalar(name, value, epoch)
        self.writer.flush()
