"""Heads that the processes of a training share out (`hamsb.nnet._sharded`): checkpoints,
the state of the optimizer, and the export.

In a checkpoint each process writes its own rows, of the centers and of what the optimizer
keeps for them, into a file beside SpeechBrain's: ``classifier.2-of-3.rows`` beside
``classifier.ckpt``, which the main process writes and which has the rest. A part says
which rows it has. So as many processes as there are at the next start find theirs; they
map the files and read no other rows. Nothing is sent, and no process has more than its
own in memory. Parts are files that torch alone reads. (``torch.distributed.checkpoint``
does as much, for parameters that are DTensors on a mesh of devices.) One process writes
and reads SpeechBrain's file alone, which any number of processes reads as well.
"""

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from speechbrain.utils.checkpoints import Checkpointer
from torch import Tensor, distributed, nn, optim

from hamsb.nnet._sharded import Shard, is_parted, shards
from hamsb.utils.sharing import gathered, share

#: Heads of more speakers are exported on request, and by way of the disk.
MANY = 100_000

#: Optimizers that treat every weight by itself.
ELEMENTWISE = (
    optim.Adadelta,
    optim.Adagrad,
    optim.Adam,
    optim.Adamax,
    optim.AdamW,
    optim.ASGD,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Rprop,
    optim.SGD,
)

_SENT = 2**22  # entries at once


def parted(module: nn.Module) -> dict[str, Shard]:
    """The parameters in a module whose rows are in several processes, and their shards.

    Example
    -------
    >>> parted(nn.Linear(2, 3))
    {}
    """
    return {name: each for name, each in shards(module).items() if is_parted(each)}


def parted_parameters(module: nn.Module) -> dict[int, Shard]:
    """The same by the parameters' ids."""
    return {id(module.get_parameter(n)): shard for n, shard in parted(module).items()}


def check_shards(modules: Mapping[str, nn.Module]) -> None:
    """ValueError where a module holds a head that is shared out, and learns something
    beside it, which nobody would average over the processes."""
    for name, module in modules.items():
        heads = [m for m in module.modules() if is_parted(getattr(m, "shard", None))]
        in_heads = {id(p) for head in heads for p in head.parameters()}
        if heads and any(id(p) not in in_heads for p in module.parameters()):
            raise ValueError(
                f"modules[{name}]: holds a head with sharded: True and learns something "
                "beside it; make them two modules."
            )


def check_optimizer(optimizer: optim.Optimizer) -> None:
    """ValueError where an optimizer would not do with parts of a parameter what it does
    with the whole."""
    if not isinstance(optimizer, ELEMENTWISE):
        names = ", ".join(kind.__name__ for kind in ELEMENTWISE)
        raise ValueError(
            f"opt_class={type(optimizer).__name__}: with sharded: True it must be one of "
            f"torch's that treat every weight by itself: {names}."
        )


# ------------------------------------------------------------------- checkpoints


def keep_shards(checkpointer: Checkpointer) -> None:
    """Have the checkpoints hold the shards of all processes.

    Arguments
    ---------
    checkpointer : speechbrain.utils.checkpoints.Checkpointer
        Those of its recoverables that have shards, modules and the optimizers of their
        parameters, are saved and loaded as this module has it.
    """
    kept = checkpointer.recoverables
    modules = [each for each in kept.values() if isinstance(each, nn.Module)]
    of_all = {
        id(module.get_parameter(name)): shard
        for module in modules
        for name, shard in shards(module).items()
    }
    for name, value in list(kept.items()):
        if isinstance(value, nn.Module) and shards(value):
            hooks: tuple[Callable, Callable] = load_module, save_module
        elif isinstance(value, optim.Optimizer) and of_all:
            hooks = partial(load_optimizer, of_all), partial(save_optimizer, of_all)
        else:
            continue
        checkpointer.add_recoverable(name, value, *hooks)


def save_module(module: nn.Module, path: str | os.PathLike) -> None:
    """Write a module's state, and what this process has of it; all processes call it."""
    state, own = module.state_dict(), {}
    for name, shard in parted(module).items():
        own[name] = shard.rows.start, state.pop(name)
    _write(Path(path), state, own)


def read_module(
    module: nn.Module, path: str | os.PathLike, map_location: Any = "cpu"
) -> dict[str, Any]:
    """A module's state with the rows of this process, as any number of them wrote it."""
    owners = shards(module)
    state = torch.load(path, map_location=map_location, mmap=True)
    return {**state, **_own_rows(Path(path), state, owners.get, owners)}


def load_module(module: nn.Module, path: str | os.PathLike, _: bool = True) -> None:
    """Give a module the state that `read_module` finds."""
    module.load_state_dict(read_module(module, path))


def save_optimizer(
    owners: Mapping[int, Shard], optimizer: optim.Optimizer, path: str | os.PathLike
) -> None:
    """Write an optimizer's state, and what this process has of it; all processes call it.

    Arguments
    ---------
    owners : mapping of int to Shard
        Of each parameter that heads share out, by its id.
    optimizer : torch.optim.Optimizer
    path : str or Path
    """
    state, own = optimizer.state_dict(), {}
    rest = {index: dict(values) for index, values in state["state"].items()}
    for index, parameter in enumerate(_parameters(optimizer)):
        shard = owners.get(id(parameter))
        if shard is None or not is_parted(shard):
            continue
        for key, value in state["state"].get(index, {}).items():
            if torch.is_tensor(value) and value.shape == parameter.shape:
                own[f"{index}.{key}"] = shard.rows.start, rest[index].pop(key)
    _write(Path(path), {**state, "state": rest}, own)


def load_optimizer(
    owners: Mapping[int, Shard],
    optimizer: optim.Optimizer,
    path: str | os.PathLike,
    _: bool = True,
) -> None:
    """Give an optimizer the state that any number of processes wrote; arguments are
    `save_optimizer`'s."""
    state = torch.load(path, map_location="cpu", mmap=True)
    parameters = _parameters(optimizer)

    def owner(name: str) -> Shard | None:
        return owners.get(id(parameters[int(name.partition(".")[0])]))

    stored = {
        f"{index}.{key}": value
        for index, values in state["state"].items()
        for key, value in values.items()
        if torch.is_tensor(value)
    }
    rows = {name: value for name, value in stored.items() if value.ndim}
    found = _own_rows(Path(path), rows, owner)
    for name in stored.keys() | found.keys():  # nothing stays in the file
        index, key = name.split(".", 1)
        value = found[name] if name in found else stored[name].clone()
        state["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(state)


def _parameters(optimizer: optim.Optimizer) -> list[Tensor]:
    """In the order in which an optimizer's state numbers them."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def _write(path: Path, rest: Any, own: Mapping[str, tuple[int, Tensor]]) -> None:
    """Write what the main process saves, and the part of each process: name -> its first
    row, and the rows. All raise where one of them cannot."""
    rank, processes = share()

    def write() -> None:
        if rank == 0:
            torch.save(rest, path)
        if processes > 1:
            torch.save(dict(own), path.with_name(_part(path.stem, rank + 1, processes)))

    gathered(write)


def _part(stem: str, number: int | str, processes: int | str) -> str:
    return f"{stem}.{number}-of-{processes}.rows"


def _own_rows(
    path: Path,
    stored: Mapping[str, Tensor],
    owner: Callable[[str], Shard | None],
    needed: Iterable[str] = (),
) -> dict[str, Tensor]:
    """The rows of this process, in memory of their own, of what is shared out.

    Arguments
    ---------
    path : Path
        Of the main process's file, beside which parts may lie.
    stored : mapping of str to torch.Tensor
        What is in it.
    owner : callable
        Name -> the shard; None of what all processes hold.
    needed : iterable of str
        Names that must be found.
    """
    found = {}
    for name, value in stored.items():
        shard = owner(name)
        if shard is not None:
            found[name] = value[shard.rows].clone()
    parts = sorted(path.parent.glob(_part(glob.escape(path.stem), "*", "*")))
    filled: Counter = Counter()
    for part in parts:
        for name, (first, rows) in torch.load(part, "cpu", mmap=True).items():
            shard = owner(name)
            if shard is None:
                raise ValueError(f"{part}: has rows of {name}, which is not shared out.")
            ours = shard.rows
            own = found.setdefault(
                name, rows.new_empty(ours.stop - ours.start, *rows.shape[1:])
            )
            start = max(first, ours.start)
            end = max(start, min(first + len(rows), ours.stop))
            own[start - ours.start : end - ours.start] = rows[start - first : end - first]
            filled[name] += end - start
    lacking = [n for n, rows in found.items() if filled and filled[n] != len(rows)]
    lacking += [name for name in needed if name not in found]
    if lacking:
        raise ValueError(
            f"{path}: of {', '.join(lacking)} rows are missing; it has the parts "
            f"{', '.join(part.name for part in parts) or 'of none'}. Restore the others, "
            "or remove the checkpoint's folder."
        )
    return found


# ------------------------------------------------------------------- the export


def whole_state(module: nn.Module, folder: str | os.PathLike) -> dict[str, Tensor]:
    """A module's state; in the main process with the rows of all, on the CPU. All must
    call it. The rows come block by block, and of more than
    100,000 centers go into a file that has no name.

    Arguments
    ---------
    module : torch.nn.Module
    folder : str or Path
        Where that file has room.
    """
    state = dict(module.state_dict())
    for name, shard in parted(module).items():
        state[name] = _collected(state[name], shard, folder)
    return state


def _collected(own: Tensor, shard: Shard, folder: str | os.PathLike) -> Tensor:
    step = max(_SENT // own[0].numel(), 1)
    edges = [shard.edge(rank) * shard.sub_centers for rank in range(shard.processes + 1)]
    blocks = [
        (rank, slice(first, min(first + step, edges[rank + 1])))
        for rank in range(shard.processes)
        for first in range(edges[rank], edges[rank + 1], step)
    ]
    whole = _room(edges[-1], own, folder) if shard.rank == 0 else own
    for rank, part in blocks:
        mine = slice(part.start - shard.rows.start, part.stop - shard.rows.start)
        if rank == shard.rank == 0:
            whole[part] = own[mine]
        elif shard.rank == 0:
            block = own.new_empty(part.stop - part.start, *own.shape[1:])
            distributed.recv(block, rank)
            whole[part] = block.cpu()
        elif rank == shard.rank:
            distributed.send(own[mine].contiguous(), 0)
    return whole


def _room(rows: int, like: Tensor, folder: str | os.PathLike) -> Tensor:
    """An empty tensor of so many rows, on the CPU."""
    shape = rows, *like.shape[1:]
    if rows <= MANY:
        return torch.empty(shape, dtype=like.dtype)
    size = rows * like[0].numel()
    with tempfile.NamedTemporaryFile(dir=os.fspath(folder)) as file:
        flat = torch.from_file(file.name, shared=True, size=size, dtype=like.dtype)
    return flat.view(shape)
