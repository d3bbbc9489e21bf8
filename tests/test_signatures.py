"""Public functions, classes and methods say the types of all that goes in and out."""

import ast
from pathlib import Path

HAMSB = Path(__file__).resolve().parents[1] / "hamsb"


def is_public(name):
    """Whether a user may call what has this name; Python calls magic methods."""
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def signatures(body, prefix=""):
    """Public functions and methods of a module or class: name, definition."""
    for node in body:
        if isinstance(node, ast.ClassDef) and is_public(node.name):
            yield from signatures(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_public(
            node.name
        ):
            yield f"{prefix}{node.name}", node


def untyped(name, function):
    """What a signature leaves open: parameters by name, and the return."""
    arguments = function.args
    parameters = [*arguments.posonlyargs, *arguments.args]
    if "." in name and parameters and parameters[0].arg in ("self", "cls"):
        del parameters[0]
    parameters += [arguments.vararg, *arguments.kwonlyargs, arguments.kwarg]
    found = [p.arg for p in parameters if p is not None and p.annotation is None]
    if function.returns is None and function.name != "__init__":
        found.append("return")
    return found


def findings(path):
    """Lines of what the public signatures of a file leave open; none of a private one."""
    if not is_public(path.stem):
        return
    module = ast.parse(path.read_text(encoding="utf-8"))
    for name, function in signatures(module.body):
        if missing := untyped(name, function):
            where = f"{path.relative_to(HAMSB.parent).as_posix()}:{function.lineno}"
            yield f"{where}: {name}: {', '.join(missing)}"


def test_public_signatures_are_typed():
    files = sorted(HAMSB.rglob("*.py"))
    found = [finding for file in files for finding in findings(file)]
    assert files and not found, "\n".join(found)


def test_what_a_signature_leaves_open_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.HAMSB", tmp_path / "hamsb")
    path = tmp_path / "hamsb.py"
    path.write_text(
        "def whole(a: int, *b: int, c: int = 1, **d: int) -> None: ...\n"
        "def parts(a, /, b: int, *c, d=1, **e): ...\n"
        "def _private(a): ...\n"
        "class Known:\n"
        "    def __init__(self, a, b: int): ...\n"
        "    def method(self) -> int: ...\n"
        "    @classmethod\n"
        "    def made(cls, a: int): ...\n"
        "    @property\n"
        "    def size(self): ...\n"
        "    @staticmethod\n"
        "    def of(cls_like) -> None: ...\n"
        "class _Hidden:\n"
        "    def method(self, a): ...\n"
    )
    assert [line.split(": ", 1)[1] for line in findings(path)] == [
        "parts: a, c, d, e, return",
        "Known.__init__: a",
        "Known.made: return",
        "Known.size: return",
        "Known.of: cls_like",
    ]
