"""Who may know whom, as the house has it."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "hamsb"
# What each module of the library may import besides the standard library.
ALLOWED = {
    "__init__": {"hamsb.ball", "hamsb.classifiers", "hamsb.losses"},
    "augment": {"torch", "numpy", "soundfile", "speechbrain", "hamsb.files"},
    "ball": {"torch", "hamsb.closed_forms"},
    "calibration": {"numpy", "scipy", "hamsb.metrics"},
    "checkpoints": {"speechbrain", "yaml"},
    "classifiers": {"torch"},
    "clustering": {"torch", "numpy", "scipy", "sklearn", "hamsb.files"},
    "contrastive": {"torch", "hamsb.losses"},
    "closed_forms": {"torch"},
    "losses": {"torch", "hamsb.closed_forms"},
    "files": set(),
    "metrics": {"torch", "numpy", "scipy"},
    "sampling": {"torch", "numpy"},
    "schedules": {"speechbrain"},
    "embeddings": {
        "torch", "numpy", "tqdm", "soundfile", "speechbrain", "hamsb.files",
    },
    "evaluation": {"numpy", "hamsb.metrics"},
    "inference": {
        "torch", "speechbrain", "hamsb.calibration", "hamsb.embeddings", "hamsb.export",
    },
    "scoring": {"torch", "numpy", "tqdm", "hamsb.files"},
    "plots": {"numpy", "scipy", "matplotlib", "hamsb.files", "hamsb.metrics"},
    "export": {"torch", "yaml", "hamsb.files"},
}


def imports(path):
    """Third-party packages, and modules of hamsb by their full names."""
    import sys

    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [node.module]
        else:
            continue
        for name in names:
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names:
                yield name if top == "hamsb" else top


def test_library_modules_know_only_what_the_house_allows():
    modules = {path.stem: set(imports(path)) for path in PACKAGE.glob("*.py")}
    assert modules.keys() == ALLOWED.keys(), "a module has no line in ALLOWED"
    for name, found in modules.items():
        assert found <= ALLOWED[name], f"hamsb/{name}.py imports {found - ALLOWED[name]}"
