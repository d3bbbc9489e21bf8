#!/usr/bin/env python3
"""Build the wheel and the source distribution, and use both as a stranger would.

    python tests/packaging/check_distributions.py

Builds what is committed (``git archive HEAD``), so that no file of the folder, such as
a build/ with modules that are gone, gets in. Then:

- the wheel holds the modules of hamsb/, py.typed and its own metadata, nothing else;
- the source distribution holds every committed file but the settings of git;
- the wheel, installed in a fresh virtual environment, imports every module from another
  folder, and ``import hamsb`` within two seconds without torch;
- from the folder above a clone named hamsb, ``hamsb.HAMSoftmax`` is found, with the
  wheel and with the editable install that CONTRIBUTING.md names;
- tests run from the unpacked source distribution, beside the installed wheel.

The fresh environments see the packages of the Python that runs this, hamsb excepted, so
that torch is not installed again. Needs git and the extra [dev].
"""

import argparse
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Committed, and in no distribution.
LEFT_OUT = (".git-blame-ignore-revs", ".gitignore", ".pre-commit-config.yaml")
# In a source distribution, and not committed.
GENERATED = ("PKG-INFO", "setup.cfg", "hamsb.egg-info/")
QUICK_TESTS = [
    "tests/nnet/test_classifiers.py",
    "tests/inference/test_exported_folders.py",
    "tests/test_public_names.py",
    "tests/test_packaging.py",
    "hamsb/utils",
]
IMPORT_ALL = """
import importlib, pkgutil, sys
from pathlib import Path
import hamsb
assert Path(hamsb.__file__).is_relative_to(sys.prefix), hamsb.__file__
names = [module.name for module in pkgutil.walk_packages(hamsb.__path__, "hamsb.")]
for name in names:
    importlib.import_module(name)
print(len(names), "modules imported from", Path(hamsb.__file__).parent)
"""
IMPORT_TIME = """
import sys, time
start = time.perf_counter()
import hamsb
seconds = time.perf_counter() - start
assert seconds < 2, f"import hamsb took {seconds:.1f} s"
assert "torch" not in sys.modules, "import hamsb loads torch"
print(f"import hamsb: {seconds:.2f} s")
"""


def run(*command, cwd):
    """Run a command that must succeed, elsewhere than in the checkout."""
    print("+", *(repr(part) if "\n" in str(part) else part for part in command), flush=True)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(part) for part in command], cwd=cwd, env=env, check=True)


def committed(folder):
    """Unpack what is committed into a folder; the names of its files."""
    folder.mkdir(parents=True)
    archive = subprocess.run(
        ["git", "archive", "--format=tar", "HEAD"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    subprocess.run(["tar", "-x"], cwd=folder, input=archive, check=True)
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def environment(folder, *install):
    """A fresh virtual environment with hamsb; its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # Searched after the environment's own packages.
    (folder / "lib" / version / "site-packages" / "outer.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )
    # A hamsb among those others is not this one.
    how = ["-q", "--no-deps", "--ignore-installed"]
    run(python, "-m", "pip", "install", *how, *install, cwd=folder)
    return python


def same(what, found, expected):
    """AssertionError that names the files by which two sets of names differ."""
    assert found == expected, (
        f"{what}: too many {sorted(found - expected)}, missing {sorted(expected - found)}"
    )
    print(f"{what}: {len(found)} files, as expected")


def check_contents(wheel, source, files):
    """The files of both distributions, against those that are committed."""
    names = {
        name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name
    }
    library = {name for name in files if name.startswith("hamsb/")}
    same("wheel", names, library)
    with tarfile.open(source) as archive:
        names = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    same(
        "source distribution",
        {name for name in names if not name.startswith(GENERATED)},
        {name for name in files if not name.startswith((*LEFT_OUT, *GENERATED))},
    )


def check(folder):
    """Build and use both distributions below a folder."""
    clone, elsewhere = folder / "above" / "hamsb", folder / "elsewhere"
    elsewhere.mkdir()
    files = committed(clone)
    # The wheel is built from the source distribution, as pip does with one.
    run(sys.executable, "-m", "build", "-o", folder / "dist", clone, cwd=elsewhere)
    (wheel,), (source,) = (
        (folder / "dist").glob("*.whl"),
        (folder / "dist").glob("*.tar.gz"),
    )
    check_contents(wheel, source, files)

    python = environment(folder / "installed", wheel)
    run(python, "-c", IMPORT_TIME, cwd=elsewhere)
    run(python, "-c", IMPORT_ALL, cwd=elsewhere)
    public = "import hamsb; print(hamsb.HAMSoftmax)"
    run(python, "-c", public, cwd=clone.parent)

    with tarfile.open(source) as archive:
        archive.extractall(elsewhere, filter="data")
    (unpacked,) = (path for path in elsewhere.iterdir() if path.is_dir())
    run(python, "-m", "pytest", "-q", *QUICK_TESTS, cwd=unpacked)

    editable = ["--config-settings", "editable_mode=compat", "-e", clone]
    python = environment(folder / "editable", *editable)
    run(python, "-c", public, cwd=clone.parent)


def main():
    """Check in a temporary folder, or in one that stays."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--keep", type=Path, help="a new folder for what is built")
    keep = parser.parse_args().keep
    if keep is None:
        with tempfile.TemporaryDirectory() as folder:
            check(Path(folder))
    else:
        keep.mkdir(parents=True)
        check(keep.resolve())
    print("Both distributions are right.")


if __name__ == "__main__":
    main()
