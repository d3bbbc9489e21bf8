"""Who may know whom.

``python tests/test_architecture.py`` prints the modules and what each imports of hamsb.
"""

import ast
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# Imports go down this line only.
ROOMS = [
    "utils", "nnet", "integrations", "dataio", "augment",
    "verification", "analysis", "inference", "training",
]  # fmt: skip


def imports(path):
    """Modules that a file imports, by their full names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module


def named(path):
    """The parts of every import of a file: of ``from a.b import c``, a, b and c."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            module = (getattr(node, "module", "") or "").split(".")
            for alias in node.names:
                yield [*module, *alias.name.split(".")]


def room(name):
    """The place of a module's room in the line."""
    return ROOMS.index(name.split(".")[1])


def graph():
    """Module of the library or script -> what it imports of hamsb."""
    found = {}
    for path in sorted(REPOSITORY.glob("hamsb/*/**/*.py")) + sorted(
        REPOSITORY.glob("recipes/**/*.py")
    ):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        own = {name for name in imports(path) if name.split(".")[0] == "hamsb"}
        found[".".join(parts)] = sorted(own)
    return found


def test_imports_go_down_the_line():
    for module, imported in graph().items():
        for name in imported:
            if module.startswith("hamsb."):
                # "hamsb" itself is imported for its version; names come from a room.
                assert name == "hamsb" or room(name) <= room(module), f"{module}: {name}"
    for path in (REPOSITORY / "hamsb").glob("*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "hamsb"), path


def test_losses_know_neither_heads_nor_balls():
    """Nor does anything else of nnet, but what is made of balls."""
    of_balls = {f"hamsb.nnet.{name}" for name in ("classifiers", "similarities")}
    modules = graph()
    assert {"hamsb.nnet.losses", "hamsb.nnet.binary", *of_balls} <= modules.keys()
    for name in modules.keys() - of_balls:
        if name.startswith("hamsb.nnet."):
            known = set(modules[name])
            assert not known & {"hamsb.nnet.classifiers", "hamsb.nnet.balls"}, name


def test_no_script_imports_a_script_but_a_preparation():
    scripts = {path.stem: path for path in (REPOSITORY / "recipes").rglob("*.py")}
    assert {"train", "verify", "compare", "mini_corpus"} <= scripts.keys()
    folders = {path.parent.name for path in scripts.values()}
    for path in scripts.values():
        known = set()
        for parts in map(set, named(path)):
            if parts & (scripts.keys() | folders) and "hamsb" not in parts:
                known |= parts & scripts.keys() - {"voxceleb_prepare", "mini_corpus"}
        assert known == set(), f"{path} imports {known}"


def test_third_parties_where_they_belong():
    nnet, metrics = set(), set()
    for path in (REPOSITORY / "hamsb").rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)}
        found -= {*sys.stdlib_module_names, "hamsb"}
        where = path.relative_to(REPOSITORY / "hamsb").as_posix()
        if where.startswith("nnet/"):
            nnet |= found
        if where == "verification/metrics.py":
            metrics |= found
        if "matplotlib" in found:
            assert path.name.endswith("plots.py"), f"{where} imports matplotlib"
        if "fcntl" in set(imports(path)):
            assert where == "utils/files.py", f"{where} imports fcntl"
    assert nnet == {"torch"}
    assert metrics == {"numpy", "scipy"}


if __name__ == "__main__":
    for module, imported in graph().items():
        print(f"{module}: {', '.join(name.removeprefix('hamsb.') for name in imported)}")
