"""What an installation needs, says and finds: setup.cfg, the extras, the platforms."""

import ast
import configparser
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hamsb
from hamsb.utils import packages

REPOSITORY = Path(__file__).resolve().parents[1]
# A module that is not called as its distribution is.
DISTRIBUTIONS = {
    "espeakng_loader": "espeakng-loader",
    "ruamel": "ruamel.yaml",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
# In every process that runs the code below: modules that are not to be found.
BLOCK = """
import sys
for name in {blocked}:
    sys.modules[name] = None
"""
# Prints a line for each module of hamsb that cannot be imported, and why.
IMPORT_ALL = """
import importlib, pkgutil, hamsb
for module in pkgutil.walk_packages(hamsb.__path__, "hamsb."):
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        print(f"{module.name}: {error}")
"""


def python(code, **environment):
    """What Python prints that runs the code, on stdout and stderr."""
    env = {**os.environ, **environment}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def setup():
    """setup.cfg, parsed."""
    parsed = configparser.ConfigParser()
    parsed.read(REPOSITORY / "setup.cfg", encoding="utf-8")
    return parsed


def required(setup, extra=None):
    """Distributions that pip installs, of an extra with those that it names."""
    if extra is None:
        lines = setup["options"]["install_requires"]
    else:
        lines = setup["options.extras_require"][extra]
    found = set()
    for line in filter(None, lines.splitlines()):
        if line.startswith("hamsb["):
            for name in line[len("hamsb[") : -1].split(","):
                found |= required(setup, name)
        else:
            found.add(re.match(r"[\w.-]+", line)[0].lower())
    return found


def third_parties(folder):
    """Distributions that the files below a folder import."""
    found = set()
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add(node.module.split(".")[0])
    scripts = (
        path for name in ("recipes", "tests") for path in REPOSITORY.glob(f"{name}/**/*.py")
    )
    own = {"hamsb", *(name for path in scripts for name in (path.stem, path.parent.name))}
    return {DISTRIBUTIONS.get(name, name) for name in found - own - sys.stdlib_module_names}


def test_what_is_imported_is_installed(setup):
    core = required(setup)
    extras = {
        "hamsb": ("plots", "clustering", "kaldi", "onnx", "tensorboard", "wavlm"),
        "recipes": ("mini",),
        "tests": ("test",),
    }
    for folder, names in extras.items():
        allowed = core.union(*(required(setup, name) for name in names))
        assert third_parties(folder) <= allowed, folder
    # And nothing that no file asks for, but what SpeechBrain imports.
    assert core - third_parties("hamsb") - third_parties("recipes") <= {"torchaudio"}


def test_extras_are_those_that_messages_name(setup):
    for extra, names in packages._EXTRAS.items():
        distributions, modules = (each.split() for each in names)
        assert set(distributions) <= required(setup, extra), extra
        assert [DISTRIBUTIONS.get(name, name) for name in modules] == distributions
    assert required(setup, "mini") >= required(setup, "plots") | required(
        setup, "clustering"
    )
    assert required(setup, "test") >= required(setup, "mini") | {"pytest"}
    assert required(setup, "dev") >= required(setup, "test") | {"build", "mypy", "ruff"}


def test_versions_are_the_same_everywhere(setup):
    workflow = (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(workflow)["jobs"]["tests"]["strategy"]["matrix"]
    classified = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    assert matrix["python"] == classified
    assert setup["options"]["python_requires"] == f">={classified[0]}"
    # Both ends of the range of torch, and the same range for torchaudio.
    needs = setup["options"]["install_requires"]
    (first, end), other = (
        re.search(rf"^{name}>=2\.(\d+),<2\.(\d+)$", needs, re.M).groups()
        for name in ("torch", "torchaudio")
    )
    assert (first, end) == other
    tested = {*matrix["torch"], *(case["torch"] for case in matrix["include"])}
    assert tested == {f"2.{first}", f"2.{int(end) - 1}"}


def test_changelog_and_citation_are_of_this_version():
    log = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in hamsb._MOVED.items():
        named = new.replace(" and ", "` and `")
        assert f"| `hamsb.{old}` | `hamsb.{named}` |" in log, old
    assert f"\n## {hamsb.__version__}\n" in log
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == hamsb.__version__


def test_every_folder_of_the_library_is_a_package():
    """``packages = find:`` leaves out what has no __init__.py."""
    for path in (REPOSITORY / "hamsb").rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), path
    assert (REPOSITORY / "hamsb" / "py.typed").is_file()


def test_a_missing_extra_is_named():
    why = "is not installed, run `python -m pip install {}` (hamsb's extra [{}])."
    code = BLOCK.format(blocked=["matplotlib", "sklearn"]) + (
        "from hamsb.utils.packages import missing, optional\n"
        "print(missing('plots'))\n"
        "with optional('clustering'):\n"
        "    print('not reached')\n"
    )
    out, errors = python(code)
    assert out == f"matplotlib {why.format('matplotlib', 'plots')}\n"
    assert errors.endswith(
        f"ImportError: scikit-learn {why.format('scikit-learn', 'clustering')}\n"
    )
    assert packages.missing("plots") == packages.missing("clustering") == ""
    with packages.optional("plots"):  # an error of the package itself is not hidden
        with pytest.raises(ZeroDivisionError):
            1 / 0  # noqa: B018


def test_the_library_imports_without_the_extras_and_without_posix():
    """All but figures, clusters, TensorBoard and WavLM, which say what they need; Windows
    has no fcntl."""
    extras = [name for _, names in packages._EXTRAS.values() for name in names.split()]
    out, errors = python(BLOCK.format(blocked=[*extras, "fcntl", "resource"]) + IMPORT_ALL)
    assert errors == ""
    known = (
        r"hamsb\.(\w+\.plots|analysis\.\w+|training\.tensorboard|"
        r"integrations\.\w+): [\w-]+ is not installed, run "
    )
    for line in out.splitlines():
        assert re.match(known, line), line
    assert "plots" in out  # what is blocked is not found


@pytest.mark.parametrize("torch, torchaudio, said", [
    ("2.8.0", "2.8.1", None),
    ("2.11.0+cu128", "2.11.0+cpu", None),
    (None, "2.11.0", None),
    ("2.11.0", None, None),
    (None, None, None),
    ("2.10.1+cu128", "2.11.0", "2.10"),
    ("2.1.0", "2.11.0", "2.1"),
])  # fmt: skip
def test_torch_and_torchaudio_must_match(torch, torchaudio, said, monkeypatch):
    def version(name):
        found = {"torch": torch, "torchaudio": torchaudio}[name]
        if found is None:
            raise packages.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(packages, "version", version)
    if said is None:
        packages.check_torch_pair()
    else:
        command = f'run `python -m pip install "torchaudio=={said}.*"`'
        with pytest.raises(ImportError, match=re.escape(command)):
            packages.check_torch_pair()


def test_a_mismatch_is_refused_before_speechbrain_is_imported(tmp_path):
    for name, version in [("torch", "2.9.1"), ("torchaudio", "2.10.0")]:
        folder = tmp_path / f"{name}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    code = (
        "import sys\n"
        "try:\n"
        "    import hamsb.inference.speaker\n"
        "except ImportError as error:\n"
        "    print(error, {'torch', 'torchaudio', 'speechbrain'} & set(sys.modules))\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    out, errors = python(code, PYTHONPATH=path)
    assert errors == ""
    assert out == (
        "torchaudio 2.10.0 does not fit torch 2.9.1, run "
        '`python -m pip install "torchaudio==2.9.*"`. set()\n'
    )


def test_scripts_import_hamsb_before_speechbrain():
    """So that a script too says what does not match, as recipes/ruff.toml orders it."""
    late = set()
    for path in (REPOSITORY / "recipes").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^(?:import|from) (hamsb|speechbrain|torchaudio)\b", text, re.M)
        if "speechbrain" in found and found[0] != "hamsb":
            late.add(path.name)
    assert late == set()
