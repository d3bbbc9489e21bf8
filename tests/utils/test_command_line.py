"""The command line: every option arrives as written, every mistake is named."""

import errno
import logging
import sys
import time

import pytest
import speechbrain as sb
import torch
from torch._utils import ExceptionWrapper

import hamsb
from hamsb.utils import command_line
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.hparams import load_hparams
from hamsb.utils.keys import Key
from hamsb.utils.run_options import ANALYSIS
from runs import fork, status_of

YAML = """
seed: 1
data_folder: /data
margin: 0.2
nothing: null
channels: [8, 8]
max_grad_norm: 5.0
clip: !ref <max_grad_norm>
num_workers: 0
loader: {num_workers: !ref <num_workers>}
modules: {head: !ref <head>, cost: !ref <cost>}
cost: !new:hamsb.HAMSoftmax
    margin: !ref <margin>
head:
    ball: !new:hamsb.ClippedUnitBall
        curvature: 3.0
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The tests run in a folder of their own, without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    (tmp_path / "x.yaml").write_text(YAML)
    return tmp_path


def loaded(*arguments):
    """What the yaml's keys are with these options."""
    file, _, overrides = parse_arguments(["x.yaml", *arguments])
    return load_hparams(file, overrides)


def options(*arguments):
    return parse_arguments(["x.yaml", *arguments])[1]


KEYS = [
    Key("seed", "number", "of everything"),
    Key("speed", "number", "of it", optional=True),
]


# ------------------------------------------------------------------- good options


def test_what_speechbrain_gets_right_is_the_same():
    arguments = ["x.yaml", "--seed", "7", "--ckpt_interval_steps=5", "--channels=[4, 4]"]
    arguments += ["--noprogressbar", "--device", "cpu", "--eval_precision=bf16"]
    assert parse_arguments(arguments) == sb.parse_arguments(arguments)
    assert parse_arguments(["x.yaml"]) == sb.parse_arguments(["x.yaml"])


TEXTS = [
    "/a/b=c.txt",
    "k=v=w",
    "/a b/c",
    "/a #1/b",
    "#1",
    "a: b",
    "a:",
    "http://x:80/y?z=1",
    "C:\\data",
    "it's",
    'say "a"',
    "*.txt",
    "&x",
    "@home",
    "`x`",
    "%d",
    "- 1",
    "? a",
    "|",
    "> a",
    "---",
    "a, b",
    "/é/😀",
    "2026-01-31",
    "two\nlines",
    "-x",
    "<seed>/a]b}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_arrives_as_written(text):
    assert loaded(f"--data_folder={text}")["data_folder"] == text
    if not text.startswith("--"):
        assert loaded("--data_folder", text)["data_folder"] == text


@pytest.mark.parametrize(
    "text, value",
    [
        ("3", 3),
        ("-1", -1),
        ("1e-3", 0.001),
        ("-2.5", -2.5),
        ("True", True),
        ("null", None),
        ("~", None),
        ("(1, 2)", (1, 2)),
        ("[1, 2]", [1, 2]),
        ("[/a=b,\n /c]", ["/a=b", "/c"]),
        ("''", ""),
        ("'3'", "3"),
        ('"a: \\t#"', "a: \t#"),
        ("!ref <seed> + 4", 5),
        ("!ref /x/<seed>", "/x/1"),
        (" 3 ", 3),
        ("!new:collections.Counter [ab]", {"a": 1, "b": 1}),
    ],
)
def test_yaml_arrives_as_its_value(text, value):
    assert loaded(f"--nothing={text}")["nothing"] == value
    assert loaded("--nothing", text)["nothing"] == value


def test_keys_of_objects_and_groups():
    hparams = loaded(
        "--cost={scale: 20}",
        "--head={ball: {curvature: 4.0}}",
        "--loader={shuffle: True}",
    )
    assert repr(hparams["cost"]) == "HAMSoftmax(margin=0.2, scale=20)"
    assert repr(hparams["head"]["ball"]) == "ClippedUnitBall(curvature=4)"
    assert hparams["loader"] == {"num_workers": 0, "shuffle": True}
    assert loaded("--loader=null")["loader"] is None
    head = loaded("--head={ball: !new:hamsb.PoincareBall [0.5]}")["head"]
    assert isinstance(head["ball"], hamsb.PoincareBall)


def test_overrides_are_a_line_a_key():
    file, _, overrides = parse_arguments(["--seed=2", "x.yaml", "--data_folder=/a #1"])
    assert (file, overrides) == ("x.yaml", 'seed: 2\ndata_folder: "/a #1"')


def test_run_options():
    found = options(
        "--noprogressbar",
        "--compile_module_keys",
        "head",
        "cost",
        "--ckpt_interval_steps",
        "-1",
        "--compile=True",
        "--skip_nonfinite_grads=false",
        "--data_folder=--debug",
    )
    assert found.noprogressbar is True and found.compile is True
    assert found.skip_nonfinite_grads is False and found.ckpt_interval_steps == -1
    assert found.compile_module_keys == ["head", "cost"]
    listed = options("--compile", "--compile_module_keys=[head, cost]")
    assert listed.compile_module_keys == ["head", "cost"]
    assert found.debug is False and found.param_file == "x.yaml"
    assert found.overridden_args == {
        "noprogressbar",
        "compile_module_keys",
        "ckpt_interval_steps",
        "skip_nonfinite_grads",
        "compile",
    }


def test_a_run_option_that_is_a_key_is_changed_in_both():
    assert options("--max_grad_norm", "7").max_grad_norm == 7
    assert loaded("--max_grad_norm", "7")["clip"] == 7


def test_a_key_may_begin_like_a_run_option(folder):
    (folder / "x.yaml").write_text("prec: 1\n")
    assert loaded("--prec=2") == {"prec": 2}


def test_help_has_speechbrains_options(capsys):
    with pytest.raises(SystemExit) as end:
        parse_arguments(["--help"])
    assert end.value.code == 0 and "--nonfinite_patience" in capsys.readouterr().out


# -------------------------------------------------------------------- bad options


@pytest.mark.parametrize(
    "arguments, message",
    [
        # unknown, with what may be meant
        (["--margn=1"], r"^margn: no such key in x\.yaml; did you mean margin\?$"),
        (["--curvature=1"], r'did you mean --head="\{ball: \{curvature: \.\.\.\}\}"\?$'),
        (["--scales=1", "--seed=1"], "^scales: no such key in x.yaml, and no run option"),
        (["--data-folder=/a"], r"^data-folder: .*mean data_folder\?"),
        (["--devise=cpu"], r"^devise: .*mean --device\?"),
        # abbreviated
        (["--prec=bf16"], r"^prec: .* not to be abbreviated; did you mean --precision\?$"),
        (["--dev", "3"], r"^dev: .* not to be abbreviated; did you mean --device\?$"),
        (["--noprog"], r"^noprog: .* abbreviated; did you mean --noprogressbar\?$"),
        # repeated
        (["--seed=1", "--seed", "2"], "^seed: given twice, 1 and 2"),
        (["--device=cpu", "--device=cpu"], "^device: given twice, cpu and cpu"),
        (["--debug", "--debug"], "^debug: given twice, alone and alone"),
        # without a value
        (["--seed"], "^seed: no value; write --seed=<value>.*--seed=null"),
        (["--seed", "--debug"], "^seed: no value"),
        (["--seed="], "^seed: no value"),
        (["--seed= "], "^seed: no value"),
        (["--seed", ""], "^seed: no value"),
        (["--device"], "^device: no value; write --device=<value>.$"),
        (["--compile_module_keys", "--debug"], "^compile_module_keys: no value"),
        # with a value that does not fit
        (["--precision=fp8"], "^precision=fp8: .*'fp32', 'fp16', 'bf16'"),
        (["--debug_batches=x"], "^debug_batches=x: invalid int"),
        (["--max_grad_norm=x"], "^max_grad_norm=x: invalid float"),
        (["--distributed_backend=glo"], "^distributed_backend=glo: .*'gloo'"),
        (["--debug=maybe"], "^debug=maybe: a flag"),
        (["--channels=[1, 2"], r"^channels=\[1, 2: not yaml: .*as text: --channels='"),
        (["--help=True"], "^help: no such key"),
        (["--spped=1"], r"^spped: no such key in x\.yaml; did you mean speed\?$"),
        (["--data_folder='é' b"], "^data_folder='é' b: not yaml: .*'\"'é' b\"'$"),
        (["--seed=[1]\nmargin: 3"], "^seed=.*not yaml"),
        (["--data_folder=a\udce9"], "data_folder.*not yaml"),
        (["--seed={a: 1}"], r"^seed, as x\.yaml has it, is no group of keys, and \{'a'"),
        (["--cost=0.3"], '^cost, .* a group of keys, and 0.3 .* --cost="{<key>: <value>}"'),
        (["--cost={margin: {a: 1}}"], r"^cost\[margin\], .* is no group of keys"),
        (["--head={ball: x}"], r"^head\[ball\], .* and 'x' is one value"),
        (["--seed=!ref <sed>"], '^x.yaml: The reference "sed" is not valid'),
        (["--seed=!ref <margin[a]>"], "^x.yaml: .*not iterable"),
        # neither file nor option
        (["stray"], "^'stray': belongs to no option, and the yaml file is x.yaml"),
        (["\u2013seed=3"], "^'\u2013seed=3': belongs to no option"),
        (["-s=3"], "^-s=3: an option is written --key=value"),
        (["--"], "^--: an option is written"),
        (["--=3"], "^--=3: an option is written"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["x.yaml", *arguments], KEYS)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data_parallel_backend"], "^data_parallel_backend: .* torchrun --nproc"),
        (["--jit"], "^jit: TorchScript .* Use --compile"),
        (["--jit_module_keys=head"], "^jit_module_keys: TorchScript"),
        (["--optimizer_step_limit=3"], "^optimizer_step_limit: .* --number_of_epochs"),
        (["--test_only"], "^test_only: a finished run .* verify.py"),
        (["--debug_batches=3"], "^debug_batches=3: does nothing without --debug; add"),
        (["--compile_mode=default"], "^compile_mode=default: does nothing without --comp"),
        (["--profile_steps=3"], "^profile_steps=3: does nothing without --profile_train"),
        (["--debug", "--debug_batches=0"], "^debug_batches=0: .* at least 1"),
        (["--grad_accumulation_factor=0"], "^grad_accumulation_factor=0: .* at least 1"),
        (["--nonfinite_patience=-1"], "^nonfinite_patience=-1: .* at least 0"),
        (["--max_grad_norm=0"], "^max_grad_norm=0.0: must be positive.* give inf"),
        (["--max_grad_norm=-1"], "^max_grad_norm=-1.0: must be positive"),
        (["--max_grad_norm=nan"], "^max_grad_norm=nan: must be positive"),
        (
            ["--ckpt_interval_minutes=1", "--ckpt_interval_steps=2"],
            "^ckpt_interval_minutes=1 and ckpt_interval_steps=2: .* one of them",
        ),
        (
            ["--bfloat16_mix_prec", "--precision=fp32"],
            "^bfloat16_mix_prec=True: means --precision=bf16, and precision is fp32",
        ),
        (
            ["--bfloat16_mix_prec", "--auto_mix_prec"],
            "^auto_mix_prec=True, bfloat16_mix_prec=True: mean fp16 and bf16",
        ),
        (
            ["--compile", "--compile_module_keys", "head", "tail"],
            "^compile_module_keys=tail: no such module; the yaml's modules are head, cost",
        ),
        (["--distributed_backend=gloo"], "^distributed_backend=gloo: .*torchrun"),
        (["--find_unused_parameters"], "^find_unused_parameters=True: .*torchrun"),
    ],
)
def test_run_options_that_cannot_work(arguments, message):
    with pytest.raises(ValueError, match=message):
        parse_arguments(["x.yaml", *arguments], KEYS)


def test_modules_that_a_key_names_are_there():
    keys = [*KEYS, Key("no_weight_decay", "list", "modules", optional=True)]
    parse_arguments(["x.yaml", "--no_weight_decay=[head]"], keys)
    with pytest.raises(ValueError, match="^no_weight_decay=tail: no such module; the yaml"):
        parse_arguments(["x.yaml", "--no_weight_decay=[head, tail]"], keys)
    with pytest.raises(ValueError, match="=head: must be a list, modul.*A list of one is"):
        parse_arguments(["x.yaml", "--no_weight_decay=head"], keys)


def test_run_options_that_can_work(folder):
    options("--max_grad_norm=inf", "--bfloat16_mix_prec", "--debug", "--debug_epochs=0")
    options("--compile", "--compile_module_keys=head", "--ckpt_interval_steps=-1")
    with pytest.raises(FileNotFoundError, match=r"^log_config=no\.yaml: no such file\.$"):
        options("--log_config=no.yaml")
    assert options("--log_config=x.yaml").log_config == "x.yaml"


def test_run_options_of_the_yaml(folder):
    for line, message in (
        ("test_only: True", "^test_only=True: a finished run"),
        ("grad_accumulation_factor: 0", "^grad_accumulation_factor=0: "),
        ("ckpt_interval_steps: 2", None),
    ):
        (folder / "y.yaml").write_text(f"{YAML}{line}\n")
        if message is None:
            assert parse_arguments(["y.yaml"])
            continue
        with pytest.raises(ValueError, match=message):
            parse_arguments(["y.yaml"])


def test_run_options_of_a_script_that_does_not_train():
    taken = ["x.yaml", "--device=cpu", "--noprogressbar"]
    assert parse_arguments(taken, KEYS, "verify.py", ANALYSIS)[1].noprogressbar
    for name in ("precision", "jit", "debug"):
        value = "=bf16" * (name == "precision")
        with pytest.raises(ValueError, match=f"^{name}: is for training. verify.py takes"):
            parse_arguments(["x.yaml", f"--{name}{value}"], KEYS, "verify.py", ANALYSIS)


def test_a_yaml_of_another_script(folder):
    header = (
        "# A yaml.\n#\n#   python a/train.py hparams/x.yaml --seed=1 \\\n#       --b=2\n"
    )
    (folder / "y.yaml").write_text(f"{header}\n{YAML}")
    command = (
        r"a yaml of train.py, not of verify.py: python a/train.py y.yaml --seed=1 --b=2"
    )
    with pytest.raises(
        ValueError, match=rf"^y\.yaml: .* {command} \(If it is for verify.py"
    ):
        parse_arguments(["y.yaml"], KEYS, "verify.py")
    needed = [*KEYS, Key("model", "folder", "an export")]
    with pytest.raises(ValueError, match=f"{command}$"):
        parse_arguments(["y.yaml"], needed, "verify.py")
    with pytest.raises(ValueError, match=r"^y\.yaml: no model; train.py needs them"):
        parse_arguments(["y.yaml"], needed, "train.py")
    assert parse_arguments(["y.yaml"], KEYS, "train.py")
    assert parse_arguments(["y.yaml"], KEYS)  # a script of a name of its own


@pytest.mark.parametrize(
    "kind, meaning, value, message",
    [
        (
            "number",
            "of everything",
            "null",
            r"margin=None: must be given \(number: of everything\)",
        ),
        ("object", "the loss", "null", "margin=None: must be given"),
        ("object", "of nulls", "null", "margin=None: must be given"),
        ("number", "null: none", "null", None),
        ("object", "or null", "null", None),
        ("seconds", "null: none", "a", "margin=a: must be a number, null: none"),
        ("Hz", "of all", "1k", "margin=1k: must be a number, of all"),
        ("number", "of all", "True", "margin=True: must be a number"),
        ("number", "of all", "1e-3", None),
        ("count", "epochs", "0", "margin=0: must be a whole number, at least 1"),
        ("count", "epochs", "1.5", "margin=1.5: must be a whole number"),
        ("count", "epochs", "!ref <seed>", None),
        ("whole number", "of all", "-1", "margin=-1: must be a whole number, at least 0"),
        ("whole number", "of all", "0", None),
        ("number", "of all", "!ref <seed> / 2", None),
        ("number", "of all", "!apply:math.sqrt [4]", None),
        ("boolean", "or not", "no", "margin='no': must be True or False"),
        ("boolean", "or not", "False", None),
        ("mapping", "of it", "3", "margin=3: must be a mapping, of it"),
        ("mapping", "of it", "[a]", r"margin=\['a'\]: must be a mapping, of it"),
        ("mapping", "of it", "!apply:dict [[[a, 1]]]", None),
        ("list of dB", "ratios", "a", "margin=a: must be a list of dB, ratios"),
        ("list of numbers", "priors", "[a]", r"margin=\['a'\]: must be a list of numbers"),
        ("list of names", "of it", "[a]", None),
        ("list", "of it", "[]", None),
        ("list", "of it", "!apply:list [[1]]", None),
        ("name", "of it", "no", None),
    ],
)
def test_values_are_of_their_keys_kinds(kind, meaning, value, message):
    for optional in (False, True):
        if optional and message is not None and value == "null":
            message = None
        keys = [Key("margin", kind, meaning, optional)]
        arguments = ["x.yaml", f"--margin={value}"]
        if message is None:
            parse_arguments(arguments, keys)
            continue
        with pytest.raises(ValueError, match=message):
            parse_arguments(arguments, keys)


def test_declared_keys(folder, capsys):
    """An optional key may be an option where the yaml lacks it, a needed one may not
    be lacking; --help lists them."""
    file, _, overrides = parse_arguments(["x.yaml", "--speed=!ref <seed> + 1"], KEYS)
    assert load_hparams(file, overrides)["speed"] == 2
    with pytest.raises(ValueError, match=r"^speed: no such key in x\.yaml"):
        parse_arguments(["x.yaml", "--speed=1"])
    needed = [*KEYS, Key("model", "folder", "an export"), Key("k", "number", "clusters")]
    with pytest.raises(ValueError, match=r"^x\.yaml: no k, model; .* another script\?$"):
        parse_arguments(["x.yaml"], needed)
    with pytest.raises(SystemExit):
        parse_arguments(["--help"], KEYS)
    assert "  --speed=<number>          of it; optional\n" in capsys.readouterr().out


def test_no_yaml_file(folder):
    with pytest.raises(ValueError, match="^No yaml file.*name it first"):
        parse_arguments(["--seed=3"])
    (folder / "hparams").mkdir()
    (folder / "hparams" / "small.yaml").touch()
    near = r"^hparams/small_hma\.yaml: .* mean hparams/small\.yaml\?$"
    with pytest.raises(FileNotFoundError, match=near):
        parse_arguments(["hparams/small_hma.yaml"])
    with pytest.raises(FileNotFoundError, match=r"^hparams: no such yaml file\.$"):
        parse_arguments(["hparams"])


@pytest.mark.parametrize(
    "text, message",
    [
        ("a: 1\nb: [1\nc: 3\n", r"^x\.yaml, line 3, column 2: .*expected ',' or '\]'"),
        ("a: 1\n\tb: 1\n", r"^x\.yaml, line 2, .*cannot start any token"),
        ("a: 1\nb: 2\na: 3\n", r'^x\.yaml, line 3, .*duplicate key "a"'),
        ("a: \0\n", r"^x\.yaml: not yaml: .*special characters"),
        ("", "^x.yaml: holds no keys"),
        ("- 1\n", "^x.yaml: holds no keys"),
    ],
)
def test_a_yaml_that_cannot_be_read(folder, text, message):
    (folder / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        parse_arguments(["x.yaml"])


def test_a_yaml_that_is_no_text(folder):
    (folder / "x.yaml").write_bytes(b"a: \xe9\xff\n")
    with pytest.raises(ValueError, match="^x.yaml: not a text in UTF-8"):
        parse_arguments(["x.yaml"])


def test_placeholders_name_the_options(folder):
    (folder / "x.yaml").write_text(
        "data_folder: !PLACEHOLDER # /data\nlist: !PLACEHOLDER\n"
        "cost: {margin: !PLACEHOLDER }\nwav: !ref <data_folder>/wav\n"
    )
    with pytest.raises(ValueError) as error:
        parse_arguments(["x.yaml", "--list=/b"])
    assert str(error.value) == (
        "x.yaml leaves data_folder, cost[margin] to you (!PLACEHOLDER); "
        'add --data_folder=... --cost="{margin: ...}"'
    )
    hparams = loaded("--list=/b", "--data_folder=/a=b", "--cost={margin: 1}")
    assert hparams["wav"] == "/a=b/wav"


# --------------------------------------------------------------------- the device


@pytest.mark.parametrize(
    "arguments",
    [
        ["--precision=fp16"],
        ["--eval_precision=fp16", "--device=cpu"],
        ["--auto_mix_prec"],
    ],
)
def test_fp16_on_a_cpu(arguments):
    with pytest.raises(ValueError, match="no fp16 on a CPU, and the device is cpu"):
        options(*arguments)


def test_fp16_and_device_of_the_yaml(folder):
    with (folder / "x.yaml").open("a") as file:
        file.write("p: fp16\nprecision: !ref <p>\ndevice: cuda:0\n")
    with pytest.raises(ValueError, match="^device=cuda:0: not on this machine"):
        options()
    with pytest.raises(ValueError, match="^precision=fp16: there is no fp16 on a CPU"):
        options("--device=cpu")
    assert options("--device=cpu", "--precision=fp32").device == "cpu"


@pytest.mark.parametrize(
    "device, message",
    [
        ("cuda", "not on this machine, which has cpu. "),
        ("cuda:0", "not on this machine"),
        ("meta", "not on this machine"),
        ("gpu", "no device: Expected one of cpu, cuda"),
    ],
)
def test_device_that_is_not_there(device, message):
    with pytest.raises(ValueError, match=f"^device={device}: {message}"):
        options(f"--device={device}")


@pytest.fixture
def two_gpus(monkeypatch):
    """A machine that seems to have two."""
    cuda = type("Device", (), {"type": "cuda", "__str__": lambda self: "cuda"})()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: cuda)


def test_device_that_is_there(two_gpus):
    for device in ("cuda", "cuda:1", "cpu"):
        assert options(f"--device={device}").device == device
    assert options("--device=cuda", "--precision=fp16").precision == "fp16"
    with pytest.raises(ValueError, match="device=cuda:2: .* has cpu, cuda:0, cuda:1"):
        options("--device=cuda:2")
    with pytest.raises(ValueError, match="device=xpu: not on this machine"):
        options("--device=xpu")


@pytest.mark.parametrize("device", ["cuda:0", "cuda:1", "cuda"])
@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_device_for_all_processes(device, rank, two_gpus, monkeypatch):
    """Each of them says so, and so the main process, which speaks first."""
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=f"^device={device}: one for all processes"):
        options(f"--device={device}")


def test_a_device_for_each_process(two_gpus, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert options("--device=cuda:1").device == "cuda:1"  # started one by one
    with pytest.raises(ValueError, match="^device=cuda:0: one for all processes"):
        options("--device=cuda:0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert options().device is None
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert options("--device=cuda:0").device == "cuda:0"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="^nproc_per_node=3: .* has 2 accelerators"):
        options()


# ---------------------------------------------------------------------- the ending


@pytest.fixture
def ending(monkeypatch, capsys):
    """A function that ends a script with ``main``: exit status, stderr."""
    monkeypatch.setattr(sys, "argv", ["recipes/train.py", "x.yaml", "--a=1"])

    def ending(main):
        with pytest.raises(SystemExit) as end:
            main_or_exit(main)
        screen = capsys.readouterr()
        assert screen.out == ""
        return end.value.code, screen.err

    return ending


def raising(error):
    def main(arguments):
        raise error

    return main


def test_a_users_error_is_one_message(ending, folder):
    assert ending(lambda _: hamsb.ClippedUnitBall(curvature=0.5)) == (
        2,
        (
            "train.py: error: curvature=0.5: the clipped unit ball needs a curvature of at "
            "least 1, its radius is 1/sqrt(curvature). For a smaller one use "
            "PoincareBall.\n"
        ),
    )
    assert ending(lambda _: open("no/file")) == (
        2,
        "train.py: error: no/file: No such file or directory\n",
    )
    assert ending(raising(OSError(errno.ENOSPC, "No space left on device"))) == (
        2,
        "train.py: error: No space left on device: a disk is full. Make room; the same "
        "command goes on where it was.\n",
    )
    code, screen = ending(lambda _: parse_arguments(["y.yaml"]))
    assert (code, screen) == (
        2,
        "train.py: error: y.yaml: no such yaml file; did you mean x.yaml?\n",
    )


def test_interruption(ending):
    assert ending(raising(KeyboardInterrupt())) == (
        130,
        "train.py: interrupted; the same command goes on where it was.\n",
    )


@pytest.mark.parametrize(
    "error",
    [
        ValueError("raised outside hamsb and the recipe"),
        OSError("of no file"),
        KeyError("key"),
        RuntimeError("bug"),
        TypeError("bug"),
    ],
)
def test_other_errors_pass(error):
    with pytest.raises(type(error)) as passed:
        main_or_exit(raising(error))
    assert passed.value is error


def test_a_text_that_cannot_be_decoded_passes(folder):
    code = compile("b'\\xff'.decode()", command_line.__file__, "exec")
    with pytest.raises(UnicodeDecodeError):
        main_or_exit(lambda _: exec(code))


def test_success_returns_and_main_gets_the_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "x.yaml", "--a=1"])
    seen = []
    assert main_or_exit(seen.append) is None
    assert seen == [["x.yaml", "--a=1"]]


def test_an_error_of_a_data_loader_process(ending):
    def from_worker(function):
        try:
            function()
        except Exception:
            wrapped = ExceptionWrapper(where="in DataLoader worker process 0")
        return lambda _: wrapped.reraise()

    code, screen = ending(from_worker(lambda: hamsb.PoincareBall(curvature=-1)))
    assert code == 2
    assert screen == "train.py: error: curvature=-1: must be positive and finite.\n"
    with pytest.raises(ValueError, match="Original Traceback"):
        main_or_exit(from_worker(lambda: int("x")))


@pytest.fixture
def experiment(folder, monkeypatch, capsys):
    """SpeechBrain's experiment directory, with its log and its excepthook."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setenv("SB_LOG_LEVEL", "DEBUG")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    sb.create_experiment_directory(folder / "run", save_env_desc=False)
    capsys.readouterr()
    yield folder / "run"
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_the_message_is_in_the_log_with_its_traceback(ending, experiment):
    overrides = "head: {ball: {curvature: 0}}"
    code, screen = ending(lambda _: load_hparams("x.yaml", overrides))
    message = screen.removeprefix("train.py: ").strip()
    log = (experiment / "log.txt").read_text()
    assert code == 2 and screen.count("\n") == 1
    assert f" - train - ERROR - {message}\nTraceback" in log
    assert "in construct_object" in log
    assert ending(raising(KeyboardInterrupt()))[0] == 130
    assert "train - ERROR - interrupted" in (experiment / "log.txt").read_text()


def test_a_log_on_a_full_disk_adds_no_traceback(ending, experiment):
    handler = logging.FileHandler("/dev/full")
    logging.getLogger().addHandler(handler)
    code, screen = ending(raising(OSError(errno.ENOSPC, "No space left on device")))
    logging.getLogger().removeHandler(handler)
    handler.stream = None  # cannot be flushed
    assert code == 2 and screen.count("\n") == 1


def test_an_unexpected_error_keeps_its_traceback(folder):
    def main(arguments):
        sb.create_experiment_directory("run", save_env_desc=False)
        raise ValueError("a bug")

    def script():
        try:
            main_or_exit(main)
        except BaseException:  # as the interpreter does
            sys.excepthook(*sys.exc_info())
            raise SystemExit(1) from None

    assert status_of(fork(script, folder / "screen")) == 1
    for file in (folder / "screen", folder / "run" / "log.txt"):
        text = file.read_text()
        assert "Traceback" in text and "ValueError: a bug" in text


# -------------------------------------------------------------- several processes


def test_processes_take_turns(monkeypatch, ending):
    """Main process or not, what the user can put right or not."""
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)

    def bug():
        with pytest.raises(KeyError):
            main_or_exit(raising(KeyError("bug")))

    def users():
        ending(lambda _: hamsb.ClippedUnitBall(curvature=0.5))

    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        users()
        bug()
    assert waited == sorted(waited) and len(set(waited)) == 4 and waited[0] == 0
    monkeypatch.delenv("RANK")
    users()
    bug()
    assert len(waited) == 4  # a run of one process does not wait


def test_processes_are_not_joined_by_nccl_on_a_cpu(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ValueError, match="^distributed_backend=nccl: .*backend=gloo.$"):
        options("--device=cpu")
    assert options("--distributed_backend=gloo").distributed_backend == "gloo"
