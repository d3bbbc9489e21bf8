"""The answer to ``--help``, before a script imports what takes seconds.

KEYS = [...]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS)

import torch
...
"""

import inspect
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from hamsb.utils.keys import Key, check_owner, header, remarks
from hamsb.utils.run_options import TRAINING
from hamsb.utils.yaml_tree import option_text, read_yaml

INDENT = 28  # columns of an option's name
LONGEST = 60  # characters of a value


def help_if_asked(
    document: str,
    keys: Sequence[Key] = (),
    run_options: Mapping[str, str] = TRAINING,
    arguments: Sequence[str] | None = None,
) -> None:
    """Print a script's help and exit, where ``-h`` or ``--help`` is among the arguments.

    Arguments
    ---------
    document : str
        The script's docstring: what it does, and indented how it is called.
    keys : sequence of Key
        What the script reads of a yaml.
    run_options : mapping of str to str
        The run options that it takes, and what they are.
    arguments : sequence of str, optional
        By default those of the command line. A yaml among them is told key by key.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "-h" not in arguments and "--help" not in arguments:
        return
    yamls = [text for text in arguments if text.endswith((".yaml", ".yml"))]
    files = [text for text in yamls if not text.startswith("-")]
    try:
        text = help_text(document, keys, run_options, *files[:1])
    except (ValueError, OSError) as error:
        _refuse(error)
    try:
        print(text, flush=True)
    except BrokenPipeError:  # as of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise SystemExit(0)


def _refuse(error: Exception) -> NoReturn:
    print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
    raise SystemExit(2)


def help_text(
    document: str,
    keys: Sequence[Key],
    run_options: Mapping[str, str],
    hparams_file: str | None = None,
) -> str:
    """What `help_if_asked` prints.

    Raises
    ------
    ValueError, FileNotFoundError
        A yaml that cannot be read, or that is another script's.

    Example
    -------
    >>> document = '''Train a model.
    ...
    ...     python train.py x.yaml
    ...
    ... How it does that.'''
    >>> keys = [Key("seed", "number", "of all that is drawn")]
    >>> print(help_text(document, keys, {"device": "cpu, cuda:0, ..."}))
    Train a model.
    <BLANKLINE>
        python train.py x.yaml
    <BLANKLINE>
    Keys of the yaml, each an option (with a yaml on the line --help tells their values):
    <BLANKLINE>
      --seed=<number>           of all that is drawn
    <BLANKLINE>
    Run options of SpeechBrain:
    <BLANKLINE>
      --device                  cpu, cuda:0, ...
    """
    paragraphs = inspect.cleandoc(document).split("\n\n")
    lines = [paragraphs[0]]
    lines += [text for text in paragraphs[1:2] if text.startswith(" ")]
    if hparams_file is None:
        lines.append(
            "Keys of the yaml, each an option (with a yaml on the line --help tells their "
            "values):"
        )
        lines.append("\n".join(_of_keys(keys)))
    else:
        lines += _of_yaml(hparams_file, keys)
    if run_options:
        lines.append("Run options of SpeechBrain:")
        options = (_line(f"--{name}", text) for name, text in run_options.items())
        lines.append("\n".join(options))
    return "\n\n".join(lines)


def _of_keys(keys: Iterable[Key]) -> Iterator[str]:
    for key in keys:
        optional = "; optional" if key.optional else ""
        yield _line(f"--{key.name}=<{key.kind}>", key.help + optional)


def _of_yaml(hparams_file: str, keys: Sequence[Key]) -> Iterator[str]:
    """The yaml's first lines, its keys, and the optional ones that it lacks."""
    document = read_yaml(hparams_file)
    check_owner(hparams_file, document, keys, Path(sys.argv[0]).name)
    if text := header(hparams_file):
        yield f"{hparams_file}:\n\n{textwrap.indent(text, '  ')}"
    yield (
        "Its keys, each an option, with their values; one of a group is given as "
        '--<group>="{<key>: <value>}":'
    )
    known = {key.name: key.help for key in keys}
    above, behind = remarks(hparams_file)
    lines = []
    for name, value in document.items():
        if above.get(name):
            lines += ["", *(f"  {text}" for text in above[name])]
        if not name.startswith("__"):
            about = behind.get(name) or known.get(name, "")
            lines += _of_value(name, value, about)
    yield "\n".join(lines).strip("\n")
    absent = [key for key in keys if key.name not in document]
    if absent:
        yield "Keys that it may have, too:"
        yield "\n".join(_line(f"--{key.name}=<{key.kind}>", key.help) for key in absent)


def _of_value(name: str, value: object, about: str) -> Iterator[str]:
    """A key with its value; a group that is long has its own keys below it."""
    text = "null" if value is None else option_text(value)
    if len(text) <= LONGEST or not isinstance(value, Mapping):
        quoted = f'"{text}"' if set(text) & set(" {[!<") else text
        yield _line(f"--{name}={quoted}", about)
        return
    tag = text.partition("{")[0].strip()
    yield _line(f"--{name}" + f'="{tag} {{...}}"' * bool(tag), about)
    for key, item in value.items():
        yield f"      {key}: {_cut('null' if item is None else option_text(item))}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _line(left: str, right: str) -> str:
    """An option and what it is, in two columns or, where it is long, on two lines."""
    width = max(shutil.get_terminal_size().columns, 2 * INDENT)
    pad = " " * INDENT
    text = textwrap.fill(
        right,
        width,
        initial_indent=pad,
        subsequent_indent=pad,
        break_on_hyphens=False,
    )
    left = f"  {left}"
    if not right:
        return left
    return left.ljust(INDENT) + text[INDENT:] if len(left) < INDENT else f"{left}\n{text}"
