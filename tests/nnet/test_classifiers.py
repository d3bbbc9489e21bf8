"""The hyperbolic head as a SpeechBrain classifier."""

import pytest
import torch
from speechbrain.nnet.losses import classification_error

from hamsb import ClippedUnitBall, HyperbolicClassifier, PoincareBall


@pytest.fixture
def head():
    torch.manual_seed(0)
    return HyperbolicClassifier(16, 5, PoincareBall(1.0))


def test_returns_minus_the_distance_of_projected_embeddings_and_centers(head):
    x = torch.randn(3, 1, 16)
    out = head(x)
    assert out.shape == (3, 1, 5)
    ball = head.ball
    for b in range(3):
        for c in range(5):
            d = ball.distance(ball.project(x[b, 0]), ball.project(head.centers[c]))
            torch.testing.assert_close(out[b, 0, c], -d)
    torch.testing.assert_close(head(x.squeeze(1)), out)


def test_nearest_center_is_the_predicted_class(head):
    """argmax and SpeechBrain's classification_error work unchanged."""
    targets = torch.tensor([3, 0, 4])
    head.centers.data = torch.randn(5, 16)
    x = head.centers.data[targets].unsqueeze(1)
    assert head(x).argmax(-1).squeeze(1).tolist() == targets.tolist()
    assert classification_error(head(x), targets.unsqueeze(1)) == 0


def test_centers_start_small_and_are_trained(head):
    assert 0.5e-3 < head.centers.std() < 2e-3
    head(torch.randn(4, 1, 16))[:, 0, 0].sum().backward()
    assert head.centers.grad[0].abs().sum() > 0


def test_initial_scale_is_that_of_the_centers():
    head = HyperbolicClassifier(192, 50, PoincareBall(1.0), initial_scale=0.1)
    assert head.centers.std().item() == pytest.approx(0.1, rel=0.05)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="initial_scale"):
            HyperbolicClassifier(16, 5, PoincareBall(1.0), initial_scale=scale)


def test_center_norm_leaves_centers_their_direction_alone():
    head = HyperbolicClassifier(16, 5, ClippedUnitBall(3.0), 0.03, center_norm=0.4)
    plain = HyperbolicClassifier(16, 5, head.ball)
    plain.centers.data = 0.4 * head.centers.data / head.centers.data.norm(dim=1, keepdim=True)
    x = torch.randn(8, 1, 16)
    torch.testing.assert_close(head(x), plain(x))
    assert torch.equal(plain.euclidean_centers(), plain.centers)
    head(x)[:, 0, :2].sum().backward()
    along = (head.centers.grad * head.centers).sum(1) / head.centers.norm(dim=1)
    assert along.abs().max() < 1e-4 * head.centers.grad.norm(dim=1).max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(x), plain(x))
    for norm in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="center_norm"):
            HyperbolicClassifier(16, 5, PoincareBall(1.0), center_norm=norm)


def test_batch_norm_is_of_the_batch_in_training_and_learned_after(head):
    head = HyperbolicClassifier(16, 5, PoincareBall(1.0), batch_norm=True)
    plain = HyperbolicClassifier(16, 5, head.ball)
    plain.centers = head.centers
    x = 3 + 5 * torch.randn(40, 1, 16)
    mean, std = x.mean(0), x.std(0, unbiased=False)
    torch.testing.assert_close(head(x), plain((x - mean) / std), rtol=1e-3, atol=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head(x.bfloat16()).dtype == torch.float32
    for _ in range(200):
        head(x)
    head.eval()
    unbiased = (x - mean) / x.std(0)
    torch.testing.assert_close(head(x[:1]), plain(unbiased[:1]), rtol=1e-3, atol=1e-4)
    assert not [name for name, _ in head.named_parameters() if "batch" in name]


def test_state_holds_centers_and_what_the_ball_learns():
    fixed = HyperbolicClassifier(4, 3, ClippedUnitBall(3.0))
    assert list(fixed.state_dict()) == ["centers"]
    learned = HyperbolicClassifier(4, 3, PoincareBall(1.0, learnable=True))
    assert list(learned.state_dict()) == [
        "centers", "ball.log_curvature", "ball.log_gain",
    ]


def test_bfloat16_autocast_gives_float32(head):
    x = torch.randn(8, 1, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(x), head(x.float()))
        assert head(x.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("shape", [(3, 1, 15), (3, 2, 16), (16,), (3, 1, 1, 16)])
def test_refuses_embeddings_of_another_shape(head, shape):
    with pytest.raises(ValueError, match=r"expected \[B, 1, 16\]"):
        head(torch.zeros(shape))


@pytest.mark.parametrize("sizes", [(0, 5), (16, 0)])
def test_refuses_empty_sizes(sizes):
    with pytest.raises(ValueError, match="at least 1"):
        HyperbolicClassifier(*sizes, PoincareBall(1.0))
