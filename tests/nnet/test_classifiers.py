"""The heads as SpeechBrain classifiers."""

import pytest
import torch
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from speechbrain.nnet.losses import classification_error

import hamsb
from cases import looped
from hamsb import ClippedUnitBall, CosineClassifier, HyperbolicClassifier, PoincareBall


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
    plain.centers.data = (
        0.4 * head.centers.data / head.centers.data.norm(dim=1, keepdim=True)
    )
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
        "centers",
        "ball.log_curvature",
        "ball.log_gain",
    ]


def test_bfloat16_autocast_gives_float32(head):
    x = torch.randn(8, 1, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(x), head(x.float()))
        assert head(x.bfloat16()).dtype == torch.float32


@looped(shape=[(3, 1, 15), (3, 2, 16), (16,), (3, 1, 1, 16)])
def test_refuses_embeddings_of_another_shape(head, shape):
    with pytest.raises(ValueError, match=r"expected \[B, 1, 16\]"):
        head(torch.zeros(shape))


@looped(
    case=[
        (0, 5, "input_size=0: .*at least 1"),
        (16, 0, "out_neurons=0: .*at least 1"),
        (16.0, 5, "input_size=16.0: must be a whole number"),
        (16, 5, "sub_centers=0: .*at least 1"),
    ]
)
def test_refuses_sizes_that_are_none(case):
    *sizes, message = case
    options = {"sub_centers": 0} if "sub_centers" in message else {}
    with pytest.raises(ValueError, match=message):
        HyperbolicClassifier(*sizes, PoincareBall(1.0), **options)
    with pytest.raises(ValueError, match=message):
        CosineClassifier(*sizes, **options)


@looped(ball=["ClippedUnitBall", ClippedUnitBall, None, torch.nn.Linear(2, 2)])
def test_refuses_what_is_no_ball(ball):
    with pytest.raises(ValueError, match="ball=.*must be a ball"):
        HyperbolicClassifier(16, 10, ball)


# ----------------------------------------------------------------- cosines


def stock_and_ours(**options):
    """SpeechBrain's head and ours from one seed."""
    torch.manual_seed(0)
    stock = Classifier(16, out_neurons=7)
    torch.manual_seed(0)
    return stock, CosineClassifier(16, 7, **options)


def test_cosine_head_starts_as_speechbrains():
    stock, ours = stock_and_ours()
    assert list(ours.state_dict()) == list(stock.state_dict()) == ["weight"]
    assert torch.equal(ours.weight, stock.weight)


@looped(autocast=[False, True], shape=[(9, 1, 16), (9, 16), (1, 1, 16)])
def test_cosine_head_computes_as_speechbrains(autocast, shape):
    stock, ours = stock_and_ours()
    found = []
    x = torch.randn(shape)
    weights = torch.randn(len(x), 1, 7)
    for head in (stock, ours):
        a = x.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            cosines = head(a)
        assert cosines.shape == (len(x), 1, 7)
        gradients = torch.autograd.grad((weights * cosines).sum(), (a, head.weight))
        found.append([cosines, *gradients])
    for theirs, mine in zip(*found, strict=True):
        assert theirs.dtype == mine.dtype and torch.equal(theirs, mine)
    cosine = torch.cosine_similarity(x.reshape(-1, 1, 16), ours.weight, dim=-1).unsqueeze(1)
    torch.testing.assert_close(
        found[1][0], cosine, check_dtype=False, rtol=0, atol=1e-2 if autocast else 1e-6
    )


def test_initial_scale_of_the_cosine_head_is_that_of_its_weights():
    """It changes how fast centers turn, and no cosine."""
    torch.manual_seed(0)
    near = CosineClassifier(192, 50, initial_scale=0.01)
    torch.manual_seed(0)
    far = CosineClassifier(192, 50, initial_scale=10.0)
    assert near.weight.std().item() == pytest.approx(0.01, rel=0.05)
    torch.testing.assert_close(1000 * near.weight, far.weight)
    x, turned = torch.randn(8, 1, 192), []
    torch.testing.assert_close(near(x), far(x))
    for head in (near, far):
        before = head.weight.detach().clone()
        optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
        head(x)[:, 0, 0].sum().backward()
        optimizer.step()
        turned.append(1 - torch.cosine_similarity(before, head.weight, dim=-1)[0])
    assert turned[0] > 100 * turned[1].abs()


def test_cosine_head_refuses_what_does_not_fit():
    for scale in (0.0, -1.0, float("nan"), float("inf"), "small"):
        with pytest.raises(ValueError, match="initial_scale"):
            CosineClassifier(16, 5, initial_scale=scale)
    with pytest.raises(ValueError, match=r"expected \[B, 1, 16\]"):
        CosineClassifier(16, 5)(torch.zeros(3, 2, 16))


# ------------------------------------------------------------- several centers a speaker


@looped(ball=[None, ClippedUnitBall(3.0), ClippedUnitBall(1.0), PoincareBall(1.0)])
def test_a_speaker_is_as_similar_as_the_nearest_of_the_sub_centers(ball):
    """Against a loop, in training mode with few speakers, with fused and in eval()."""
    torch.manual_seed(0)
    options = {"initial_scale": 0.5, "sub_centers": 3, "fused": True}
    head = CosineClassifier(16, 5, **options)
    if ball is not None:
        head = HyperbolicClassifier(16, 5, ball, **options)
    (name, centers) = next(head.named_parameters())
    assert name == ("weight" if ball is None else "centers") and len(centers) == 15
    x = torch.randn(4, 1, 16)
    expected = torch.full((4, 1, 5), -torch.inf)
    for b in range(4):
        for row in range(15):
            a, w = x[b, 0], centers[row]
            if ball is None:
                similarity = torch.cosine_similarity(a, w, dim=0)
            else:
                similarity = -ball.distance(ball.project(a), ball.project(w))
            at = (b, 0, row // 3)
            expected[at] = torch.maximum(expected[at], similarity)
    assert head.out_neurons == 5 and "out_neurons=5, sub_centers=3" in repr(head)
    for _ in range(2):
        torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-5)
        assert classification_error(head(x), head(x).argmax(-1)) == 0
        head.eval()
    if ball is not None:
        assert torch.equal(head.euclidean_centers(), head.centers)


@looped(sub_centers=[1, 3])
def test_one_sub_center_is_none(sub_centers):
    """The head of today, to the last bit; of more, a gradient reaches the nearest alone."""
    torch.manual_seed(0)
    one = CosineClassifier(16, 5)
    torch.manual_seed(0)
    head = CosineClassifier(16, 5, sub_centers=sub_centers)
    assert torch.equal(head.weight, one.weight) == (sub_centers == 1)
    head(torch.randn(1, 1, 16)).sum().backward()
    assert head.weight.grad.any(1).sum() == 5


@pytest.mark.parametrize("embeddings", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("centers", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("lazy", [False, True])
def test_embeddings_and_centers_of_any_two_dtypes(embeddings, centers, lazy):
    """Float32, or the wider of the two; with gradients of their own dtypes."""
    torch.manual_seed(0)
    given = torch.randn(4, 1, 16).bfloat16()
    options = {"initial_scale": 0.25, "class_fraction": 0.9 if lazy else 1.0}
    for head, loss in (
        (hamsb.CosineClassifier(16, 5, **options), hamsb.AAMSoftmax()),
        (HyperbolicClassifier(16, 5, PoincareBall(1.0), **options), hamsb.HAMSoftmax()),
        (HyperbolicClassifier(16, 5, ClippedUnitBall(3.0), **options), hamsb.HSoftmax()),
    ):
        head = head.to(centers)
        x = given.to(embeddings).requires_grad_()
        wide = torch.float64 if torch.float64 in (embeddings, centers) else torch.float32
        similarities = head(x)
        with torch.no_grad():
            assert head(x).dtype == wide
        value = loss(similarities, torch.tensor([[0], [1], [2], [3]]))
        value.backward()
        (of_centers,) = (p.grad for n, p in head.named_parameters() if p.dim() == 2)
        assert value.dtype == wide and value.isfinite()
        assert x.grad.dtype == embeddings and of_centers.dtype == centers
        assert x.grad.abs().sum() > 0 and of_centers.abs().sum() > 0
