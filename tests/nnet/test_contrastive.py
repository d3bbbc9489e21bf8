"""The contrastive losses against naive loops, analytic values and each other."""

import math

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cases import looped
from hamsb import (
    HSCL,
    AAMSoftmax,
    AMSoftmax,
    Checkpointer,
    ClippedUnitBall,
    CosineMargin,
    CosineSimilarity,
    HAMSoftmax,
    HyperbolicSimilarity,
    MoCo,
    MomentumEncoder,
    NTXent,
    PoincareBall,
    RAMSoftmax,
    Softmax,
    SupCon,
)
from hamsb.nnet.contrastive import alignment, diagnostics, uniformity

SEEDS = [0, 1, 2]
MARGINS = {
    "none": Softmax(scale=30.0),
    "am": AMSoftmax(margin=0.1, scale=30.0),
    "am, low scale": AMSoftmax(margin=0.4, scale=5.0),
    "aam": AAMSoftmax(margin=0.2, scale=30.0),
    "aam, fallback": AAMSoftmax(margin=2.0, scale=5.0),
}


def hyperbolic():
    """On the ball of curvature -1, without limit of note: the loops' distance."""
    return HyperbolicSimilarity(PoincareBall(1.0, gain=0.5, max_tangent_norm=1e6))


def embeddings(seed, n=5, dimension=4, dtype=torch.float64):
    """Two views of n utterances, related; requires gradient."""
    generator = torch.Generator().manual_seed(seed)
    first, noise = torch.randn(2, n, dimension, generator=generator, dtype=dtype)
    return first.requires_grad_(), (first + noise).detach().requires_grad_()


# --------------------------------------------------------------- the naive loops


def cosine(x, y):
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def minus_distance(x, y):
    """As printed: exponential map, then arcosh."""

    def point(v):
        length = 0.5 * math.sqrt(sum(a * a for a in v))
        return [0.5 * a * math.tanh(length) / length for a in v]

    x, y = point(x), point(y)
    squared = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
    conformal = (1 - sum(a * a for a in x)) * (1 - sum(b * b for b in y))
    return -math.acosh(1 + 2 * squared / conformal)


def cross_entropy(loss, positive, negatives):
    """-log of the positive's share, with the margin on the positive."""
    margin = getattr(loss, "margin", 0.0)
    if isinstance(loss, AAMSoftmax):
        if positive > math.cos(math.pi - margin):
            positive = math.cos(math.acos(positive) + margin)
        else:
            positive = positive - margin * math.sin(math.pi - margin)
    else:
        positive = positive - margin
    top = math.exp(loss.scale * positive)
    return -math.log(top / (top + sum(math.exp(loss.scale * n) for n in negatives)))


def naive_nt_xent(loss, first, second, symmetric, similarity=cosine, labels=None):
    first, second = first.tolist(), second.tolist()
    n = len(first)
    labels = list(range(n)) if labels is None else labels.tolist()
    total = 0.0
    for i in range(n):
        negatives = [j for j in range(n) if j != i and labels[j] != labels[i]]
        positive = similarity(first[i], second[i])
        across = [similarity(first[i], second[j]) for j in negatives]
        if not symmetric:
            total += cross_entropy(loss, positive, across) / n
            continue
        within = [similarity(first[i], first[j]) for j in negatives]
        total += cross_entropy(loss, positive, across + within) / (2 * n)
        across = [similarity(second[i], first[j]) for j in negatives]
        within = [similarity(second[i], second[j]) for j in negatives]
        total += cross_entropy(loss, positive, across + within) / (2 * n)
    return total


def naive_supervised(x, labels, tau, beta=None, similarity=cosine):
    """SupCon, or with a beta H-SCL."""
    x, labels = x.tolist(), labels.tolist()
    n, found = len(x), []
    for i in range(n):
        positives = [p for p in range(n) if p != i and labels[p] == labels[i]]
        negatives = [k for k in range(n) if labels[k] != labels[i]]
        if not positives:
            continue
        mean = 0.0
        for p in positives:
            if beta is None:
                others = [k for k in range(n) if k != i]
                top = math.exp(similarity(x[i], x[p]) / tau)
                share = top / sum(math.exp(similarity(x[i], x[k]) / tau) for k in others)
            else:
                c = {k: math.exp(2 * similarity(x[i], x[k]) / tau) for k in range(n)}
                weights = {k: c[k] ** beta for k in negatives}
                hard = sum(weights[k] * c[k] for k in negatives) / sum(weights.values())
                share = c[p] / (c[p] + len(negatives) * hard)
            mean -= math.log(share) / len(positives)
        found.append(mean)
    return sum(found) / len(found)


# -------------------------------------------------------------------- NT-Xent


@looped(name=MARGINS, symmetric=[False, True], seed=SEEDS)
def test_nt_xent_equals_the_naive_loop(name, symmetric, seed):
    first, second = embeddings(seed)
    ours = NTXent(MARGINS[name], symmetric)(first, second)
    naive = naive_nt_xent(MARGINS[name], first, second, symmetric)
    assert ours.item() == pytest.approx(naive, rel=1e-9)


@looped(symmetric=[False, True], seed=SEEDS)
def test_hyperbolic_nt_xent_equals_the_naive_loop(symmetric, seed):
    first, second = embeddings(seed)
    loss = AMSoftmax(margin=0.3, scale=2.0)
    ours = NTXent(loss, symmetric, hyperbolic())(first, second)
    naive = naive_nt_xent(loss, first, second, symmetric, minus_distance)
    assert ours.item() == pytest.approx(naive, rel=1e-9)


@looped(symmetric=[False, True], seed=SEEDS)
def test_collisions_are_masked_away(symmetric, seed):
    first, second = embeddings(seed, n=6)
    labels = torch.tensor([3, 1, 3, 7, 1, 3])
    loss = AMSoftmax(margin=0.1, scale=5.0)
    ours = NTXent(loss, symmetric)(first, second, labels)
    naive = naive_nt_xent(loss, first, second, symmetric, labels=labels)
    assert ours.item() == pytest.approx(naive, rel=1e-9)
    assert NTXent(loss, symmetric)(first, second, labels.unsqueeze(1)) == ours
    unmasked = NTXent(loss, symmetric)(first, second)
    assert unmasked > ours
    torch.testing.assert_close(
        NTXent(loss, symmetric)(first, second, torch.arange(6) + 10), unmasked
    )


@looped(symmetric=[False, True])
def test_without_negatives_the_loss_is_zero_and_its_gradient_too(symmetric):
    first, second = embeddings(0)
    cost = NTXent(AAMSoftmax(), symmetric)
    one = first[:1], second[:1]
    for value in (cost(first, second, torch.ones(5, dtype=torch.int32)), cost(*one)):
        assert value == 0
        for gradient in torch.autograd.grad(value, (first, second), retain_graph=True):
            assert (gradient == 0).all()


def test_values_of_a_collapsed_batch():
    """All embeddings equal: only the number of negatives and the margin count."""
    x = torch.ones(7, 3, dtype=torch.float64)
    for symmetric, negatives in ((False, 6), (True, 12)):
        plain = NTXent(Softmax(30.0), symmetric)(x, x)
        assert plain.item() == pytest.approx(math.log(1 + negatives))
        margin = NTXent(AMSoftmax(0.1, 30.0), symmetric)(x, x)
        assert margin.item() == pytest.approx(math.log(1 + negatives * math.exp(3)))
    speakers = torch.arange(4).repeat(2)
    x = torch.ones(8, 3, dtype=torch.float64)
    for supervised in (SupCon(), HSCL(0.1), HSCL(0.0), HSCL(5.0)):
        assert supervised(x, speakers).item() == pytest.approx(math.log(7))


@looped(kind=[AMSoftmax, AAMSoftmax], symmetric=[False, True])
def test_margin_zero_is_no_margin(kind, symmetric):
    first, second = embeddings(1)
    plain = NTXent(Softmax(30.0), symmetric)(first, second)
    zero = NTXent(kind(0.0, 30.0), symmetric)(first, second)
    torch.testing.assert_close(zero, plain)
    larger = NTXent(kind(0.1, 30.0), symmetric)(first, second)
    assert larger > plain


def test_a_larger_scale_sharpens():
    """Separated views: loss to 0; swapped views: loss grows with the scale."""
    x = torch.eye(4, dtype=torch.float64)
    for symmetric in (False, True):
        assert NTXent(Softmax(100.0), symmetric)(x, x) < 1e-40
        assert NTXent(Softmax(100.0), symmetric)(x, x.roll(1, 0)) > 99


def test_aam_is_finite_where_views_coincide_or_oppose():
    for dtype in (torch.float32, torch.float64):
        first, _ = embeddings(2, dtype=dtype)
        for factor in (1.0, -1.0, 3.0):
            value = NTXent(AAMSoftmax(0.2, 30.0), True)(first, factor * first)
            gradient = torch.autograd.grad(value, first)[0]
            assert value.isfinite() and gradient.isfinite().all()


def test_the_length_of_an_embedding_does_not_count_on_cosines():
    first, second = embeddings(3)
    cost = NTXent(AMSoftmax(0.1, 30.0), True)
    torch.testing.assert_close(cost(first, second), cost(7 * first, 0.1 * second))
    ball = NTXent(AMSoftmax(0.1, 30.0), True, hyperbolic())
    assert abs(ball(first, second) - ball(0.5 * first, 0.5 * second)) > 0.1


def test_symmetric_nt_xent_is_supcon_over_both_views():
    first, second = embeddings(4)
    utterances = torch.arange(5).repeat(2)
    theirs = SupCon(1 / 20.0, learnable=False)(torch.cat([first, second]), utterances)
    torch.testing.assert_close(NTXent(Softmax(20.0), True)(first, second), theirs)


@looped(seed=SEEDS)
def test_order_and_sides_of_the_batch_do_not_count(seed):
    first, second = embeddings(seed)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    for symmetric in (False, True):
        cost = NTXent(AMSoftmax(0.1, 30.0), symmetric)
        torch.testing.assert_close(
            cost(first[order], second[order]), cost(first, second), rtol=1e-12, atol=0
        )
    torch.testing.assert_close(cost(second, first), cost(first, second))
    asymmetric = NTXent(AMSoftmax(0.1, 30.0))
    assert abs(asymmetric(second, first) - asymmetric(first, second)) > 1e-3


def test_positives_of_the_ball_are_measured_directly():
    """Views 1e-4 apart near the rim, in float32, where one product loses them."""
    ball = ClippedUnitBall(1.01)  # its product is in float32, unlike PoincareBall's
    generator = torch.Generator().manual_seed(0)
    first = 3 * nn.functional.normalize(torch.randn(8, 16, generator=generator))
    second = first + 1e-4 * torch.randn(8, 16, generator=generator)
    similarity = HyperbolicSimilarity(ball)
    wide = similarity.project(first.double()), similarity.project(second.double())
    truth = similarity.paired(*wide)
    x, y = similarity.project(first), similarity.project(second)
    assert (similarity.paired(x, y) - truth).abs().max() < 1e-5
    assert (similarity.pairwise(x, y).diagonal() - truth).abs().max() > 1e-3
    cost = NTXent(AMSoftmax(10.0, 10.0), similarity=similarity)  # far from loss 0
    exact = cost(first.double(), second.double()).item()
    assert cost(first, second).item() == pytest.approx(exact, abs=2e-4)


# ------------------------------------------------------------------------ MoCo


def naive_moco(loss, queries, keys, queued, similarity=cosine, labels=None):
    """``queued`` holds (key, label) of one queue."""
    total = 0.0
    for i, (query, key) in enumerate(zip(queries.tolist(), keys.tolist(), strict=True)):
        negatives = [
            similarity(query, entry)
            for entry, label in queued
            if labels is None or label != labels[i]
        ]
        total += cross_entropy(loss, similarity(query, key), negatives)
    return total / len(queries)


@looped(
    symmetric=[False, True],
    case=[
        *((name, cosine) for name in MARGINS),
        ("none", minus_distance),
        ("am, low scale", minus_distance),
    ],
)
def test_moco_equals_the_naive_loop_while_its_queues_fill_and_wrap(case, symmetric):
    name, similarity = case
    loss = MARGINS[name]
    cost = MoCo(loss, 7, 4, symmetric, None if similarity is cosine else hyperbolic())
    cost.double()
    queued = [[] for _ in cost.queues]
    for step in range(4):
        queries = [x.detach() for x in embeddings(2 * step, n=3)][: len(queued)]
        keys = [x.detach() for x in embeddings(2 * step + 1, n=3)][: len(queued)]
        labels = torch.tensor([step % 2, 0, 4])
        for given, listed in ((None, None), (labels, labels.tolist())):
            naive = [
                naive_moco(loss, *each, similarity, listed)
                for each in zip(queries, keys, queued, strict=True)
            ]
            ours = cost(queries, keys, given).item()
            assert ours == pytest.approx(sum(naive) / len(naive), rel=1e-9, abs=1e-15)
        cost.update(keys, labels)
        for entries, key in zip(queued, keys, strict=True):
            entries += zip(key.tolist(), labels.tolist(), strict=True)
            del entries[:-7]


def test_moco_with_an_empty_queue_is_zero_with_zero_gradient():
    query, key = embeddings(0)
    value = MoCo(AMSoftmax(0.1, 30.0), 6, 4)([query], [key])
    assert value == 0
    assert (torch.autograd.grad(value, query)[0] == 0).all()


def test_moco_reads_labels_only_where_they_were_queued():
    query, key = (x.detach() for x in embeddings(0))
    labels = torch.zeros(5, dtype=torch.long)
    cost = MoCo(Softmax(5.0), 8, 4).double()
    cost.update([key])
    torch.testing.assert_close(cost([query], [key], labels), cost([query], [key]))
    cost.update([key], labels)
    assert cost([query], [key], labels) < cost([query], [key])


@looped(similarity=[None, hyperbolic()])
def test_moco_keys_get_no_gradient_and_may_be_queued_before_the_backward(similarity):
    query, key = embeddings(0)
    cost = MoCo(AMSoftmax(0.1, 5.0), 5, 4, similarity=similarity).double()
    cost.update([key])
    expected = torch.autograd.grad(cost([query], [key]), query)[0]
    value = cost([query], [key])
    cost.update([torch.randn(5, 4)])
    value.backward()
    assert key.grad is None
    torch.testing.assert_close(query.grad, expected, rtol=0, atol=0)


def batch_norm_encoder():
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 4))


def test_moco_resumes_from_a_checkpoint_as_if_uninterrupted(tmp_path):
    class Run:
        def __init__(self):
            torch.manual_seed(1)
            self.encoder = batch_norm_encoder()
            self.slow = MomentumEncoder(self.encoder, 0.9)
            self.cost = MoCo(AMSoftmax(0.1, 10.0), 7, 4, symmetric=True)
            self.optimizer = torch.optim.SGD(self.encoder.parameters(), lr=0.3)
            recoverables = {
                "encoder": self.encoder,
                "slow": self.slow,
                "compute_cost": self.cost,
            }
            self.checkpointer = Checkpointer(tmp_path, recoverables)

        def steps(self, numbers):
            for number in numbers:
                generator = torch.Generator().manual_seed(number)
                views = torch.randn(2, 3, 6, generator=generator)
                queries = [self.encoder(x) for x in views]
                keys = [self.slow(x) for x in views.flip(0)]
                loss = self.cost(queries, keys)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                self.slow.update(self.encoder)
                self.cost.update(keys)
                yield loss.item()

    whole = list(Run().steps(range(9)))
    before = Run()
    assert list(before.steps(range(4))) == whole[:4]
    before.checkpointer.save_checkpoint()
    after = Run()
    after.checkpointer.recover_if_possible()
    assert list(after.steps(range(4, 9))) == whole[4:]
    assert len(set(whole)) == 9


# ------------------------------------------------------------ SupCon and H-SCL


@looped(
    labels=[[0, 1, 2, 0, 1, 2], [4, 4, 4, 2, 9, 2], [1, 1, 0, 2, 3, 4]],
    beta=[None, 0.0, 0.1, 1.0],
    tau=[0.1, 0.5],
    seed=SEEDS,
)
def test_supervised_losses_equal_the_naive_loop(labels, beta, tau, seed):
    x = embeddings(seed, n=6)[0].detach()
    labels = torch.tensor(labels)
    ours = SupCon(tau) if beta is None else HSCL(beta, tau)
    naive = naive_supervised(x, labels, tau, beta)
    assert ours.double()(x, labels).item() == pytest.approx(naive, rel=1e-6)
    fixed = SupCon(tau, False) if beta is None else HSCL(beta, tau, False)
    assert fixed(x, labels).item() == pytest.approx(naive, rel=1e-9)


@looped(beta=[None, 0.3])
def test_hyperbolic_supervised_losses_equal_the_naive_loop(beta):
    x = embeddings(0, n=6)[0].detach()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    options = {"temperature": 0.7, "learnable": False, "similarity": hyperbolic()}
    ours = SupCon(**options) if beta is None else HSCL(beta, **options)
    naive = naive_supervised(x, labels, 0.7, beta, minus_distance)
    assert ours(x, labels).item() == pytest.approx(naive, rel=1e-7)


def test_h_scl_without_weights_is_supcon_at_half_the_temperature():
    x = embeddings(1, n=6)[0]
    labels = torch.tensor([0, 1, 2, 2, 1, 0])
    torch.testing.assert_close(
        HSCL(0.0, 0.2, False)(x, labels), SupCon(0.1, False)(x, labels)
    )


def test_h_scl_weights_get_no_gradient():
    """Against the printed formula, not in log space, with the weights held."""
    x = embeddings(2, n=6)[0]
    speakers = torch.tensor([0, 1, 2, 2, 1, 0])
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    unit = nn.functional.normalize(x, dim=-1)
    c = torch.exp(2 * unit @ unit.T / tau)
    total = 0.0
    for i in range(6):
        negative = speakers != speakers[i]
        positive = (speakers == speakers[i]) & (torch.arange(6) != i)
        weights = c[i, negative].detach() ** 0.7
        hard = (weights * c[i, negative]).sum() / weights.sum()
        total = total - torch.log(c[i, positive] / (c[i, positive] + 4 * hard)).sum() / 6
    theirs = torch.autograd.grad(total, (x, tau))
    ours = HSCL(0.7, 0.4).double()
    value = ours(x, speakers)
    torch.testing.assert_close(value, total)
    gradients = torch.autograd.grad(value, (x, ours.log_temperature))
    torch.testing.assert_close(gradients[0], theirs[0])
    torch.testing.assert_close(gradients[1], theirs[1] * 0.4)


@looped(tau=[1e-1, 1e-2, 1e-4], dtype=[torch.float32, torch.float64])
def test_small_temperatures_do_not_overflow(tau, dtype):
    """Float32 agrees with float64; the direct form overflows from exp(2 / tau)."""
    x = embeddings(3, n=8)[0].detach()
    labels = torch.arange(4).repeat(2)
    for make in (SupCon, lambda t: HSCL(0.1, t), lambda t: HSCL(0.0, t)):
        truth = make(tau).double()(x, labels)
        low = x.to(dtype).requires_grad_()
        cost = make(tau).to(dtype)
        value = cost(low, labels)
        value.backward()
        assert value.item() == pytest.approx(truth.item(), rel=1e-4)
        assert low.grad.isfinite().all() and cost.log_temperature.grad.isfinite()


@looped(make=[SupCon, HSCL, lambda: HSCL(0.0)])
def test_anchors_without_positives_are_left_out(make):
    x, other = embeddings(4, n=5)
    cost = make().double()
    labels = torch.tensor([0, 0, 1, 1, 2])
    losses = []
    for i in range(4):  # anchor i alone: the others' labels made unique but its own
        alone = torch.arange(10, 15)
        alone[labels == labels[i]] = labels[i]
        losses.append(cost(x, alone))
    # a pair counts both its anchors
    torch.testing.assert_close(cost(x, labels), torch.stack(losses).mean())
    for embedded, speakers in (
        (x, torch.arange(5)),  # nobody has a positive
        (x[:1], torch.zeros(1).long()),  # an utterance alone
    ):
        value = cost(embedded, speakers)
        assert value == 0
        with torch.autograd.set_detect_anomaly(True):  # nor NaN on the way
            gradients = torch.autograd.grad(value, (x, cost.log_temperature))
        assert all((gradient == 0).all() for gradient in gradients)


def test_one_speaker_alone():
    """No negatives: SupCon still contrasts its positives, H-SCL has nothing to do."""
    x = embeddings(5, n=4)[0]
    labels = torch.zeros(4).long()
    naive = naive_supervised(x, labels, 0.5)
    assert SupCon(0.5, False)(x, labels).item() == pytest.approx(naive)
    value = HSCL()(x, labels)
    assert value == 0
    with torch.autograd.set_detect_anomaly(True):
        assert (torch.autograd.grad(value, x)[0] == 0).all()


def test_temperature_is_learned_and_stays_positive():
    x = torch.eye(3).repeat(2, 1)
    labels = torch.arange(3).repeat(2)
    for kind in (SupCon, HSCL):
        cost = kind()
        assert cost.temperature.item() == pytest.approx(0.1)
        assert [name for name, _ in cost.named_parameters()] == ["log_temperature"]
        optimizer = torch.optim.SGD(cost.parameters(), lr=100.0)
        for sign in (1, -1, -1):
            optimizer.zero_grad()
            (sign * cost(x, labels)).backward()
            assert cost.log_temperature.grad != 0
            optimizer.step()
            assert cost.temperature > 0
        fixed = kind(temperature=0.2, learnable=False)
        assert fixed.temperature == 0.2 and not list(fixed.parameters())


@looped(seed=SEEDS)
def test_order_of_a_supervised_batch_does_not_count(seed):
    x = embeddings(seed, n=6)[0]
    labels = torch.tensor([0, 1, 1, 0, 0, 5])
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    for cost in (SupCon(), HSCL()):
        torch.testing.assert_close(cost(x[order], labels[order]), cost(x, labels))


def test_supervised_losses_stand_where_a_cost_stands_in_speechbrain():
    x = embeddings(0, n=4, dtype=torch.float32)[0]
    labels = torch.tensor([[0], [1], [0], [1]])
    for cost in (SupCon(), HSCL()):
        expected = cost(x, labels.flatten())
        assert cost(x.unsqueeze(1), labels, torch.ones(4)) == expected
        assert cost(x, labels, length=torch.ones(4)) == expected


# ------------------------------------------------- all of them: gradients, dtypes


def call(name, similarity=None, dimension=4):
    """A function of two views, and the parameters of its loss."""
    if name in ("symmetric", "asymmetric"):
        cost = NTXent(AMSoftmax(0.1, 5.0), name == "symmetric", similarity)
        return cost, cost
    if name == "moco":
        cost = MoCo(AMSoftmax(0.1, 5.0), 5, dimension, True, similarity)
        generator = torch.Generator().manual_seed(9)
        cost.update(list(torch.randn(2, 3, dimension, generator=generator)))
        return cost, lambda first, second: cost([first, second], [second, first])
    cost = {"supcon": SupCon, "hscl": HSCL}[name](similarity=similarity)

    def joined(first, second):
        labels = torch.arange(len(first), device=first.device).repeat(2)
        return cost(torch.cat([first, second]), labels)

    return cost, joined


NAMES = ["symmetric", "asymmetric", "moco", "supcon", "hscl"]


@looped(name=NAMES, learned_ball=[False, True])
def test_gradcheck(name, learned_ball):
    similarity = None
    if learned_ball:
        similarity = HyperbolicSimilarity(PoincareBall(0.7, learnable=True))
    cost, function = call(name, similarity)
    cost.double()
    if name == "hscl":
        cost.beta = 0.0  # weights without gradient: tested above
    first, second = embeddings(0, n=3)
    if name == "moco":  # keys get no gradient

        def function(first, second, *_, cost=cost):
            keys = [embeddings(1, n=3)[0]] * 2
            return cost([first, second], keys)

    parameters = tuple(cost.parameters())
    assert len(parameters) == 2 * learned_ball + (name in ("supcon", "hscl"))
    assert torch.autograd.gradcheck(
        lambda *inputs: function(*inputs[:2]), (first, second, *parameters)
    )


@looped(name=NAMES, ball=[None, ClippedUnitBall(3.0), PoincareBall(1.0)])
def test_autocast_and_half_precision_are_widened(name, ball):
    similarity = None if ball is None else HyperbolicSimilarity(ball)
    _, function = call(name, similarity)
    for dtype in (torch.bfloat16, torch.float16):
        first, second = (x.detach().to(dtype).requires_grad_() for x in embeddings(1))
        expected = function(first.float(), second.float())
        with torch.autocast("cpu", dtype=dtype):
            value = function(first.unsqueeze(1), second.unsqueeze(1))
        assert value.dtype == torch.float32 and value.dim() == 0
        assert value == expected
        value.backward()
        assert first.grad.isfinite().all() and (first.grad != 0).any()


@looped(name=NAMES)
def test_gradients_are_finite_over_magnitudes(name):
    _, function = call(name)
    for magnitude in (10.0**e for e in (-15, -10, -5, 0, 5, 10)):
        first, second = (
            (magnitude * x).detach().requires_grad_()
            for x in embeddings(2, dtype=torch.float32)
        )
        value = function(first, second)
        value.backward()
        assert value.isfinite() and first.grad.isfinite().all()


@looped(name=NAMES)
def test_a_nan_is_not_hidden(name):
    first, second = (x.detach() for x in embeddings(0, dtype=torch.float32))
    first[2, 1] = math.nan
    assert call(name)[1](first, second).isnan()


@looped(name=NAMES, ball=[None, PoincareBall(1.0)])
def test_no_value_is_brought_to_the_host(name, ball):
    """Tensors without values: reading one raises."""
    with FakeTensorMode():
        similarity = None if ball is None else HyperbolicSimilarity(ball)
        x = torch.randn(6, 4, requires_grad=True)
        y = torch.randn(6, 4)
        labels = torch.zeros(6, dtype=torch.long)
        if name == "moco":
            cost = MoCo(Softmax(5.0), 7, 4, similarity=similarity)
            value = cost([x], [y], labels)
            cost.update([y], labels)
        elif name in ("supcon", "hscl"):
            kind = SupCon if name == "supcon" else HSCL
            value = kind(similarity=similarity)(x, labels)
        else:
            value = NTXent(AMSoftmax(), name == "symmetric", similarity)(x, y, labels)
        value.backward()
        diagnostics(x, y, similarity)


class Largest(TorchDispatchMode):
    """The most elements that any result had."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@looped(name=NAMES, ball=[None, ClippedUnitBall(3.0), PoincareBall(1.0)])
def test_no_tensor_is_larger_than_all_pairs(name, ball):
    similarity = None if ball is None else HyperbolicSimilarity(ball)
    _, function = call(name, similarity, 64)
    first, second = embeddings(0, n=24, dimension=64, dtype=torch.float32)
    with Largest() as seen:
        function(first, second).backward()
        diagnostics(first, second, similarity)
    assert 24 * 64 <= seen.elements <= 2 * 48 * 64


# ------------------------------------------------------------------- schedules


@looped(make=[NTXent, lambda loss: MoCo(loss, 5, 4)])
def test_a_margin_schedule_works_on_them(make):
    first, second = (x.detach() for x in embeddings(0, dtype=torch.float32))

    def value(cost):
        if isinstance(cost, NTXent):
            return cost(first, second)
        cost.update([first.flip(1)])
        return cost([first], [second])

    cost, schedule = make(AMSoftmax(0.2, 30.0)), CosineMargin(0.2, warmup_steps=2)
    schedule.apply(cost)
    assert cost.margin == cost.loss.margin == 0
    torch.testing.assert_close(value(cost), value(make(Softmax(30.0))))
    schedule.step(cost)
    assert cost.margin == pytest.approx(0.1)
    torch.testing.assert_close(value(cost), value(make(AMSoftmax(0.1, 30.0))))
    schedule.step(cost)
    assert cost.margin == 0.2
    with pytest.raises(ValueError, match="no margin"):
        schedule.apply(make(Softmax(30.0)))
    with pytest.raises(ValueError, match="margin=-1"):
        cost.margin = -1


# ----------------------------------------------------------------- diagnostics


@looped(seed=SEEDS, similarity=[None, hyperbolic()])
def test_diagnostics_equal_the_naive_loops(seed, similarity):
    first, second = embeddings(seed)
    a, b = (
        [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in x.tolist()]
        for x in (first, second)
    )

    def squared(x, y):
        return sum((p - q) ** 2 for p, q in zip(x, y, strict=True))

    def spread(rows):
        pairs = [squared(rows[i], rows[j]) for i in range(5) for j in range(i)]
        return math.log(sum(math.exp(-2 * pair) for pair in pairs) / len(pairs))

    measure = cosine if similarity is None else minus_distance
    first_rows, second_rows = first.tolist(), second.tolist()
    negative = [
        measure(first_rows[i], second_rows[j]) for i in range(5) for j in range(5) if i != j
    ]
    naive = {
        "alignment": sum(squared(x, y) for x, y in zip(a, b, strict=True)) / 5,
        "uniformity": (spread(a) + spread(b)) / 2,
        "positive": sum(measure(x, y) for x, y in zip(first_rows, second_rows, strict=True))
        / 5,
        "negative": sum(negative) / len(negative),
    }
    found = diagnostics(first, second, similarity)
    assert found.keys() == naive.keys()
    assert not any(value.requires_grad for value in found.values())
    for name, value in naive.items():
        assert found[name].item() == pytest.approx(value, rel=1e-9), name
    assert alignment(first, second).item() == pytest.approx(naive["alignment"])
    assert uniformity(first).item() == pytest.approx(spread(a))


def test_diagnostics_of_collapse_and_of_the_uniform_sphere():
    x = torch.ones(50, 192)
    found = diagnostics(x, 3 * x)
    assert found["uniformity"].item() == pytest.approx(0, abs=1e-5)
    assert found["alignment"].item() == pytest.approx(0, abs=1e-5)
    assert found["negative"].item() == pytest.approx(1, abs=1e-5)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 500, 192, generator=generator)
    found = diagnostics(x, y)
    assert found["uniformity"].item() == pytest.approx(-4 + 8 / 192, abs=5e-3)
    assert found["alignment"].item() == pytest.approx(2, abs=0.02)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert diagnostics(x, y) == found


# ---------------------------------------------------------------------- errors


@looped(
    case=[
        (lambda x: NTXent(Softmax())(x, x[:3]), r"\[4, 2\] and \[3, 2\]"),
        (lambda x: NTXent(Softmax())(x[0], x[0]), r"\[2\]: expected"),
        (lambda x: NTXent(Softmax())(x.view(2, 2, 2), x), r"\[2, 2, 2\]: expected"),
        (lambda x: NTXent(Softmax())(x, x, torch.ones(4)), "float32.*indices"),
        (lambda x: NTXent(Softmax())(x, x, torch.ones(3).long()), r"\[3\].*\[4, 2\]"),
        (lambda x: NTXent(RAMSoftmax()), "RAMSoftmax.*masked candidates"),
        (lambda x: NTXent(AAMSoftmax(), True, hyperbolic()), "cosines.*minus dist.*AMS"),
        (lambda x: MoCo(AAMSoftmax(), 5, 2, False, hyperbolic()), "expects cosines"),
        (lambda x: NTXent(HAMSoftmax()), "expects minus distances.*gives cosines"),
        (lambda x: NTXent("AMSoftmax"), "loss='AMSoftmax': must be a loss, such as"),
        (lambda x: NTXent(Softmax(), similarity="cosine"), "similarity='cosine'.*such as"),
        (lambda x: SupCon(similarity=CosineSimilarity), "similarity=.*such as"),
        (lambda x: NTXent(Softmax(), "no"), "symmetric='no': must be True or False"),
        (lambda x: MoCo(Softmax(), 5, 2, "no"), "symmetric='no': must be True or False"),
        (lambda x: SupCon(learnable="no"), "learnable='no': must be True or False"),
        (lambda x: SupCon("0.1"), "temperature='0.1': must be a number"),
        (lambda x: HSCL(None), "beta=None: must be a number"),
        (lambda x: MoCo(Softmax(), 5, 3)([x], [x]), r"queries.*\[4, 2\].*\[B, 1, 3\]"),
        (lambda x: MoCo(Softmax(), 5, 2)(x, x), r"4 queries for 1 queue"),
        (lambda x: MoCo(Softmax(), 5, 2, True)([x], [x, x]), r"1 queries for 2 queue"),
        (lambda x: MoCo(Softmax(), 5, 2)([x], [x, x]), r"2 keys for 1 queue"),
        (lambda x: MoCo(Softmax(), 5, 2).update([x, x]), r"2 keys for 1 queue"),
        (lambda x: MoCo(Softmax(), 5, 3).update([x]), r"\[4, 2\]: expected \[B, 1, 3\]"),
        (lambda x: MoCo(Softmax(), 0, 2), "size=0"),
        (lambda x: SupCon(0.0), "temperature=0.0"),
        (lambda x: SupCon(math.nan), "temperature=nan"),
        (lambda x: HSCL(-0.1), "beta=-0.1"),
        (lambda x: SupCon()(x, torch.zeros(2, 1).long()), r"\[2, 1\].*\[4, 2\]"),
        (lambda x: SupCon()(x, torch.zeros(4)), "float32.*indices"),
        (lambda x: uniformity(x[:1]), r"1 utterance\(s\): two"),
        (lambda x: alignment(x, x[:2]), r"\[4, 2\] and \[2, 2\]"),
    ]
)
def test_mistakes_are_value_errors_that_tell(case):
    action, message = case
    with pytest.raises(ValueError, match=message):
        action(torch.randn(4, 2))


def test_descriptions_name_the_settings():
    assert "symmetric=True" in repr(NTXent(AMSoftmax(0.1, 30.0), True))
    assert "margin=0.1, scale=30" in repr(NTXent(AMSoftmax(0.1, 30.0), True))
    assert "beta=0.2, temperature=0.1, learnable=True" in repr(HSCL(0.2, 0.1))
    assert "size=9, dimension=4" in repr(MoCo(Softmax(), 9, 4))
