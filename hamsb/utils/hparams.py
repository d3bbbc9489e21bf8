"""Yamls resolved and built by hyperpyyaml, with errors that name the key."""

import difflib
import functools
import inspect
import io
import os
import pydoc
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML, Loader, MappingNode, SequenceNode
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from hamsb.utils.yaml_tree import (
    as_option,
    bracketed,
    did_you_mean,
    override,
    placeholders,
    read_yaml,
    tag,
    unfold,
)

BUILD_ERRORS = (  # hyperpyyaml's, and those of objects
    ValueError,
    TypeError,
    ImportError,
    AssertionError,
    YAMLError,
)


class _Text(io.StringIO):
    """A yaml's text with the name of its file, beside which ``!include:`` looks."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


def _overridden(hparams_file: str | os.PathLike, overrides: str) -> _Text:
    """The text of a yaml with its overrides, references not resolved."""
    document = read_yaml(hparams_file)
    try:
        changes = YAML().load(overrides) if overrides else {}
    except YAMLError as error:  # e.g. bytes that are no text
        raise ValueError(f"{overrides!r}: not yaml: {error}") from error
    override(document, changes, hparams_file)
    left = list(placeholders(document))
    if left:
        options = " ".join(
            f"--{path[0]}=..." if len(path) == 1 else as_option(path) for path in left
        )
        raise ValueError(
            f"{hparams_file} leaves {', '.join(bracketed(path) for path in left)} to "
            f"you (!PLACEHOLDER); add {options}"
        )
    unfold(document)
    stream = io.StringIO()
    YAML().dump(document, stream)
    return _Text(stream.getvalue(), str(hparams_file))


def resolve(hparams_file: str | os.PathLike, overrides: str = "") -> str:
    """The text of a yaml, its overrides applied and its references resolved.

    Arguments
    ---------
    hparams_file : str or Path
    overrides : str
        Lines of yaml, from `hamsb.utils.command_line.parse_arguments`, which has
        checked their keys: a key that the yaml lacks is added here.

    Raises
    ------
    ValueError, FileNotFoundError
        As `read_yaml` and `override`; a ``!PLACEHOLDER`` that is left, a reference to
        nothing.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    ...     _ = file.write("seed: 1\\nloss: !new:hamsb.HAMSoftmax {margin: 0.2}\\n")
    ...     file.flush()
    ...     print(resolve(file.name, "loss: !new:hamsb.Softmax {scale: !ref <seed>}"))
    seed: 1
    loss: !new:hamsb.Softmax {scale: 1}
    <BLANKLINE>
    """
    path = Path(hparams_file)
    text = path.read_bytes() if path.is_file() else b""
    if b"!include:" in text or "!include:" in overrides:  # other files count, too
        return _resolved.__wrapped__(os.fspath(hparams_file), overrides, text)
    return _resolved(os.fspath(hparams_file), overrides, text)


@functools.lru_cache(maxsize=64)
def _resolved(hparams_file: str, overrides: str, content: bytes) -> str:
    """As `resolve`; a run asks several times for the same, which takes 0.1 s each."""
    text = _overridden(hparams_file, overrides)
    try:
        return resolve_references(text).getvalue()
    except BUILD_ERRORS as error:
        _refuse_null_groups(hparams_file, text.getvalue())
        raise _named(hparams_file, error) from error


def _refuse_null_groups(hparams_file: str, text: str) -> None:
    """ValueError where a reference is to a key of a group that is null."""
    groups, key = YAML().load(text), ""
    for line in text.splitlines():
        key = line.partition(":")[0] if line[:1].isalpha() else key
        for group in re.findall(r"<(\w+)\[", line):
            if groups.get(group, {}) is None:
                raise ValueError(
                    f"{hparams_file}: {key} refers to a key of {group}, which is null; "
                    f"give {group}, or {key}=null where nothing else needs it."
                )


def read_resolved(hparams_file: str | os.PathLike, overrides: str = "") -> CommentedMap:
    """As `resolve`, but as a tree: tags are kept and nothing is built."""
    return YAML().load(resolve(hparams_file, overrides))


# ---------------------------------------------------------------- building objects


class _Loader(Loader):
    """Remembers on an error the nodes from the innermost to the outermost."""

    def construct_object(self, node, deep=True):
        try:
            return super().construct_object(node, deep)
        except Exception as error:
            error.__dict__.setdefault("yaml_nodes", []).append(node)
            raise


def load_hparams(hparams_file: str | os.PathLike, overrides: str = "") -> dict:
    """The keys of a yaml with the objects built: `load_hyperpyyaml`, with overrides as
    `override` takes them and errors that name the file and the key.

    Arguments
    ---------
    hparams_file : str or Path
    overrides : str
        As for `resolve`.

    Raises
    ------
    ValueError
        An object that refuses its arguments, with its own message, or that
        does not exist; and as `resolve`.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    ...     _ = file.write("head: {ball: !new:hamsb.ClippedUnitBall {curvature: 3}}")
    ...     file.flush()
    ...     load_hparams(file.name, "head: {ball: {curvature: 4}}")
    ...     try:
    ...         load_hparams(file.name, "head: {ball: {curvature: 0.5}}")
    ...     except ValueError as error:
    ...         str(error).removeprefix(file.name)[:32]
    {'head': {'ball': ClippedUnitBall(curvature=4)}}
    ': head[ball]: curvature=0.5: the'
    """
    return _load(_overridden(hparams_file, overrides), hparams_file)


def build(tree: CommentedMap, hparams_file: str | os.PathLike) -> dict:
    """As `load_hparams`, but of a tree.

    Arguments
    ---------
    tree : CommentedMap
        A part of what `read_resolved` gives.
    hparams_file : str or Path
        What messages call the yaml.

    Example
    -------
    >>> build(YAML().load("loss: !new:hamsb.Softmax {scale: 15.0}"), "x.yaml")
    {'loss': Softmax(scale=15)}
    """
    stream = io.StringIO()
    YAML().dump(tree, stream)
    return _load(_Text(stream.getvalue(), str(hparams_file)), hparams_file)


def _load(text: io.StringIO, hparams_file: str | os.PathLike) -> dict:
    try:
        return load_hyperpyyaml(text, loader=_Loader)
    except BUILD_ERRORS as error:
        raise _named(hparams_file, error) from error


def check_arguments(document: Mapping, hparams_file: str | os.PathLike) -> None:
    """ValueError where an object of a yaml is given an argument that it does not take.

    ``!new:`` and ``!name:`` are looked up and their signatures read; nothing is built.

    Arguments
    ---------
    document : mapping
        From `read_resolved`.
    hparams_file : str or Path
        What messages call the yaml.

    Example
    -------
    >>> check_arguments(YAML().load("loss: !new:hamsb.HAMSoftmax {margn: 1}"), "x.yaml")
    Traceback (most recent call last):
    ...
    ValueError: x.yaml: loss[margn]: no argument of hamsb.HAMSoftmax; did you mean margin?
    """
    for path, node in objects(document):
        try:
            known = known_arguments(node)
        except ImportError as error:
            raise ValueError(f"{hparams_file}: {bracketed(path)}: {error}") from error
        if isinstance(node, Mapping) and known is not None:
            check_names(f"{hparams_file}: {bracketed(path)}", node, known, _named_by(node))


def check_names(
    where: str, given: Iterable[str], known: Collection[str], what: str
) -> None:
    """ValueError where a name is none of the known ones; names those alike, or all."""
    for name in given:
        if name in known:
            continue
        near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
        end = did_you_mean(near) if near else f", which takes {', '.join(known)}."
        raise ValueError(f"{where}[{name}]: no argument of {what}{end}")


def objects(document: object, path: tuple = ()) -> Iterator[tuple[tuple, Any]]:
    """Path and node of every ``!new:`` and ``!name:`` of a tree."""
    if (tag(document) or "").startswith(("!new:", "!name:")):
        yield path, document
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from objects(value, (*path, str(key)))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from objects(value, (*path, str(index)))


def known_arguments(node: object) -> Mapping[str, inspect.Parameter] | None:
    """The arguments that a node's object takes by name; None where it takes any, or
    cannot be looked up, which is told when it is built. ImportError where it is one of
    hamsb's that needs an extra, or that has moved."""
    try:
        target: Callable = pydoc.locate(_named_by(node))  # type: ignore[assignment]
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError, pydoc.ErrorDuringImport):
        return None
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_KEYWORD in kinds:
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return {n: p for n, p in parameters.items() if p.kind not in positional}


def _named_by(node: object) -> str:
    """What a node's tag names: torch.optim.Adam."""
    return (tag(node) or "").partition(":")[2]


def _named(hparams_file: str | os.PathLike, error: Exception) -> ValueError:
    """An error that names the file and, where one is known, the key."""
    nodes = getattr(error, "yaml_nodes", [])
    path = _path(nodes)
    where = f"{hparams_file}: {bracketed(path)}" if path else hparams_file
    text = error_text(error)
    if isinstance(error, AssertionError):  # says little, if anything
        text = f"refused by {str(nodes[0].tag).partition(':')[2]}" + f": {text}" * (
            text != "AssertionError"
        )
        text += _lengths(nodes[0]) + "."
    return ValueError(f"{where}: {text}")


def _lengths(node: Any) -> str:
    """The lengths of a node's lists, where they differ."""
    if not isinstance(node, MappingNode):
        return ""
    lengths = {
        key.value: len(value.value)
        for key, value in node.value
        if isinstance(value, SequenceNode)
    }
    if len(set(lengths.values())) < 2:
        return ""
    told = ", ".join(f"{name} {length}" for name, length in lengths.items())
    return f"; its lists differ in length ({told}): give each as many numbers"


def _path(nodes: Sequence) -> list:
    """The keys that lead from the last of nested nodes to the first."""
    path: list = []
    for child, parent in zip(nodes, nodes[1:]):
        if isinstance(parent, MappingNode):
            path += [key.value for key, value in parent.value if value is child][:1]
        elif isinstance(parent, SequenceNode):
            path.append([value is child for value in parent.value].index(True))
    return path[::-1]


def error_text(error: BaseException) -> str:
    """An error's message, also where hyperpyyaml gave it several parts."""
    if isinstance(error, MarkedYAMLError):
        return error.problem
    if isinstance(error, OSError) and error.strerror is not None:
        return ": ".join(str(t) for t in (error.filename, error.strerror) if t)
    text = ": ".join(str(part).rstrip(": ") for part in error.args[-2:])
    return text or type(error).__name__


def plain_keys(text: str) -> dict:
    """The keys of a resolved yaml whose values hold no tag: nothing is built.

    Example
    -------
    >>> plain_keys("sizes: [8, 16]\\nloss: !new:hamsb.Softmax {scale: 30.0}")
    {'sizes': [8, 16]}
    """
    document, stream = YAML().load(text) or CommentedMap(), io.StringIO()
    for key in [key for key, value in document.items() if not _is_plain(value)]:
        del document[key]
    YAML().dump(document, stream)
    return load_hyperpyyaml(stream.getvalue())


def _is_plain(node: object) -> bool:
    """Whether there is no tag in a tree."""
    if tag(node) is not None:
        return False
    if isinstance(node, Mapping):
        return all(map(_is_plain, node.values()))
    return not isinstance(node, list) or all(map(_is_plain, node))
