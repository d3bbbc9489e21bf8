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


def room(name):
    """The place of a module's room in the line."""
    return ROOMS.index(name.split(".")[1])


def graph():
    """Module of the library or script -> what it imports of hamsb."""
    found = {}
    for path in sorted(REPOSITORY.glob("hamsb/*/*.py")) + sorted(
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
    for path in (REPOSITORY / "hamsb").glob("*/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "hamsb"), path


def test_losses_know_neither_heads_nor_balls():
    modules = graph()
    for name in ("losses", "_closed_forms", "contrastive", "momentum"):
        known = set(modules[f"hamsb.nnet.{name}"])
        assert not known & {"hamsb.nnet.classifiers", "hamsb.nnet.balls"}, name


def test_no_script_imports_a_script_but_a_preparation():
    scripts = {path.stem: path for path in (REPOSITORY / "recipes").rglob("*.py")}
    assert {"train", "verify", "compare", "mini_corpus"} <= scripts.keys()
    for path in scripts.values():
        found = {name.split(".")[0] for name in imports(path)}
        known = found & scripts.keys() - {"voxceleb_prepare", "mini_corpus"}
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
