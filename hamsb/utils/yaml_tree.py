"""A yaml as a tree of keys, tags kept and nothing resolved or built: read, walked, changed
by options, and written as one.

What is changed before hyperpyyaml sees it, by options of a command line or of a study, is
changed here, in one place (`override`): hyperpyyaml by itself merges a mapping into
whatever object it finds and drops the mapping's own tag.
"""

import difflib
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML, RoundTripRepresenter
from ruamel.yaml.comments import CommentedMap, CommentedSeq, Tag, TaggedScalar
from ruamel.yaml.error import MarkedYAMLError, YAMLError

_OBJECT_TAGS = ("!new:", "!name:", "!apply:")

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
    if tag(node) == "!PLACEHOLDER":
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


def tag(node: object) -> str | None:
    """The tag of a node of the tree, None without one."""
    return getattr(getattr(node, "tag", None), "value", None)


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
            if _takes_arguments(old.get(key)) and tag(change) is None:
                setattr(change, Tag.attrib, old[key].tag)
        old[key] = change


def _merges(path: tuple, old: object, new: object, where: object) -> bool:
    """Whether a change is of an old value's keys; else it takes the value's place."""
    here = f"{bracketed(path)}, as {where} has it,"
    if tag(old) == "!PLACEHOLDER":
        return False
    if not isinstance(new, Mapping):
        if isinstance(old, Mapping) and tag(new) is None and new is not None:
            if not isinstance(new, list):
                raise ValueError(
                    f"{here} is a group of keys, and {new!r} is one value. Write "
                    f"{as_option((*path, '<key>'), '<value>')}."
                )
        return False
    if tag(new) is None and not isinstance(old, Mapping) and not _takes_arguments(old):
        raise ValueError(f"{here} is no group of keys, and {dict(new)} is one.")
    return isinstance(old, Mapping) and tag(new) in (None, tag(old))


def _takes_arguments(node: object) -> bool:
    """Whether a node is an object without arguments, as ``!new:hamsb.Softmax``."""
    is_object = (tag(node) or "").startswith(_OBJECT_TAGS)
    return is_object and isinstance(node, TaggedScalar) and not node.value


# ------------------------------------------------------------------------- writing


def unfold(node: object) -> bool:
    """Write ``[!new:Thing {one: 1}]``, and what it stands in, over several lines; whether
    there is any. In one line ruamel leaves out the braces, and the thing becomes a key."""
    if isinstance(node, Mapping):
        found = [unfold(value) for value in node.values()]
    elif isinstance(node, list):
        found = [unfold(each) for each in node]
        single = (each for each in node if isinstance(each, Mapping) and len(each) == 1)
        found += [tag(each) is not None for each in single]
    else:
        return False
    if any(found) and isinstance(node, (CommentedMap, CommentedSeq)):
        node.fa.set_block_style()
    return any(found)


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
    if tag(value) is not None:
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
