"""The command line of the recipe's scripts: options in, clear errors out.

    hparams_file, run_opts, overrides = parse_arguments(arguments, KEYS, "train.py")
    hparams = load_hparams(hparams_file, overrides)
    ...
    if __name__ == "__main__":
        main_or_exit(main)

`parse_arguments` stands where ``speechbrain.parse_arguments`` stands and returns
the same three things. An option is ``--key=value`` or ``--key value``; its key is
one of the yaml's or a run option of SpeechBrain's, in full. A value that starts
with one of ``[ { ! ' "`` is yaml; any other is one number, boolean, null or text
as it stands, whatever ``=``, ``#`` or ``:`` is in it. How a value changes the yaml is
told in `hamsb.utils.yaml_tree.override`.

Whatever a user can put right is a ValueError or FileNotFoundError, before any
data are read; `main_or_exit` prints it as one message, without a traceback.
"""

import difflib
import errno
import json
import logging
import os
import re
import sys
import time
import traceback
from argparse import ArgumentError, ArgumentParser
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from ruamel.yaml import YAML, ScalarNode, SequenceNode
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean
from speechbrain.utils.distributed import get_local_rank, get_rank, infer_device
from speechbrain.utils.run_opts import RunOptions

import hamsb
from hamsb.utils.checks import (
    check_flag,
    check_list,
    check_mapping,
    check_whole,
    is_number,
)
from hamsb.utils.help import help_if_asked
from hamsb.utils.hparams import error_text, read_resolved
from hamsb.utils.keys import Key, check_owner
from hamsb.utils.run_options import LEAST, NEEDS, REFUSED, TRAINING
from hamsb.utils.yaml_tree import as_option, did_you_mean, key_paths, read_yaml, tag

EXPECTED_ERROR = 2  # the exit status; Python's own for an unexpected error is 1
INTERRUPTED = 130
TERMINATED = 143
PATIENCE = 2.0  # seconds between the turns of a run's processes to speak
LIBRARY = Path(hamsb.__file__).resolve().parent
NUMBERS = ("number", "seconds", "Hz")  # kinds of keys
WHOLE = {"whole number": 0, "count": 1}  # and the least of others
YAML_STARTS = tuple("[{!'\"")

# -------------------------------------------------------------------- the options


def parse_arguments(
    arguments: Sequence[str],
    keys: Sequence[Key] = (),
    script: str = "",
    run_options: Mapping[str, str] = TRAINING,
) -> tuple[str, RunOptions, str]:
    """The yaml file, run options and overrides of a command line, all checked.

    Arguments
    ---------
    arguments : list of str
        What follows the script's name: the yaml file and options, in any order.
    keys : sequence of Key
        What the script reads: ``--help`` lists them, and optional ones may be given
        as options where the yaml has none.
    script : str
        The script's name, as ``train.py``: a yaml whose first lines name another one is
        refused.
    run_options : mapping of str to str
        The run options that the script takes, of `hamsb.utils.run_options`.

    Returns
    -------
    hparams_file : str
    run_opts : speechbrain.utils.run_opts.RunOptions
    overrides : str
        One ``key: value`` a line, for `hamsb.utils.hparams.load_hparams` and
        `resolve`. A run option that is also a key of the yaml is
        among them, so that a ``!ref`` to it has the same value.

    Raises
    ------
    ValueError
        An option that is unknown, abbreviated, repeated, without a value or with
        one that does not fit; a run option that the script does not take, or that
        does nothing here; a yaml that cannot be read, is another script's, or in
        which a ``!PLACEHOLDER`` is left; a device that this machine has not; fp16 on
        a CPU, or several processes joined by nccl there.
    FileNotFoundError
        No such yaml file.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    ...     _ = file.write("data_folder: !PLACEHOLDER\\nseed: 1\\n")
    ...     file.flush()
    ...     _, run_opts, overrides = parse_arguments(
    ...         [file.name, "--data_folder=/a/b=c", "--device", "cpu"]
    ...     )
    >>> overrides, run_opts.device
    ('data_folder: /a/b=c', 'cpu')
    """
    about = sys.modules["__main__"].__doc__ or ""
    help_if_asked(about, keys, run_options, arguments)
    parser = _run_option_parser()
    options = {
        action.dest: action
        for action in parser._actions
        if action.option_strings and action.dest != "help"
    }
    hparams_file, given = _split(arguments, options)
    document = read_yaml(hparams_file)
    check_owner(hparams_file, document, keys, script)
    names = {*document, *(key.name for key in keys if key.optional)}
    for name, values in given.items():
        if name not in names and name not in options:
            raise ValueError(_unknown(name, hparams_file, document, names, options))
        if not "".join(values).strip() and not _is_flag(options.get(name)):
            raise ValueError(_without_value(name, options))
    _check_taken([name for name in given if name not in names], run_options, script)
    run_opts = _run_options(parser, options, hparams_file, given)
    overrides = "\n".join(
        _override(name, _value(name, values, options))
        for name, values in given.items()
        if name in names
    )
    resolved = read_resolved(hparams_file, overrides)
    _check_kinds(keys, resolved)
    _check_values(run_opts, resolved)
    _check_device(run_opts, resolved)
    return hparams_file, run_opts, overrides


def _check_kinds(keys, resolved):
    """ValueError where a key is null whose help does not tell what null means; where one
    that is true or false is neither (yaml's no is a text); where a number, a list or a
    mapping is none. What has a tag is not looked at."""
    for key in keys:
        if key.name not in resolved:
            continue
        value = resolved[key.name]
        if value is None:
            if not key.optional and not re.search(r"\bnull\b", key.help):
                raise ValueError(
                    f"{key.name}=None: must be given ({key.kind}: {key.help})."
                )
        elif key.kind == "boolean":
            check_flag(key.name, bool(value) if isinstance(value, ScalarBoolean) else value)
        elif key.kind in NUMBERS and not is_number(value) and not hasattr(value, "tag"):
            raise ValueError(f"{key.name}={value}: must be a number, {key.help}.")
        elif key.kind in WHOLE and tag(value) is None:
            check_whole(key.name, value, WHOLE[key.kind])
        elif key.kind == "mapping" and tag(value) is None:
            check_mapping(key.name, value, f"{key.kind}, {key.help}")
        elif key.kind.startswith("list") and tag(value) is None:
            try:
                check_list(key.name, value, f"{key.kind}, {key.help}")
            except ValueError as error:
                if isinstance(value, (Mapping, list)):
                    raise
                form = f'--{key.name}="[{value}]"'
                raise ValueError(f"{error} A list of one is {form}.") from None


def _run_option_parser() -> ArgumentParser:
    """SpeechBrain's parser of run options, which raises instead of exiting and takes of
    a choice no more than the annotations of RunOptions do."""
    parser = RunOptions._create_parser()
    parser.exit_on_error = False
    hints = get_type_hints(RunOptions)
    for action in parser._actions:
        hint = hints.get(action.dest)
        if get_origin(hint) is Literal:
            action.choices = get_args(hint)
    return parser


def _is_flag(action):
    return action is not None and action.nargs == 0


def _split(arguments, options):
    """The yaml file, and the values of each option: name -> list of str."""
    files: list[str] = []
    given: dict[str, list[str]] = {}
    waiting = deque(arguments)
    while waiting:
        argument = waiting.popleft()
        if not argument.startswith("-"):
            files.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        if not argument.startswith("--") or not name:
            raise ValueError(f"{argument}: an option is written --key=value.")
        values = [value] if equals else _following(waiting, options.get(name))
        if name in given:
            first, second = (" ".join(v) or "alone" for v in (given[name], values))
            raise ValueError(f"{name}: given twice, {first} and {second}; give it once.")
        given[name] = values
    if not files:
        raise ValueError(
            "No yaml file on the command line; name it first, then the options: "
            "hparams/small.yaml --key=value."
        )
    if len(files) > 1:
        raise ValueError(
            f"{files[1]!r}: belongs to no option, and the yaml file is {files[0]}. "
            'Write --key=value; a value with spaces needs quotes, --key="a b".'
        )
    return files[0], given


def _without_value(name, options):
    """The message for ``--key`` or ``--key=``, often an unset shell variable."""
    message = f"{name}: no value; write --{name}=<value>."
    if name not in options:
        message += f" For none --{name}=null, for an empty text --{name}=\"''\"."
    return message


def _following(waiting, action):
    """Take the values of an option written ``--key value`` from the arguments."""
    if _is_flag(action):
        return []
    most = len(waiting) if action is not None and action.nargs == "*" else 1
    values: list[str] = []
    while waiting and len(values) < most and not waiting[0].startswith("--"):
        values.append(waiting.popleft())
    return values


def _value(name, values, options):
    """An option's value as one text: that of a list or a flag as yaml."""
    action = options.get(name)
    if _is_flag(action):
        return str(_flag(name, values))
    if action is not None and action.nargs == "*":
        return json.dumps(values, ensure_ascii=False)
    return values[0]


def _flag(name, values):
    """``--flag`` and ``--flag=True`` are true, ``--flag=False`` is not."""
    meanings = {(): True, ("true",): True, ("false",): False}
    key = tuple(value.lower() for value in values)
    if key not in meanings:
        raise ValueError(f"{name}={values[0]}: a flag; --{name}, or True or False.")
    return meanings[key]


def _run_options(parser, options, hparams_file, given):
    """SpeechBrain's RunOptions of those given options that are run options."""
    chosen = {name: values for name, values in given.items() if name in options}
    flags = {
        name: _flag(name, values)
        for name, values in chosen.items()
        if _is_flag(options[name])
    }
    arguments = [hparams_file]
    for name, values in chosen.items():
        if name not in flags:
            single = options[name].nargs is None
            arguments += (
                [f"--{name}={values[0]}"] if single else [f"--{name}", *_items(values)]
            )
    try:
        parsed = vars(parser.parse_args(arguments))
    except ArgumentError as error:
        name = str(error.argument_name).lstrip("-")
        raise ValueError(f"{name}={' '.join(given[name])}: {error.message}.") from None
    return RunOptions(**{**parsed, **flags, "overridden_args": set(chosen)})


def _items(values):
    """The values of an option that takes several: given as such, or as one yaml list."""
    if len(values) == 1 and values[0].startswith("["):
        node, _ = _compose_value(f"values: {values[0]}")
        if isinstance(node, SequenceNode):
            return [str(item.value) for item in node.value]
    return values


def _override(name, value):
    """``name: value`` as a line of yaml."""
    value = value.strip()
    is_yaml = value.startswith(YAML_STARTS)
    if is_yaml:
        value = " ".join(value.splitlines())
    node, problem = _compose_value(f"{name}: {value}")
    if is_yaml and node is None:
        raise ValueError(
            f"{name}={value}: not yaml: {problem}. To have it as text: "
            f"--{name}='{json.dumps(value, ensure_ascii=False)}'"
        )
    # No hyperparameter is a date; 2026-01-31 is a folder's name.
    whole = isinstance(node, ScalarNode) and node.value == value
    if not is_yaml and (not whole or str(node.tag).endswith(":timestamp")):
        value = json.dumps(value, ensure_ascii=False)
    return f"{name}: {value}"


def _compose_value(line):
    """The node of the value in ``key: value``, or None; and what is wrong."""
    try:
        return YAML().compose(line).value[0][1], None
    except YAMLError as error:
        return None, getattr(error, "problem", None) or str(error)


def _unknown(name, hparams_file, document, names, options):
    """The message for an option that is neither a key nor a run option."""
    meanings = {key: f"--{key}" for key in options}
    meanings.update(
        (path[-1], as_option(path)) for path in sorted(key_paths(document), key=len)[::-1]
    )
    meanings.update((key, key) for key in names)
    abbreviated = sorted(key for key in options if key.startswith(name))
    near = difflib.get_close_matches(name, sorted(meanings), cutoff=0.7)
    found = dict.fromkeys([*abbreviated, *near])
    message = f"{name}: no such key in {hparams_file}"
    if abbreviated:
        message += ", and a run option is not to be abbreviated"
    if not found:
        return f"{message}, and no run option; --help lists those."
    return message + did_you_mean(
        f"--{key}" if key in abbreviated else meanings[key] for key in found
    )


# ---------------------------------------------------- run options that cannot work


def _check_taken(names, taken, script):
    """ValueError for a run option that the script does not take."""
    script = script or Path(sys.argv[0]).name
    for name in names:
        if name in REFUSED and "compile" in taken:
            raise ValueError(f"{name}: {REFUSED[name]}")
        if name not in taken:
            known = " and ".join(f"--{option}" for option in taken) or "none"
            raise ValueError(
                f"{name}: is for training. {script} takes, of SpeechBrain's run options, "
                f"{known}."
            )


def _chosen(run_opts, resolved, name):
    """A run option's value: the command line's, else the yaml's, else the default."""
    given = name in run_opts.overridden_args or name not in resolved
    return run_opts[name] if given else resolved[name]


def _check_values(run_opts, resolved):
    """ValueError for a run option that SpeechBrain would ignore, or fail with in the
    middle of a run."""

    def chosen(name):
        return _chosen(run_opts, resolved, name)

    given = run_opts.overridden_args | resolved.keys()
    for name, why in REFUSED.items():
        if name in resolved and resolved[name]:
            raise ValueError(f"{name}={resolved[name]}: {why}")
    for other, names in NEEDS.items():
        for name in names:
            if name in run_opts.overridden_args and not chosen(other):
                raise ValueError(
                    f"{name}={chosen(name)}: does nothing without --{other}; add that, "
                    "or leave it out."
                )
    for name, least in LEAST.items():
        check_whole(name, chosen(name), least)
    norm = chosen("max_grad_norm")
    if isinstance(norm, bool) or not isinstance(norm, (int, float)) or not norm > 0:
        raise ValueError(
            f"max_grad_norm={norm}: must be positive: every gradient would become zero, "
            "or be turned round. To leave them as they are, give inf."
        )
    intervals = ("ckpt_interval_minutes", "ckpt_interval_steps")
    if all(chosen(name) > 0 for name in intervals):
        raise ValueError(
            f"{intervals[0]}={chosen(intervals[0])} and {intervals[1]}="
            f"{chosen(intervals[1])}: SpeechBrain takes one of them; leave out the other."
        )
    for old, value in {"auto_mix_prec": "fp16", "bfloat16_mix_prec": "bf16"}.items():
        if chosen(old) and "precision" in given and chosen("precision") != value:
            raise ValueError(
                f"{old}=True: means --precision={value}, and precision is "
                f"{chosen('precision')}. Give --precision alone."
            )
    if chosen("auto_mix_prec") and chosen("bfloat16_mix_prec"):
        raise ValueError(
            "auto_mix_prec=True, bfloat16_mix_prec=True: mean fp16 and bf16. Give "
            "--precision alone."
        )
    if chosen("compile") and "modules" in resolved:  # a study's runs ask for themselves
        _check_modules("compile_module_keys", chosen("compile_module_keys"), resolved)
    _check_modules("no_weight_decay", resolved.get("no_weight_decay"), resolved)
    if get_local_rank() is None:
        for name in ("distributed_backend", "find_unused_parameters"):
            if name in run_opts.overridden_args and run_opts[name]:
                raise ValueError(
                    f"{name}={run_opts[name]}: is about several processes, and this is "
                    "one. Start with torchrun --nproc_per_node=<processes>, or leave it "
                    "out."
                )
    config = chosen("log_config")
    if config is not None and not Path(config).is_file():
        raise FileNotFoundError(f"log_config={config}: no such file.")


def _check_modules(option, names, resolved):
    """ValueError where an option names a module that the yaml lacks."""
    modules = resolved.get("modules", {})
    for name in names or []:
        if name not in modules:
            raise ValueError(
                f"{option}={name}: no such module; the yaml's modules are "
                f"{', '.join(modules)}."
            )


# --------------------------------------------------------------------- the device


def _check_device(run_opts, resolved):
    """The device must exist; SpeechBrain would tell after the preparation."""

    def chosen(name):
        return _chosen(run_opts, resolved, name)

    name = chosen("device") or infer_device()
    device = named_device(name)
    if device.type != "cpu":
        if get_local_rank() is not None:
            _check_own_device(device, chosen("device"))
        check_accelerator(device)
        return
    backend = run_opts.distributed_backend
    if get_local_rank() is not None and backend == "nccl":
        raise ValueError(
            f"distributed_backend={backend}: it joins processes on accelerators, and "
            f"the device is {name}. Use --distributed_backend=gloo."
        )
    wanted = [key for key in ("precision", "eval_precision") if chosen(key) == "fp16"]
    if chosen("auto_mix_prec"):
        wanted.append("auto_mix_prec")
    if wanted:
        raise ValueError(
            f"{wanted[0]}={chosen(wanted[0])}: there is no fp16 on a CPU, and the "
            f"device is {name}. Use --precision=bf16, or leave it out."
        )


def _check_own_device(device, given):
    """ValueError where the processes of torchrun would not have an accelerator each."""
    number = get_local_rank()
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", number + 1))
    alone = "LOCAL_WORLD_SIZE" not in os.environ or processes == 1
    if given and not (alone and (device.index or 0) == number):
        raise ValueError(
            f"device={given}: one for all processes of torchrun, and each needs its own. "
            "Leave --device out."
        )
    count = _accelerators()
    if not given and processes > count:
        raise ValueError(
            f"nproc_per_node={processes}: processes, but this machine has {count} "
            f"accelerators. Start {count} at most."
        )


def _accelerators():
    return torch.accelerator.device_count() if torch.accelerator.is_available() else 0


def named_device(name: str | torch.device) -> torch.device:
    """The device of a name; a ValueError where the name is none's."""
    try:
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        first_line = str(error).splitlines()[0]
        raise ValueError(f"device={name}: no device: {first_line}") from error


def check_accelerator(device: torch.device) -> None:
    """ValueError where this machine has no such accelerator."""
    count = _accelerators()
    accelerator = torch.accelerator.current_accelerator() if count else None
    kind = accelerator.type if accelerator else None
    if device.type != kind or (device.index or 0) >= count:
        names = [f"{kind}:{index}" for index in range(count)]
        raise ValueError(
            f"device={device}: not on this machine, which has "
            f"{', '.join(['cpu', *names])}. Use one of them, --device=cpu."
        )


# ---------------------------------------------------------------------- the ending


class Terminated(KeyboardInterrupt):
    """SIGTERM came, and the run ends with a checkpoint of what was done."""


def main_or_exit(main: Callable[[list[str]], object]) -> None:
    """Run a script's ``main`` on the command line, and end as a user expects.

    - An error that the user can put right (a ValueError or OSError raised by
      hamsb or the recipe, a file that the system refused, a full disk) is one
      message on stderr, and the exit status is 2. The message and the traceback
      go into the run's ``log.txt``, where it has one. A line that cannot be written
      there, since the disk is full, is not told of besides.
    - Ctrl-C is one line, and the exit status is 130. SIGTERM in a training is one line
      after the checkpoint that it asks for, and the exit status is 143.
    - Any other error passes, with its traceback, and the exit status is 1.

    Of several processes the first that speaks ends the others, as torchrun does
    with a run of which one process failed. So they take turns: what the user can
    put right before other errors, and the main process first. An error that all
    processes meet is printed once, one that a single process meets by that
    process, and none says that it lost the others.

    Arguments
    ---------
    main : callable
        Takes the list of arguments that follow the script's name.
    """
    logging.raiseExceptions = False
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt as error:
        saved = isinstance(error, Terminated)
        status = TERMINATED if saved else INTERRUPTED
        if get_rank():  # it is for all; the main process says so
            raise SystemExit(status) from None
        message = "interrupted; the same command goes on where it was."
        if saved:
            message = "SIGTERM: a checkpoint is saved; the same command goes on from there."
        _leave(message, status, error)
    except Exception as error:
        text = expected_error(error)
        if text is None:
            _wait_for_turn(1)
            raise
        _leave(f"error: {text}", EXPECTED_ERROR, error)


def expected_error(error: Exception) -> str | None:
    """What to say of an error that the user can put right; None of any other.

    Arguments
    ---------
    error : Exception
        As it was caught. Expected are a ValueError or OSError raised by hamsb or the
        script, a file that the system refused, a full disk, a package that is missing.

    Example
    -------
    >>> try:
    ...     open("none.txt")
    ... except OSError as error:
    ...     print(expected_error(error))
    none.txt: No such file or directory
    """
    file, message = _origin(error)
    if not _is_expected(error, file):
        return None
    if _is_full(error):
        message += ": a disk is full. Make room; the same command goes on where it was."
    return message


def _leave(message, status, error):
    """Say the last words on the screen and in the log, and exit."""
    _wait_for_turn(0)
    _log(message, error)
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(status) from None


def _wait_for_turn(turn):
    """One of several processes waits; the main process's turns 0 and 1 come first."""
    rank = get_rank()
    if rank is not None:
        time.sleep(PATIENCE * (turn + 2 * (rank > 0)))


def _log(message, error):
    """Write the message and the traceback to log files, not to the screen again."""
    record = logging.makeLogRecord(
        {
            "name": Path(sys.argv[0]).stem,
            "levelno": logging.ERROR,
            "levelname": "ERROR",
            "msg": message,
            "exc_info": (type(error), error, error.__traceback__),
        }
    )
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def _origin(error):
    """The file whose code raised the error, and the error's message.

    An error in a process of the DataLoader arrives as one text, traceback and
    all, raised anew by torch.
    """
    text = error_text(error)
    if text.startswith("Caught ") and "\nOriginal Traceback" in text:
        files = re.findall(r'^ +File "(.+)", line \d+', text, re.MULTILINE)
        return files[-1], text.rpartition(f"\n{type(error).__name__}: ")[2].strip()
    return traceback.extract_tb(error.__traceback__)[-1].filename, text


def _is_full(error):
    """Whether the system has no space left for a file."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _is_expected(error, file):
    """Whether the error is the user's to put right, and its message enough."""
    if isinstance(error, ImportError):  # Python's own have a name
        return error.name is None and LIBRARY in Path(file).resolve().parents
    if not isinstance(error, (ValueError, OSError)):
        return False
    if isinstance(error, OSError) and (error.filename is not None or _is_full(error)):
        return True
    if isinstance(error, UnicodeError):
        return False  # it names no file
    parents = Path(file).resolve().parents
    return LIBRARY in parents or Path(sys.argv[0]).resolve().parent in parents
