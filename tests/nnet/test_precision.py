"""Products in full precision, and switches that stay as they were."""

import pytest
import torch

from hamsb.nnet.precision import full_matmul


@pytest.fixture
def switches():
    """What torch's switches say, each for itself; they are put back."""
    matmul = torch.backends.cuda.matmul

    def read():
        said = []
        for switch in (
            torch.get_float32_matmul_precision,
            lambda: matmul.allow_tf32,
            lambda: getattr(matmul, "fp32_precision", None),
        ):
            try:
                said.append(switch())
            except RuntimeError:  # the older switches, where the newer were set alone
                said.append(None)
        return said

    yield read
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("word", ["highest", "high", "medium"])
def test_the_word_of_torch_comes_back(switches, word):
    torch.set_float32_matmul_precision(word)
    before = switches()
    with full_matmul():
        assert not torch.backends.cuda.matmul.allow_tf32
    assert switches() == before and before[0] == word


def test_a_switch_of_its_own_comes_back(switches):
    torch.backends.cuda.matmul.allow_tf32 = True
    before = switches()
    with full_matmul():
        assert not torch.backends.cuda.matmul.allow_tf32
    assert switches() == before and before[1]
