"""SpeechBrain's ``Checkpointer``, with checkpoints that are whole or not there.

SpeechBrain writes into the folder that will be the checkpoint, ``CKPT.yaml``
first, so a save that fails leaves a folder that passes for the newest
checkpoint, and the next start dies of it. Here a folder bears a checkpoint's
name only while it is whole: it is written and flushed under a hidden name,
``.CKPT.<unique>.partial``, and then renamed; one to be deleted is first renamed
away. A process may be killed at any moment.

Hidden folders that a killed process leaves are removed at the next save, unless
another process is saving in the same place: each holds a shared lock on
``.CKPT.lock`` meanwhile, and the lock of a dead process is free. Where the file
system has no locks nothing is removed.
"""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any
from uuid import uuid4

import yaml
from speechbrain.utils import checkpoints
from speechbrain.utils.checkpoints import Checkpoint, ckpt_recency
from speechbrain.utils.distributed import ddp_barrier, if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

from hamsb.utils.files import disk_errors, lock

logger = get_logger(__name__)

LOCK = ".CKPT.lock"
PARTIAL = ".CKPT.{}.partial"


class Checkpointer(checkpoints.Checkpointer):
    """Stands in for ``speechbrain.utils.checkpoints.Checkpointer``.

    Arguments, methods and folders are SpeechBrain's, and each reads the other's
    checkpoints. Five things differ. A save or a deletion that fails or is
    killed leaves nothing that passes for a checkpoint, and the earlier ones as
    they were. ``meta`` that could not be read back is a ValueError at once, not
    at the next start. A checkpoint that lacks a recoverable is a ValueError that
    names it, before anything is loaded. ``importance_keys`` is never changed,
    neither the caller's list nor the default (SpeechBrain appends to both).
    Where there is no checkpoint yet, ``pretrained_model`` gives the first weights.

    Arguments
    ---------
    checkpoints_dir : str or Path
        Where to; made if need be.
    recoverables : mapping of str to object, optional
        What to save, by name.
    custom_load_hooks, custom_save_hooks : mapping of str to callable, optional
        How to load and save some of them.
    allow_partial_load : bool
        Whether a checkpoint may lack some of the recoverables.
    pretrained_model : str or Path, optional
        A finished model, as for `hamsb.training.finetuning.read_pretrained`, whose
        weights the recoverable ``embedding_model`` has before the first checkpoint: for
        SpeechBrain's own scripts, which know no fine-tuning.

    Example
    -------
    >>> import tempfile, torch
    >>> model = torch.nn.Linear(2, 2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpointer = Checkpointer(folder, {"model": model})
    ...     checkpointer.save_and_keep_only(meta={"epoch": 1})
    ...     checkpointer.save_and_keep_only(meta={"epoch": 2})
    ...     [checkpoint.meta["epoch"] for checkpoint in checkpointer.find_checkpoints()]
    [2]
    """

    def __init__(
        self,
        checkpoints_dir: str | os.PathLike,
        recoverables: Mapping | None = None,
        custom_load_hooks: Mapping | None = None,
        custom_save_hooks: Mapping | None = None,
        allow_partial_load: bool = False,
        pretrained_model: str | os.PathLike | None = None,
    ):
        super().__init__(
            checkpoints_dir,
            recoverables,
            custom_load_hooks,
            custom_save_hooks,
            allow_partial_load,
        )
        self.pretrained_model = pretrained_model

    def recover_if_possible(self, *args: Any, **kwargs: Any) -> Checkpoint | None:
        """As SpeechBrain's; where it finds no checkpoint, weights of a finished model are
        loaded, if one was given. Returns the checkpoint, or None."""
        found = super().recover_if_possible(*args, **kwargs)
        if found is None and self.pretrained_model is not None:
            from hamsb.training.finetuning import load_encoder_weights

            load_encoder_weights(
                self.pretrained_model, self.recoverables["embedding_model"]
            )
        return found

    def save_checkpoint(
        self,
        meta: Mapping | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        verbosity: int = logging.INFO,
    ) -> Checkpoint | None:
        """Save the recoverables as a checkpoint.

        Arguments
        ---------
        meta : mapping, optional
            Facts to choose checkpoints by: plain numbers and strings. Anything
            that a yaml file does not bring back is a ValueError.
        end_of_epoch : bool
            Whether the epoch is complete.
        name : str, optional
            The folder's name after ``CKPT+``, by default the time. An older
            checkpoint of that name is replaced.
        verbosity : int
            Logging level of the message.

        Returns
        -------
        Checkpoint or None
            On the main process, the checkpoint; elsewhere None. What a save
            hook or the disk raises is raised.
        """
        meta = meta or {}
        _require_readable(meta)
        locked = self._locked() if if_main_process() else nullcontext()
        with locked, disk_errors(self.checkpoints_dir):
            saved = super().save_checkpoint(meta, end_of_epoch, name, logging.NOTSET)
            ddp_barrier()  # hooks that run on every process have written as well
            if saved is not None:
                saved = self._publish(saved, name)
                logger.log(verbosity, f"Saved a checkpoint in {saved.path}")
        ddp_barrier()  # every process sees it
        return saved

    def load_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Load the recoverables from a checkpoint.

        Arguments
        ---------
        checkpoint : Checkpoint
            Without one of the recoverables, a ValueError before anything is
            loaded, unless ``allow_partial_load``, that of a data loader, or one
            added with ``optional_load``.
        """
        missing = [
            name
            for name in self.recoverables
            if name not in checkpoint.paramfiles
            and "dataloader" not in name  # as SpeechBrain has it
            and not self.optional_recoverables.get(name)
        ]
        if missing and not self.allow_partial_load:
            raise ValueError(
                f"{checkpoint.path} has no {', '.join(missing)}, which the "
                "checkpointer's recoverables in the yaml name: it was saved without. "
                "Take that out of the yaml to go on from it, or give another "
                "output_folder to train anew."
            )
        super().load_checkpoint(checkpoint)

    def save_and_keep_only(
        self,
        meta: Mapping | None = None,
        end_of_epoch: bool = True,
        name: str | None = None,
        num_to_keep: int = 1,
        keep_recent: bool = True,
        importance_keys: Sequence[Callable] = (),
        max_keys: Sequence[str] = (),
        min_keys: Sequence[str] = (),
        ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Save a checkpoint, then delete the least important ones.

        See `save_checkpoint` and `delete_checkpoints`;
        ``keep_recent`` adds recency to the orders of the latter.
        """
        super().save_and_keep_only(
            meta=meta,
            end_of_epoch=end_of_epoch,
            name=name,
            num_to_keep=num_to_keep,
            keep_recent=keep_recent,
            importance_keys=list(importance_keys),
            max_keys=max_keys,
            min_keys=min_keys,
            ckpt_predicate=ckpt_predicate,
            verbosity=verbosity,
        )

    def delete_checkpoints(
        self,
        *,
        num_to_keep: int = 1,
        min_keys: Sequence[str] | None = None,
        max_keys: Sequence[str] | None = None,
        importance_keys: Sequence[Callable] = (ckpt_recency,),
        ckpt_predicate: Callable[[Checkpoint], bool] | None = None,
        verbosity: int = logging.INFO,
    ) -> None:
        """Delete all checkpoints but the first few of each order.

        Arguments
        ---------
        num_to_keep : int
            How many of each order are kept; negative is a ValueError.
        min_keys, max_keys : sequence of str, optional
            Orders by a number in the meta, the lowest or the highest first. A
            checkpoint that lacks the number is not in the order.
        importance_keys : sequence of callable
            Orders by a function of a checkpoint, the highest value first.
        ckpt_predicate : callable, optional
            Only checkpoints for which it is true are in any order; those in no
            order are left alone.
        verbosity : int
            Logging level of the messages.
        """
        if num_to_keep < 0:
            raise ValueError(f"num_to_keep={num_to_keep}: must not be negative.")
        orders = [
            *({"min_key": key} for key in min_keys or ()),
            *({"max_key": key} for key in max_keys or ()),
            *({"importance_key": key} for key in importance_keys),
        ]
        # No process reads a checkpoint while it goes. One process chooses: had
        # another seen other checkpoints, the two would wait for each other.
        ddp_barrier()
        run_on_main(self._keep_first, (orders, num_to_keep, ckpt_predicate, verbosity))

    def _keep_first(self, orders, number, predicate, verbosity):
        found, kept = set(), set()
        for order in orders:
            ranked = self.find_checkpoints(**order, ckpt_predicate=predicate)
            paths = [checkpoint.path for checkpoint in ranked]
            found.update(paths)
            kept.update(paths[:number])
        for path in sorted(found - kept):
            _discard(path)
            logger.log(verbosity, f"Deleted checkpoint in {path}")

    # SpeechBrain's save_checkpoint asks these two where to write.

    def _new_checkpoint_dirpath(self):
        return _hidden(self.checkpoints_dir)

    def _custom_checkpoint_dirpath(self, name):
        return _hidden(self.checkpoints_dir)

    def _publish(self, saved, name):
        """Flush a hidden checkpoint and give it its name."""
        for path in (*saved.path.rglob("*"), saved.path):
            _flush(path)
        if name is None:
            final = super()._new_checkpoint_dirpath()
        else:
            final = super()._custom_checkpoint_dirpath(name)
        older = None
        if final.exists():  # stays a checkpoint, by another name, until replaced
            older = final.rename(final.with_name(f"{final.name}+{uuid4().hex}"))
        saved.path.rename(final)
        _flush(final.parent)
        if older is not None:
            _discard(older)
        files = {key: final / path.name for key, path in saved.paramfiles.items()}
        return Checkpoint(final, saved.meta, files)

    @contextmanager
    def _locked(self):
        """A block that saves: nobody removes its hidden folder as left over.

        What dead processes left is removed before, what the block itself leaves
        where it raises is removed after.
        """
        with open(self.checkpoints_dir / LOCK, "a+", encoding="utf-8") as file:
            self._remove_left_over(file)
            try:
                yield
            except BaseException:
                self._remove_left_over(file)
                raise

    def _remove_left_over(self, file):
        """Remove hidden folders if nobody else is saving; hold a shared lock."""
        with suppress(OSError):  # there are no locks here
            if lock(file):
                for folder in self.checkpoints_dir.glob(PARTIAL.format("*")):
                    shutil.rmtree(folder, ignore_errors=True)
            lock(file, shared=True)


def _require_readable(meta):
    try:
        yaml.safe_load(yaml.dump(dict(meta)))
    except yaml.YAMLError as error:
        raise ValueError(
            f"meta={meta}: cannot be read back from yaml; convert its values to "
            f"plain numbers and strings. {error}"
        ) from None


def _hidden(folder):
    """A new path in a folder, which nobody takes for a checkpoint."""
    return folder / PARTIAL.format(uuid4().hex)


def _discard(path):
    """Remove a folder that from the first moment is no checkpoint any more."""
    shutil.rmtree(path.rename(_hidden(path.parent)), ignore_errors=True)


def _flush(path):
    """Have the disk hold what a file, or a folder's list of files, holds."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush folders
            raise
    finally:
        os.close(descriptor)
