"""What all tests share: the recipes are importable, one torch thread count."""

import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
RECIPE = REPOSITORY / "recipes" / "VoxCeleb"
sys.path.insert(0, str(RECIPE))


@pytest.fixture
def repository():
    """The repository's root."""
    return REPOSITORY
