"""Measures of trees: trees, Sarkar's construction, naive loops, isometries, degenerate
inputs, and draws of speakers."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.cluster.hierarchy import cophenet, linkage, to_tree
from scipy.spatial.distance import squareform
from scipy.stats import somersd

from cases import looped
from hamsb import PoincareBall
from hamsb.analysis import distance_tree as module
from hamsb.analysis.cluster_quality import distance_matrix
from hamsb.analysis.distance_tree import DistanceTree, Draws, level_codes, shared_levels
from hamsb.analysis.tree_measures import (
    cophenetic_correlation,
    dendrogram_purity,
    hierarchical_precision,
    level_retrieval,
    measure_cophenetic,
    measure_labels,
    relative_delta,
    sibling_recall,
    tree_agreement,
)

BRANCHES = 3, 2, 3  # of a tree's levels


def tree_metric(seed, tied=False):
    """Path lengths among the leaves of a tree, and the leaves' paths; without ties but
    where asked for."""
    random = np.random.default_rng(seed)
    paths = np.array(list(itertools.product(*map(range, BRANCHES))))
    paths = random.permutation(paths)
    lengths = {}
    distances = np.zeros((len(paths), len(paths)))
    for i, one in enumerate(paths):
        for j, other in enumerate(paths):
            shared = int((one == other).cumprod().sum())
            for path in (one, other):
                for depth in range(shared, len(path)):
                    edge = tuple(path[: depth + 1])
                    length = 1 if tied else random.uniform(1, 1.1)
                    distances[i, j] += lengths.setdefault(edge, length)
    return (distances + distances.T) / 2, paths


def points_at(seed, n=30, dimension=4, groups=3):
    """Distances of random points, without a tie, and paths of three levels."""
    random = np.random.default_rng(seed)
    paths = np.stack([random.integers(0, k, n) for k in (groups, 2, 3)], axis=1)
    points = random.normal(size=(n, dimension)) + 0.7 * paths[:, :1]
    return np.linalg.norm(points[:, None] - points, axis=-1), paths


def all_measures(distances, paths):
    """Every measure, in one flat array."""
    return np.array(
        [
            relative_delta(distances),
            cophenetic_correlation(distances),
            tree_agreement(distances, paths),
            *level_retrieval(distances, paths),
            *sibling_recall(distances, paths, 3),
            hierarchical_precision(distances, paths),
            *(dendrogram_purity(distances, labels) for labels in level_codes(paths).T),
        ]
    )


# ---------------------------------------------------------------- what is known exactly


@looped(seed=range(3), tied=[True, False])
def test_a_tree_has_the_best_of_each_measure(seed, tied):
    distances, paths = tree_metric(seed, tied)
    assert relative_delta(distances, base=seed) == pytest.approx(0, abs=1e-12)
    assert tree_agreement(distances, paths) == 1
    *above, last = level_retrieval(distances, paths)
    assert above == [1, 1] and math.isnan(last)
    codes = level_codes(paths)
    assert dendrogram_purity(distances, codes[:, 0]) == pytest.approx(1)
    assert dendrogram_purity(distances, codes[:, 1]) == pytest.approx(1)
    assert math.isnan(dendrogram_purity(distances, codes[:, 2]))
    *above, last = sibling_recall(distances, paths, 2)
    assert above == pytest.approx([1, 1]) and math.isnan(last)
    assert hierarchical_precision(distances, paths) == pytest.approx(1)
    if tied:
        assert cophenetic_correlation(distances) == pytest.approx(1)


def test_the_cophenetic_correlation_is_scipys():
    distances, _ = points_at(0)
    condensed = squareform(distances)
    expected, _ = cophenet(linkage(condensed, "average"), condensed)
    assert cophenetic_correlation(distances) == pytest.approx(expected)
    assert measure_cophenetic(DistanceTree(distances)).value == pytest.approx(expected)
    assert expected < 0.9


def sarkar(edge, depth=3, branches=3):
    """The nodes of a tree in the Poincare disk, all edges of one hyperbolic length: a
    node's neighbors lie around it at equal angles."""
    ball = PoincareBall(1.0)

    def around(node, parent):
        start, count = 0.0, branches
        if parent is not None:
            back = ball.mobius_add(-node, parent)
            start, count = math.atan2(back[1], back[0]), branches + 1
        for k in range(parent is not None, count):
            angle = start + 2 * math.pi * k / count
            step = torch.tensor([math.cos(angle), math.sin(angle)]).double()
            yield ball.mobius_add(node, math.tanh(edge / 2) * step)

    nodes = [(torch.zeros(2).double(), None)]
    level = nodes
    for _ in range(depth):
        level = [(child, node) for node, above in level for child in around(node, above)]
        nodes = nodes + level
    points = torch.stack([node for node, _ in nodes])
    return distance_matrix(points, ball.pairwise_distance)


def test_sarkars_construction_is_nearly_a_tree():
    found = {edge: relative_delta(sarkar(edge)) for edge in (1, 2, 4, 6)}
    assert found[4] < 0.07
    for edge, known in ((1, 0.22), (2, 0.12), (6, 0.04)):
        assert found[edge] == pytest.approx(known, abs=0.011)


def test_delta_is_that_of_every_triple(monkeypatch):
    distances, _ = points_at(0, n=14)
    d = distances
    for base, rows in ((0, 3), (5, 100)):
        monkeypatch.setattr("hamsb.analysis.tree_measures._ROWS", rows)

        def product(x, y, b=base):
            return (d[b, x] + d[b, y] - d[x, y]) / 2

        known = max(
            min(product(x, z), product(z, y)) - product(x, y)
            for x, y, z in itertools.product(range(14), repeat=3)
        )
        found = relative_delta(distances, base)
        assert found == pytest.approx(2 * known / distances.max())
    cycle = np.array([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])
    assert relative_delta(cycle) == 1


# ------------------------------------------------------------------- naive loops


def naive_purity(distances, labels):
    """Of all pairs of one group: its share of the leaves below their ancestor."""
    root, total, pairs = to_tree(linkage(squareform(distances), "average")), 0.0, 0
    for i, j in itertools.combinations(range(len(labels)), 2):
        if labels[i] == labels[j] >= 0:
            node = root
            while not node.is_leaf():
                inside = [
                    side
                    for side in (node.left, node.right)
                    if {i, j} <= {*side.pre_order()}
                ]
                if not inside:
                    break
                node = inside[0]
            leaves = [leaf for leaf in node.pre_order() if labels[leaf] >= 0]
            total += np.mean([labels[leaf] == labels[i] for leaf in leaves])
            pairs += 1
    return total / pairs


@looped(seed=range(3))
def test_purity_is_that_of_a_triple_loop(seed):
    distances, paths = points_at(seed, n=18)
    labels = paths[:, 0].copy()
    assert dendrogram_purity(distances, labels) == pytest.approx(
        naive_purity(distances, labels)
    )
    labels[:4] = -1
    assert dendrogram_purity(distances, labels) == pytest.approx(
        naive_purity(distances, labels)
    )


def naive_shared(paths):
    """Levels shared by each pair, -1 where the first unequal one is not known."""
    n, levels = paths.shape
    found = np.zeros((n, n), dtype=int)
    for i, j in itertools.product(range(n), repeat=2):
        for one, other in zip(paths[i], paths[j]):
            if one < 0 or other < 0:
                found[i, j] = -1
            if one != other or one < 0:
                break
            found[i, j] += 1
    return found


def lacking(paths, seed):
    """The paths with a tenth of the entries not known."""
    random = np.random.default_rng(seed)
    return np.where(random.random(paths.shape) < 0.1, -1, paths)


@looped(seed=range(3))
def test_retrieval_agreement_and_recall_are_those_of_loops(seed):
    distances, paths = points_at(seed, n=26)
    distances = np.round(distances, 1)  # with ties
    paths = lacking(paths, seed)
    shared = naive_shared(paths)
    np.testing.assert_array_equal(shared_levels(level_codes(paths)), shared)
    first, second = np.triu_indices(len(paths), 1)
    d, s = distances[first, second], shared[first, second]
    for level, found in enumerate(level_retrieval(distances, paths)):
        near, far = d[s == level + 1], d[s == level]
        wins = (near[:, None] < far).mean() + (near[:, None] == far).mean() / 2
        assert found == pytest.approx(wins)
    known = s >= 0
    expected = somersd(3 - s[known], d[known]).statistic
    assert tree_agreement(distances, paths) == pytest.approx(expected)
    for level, found in enumerate(sibling_recall(distances, paths, 4)):
        shares = []
        for i in range(len(paths)):
            others = [
                j for j in range(len(paths)) if j != i and 0 <= shared[i, j] <= level + 1
            ]
            siblings = [j for j in others if shared[i, j] == level + 1]
            if not siblings or len(siblings) == len(others):
                continue
            hits = 0.0
            for j in siblings:  # its chance to be among the four nearest
                nearer = sum(distances[i, k] < distances[i, j] for k in others)
                equal = sum(distances[i, k] == distances[i, j] for k in others)
                hits += min(max(4 - nearer, 0), equal) / equal
            shares.append(hits / min(4, len(siblings)))
        assert found == pytest.approx(np.mean(shares))


@looped(seed=range(3))
def test_hierarchical_precision_is_that_of_a_loop(seed):
    distances, paths = points_at(seed, n=15)
    paths = lacking(paths, seed)
    shared, found = naive_shared(paths), []
    for i in range(len(paths)):
        order = [j for j in np.argsort(distances[i]) if j != i and shared[i, j] >= 0]
        gains = np.cumsum(shared[i, order])
        best = np.cumsum(sorted(shared[i, order], reverse=True))
        if len(best) and best[-1]:
            found.append(np.mean(gains / np.maximum(best, 1e-9)))
    assert hierarchical_precision(distances, paths) == pytest.approx(np.mean(found))


def test_equal_distances_count_as_in_every_order():
    """One near sibling, then three points at one distance, one of them a sibling."""
    distances = np.array(
        [[0, 1, 2, 2, 2], [1, 0, 2, 2, 2], [2, 2, 0, 2, 2], [2, 2, 2, 0, 2], [2] * 4 + [0]]
    )
    paths = [["a"], ["a"], ["a"], ["b"], ["c"]]
    tree = DistanceTree(distances)
    orders = [[1, *order] for order in itertools.permutations([2, 3, 4])]
    gain = [1, 1, 1, 0, 0]
    known = np.mean([np.mean(np.cumsum(np.take(gain, o)) / [1, 2, 2, 2]) for o in orders])
    codes = level_codes(paths)
    assert tree.average_precisions(codes)[0] == pytest.approx(known)
    assert tree.sibling_hits(codes, 2)[0, 0] == pytest.approx((1 + 1 / 3) / 2)


# --------------------------------------------------------------------- what changes none


def test_isometries_of_the_ball_change_nothing():
    ball = PoincareBall(1.0, gain=0.4)
    random = torch.Generator().manual_seed(0)
    points = ball.project(torch.randn(24, 5, generator=random).double())
    _, paths = points_at(1, n=24)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=random).double())[0]
    moved = ball.mobius_add(torch.full((5,), 0.3).double(), points @ turn)
    before, after = (
        all_measures(distance_matrix(each, ball.pairwise_distance), paths)
        for each in (points, moved)
    )
    np.testing.assert_allclose(after, before, atol=1e-6)


@looped(seed=range(3))
def test_numbering_and_scale_change_nothing(seed):
    distances, paths = points_at(seed)
    known = all_measures(distances, paths)
    np.testing.assert_allclose(all_measures(7.5 * distances, paths), known, atol=1e-9)
    order = np.random.default_rng(seed).permutation(len(paths))
    order = np.concatenate([[0], order[order != 0]])  # delta's base stays the first
    moved = distances[np.ix_(order, order)]
    renamed = np.array([["xyz"[v] for v in path] for path in paths])[order]
    np.testing.assert_allclose(all_measures(moved, renamed), known, atol=1e-9)


@looped(seed=range(3))
def test_what_brings_groups_together_makes_no_order_worse(seed):
    distances, paths = points_at(seed)
    shared = shared_levels(level_codes(paths))
    random = np.random.default_rng(seed)
    noise = random.uniform(0.98, 1, distances.shape)
    nearer = distances * 0.8**shared * (noise + noise.T) / 2
    for measure in (tree_agreement, hierarchical_precision):
        assert measure(nearer, paths) > measure(distances, paths)
    before, after = (level_retrieval(each, paths) for each in (distances, nearer))
    assert all(late > early for early, late in zip(before, after))


# ------------------------------------------------------------------------- degenerate


def test_what_cannot_be_measured_is_nan():
    distances, paths = points_at(0, n=6)
    one_group = np.zeros((6, 1), dtype=int)
    assert math.isnan(tree_agreement(distances, one_group))
    assert all(map(math.isnan, level_retrieval(distances, one_group)))
    assert all(map(math.isnan, sibling_recall(distances, one_group, 2)))
    assert dendrogram_purity(distances, one_group[:, 0]) == 1
    assert hierarchical_precision(distances, one_group) == 1
    single = np.zeros((1, 1))
    assert math.isnan(relative_delta(single))
    assert math.isnan(cophenetic_correlation(single))
    assert math.isnan(hierarchical_precision(single, [["a"]]))
    assert math.isnan(dendrogram_purity(single, ["a"]))
    lonely = [["a"], ["b"], ["c"], ["d"], ["e"], ["f"]]
    assert math.isnan(hierarchical_precision(distances, lonely))
    nobody = np.full((6, 1), -1)
    assert math.isnan(dendrogram_purity(distances, nobody[:, 0]))
    assert math.isnan(tree_agreement(distances, nobody))


def test_equal_distances_are_chance():
    equal = 1 - np.eye(6)
    paths = [["a"]] * 3 + [["b"]] * 3
    assert relative_delta(equal) == 0 and math.isnan(relative_delta(0 * equal))
    assert level_retrieval(equal, paths) == [0.5] and tree_agreement(equal, paths) == 0
    assert dendrogram_purity(equal, [0, 0, 0, 1, 1, 1]) == pytest.approx(0.5)
    assert sibling_recall(equal, paths, 2) == pytest.approx([2 / 5])
    assert math.isnan(cophenetic_correlation(equal))


def test_what_is_no_tree_is_refused():
    distances, paths = points_at(0, n=5)
    for wrong, message in (
        (distances[:3], r"must be \[N, N\], got shape \(3, 5\)"),
        (distances - 1, "not 0; distance_matrix gives"),
        (distances + np.tri(5, k=-1), "the other way round"),
        (np.where(distances > 1, np.nan, distances), "finite and not negative"),
    ):
        with pytest.raises(ValueError, match=message):
            relative_delta(wrong)
        with pytest.raises(ValueError, match=message):
            tree_agreement(wrong, paths)
    for wrong in (paths[:, 0], paths * 1.0, paths[:, :0]):
        with pytest.raises(ValueError, match=r"paths must be \[N, levels\] of int or str"):
            level_retrieval(distances, wrong)
    with pytest.raises(ValueError, match="nearest=0: must be a whole number, at least 1"):
        sibling_recall(distances, paths, 0)
    with pytest.raises(ValueError, match="5 points, but 4 paths"):
        tree_agreement(distances, paths[:4])


# ------------------------------------------------------------------------------ draws


def test_a_draw_of_everybody_once_is_the_value(monkeypatch):
    distances, paths = points_at(0, n=40)
    tree, codes = DistanceTree(distances), level_codes(paths)
    once = Draws(np.arange(40) // 2, np.ones((20, 3)))
    for bins, within in ((10_000, 1e-6), (100, 0.01)):
        monkeypatch.setattr(module, "_BINS", bins)
        for one in measure_labels(tree, codes, 3, once):
            np.testing.assert_allclose(one.draws, one.value, atol=within)
    one = measure_cophenetic(tree, once)
    np.testing.assert_allclose(one.draws, one.value)


def test_pairs_count_as_often_as_their_speakers_and_nobody_meets_a_copy():
    """Three points of each of five speakers, one of whom is drawn three times."""
    distances, paths = points_at(3, n=15)
    owner = np.repeat(np.arange(5), 3)
    times = np.array([3, 0, 1, 1, 0])
    tree, codes = DistanceTree(distances), level_codes(paths)
    draws = Draws(owner, times[:, None] * 1.0)
    found = {(m.name, m.level): m for m in measure_labels(tree, codes, 3, draws)}
    first, second = np.triu_indices(15, 1)
    one, other = owner[first], owner[second]
    weights = np.where(one == other, times[one], times[one] * times[other])
    shared, d = shared_levels(codes)[first, second], distances[first, second]
    for level in range(3):
        near, far = shared == level + 1, shared == level
        wins = (weights[near][:, None] * weights[far] * (d[near][:, None] < d[far])).sum()
        share = wins / (weights[near].sum() * weights[far].sum())
        assert found["retrieval", level].draws == pytest.approx([share])
        pure = tree.pair_purity(codes[:, level])[first, second]
        same = codes[first, level] == codes[second, level]
        known = (pure * weights)[same].sum() / weights[same].sum()
        assert found["purity", level].draws == pytest.approx([known])
        hits = tree.sibling_hits(codes, 3)[level]
        known = np.isfinite(hits)
        mean = np.average(hits[known], weights=times[owner][known])
        assert found["recall", level].draws == pytest.approx([mean])
    one = measure_cophenetic(tree, draws).draws
    counted = np.cov(d, tree.heights, aweights=weights)
    assert one == pytest.approx([counted[0, 1] / np.sqrt(counted.diagonal().prod())])


def test_draws_of_noise_lie_about_its_value():
    """Copies that merge first would double the purity."""
    random = np.random.default_rng(0)
    points = random.normal(size=(160, 30))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    codes = level_codes(np.arange(160)[:, None] % 16)
    draws = Draws.make(np.arange(160), 200, seed=0)
    purity = measure_labels(DistanceTree(distances), codes, 3, draws)[0]
    assert purity.value < 0.1
    assert purity.draws.mean() == pytest.approx(purity.value, abs=0.003)
    assert 0.002 < purity.draws.std() < 0.01


def test_only_seed_and_speakers_decide_the_draws():
    names = np.array(["b", "a", "b", "c"])
    one, other = (Draws.make(names, 50, seed) for seed in (1, 2))
    assert one.owner.tolist() == [1, 0, 1, 2] and one.weights.shape == (3, 50)
    assert (one.weights.sum(0) == 3).all()
    assert (one.weights == Draws.make(names[::-1], 50, 1).weights).all()
    assert (one.weights != other.weights).any()
