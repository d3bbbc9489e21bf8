"""--help: what a script does, an example, its keys, the run options that it takes."""

import subprocess
import sys

import pytest

from hamsb.utils.help import help_if_asked, help_text
from hamsb.utils.keys import Key
from hamsb.utils.run_options import ANALYSIS

DOCUMENT = """Train a model.

    python train.py x.yaml

How it does that.
"""
KEYS = [
    Key("seed", "number", "of everything"),
    Key("cost", "object", "the loss"),
    Key("speed", "percent", "of speech", optional=True),
]
YAML = """\
# A small model.
#
#   python train.py x.yaml --seed=2

# Run
seed: 1 # of the draws
# The loss,
# and its margin
cost: !new:hamsb.HAMSoftmax {margin: 0.2, scale: 30.0}
text: "a # b" # a text
network:
    channels: [1024, 1024, 1024, 1024, 3072] # not of the outermost
    attention_channels: 128
    kernel_sizes: [5, 3, 3, 3, 1]
__set: 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    (tmp_path / "x.yaml").write_text(YAML)
    return tmp_path


def test_keys_of_a_yaml_with_values_and_comments():
    lines = help_text(DOCUMENT, KEYS, ANALYSIS, "x.yaml").splitlines()
    assert lines[:3] == ["Train a model.", "", "    python train.py x.yaml"]
    assert "How it does that." not in lines
    assert "  A small model." in lines
    start = lines.index("  # Run")
    assert lines[start : start + 14] == [
        "  # Run",
        "  --seed=1                  of the draws",
        "",
        "  # The loss,",
        "  # and its margin",
        '  --cost="!new:hamsb.HAMSoftmax {margin: 0.2, scale: 30.0}"',
        "                            the loss",
        '  --text="a # b"            a text',
        "  --network",
        "      channels: [1024, 1024, 1024, 1024, 3072]",
        "      attention_channels: 128",
        "      kernel_sizes: [5, 3, 3, 3, 1]",
        "",
        "Keys that it may have, too:",
    ]
    assert "  --speed=<percent>         of speech" in lines
    assert lines[-4].startswith("Run options") and lines[-1].startswith("  --noprogressbar")


def test_a_script_answers_and_ends(capsys):
    assert help_if_asked(DOCUMENT, KEYS, ANALYSIS, ["x.yaml", "--seed=1"]) is None
    for argument in ("-h", "--help"):
        with pytest.raises(SystemExit) as end:
            help_if_asked(DOCUMENT, KEYS, ANALYSIS, [argument])
        assert end.value.code == 0
        assert "  --seed=<number>           of everything\n" in capsys.readouterr().out


def test_help_of_a_wrong_yaml(folder, capsys):
    (folder / "y.yaml").write_text(YAML.replace("train.py", "verify.py"))
    for arguments, message in (
        (["no.yaml"], "no.yaml: no such yaml file"),
        (["y.yaml"], "python verify.py y.yaml --seed=2"),
    ):
        with pytest.raises(SystemExit) as end:
            help_if_asked(DOCUMENT, KEYS, ANALYSIS, [*arguments, "--help"])
        assert end.value.code == 2 and message in capsys.readouterr().err


SCRIPTS = """
import runpy, sys
class Blocked:
    def find_spec(name, path=None, target=None):
        if name in ("torch", "torchaudio", "speechbrain"):
            raise ImportError(f"{{name}} takes long to import")
sys.meta_path.insert(0, Blocked)
for script, *arguments in {commands}:
    sys.argv = [script, *arguments, "--help"]
    sys.path.insert(0, script.rpartition("/")[0])
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as end:
        assert end.code == 0, script
    else:
        raise AssertionError(f"{{script}} went on")
"""


def test_every_script_answers_without_torch(repository):
    recipe, hparams = repository / "recipes" / "VoxCeleb", repository / "hparams"
    yamls = {
        "train.py": "mini/chns.yaml",
        "train_ssl.py": "contrastive/moco_am.yaml",
        "verify.py": "verify.yaml",
        "cluster.py": "cluster.yaml",
        "hierarchy.py": "hierarchy.yaml",
        "studies/radii.py": "studies/radii.yaml",
        "studies/compare.py": "studies/compare_mini.yaml",
        "studies/corpora.py": "studies/corpora.yaml",
    }
    commands = [[str(recipe / "convert_m4a.py")], [str(recipe / "mini/mini_corpus.py")]]
    for script, name in yamls.items():
        commands += [[str(recipe / script)], [str(recipe / script), str(hparams / name)]]
    code = SCRIPTS.format(commands=commands)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for script in yamls:
        assert done.stdout.count(f"    python recipes/VoxCeleb/{script} ") >= 3
