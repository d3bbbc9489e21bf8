"""Yamls: read, changed by options, resolved, and built, with errors that name the key.

hyperpyyaml resolves the references of a yaml and builds its objects. What is changed
before, by options of a command line or of a study, is changed here, in one place
(`override`): hyperpyyaml by itself merges a mapping into whatever object it finds and
drops the mapping's own tag.
"""

import difflib
import functools
import inspect
import io
import os
import pydoc
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML, Loader, MappingNode, RoundTripRepresenter, SequenceNode
from ruamel.yaml.comments import CommentedMap, CommentedSeq, Tag, TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, YAMLError

BUILD_ERRORS = (  # hyperpyyaml's, and those of objects
    ValueError,
    TypeError,
    ImportError,
    AssertionError,
    YAMLError,
)
OBJECT_TAGS = ("!new:", "!name:", "!apply:")

# ----------------------------------------------------------------- a script's keys


@dataclass(frozen=True)
class Key:
    """A key of a yaml that a script reads.

    Attributes
    ----------
    name : str
    kind : str
        What its value is, for people: "folder", "number of epochs", "object".
    help : str
        What it does, in a line.
    optional : bool
        Whether the yaml may lack it; it may be given as an option even so.
    """

    name: str
    kind: str
    help: str
    optional: bool = False


# ------------------------------------------------------------------ reading a yaml


def read_yaml(hparams_file: str | os.PathLike) -> CommentedMap:
    """A yaml as a tree of keys, tags kept and nothing resolved or built.

    Raises
    ------
    FileNotFoundError
        No such file; names those that are spelled alike.
    ValueError
        No text, no yaml (with its line), or no mapping.
    """
    path = Path(hparams_file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such yaml file" + did_you_mean(_like(path)))
    try:
        document = YAML().load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8: {error}") from error
    except YAMLError as error:
        raise ValueError(_describe_yaml_error(path, error)) from error
    if not isinstance(document, CommentedMap):
        raise ValueError(f"{path}: holds no keys; it must be lines of 'key: value'.")
    return document


def _like(path: Path) -> list[Path]:
    """Yamls beside a missing one, or in folders there, that are spelled alike; a folder
    counts as the first part of a name: mini_ssl.yaml is like mini/ssl.yaml."""
    spelled: dict[str, Path] = {}
    for other in sorted(path.parent.rglob("*.yaml"), reverse=True):
        below = other.relative_to(path.parent)
        spelled |= {other.name: other, "_".join(below.parts): other}
    if path.name in spelled:
        return [spelled[path.name]]
    near = difflib.get_close_matches(path.name, spelled, cutoff=0.7)
    return list(dict.fromkeys(spelled[name] for name in near))


def _describe_yaml_error(path: Path, error: YAMLError) -> str:
    """File, line and problem; SpeechBrain's users know yaml, not its parser."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return f"{path}: not yaml: {error}"
    mark = error.problem_mark
    context = f"{error.context}: " if error.context else ""
    return (
        f"{path}, line {mark.line + 1}, column {mark.column + 1}: not yaml: "
        f"{context}{error.problem}."
    )


def did_you_mean(suggestions: Iterable) -> str:
    """The end of a message about something misspelled."""
    text = " or ".join(str(suggestion) for suggestion in suggestions)
    return f"; did you mean {text}?" if text else "."


def key_paths(document: Mapping, parents: tuple = ()) -> Iterator[tuple]:
    """The path of every key: ("compute_cost",), ("compute_cost", "margin"), ..."""
    for key, value in document.items():
        yield (*parents, str(key))
        if isinstance(value, Mapping):
            yield from key_paths(value, (*parents, str(key)))


def placeholders(node: object, path: tuple = ()) -> Iterator[tuple]:
    """The paths of what is still a ``!PLACEHOLDER``."""
    if _tag(node) == "!PLACEHOLDER":
        yield path
    elif isinstance(node, Mapping):
        for key, value in node.items():
            yield from placeholders(value, (*path, str(key)))


def bracketed(path: Sequence) -> str:
    """A path as ``!ref`` writes it: classifier[ball]."""
    return str(path[0]) + "".join(f"[{key}]" for key in path[1:])


def as_option(path: Sequence, value: str = "...") -> str:
    """How a key, nested or not, is given: margin, --compute_cost="{margin: ...}"."""
    if len(path) == 1:
        return path[0]
    for key in path[:0:-1]:
        value = f"{{{key}: {value}}}"
    return f'--{path[0]}="{value}"'


def is_tagged(node: object) -> bool:
    """Whether a node of a yaml's tree has a tag, as ``!new:``."""
    return _tag(node) is not None


def _tag(node: object) -> str | None:
    """The tag of a node of the tree, None without one."""
    return getattr(getattr(node, "tag", None), "value", None)


# ----------------------------------------------------------- what a yaml says of itself


def header(hparams_file: str | os.PathLike) -> str:
    """The comment that a yaml begins with: what it is, and indented how it is run."""
    with open(hparams_file, encoding="utf-8") as file:
        lines = file.read().split("\n")
    first = [line for line in lines if line.strip()][:1]
    if first and not first[0].startswith("#"):
        return ""
    end = next((i for i, line in enumerate(lines) if line[:1] != "#"), len(lines))
    return "\n".join(line[1:].removeprefix(" ") for line in lines[:end]).strip()


def remarks(
    hparams_file: str | os.PathLike,
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The comments above a yaml's keys, line by line, and those behind them, of the
    outermost keys alone and without the `header`."""
    with open(hparams_file, encoding="utf-8") as file:
        lines = file.read().split("\n")
    last = next((i for i, line in enumerate(lines) if line[:1] != "#"), len(lines))
    above, behind = {}, {}
    for key, value in YAML().compose("\n".join(lines)).value:
        start = key.start_mark.line
        above[key.value] = [text for text in lines[last:start] if text[:1] == "#"]
        last = start
        end = value.end_mark if value.end_mark.line == start else key.end_mark
        found = re.search(r"(?:^|\s)#\s*(.*)$", lines[start][end.column :])
        if found:
            behind[key.value] = found[1]
    return above, behind


def check_owner(
    hparams_file: str | os.PathLike,
    document: Mapping,
    keys: Iterable[Key],
    script: str = "",
) -> None:
    """ValueError where a yaml is another script's.

    The command in a yaml's `header` names its script. Without one the keys tell.

    Arguments
    ---------
    hparams_file : str or Path
    document : mapping
        From `read_yaml`.
    keys : iterable of Key
        What the script reads.
    script : str
        The script's name, as ``train.py``; by default the keys alone tell.
    """
    needed = {key.name for key in keys if not key.optional}
    absent = ", ".join(sorted(needed - document.keys()))
    here = script or Path(sys.argv[0]).name
    text = re.sub(r"\s*\\\n\s*", " ", header(hparams_file))
    command = re.search(r"^\s*(python3? (?:\S*/)?(\w+\.py) )\S+\.yaml(.*)$", text, re.M)
    if command and command[2] != here and (script or absent):
        message = (
            f"{hparams_file}: by its first lines this is a yaml of {command[2]}, not of "
            f"{here}: {command[1]}{hparams_file}{command[3]}"
        )
        if not absent:
            message += f" (If it is for {here}, name that script there.)"
        raise ValueError(message)
    if absent:
        raise ValueError(
            f"{hparams_file}: no {absent}; {here} needs them. Is it the yaml of another "
            "script?"
        )


# ---------------------------------------------------------------------- overriding


def override(document: CommentedMap, changes: Mapping, where: object = "options") -> None:
    """Change the keys of a tree, in place.

    A mapping without a tag, or with the tag that is there, changes the keys that it
    holds and leaves the others; so ``{scale: 15.0}`` changes a loss's scale. With
    another tag it takes the place of what is there, arguments included, as every
    other value does. A key that is not there is added.

    Arguments
    ---------
    document : CommentedMap
        From `read_yaml`.
    changes : mapping
        A tree, too.
    where : str or Path
        What the document is called in messages.

    Raises
    ------
    ValueError
        One value for a group of keys, or a group of keys for one value.

    Example
    -------
    >>> head = YAML().load("head: !new:Hyperbolic {size: 192, ball: !new:Ball {c: 3}}")
    >>> override(head, YAML().load("head: {ball: {c: 5}}"))
    >>> option_text(head["head"])
    '!new:Hyperbolic {size: 192, ball: !new:Ball {c: 5}}'
    >>> override(head, YAML().load("head: !new:Cosine {size: 192}"))
    >>> option_text(head["head"])
    '!new:Cosine {size: 192}'
    """
    _override((), document, changes, where)


def _override(path: tuple, old: CommentedMap, new: Mapping, where: object) -> None:
    for key, change in new.items():
        here = (*path, str(key))
        if key in old and _merges(here, old[key], change, where):
            _override(here, old[key], change, where)
            continue
        if isinstance(change, Mapping) or isinstance(old.get(key), Mapping):
            old.ca.items.pop(key, None)  # a comment that may not stand there any more
            if _takes_arguments(old.get(key)) and _tag(change) is None:
                setattr(change, Tag.attrib, old[key].tag)
        old[key] = change


def _merges(path: tuple, old: object, new: object, where: object) -> bool:
    """Whether a change is of an old value's keys; else it takes the value's place."""
    here = f"{bracketed(path)}, as {where} has it,"
    if _tag(old) == "!PLACEHOLDER":
        return False
    if not isinstance(new, Mapping):
        if isinstance(old, Mapping) and _tag(new) is None and new is not None:
            if not isinstance(new, list):
                raise ValueError(
                    f"{here} is a group of keys, and {new!r} is one value. Write "
                    f"{as_option((*path, '<key>'), '<value>')}."
                )
        return False
    if _tag(new) is None and not isinstance(old, Mapping) and not _takes_arguments(old):
        raise ValueError(f"{here} is no group of keys, and {dict(new)} is one.")
    return isinstance(old, Mapping) and _tag(new) in (None, _tag(old))


def _takes_arguments(node: object) -> bool:
    """Whether a node is an object without arguments, as ``!new:hamsb.Softmax``."""
    is_object = (_tag(node) or "").startswith(OBJECT_TAGS)
    return is_object and isinstance(node, TaggedScalar) and not node.value


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
    _unfold(document)
    stream = io.StringIO()
    YAML().dump(document, stream)
    return _Text(stream.getvalue(), str(hparams_file))


def _unfold(node: object) -> bool:
    """Write ``[!new:Thing {one: 1}]``, and what it stands in, over several lines; whether
    there is any. In one line ruamel leaves out the braces, and the thing becomes a key."""
    if isinstance(node, Mapping):
        found = [_unfold(value) for value in node.values()]
    elif isinstance(node, list):
        found = [_unfold(each) for each in node]
        single = (each for each in node if isinstance(each, Mapping) and len(each) == 1)
        found += [_tag(each) is not None for each in single]
    else:
        return False
    if any(found) and isinstance(node, (CommentedMap, CommentedSeq)):
        node.fa.set_block_style()
    return any(found)


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
    if (_tag(document) or "").startswith(("!new:", "!name:")):
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
    return (_tag(node) or "").partition(":")[2]


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
    if _tag(node) is not None:
        return False
    if isinstance(node, Mapping):
        return all(map(_is_plain, node.values()))
    return not isinstance(node, list) or all(map(_is_plain, node))


# --------------------------------------------------------------- options of a study


def merged(*options: Mapping) -> CommentedMap:
    """Options as one; the later change the earlier as they would change a yaml.

    A text that begins with ``!`` is yaml with a tag, whose references are to the keys
    of the yaml that it will change.

    Example
    -------
    >>> option_text(merged(
    ...     {"compute_cost": "!new:hamsb.AMSoftmax {margin: 0.2, scale: 30.0}"},
    ...     {"compute_cost": {"scale": 15.0}, "seed": 1},
    ... ))
    '{compute_cost: !new:hamsb.AMSoftmax {margin: 0.2, scale: 15.0}, seed: 1}'
    """
    result = CommentedMap()
    for mapping in options:
        override(result, _tree(mapping))
    return result


def _tree(value: Any) -> Any:
    """A copy of a value as a tree in flow style, without comments and aliases."""
    if isinstance(value, str) and value.startswith("!"):
        return _tree(YAML().load(value))
    tree: CommentedMap | CommentedSeq
    if isinstance(value, Mapping):
        tree = CommentedMap((key, _tree(item)) for key, item in value.items())
    elif isinstance(value, list):
        tree = CommentedSeq(_tree(item) for item in value)
    else:
        return value
    if _tag(value) is not None:
        setattr(tree, Tag.attrib, value.tag)
    tree.fa.set_flow_style()
    return tree


class _Representer(RoundTripRepresenter):
    """Writes null, where ruamel leaves an empty place, which a list would lose."""


_Representer.add_representer(
    type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
)


def option_text(value: object) -> str:
    """A value as it stands on a command line: a text as it is, else a line of yaml.

    Example
    -------
    >>> option_text({"margin": 0.2, "channels": [8, None]})
    '{margin: 0.2, channels: [8, null]}'
    >>> option_text(YAML().load("[!new:hamsb.Softmax {scale: 15.0}]"))
    '[!new:hamsb.Softmax {scale: 15.0}]'
    """
    if isinstance(value, str):
        return value
    writer, stream = YAML(), io.StringIO()
    writer.Representer, writer.width = _Representer, sys.maxsize
    writer.brace_single_entry_mapping_in_flow_sequence = True
    writer.dump(_tree(value), stream)
    return stream.getvalue().removesuffix("...\n").strip()
