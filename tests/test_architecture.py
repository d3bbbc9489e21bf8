"""Who may know whom, as the house has it."""

import ast
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
# Imports go down this line only.
ROOMS = [
    "utils", "nnet", "dataio", "augment", "verification", "analysis", "inference", "training",
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
    """The room of a module of the library, -1 for the library itself."""
    parts = name.split(".")
    return ROOMS.index(parts[1]) if len(parts) > 1 else -1


def test_imports_go_down_the_line():
    for path in (REPOSITORY / "hamsb").rglob("*.py"):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        if len(parts) == 2:  # hamsb/__init__.py, whose imports are for type checkers
            continue
        own = ROOMS.index(parts[1])
        for name in imports(path):
            if name.split(".")[0] == "hamsb":
                assert room(name) <= own, f"{path} imports {name}"


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
            assert path.name == "plots.py", f"{where} imports matplotlib"
    assert nnet == {"torch"}
    assert metrics == {"numpy", "scipy"}
