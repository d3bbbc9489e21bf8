"""What ``hamsb`` offers by itself, and what it loads for that."""

import ast
import subprocess
import sys

import pytest
from hyperpyyaml import load_hyperpyyaml

import hamsb


def typed_names():
    """What hamsb/__init__.py imports for type checkers: name -> module."""
    (block,) = (
        node
        for node in ast.parse(open(hamsb.__file__).read()).body
        if isinstance(node, ast.If)
    )
    return {alias.name: node.module for node in block.body for alias in node.names}


def test_every_public_name_is_there_typed_and_listed_once():
    assert sorted(hamsb.__all__) == sorted(set(hamsb.__all__)) == sorted(typed_names())
    for name, module in typed_names().items():
        found = getattr(hamsb, name)
        assert found.__module__ == module and found.__name__ == name
        assert name in dir(hamsb)
    with pytest.raises(AttributeError, match="no attribute 'HAMSotfmax'"):
        _ = hamsb.HAMSotfmax


def test_importing_hamsb_loads_nothing_heavy():
    code = (
        "import sys, hamsb\n"
        "heavy = {'torch', 'speechbrain', 'matplotlib', 'sklearn', 'scipy', 'numpy'}\n"
        "print(heavy & set(sys.modules))\n"
        "hamsb.HAMSoftmax\n"
        "print('torch' in sys.modules, 'speechbrain' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split("\n")[:2] == ["set()", "True False"], done.stderr


@pytest.mark.parametrize(
    "old, new",
    [
        ("contrastive.SupCon", "nnet.contrastive"),
        ("schedules.CosineMargin", "training.schedules"),
        ("checkpoints.Checkpointer", "training.checkpoints"),
        ("ball.PoincareBall", "nnet.balls"),
    ],
)
def test_a_yaml_that_names_an_old_place_is_told_the_new_one(old, new):
    with pytest.raises(ImportError, match=f"is now hamsb.{new}"):
        load_hyperpyyaml(f"thing: !new:hamsb.{old}")
