"""Whether a checkpoint and an export hold everything that training changes.

A module that learns and is not in the checkpoint starts anew after an interruption; one
that is not exported is missing from the model that is used. Neither shows in the loss.
So `check_kept` refuses both before the first step, and `check_unchanged` finds after the
first epoch what could not be seen before.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from speechbrain.utils.checkpoints import DEFAULT_SAVE_HOOKS, get_default_hook
from torch import nn

from hamsb.utils.yaml_tree import bracketed


def check_kept(
    hparams: Mapping[str, Any],
    modules: Mapping[str, nn.Module],
    recoverables: Mapping[str, Any],
    exported: Collection[str],
    training_only: Collection[str],
) -> None:
    """ValueError where something would be trained in vain, or lost.

    Arguments
    ---------
    hparams : mapping
        The built keys of the yaml.
    modules : mapping of str to torch.nn.Module
        What is trained, not wrapped.
    recoverables : mapping
        The checkpointer's.
    exported : collection of str
        Modules that an export can hold.
    training_only : collection of str
        Modules that the exported model does without: heads of branches, a loss.
    """
    trained = {id(p) for module in modules.values() for p in module.parameters()}
    saved_objects = {id(value) for value in recoverables.values()}
    saved_tensors = {id(t) for value in recoverables.values() for t in _tensors(value)}
    for key, value in hparams.items():
        if key == "modules":
            continue
        for path, each in _objects(value, (key,)):
            if isinstance(each, nn.Module):
                if left := _untrained(each, trained):
                    raise ValueError(
                        f"{bracketed(path)}: learns {' and '.join(left)}, and nothing "
                        "trains that; name it among the modules and the checkpointer's "
                        "recoverables in the yaml, or give "
                        f"--modules='{{{_reference(path)}}}' {_option(path)}."
                    )
            elif has_hooks(each) and id(each) not in saved_objects:
                raise ValueError(
                    f"{bracketed(path)}: counts what a restart needs, and no checkpoint "
                    f"holds it; {_advice(path)}."
                )
    for name, module in modules.items():
        learned = [p for p in module.parameters() if p.requires_grad]
        changed = [*learned, *running_statistics(module)]
        if any(id(tensor) not in saved_tensors for tensor in changed):
            raise ValueError(
                f"modules[{name}]: learns or keeps statistics, and no checkpoint holds "
                f"them; {_advice([name])}."
            )
        if any(id(part) not in saved_objects for part in global_statistics(module)):
            raise ValueError(
                f"modules[{name}]: norm_type=global keeps statistics, and no checkpoint "
                f"holds them; {_advice([name])}."
            )
        if learned and name not in {*exported, *training_only}:
            raise ValueError(
                f"modules[{name}]: would be trained, but the exported model would lack "
                f"it. Exported are {', '.join(exported)}; put it inside one of them."
            )


def global_statistics(module: nn.Module) -> list[nn.Module]:
    """The parts of a module that normalize with statistics of all that they have seen,
    SpeechBrain's ``InputNormalization(norm_type="global")``."""
    return [p for p in module.modules() if getattr(p, "norm_type", None) == "global"]


def lacks_statistics(module: nn.Module) -> bool:
    """Whether a part of a module that normalizes with such statistics has none yet."""
    return any(getattr(part, "count", 0) == 0 for part in global_statistics(module))


def running_statistics(module: nn.Module) -> Iterator[torch.Tensor]:
    """The running statistics of a module's batch normalizations, and their counts."""
    for part in module.modules():
        if getattr(part, "track_running_stats", False):
            yield from part.buffers(recurse=False)


def unsaved(
    modules: Mapping[str, nn.Module], recoverables: Mapping[str, Any]
) -> dict[str, nn.Module]:
    """The modules of which a checkpoint lacks a tensor or what a hook would save."""
    saved_objects = {id(value) for value in recoverables.values()}
    saved_tensors = {id(t) for value in recoverables.values() for t in _tensors(value)}
    return {
        name: module
        for name, module in modules.items()
        if any(id(tensor) not in saved_tensors for tensor in _tensors(module))
        or any(has_hooks(m) and id(m) not in saved_objects for m in module.modules())
    }


def check_unchanged(modules: Mapping[str, nn.Module], before: Mapping[str, str]) -> None:
    """ValueError where training has changed a module that no checkpoint holds.

    Arguments
    ---------
    modules : mapping of str to torch.nn.Module
        From `unsaved`.
    before : mapping of str to str
        The `fingerprint` of each before training.
    """
    for name, module in modules.items():
        if fingerprint(module) != before[name]:
            raise ValueError(
                f"modules[{name}]: training changes what it keeps, and no checkpoint "
                f"holds that; {_advice([name])}."
            )


def fingerprint(module: nn.Module) -> str:
    """SHA-256 of all that a module keeps: its state, and of those parts that SpeechBrain
    saves in a way of their own the tensors and numbers among their attributes.

    Example
    -------
    >>> module = nn.Linear(2, 2)
    >>> before = fingerprint(module)
    >>> before == fingerprint(module)
    True
    >>> module.bias.data += 1
    >>> before == fingerprint(module)
    False
    """
    found = hashlib.sha256()
    kept = dict(module.state_dict())
    for name, part in module.named_modules():
        if has_hooks(part):
            kept |= {f"{name}.{key}": value for key, value in _attributes(part)}
    for key, value in kept.items():
        found.update(key.encode())
        if isinstance(value, torch.Tensor):
            raw = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(raw.numpy().tobytes())
        else:
            found.update(repr(value).encode())
    return found.hexdigest()


def _attributes(part: nn.Module) -> Iterator[tuple[str, object]]:
    for key, value in vars(part).items():
        if key != "training" and isinstance(value, (torch.Tensor, int, float)):
            yield key, value


def has_hooks(value: object) -> bool:
    """Whether an object's class tells SpeechBrain how to save it, beyond what it does
    with every module."""
    hook = get_default_hook(value, DEFAULT_SAVE_HOOKS)
    return hook is not None and hook is not DEFAULT_SAVE_HOOKS[nn.Module]


def _untrained(module: nn.Module, trained: Collection[int]) -> list[str]:
    """The names of parameters that would learn and whose identities are not among those
    that are trained; of many, two."""
    own = module.named_parameters()
    left = [name for name, p in own if p.requires_grad and id(p) not in trained]
    return left if len(left) < 3 else [*left[:2], f"{len(left) - 2} more"]


def _advice(path: Sequence) -> str:
    return (
        "name it among the checkpointer's recoverables in the yaml, or give "
        f"{_option(path)}"
    )


def _option(path: Sequence) -> str:
    return f"--checkpointer='{{recoverables: {{{_reference(path)}}}}}'"


def _reference(path: Sequence) -> str:
    """A name for what lies there in a yaml, and where it lies."""
    place = f"<{bracketed(path)}>"
    if len(path) > 1:
        place = f'"{place}"'  # in braces yaml takes brackets for a list
    return f"{'_'.join(map(str, path))}: !ref {place}"


def _objects(value: object, path: tuple) -> Iterator[tuple[tuple, object]]:
    """An object, or those in nested lists and mappings, and where they lie."""
    if isinstance(value, Mapping):
        inner = value.items()
    elif isinstance(value, (list, tuple)):
        inner = enumerate(value)  # type: ignore[assignment]
    else:
        yield path, value
        return
    for key, each in inner:
        yield from _objects(each, (*path, key))


def _tensors(value: object) -> Iterable[torch.Tensor]:
    """What a checkpoint of an object holds, if it is a module."""
    if not isinstance(value, nn.Module):
        return ()
    return value.state_dict(keep_vars=True).values()
