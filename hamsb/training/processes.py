"""The processes of one training: how they begin and end, and what each of them does.

Each process of torchrun trains on its part of a batch and has the gradients of all
(torch's DistributedDataParallel). What else a process learns or counts by itself, running
statistics and means over an epoch, is averaged here at the end of an epoch.
"""

import os
from collections.abc import Iterable, Mapping

import torch
from speechbrain.utils.distributed import ddp_barrier, infer_device
from speechbrain.utils.run_opts import RunOptions
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hamsb.training.kept import running_statistics
from hamsb.training.shards import parted
from hamsb.utils.checks import check_flag, check_whole
from hamsb.utils.hparams import plain_keys, resolve
from hamsb.utils.sharing import gathered, share

# ------------------------------------------------------------------ begin and end


def leave_together() -> None:
    """The end of a run: the processes wait for each other, and their group is over.

    Not called after an error: a process that failed waits for no other one, and torchrun
    ends those that wait for it.
    """
    if distributed.is_initialized():
        ddp_barrier()
        distributed.destroy_process_group()


def share_batch(hparams_file: str | os.PathLike, overrides: str) -> str:
    """The overrides, with the ``batch_size`` of one process where the yaml or they have a
    ``global_batch_size``.

    Arguments
    ---------
    hparams_file : str or Path
    overrides : str
        As for `hamsb.utils.hparams.resolve`.

    Raises
    ------
    ValueError
        The number of processes does not divide it; ``batch_size`` is given, too; the
        data loader's ``batch_size`` is not that of the yaml.
    """
    plain = plain_keys(resolve(hparams_file, overrides))
    total = plain.get("global_batch_size")
    if total is None:
        return overrides
    check_whole("global_batch_size", total, 1)
    processes = share()[1]
    where = f"global_batch_size={total}"
    given = plain_keys(overrides) if overrides else {}
    if "batch_size" in given:
        raise ValueError(
            f"{where}, batch_size={given['batch_size']}: the first is that of all "
            "processes, the second that of each. Give one of them."
        )
    size, left = divmod(total, processes)
    if left:
        raise ValueError(
            f"{where}: {processes} processes cannot have equal parts of it; give "
            f"{size * processes or processes} or {(size + 1) * processes}."
        )
    overrides = "\n".join(filter(None, [overrides, f"batch_size: {size}"]))
    plain = plain_keys(resolve(hparams_file, overrides))
    loaded = (plain.get("dataloader_options") or {}).get("batch_size") or size
    if loaded != size:
        raise ValueError(
            f"{where}: is {size} for each process, but dataloader_options[batch_size] is "
            f"{loaded}; write batch_size: !ref <batch_size> there."
        )
    return overrides


# ------------------------------------------------------------------------ the step


def synchronizes(sync: bool | None, device_type: str) -> bool:
    """Whether batch normalization takes the statistics of all processes' batches, or
    each process those of its own.

    Arguments
    ---------
    sync : bool or None
        The yaml's ``sync_batch_norm``; None: where torch can.
    device_type : str
        As ``"cuda"``.

    Raises
    ------
    ValueError
        Neither True nor False; True on a CPU.

    Example
    -------
    >>> synchronizes(None, "cuda"), synchronizes(None, "cpu"), synchronizes(False, "cuda")
    (True, False, False)
    """
    if sync is None:
        return device_type != "cpu"
    check_flag("sync_batch_norm", sync)
    if sync and device_type == "cpu" and distributed.is_initialized():
        raise ValueError(
            "sync_batch_norm=True: torch synchronizes batch normalization on accelerators "
            "alone, and the device is the CPU. Leave it out."
        )
    return sync


def normalized_together(settings: Mapping, run_opts: RunOptions) -> bool:
    """Whether all batches of a step are normalized together: by all processes, or since
    there is one. ValueError where it cannot be as the yaml's ``sync_batch_norm`` says.

    Arguments
    ---------
    settings : mapping
        The yaml's plain keys.
    run_opts : RunOptions
    """
    device = run_opts.device or settings.get("device") or infer_device()
    sync = synchronizes(settings.get("sync_batch_norm"), device.partition(":")[0])
    return sync or share()[1] == 1


def wrap(module: nn.Module, sync: bool, unused: bool = False) -> nn.Module:
    """A module whose gradients are averaged over the processes; one with a head that
    these share out does so itself.

    Its buffers are not sent around: that would write running statistics between the two
    forward passes of a step, and autograd refuses the backward pass of the first.

    Arguments
    ---------
    module : torch.nn.Module
        Its parameters are on one device.
    sync : bool
        Batch normalization over all processes, from `synchronizes`.
    unused : bool
        Some parameters may get no gradient.
    """
    if sync:
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    if parted(module):
        return module
    return DistributedDataParallel(
        module, broadcast_buffers=False, find_unused_parameters=unused
    )


# ------------------------------------------------------------------------ averages


def average_statistics(module: nn.Module) -> None:
    """Give every process the mean of all processes' running statistics of batch
    normalization, of which each has seen its own batches; all must call it."""
    processes = share()[1]
    own = [each for each in running_statistics(module) if each.is_floating_point()]
    if processes == 1 or not own:
        return
    with torch.no_grad():
        joined = torch.cat([each.float().reshape(-1) for each in own])
        distributed.all_reduce(joined)
        parts = (joined / processes).split([each.numel() for each in own])
        for each, part in zip(own, parts):
            each.copy_(part.view_as(each))


def means(values: Mapping[str, float]) -> dict[str, float]:
    """The mean over the processes of each value; all must call it, with the same names.

    Example
    -------
    >>> means({"loss": 7.5})
    {'loss': 7.5}
    """
    everyone = gathered(lambda: dict(values))
    return {name: _mean(each[name] for each in everyone) for name in values}


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)
