"""The protocol of similarities; what their values mean is tested where they are used."""

import pytest
import torch

from cases import looped
from hamsb import ClippedUnitBall, CosineSimilarity, HyperbolicSimilarity, PoincareBall

SIMILARITIES = [
    CosineSimilarity(),
    HyperbolicSimilarity(ClippedUnitBall(3.0)),
    HyperbolicSimilarity(PoincareBall(1.0)),
]


@looped(similarity=SIMILARITIES, dtype=[torch.bfloat16, torch.float32, torch.float64])
def test_projections_are_float32_or_wider(similarity, dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert similarity.project(torch.randn(3, 4).to(dtype)).dtype == wide


@looped(similarity=SIMILARITIES)
def test_paired_pairwise_and_distances_agree(similarity):
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64)
    x, y = similarity.project(x), similarity.project(y)
    pairwise = similarity.pairwise(x, y)
    assert pairwise.shape == (6, 6)
    torch.testing.assert_close(similarity.paired(x, y), pairwise.diagonal())
    nearest_first = similarity.distances(x, y).argsort(1)
    assert torch.equal(nearest_first, pairwise.argsort(1, descending=True))
    assert (similarity.distances(x, x).diagonal() < 1e-6).all()
    assert (similarity.distances(x, y) >= 0).all()


def test_cosine_of_nothing_is_zero():
    similarity = CosineSimilarity()
    x = similarity.project(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    assert similarity.pairwise(x, x)[0].tolist() == [0.0, 0.0]


def test_refuses_what_is_no_ball():
    with pytest.raises(ValueError, match="ball='ClippedUnitBall': must be a ball"):
        HyperbolicSimilarity("ClippedUnitBall")
