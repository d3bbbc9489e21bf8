"""Levels of utterances, spaces and their nulls, what is measured of a model, the disk,
and tables over seeds."""

import math
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import rankdata, spearmanr

from cases import looped
from hamsb import ClippedUnitBall, PoincareBall
from hamsb.analysis import disk, hierarchy, hierarchy_plots
from hamsb.analysis.disk import edges, embed_in_disk
from hamsb.analysis.distance_tree import Draws, level_codes
from hamsb.analysis.hierarchy import measure_model, rank_correlation
from hamsb.analysis.levels import choose_utterances, find_levels, numbers_of
from hamsb.analysis.spaces import Space
from hamsb.analysis.tree_measures import relative_delta
from hamsb.analysis.tree_tables import (
    difference_table,
    name_systems,
    rate_rows,
    result_table,
    summarize,
    training_rates,
)
from hamsb.nnet.balls import logmap0
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.groups import read_metadata

# The format of VoxCeleb's own file; its last speaker is in no list here.
VOX1 = (
    "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"
    "id10001\tA.J._Buckley\tm\tIreland\tdev\n"
    "id10002\tA.R._Rahman\tm\tIndia\tdev\n"
    "id10003\tAamir_Khan\tm\tIndia\tdev\n"
    "id10004\tAaron_Tveit\tf\tUSA\tdev\n"
    "id10005\tAaron_Yoo\tf\tUSA\tdev\n"
)
SPACES = Space(), Space(ClippedUnitBall(3.0)), Space(PoincareBall(0.7, gain=0.3))


@pytest.fixture
def metadata(tmp_path):
    """A function: columns of a metadata file of some text."""

    def read(text, *columns):
        (tmp_path / "meta.csv").write_text(text)
        return read_metadata(tmp_path / "meta.csv", columns)

    return read


def utterances_of(speakers, each=2):
    return [f"{name}/s{k}/{k}.wav" for name in speakers for k in range(each)]


# ----------------------------------------------------------------------------- levels


def test_voxcelebs_own_file_tells_the_levels(metadata):
    meta = metadata(VOX1, "nationality", "gender")
    names = utterances_of(["id10001", "id10003", "id10004", "id10009"])
    levels = find_levels(["gender", "nationality", "speaker"], names, meta)
    assert levels.paths[::2].tolist() == [
        ["m", "Ireland", "id10001"],
        ["m", "India", "id10003"],
        ["f", "USA", "id10004"],
        ["", "", "id10009"],
    ]
    assert levels.speaker == 2 and not levels.below
    speakers, paths = levels.of_speakers()
    assert speakers == ["id10001", "id10003", "id10004", "id10009"]
    assert paths.tolist() == levels.paths[::2].tolist()
    assert levels.describe() == [
        {"name": "gender", "groups": 2, "missing": 1},
        {"name": "nationality", "groups": 3, "missing": 1},
        {"name": "speaker", "groups": 3, "missing": 1},
    ]


def test_levels_below_the_speaker_make_utterances_points(metadata):
    meta = metadata("path,speaker,device\na/x/1.wav,a,phone\na/y/2.wav,a,tape\n", "device")
    names = ["a/x/1.wav", "a/y/2.wav", "b/3.wav"]
    levels = find_levels(["speaker", "device", "session", "utterance"], names, meta)
    assert levels.below and levels.paths.tolist() == [
        ["a", "phone", "x", "a/x/1.wav"],
        ["a", "tape", "y", "a/y/2.wav"],
        ["b", "", "", "b/3.wav"],
    ]


def test_wrong_levels_are_named(metadata):
    meta = metadata(VOX1, "gender")
    names = utterances_of(["id10001", "id10002"])
    for asked, tells, message in (
        (["speaker", "speaker"], None, "speaker is there twice"),
        (["utterance", "speaker"], None, "utterance can only be the last"),
        (["gender", "speaker"], None, "gender is none of speaker, session, utterance"),
        (["gender", "speaker"], meta, "meta.csv has none in gender for any of the 2"),
    ):
        given = ["x/1.wav", "y/1.wav"] if tells else names
        with pytest.raises(ValueError, match=re.escape(message)):
            find_levels(asked, given, tells)
    by_file = "utterance,mood\nid10001/s0/0.wav,glad\nid10001/s1/1.wav,sad\n"
    with pytest.raises(ValueError, match=r"id10001 has more than one mood, \['glad', 'sa"):
        find_levels(["mood", "speaker"], names, metadata(by_file, "mood"))
    with pytest.raises(ValueError, match="'glad' for id10001/s0/0.wav"):
        numbers_of("mood", names, metadata(by_file, "mood"))
    with pytest.raises(ValueError, match="is a column of the metadata"):
        numbers_of("snr", names, None)


def test_utterances_and_speakers_are_chosen_at_random():
    names = utterances_of([f"id{k:02d}" for k in range(20)], each=5)
    few = choose_utterances(names, 3, 100, True, seed=0)
    assert len(few) == 60 and {*few} <= {*names} and few == sorted(few)
    assert few != choose_utterances(names, 3, 100, True, seed=1)
    assert choose_utterances(names, None, 100, True, seed=0) == names
    points = choose_utterances(names, 3, 30, True, seed=0)
    assert len(points) == 30 and len({name[:4] for name in points}) == 10
    speakers = choose_utterances(names, 3, 7, False, seed=0)
    assert len(speakers) == 21 and len({name[:4] for name in speakers}) == 7


def test_a_speaker_who_does_not_fit_leaves_room_for_others():
    names = [f"big/{k}" for k in range(12)] + [f"id{k}/{u}" for k in range(5) for u in "ab"]
    for seed in range(5):
        taken = choose_utterances(names, None, 10, True, seed)
        assert taken == names[12:]
    with pytest.raises(ValueError, match="points=2: fewer than two speakers fit; give"):
        choose_utterances(names, None, 2, True, seed=0)
    assert len(choose_utterances(names[:12], None, 20, True, seed=0)) == 12


# ----------------------------------------------------------------------------- spaces


def test_angles_midpoints_and_radii():
    space = Space()
    points = space.points(torch.tensor([[3.0, 0.0], [0.0, 1.0], [5.0, 5.0]]))
    known = np.array([[0, 2, 1], [2, 0, 1], [1, 1, 0]]) * math.pi / 4
    np.testing.assert_allclose(space.distances(points), known, atol=1e-7)
    assert space.midpoints(points, np.array([0, 0, 1])).tolist() == [[1.5, 0.5], [5, 5]]
    assert space.radii(points) == pytest.approx([3, 1, math.sqrt(50)])
    for space in SPACES[1:]:
        points = space.points(torch.randn(4, 3, generator=torch.manual_seed(0)))
        middle = space.midpoints(points[:2], np.array([0, 0]))
        sides = space.distances(torch.cat([points[:2], middle]))[2]
        assert sides[0] == pytest.approx(sides[1]) and 0 < sides[0] < 2
        origin = torch.zeros(1, 3).double()
        known = space.distances(torch.cat([points, origin]))[4, :4]
        np.testing.assert_allclose(space.radii(points), known, atol=1e-8)


@looped(space=SPACES)
def test_the_nulls_are_what_they_are_called(space):
    generator = torch.manual_seed(0)
    vectors = torch.randn(60, 3, generator=generator) @ torch.diag(
        torch.tensor([2, 1, 0.1])
    )
    points = space.points(vectors + torch.tensor([1.0, 0, 0]))
    random = np.random.default_rng(0)
    drawn = space.gaussian(points, 20_000, random)
    if space.ball is not None:
        c = float(space.ball.metric_curvature)
        points_at, drawn = logmap0(points, c), logmap0(drawn, c)
    else:
        points_at = points
    scale = points_at.std(0).max()
    assert torch.allclose(drawn.mean(0), points_at.mean(0), atol=0.03 * scale)
    known = torch.cov(points_at.T)
    assert torch.allclose(torch.cov(drawn.T), known, atol=0.04 * scale**2)
    radial = space.same_radii(points, random)
    np.testing.assert_allclose(space.radii(radial), space.radii(points), atol=1e-7)
    assert radial[:, 2].std() > 2 * points[:, 2].std()


@looped(space=SPACES)
def test_gaussian_noise_is_its_null(space):
    """Of a covariance far from a sphere's."""
    generator = torch.manual_seed(1)
    axes = torch.tensor([3.0, 1, 1, 0.3, 0.3, 0.1]) / 4
    noise = space._inside(torch.randn(90, 6, generator=generator).double() * axes)
    random = np.random.default_rng(0)
    null = [
        relative_delta(space.distances(space.gaussian(noise, 90, random)))
        for _ in range(12)
    ]
    own = relative_delta(space.distances(noise))
    assert abs(own - np.mean(null)) < 4 * np.std(null, ddof=1)


# ------------------------------------------------------------------------- one model


def corpus(seed=0, families=3, speakers=4, each=4, spread=(3.0, 1.5, 0.4)):
    """Embeddings of a tree family, speaker, session; and its levels."""
    random = np.random.default_rng(seed)
    names, rows = [], []
    for family in range(families):
        of_family = spread[0] * random.normal(size=24)
        for speaker in range(speakers):
            of_speaker = of_family + spread[1] * random.normal(size=24)
            for k in range(each):
                names.append(f"{family}{speaker}/s{k % 2}/{k}.wav")
                rows.append(of_speaker + spread[2] * random.normal(size=24))
    seconds = torch.from_numpy(random.uniform(1, 5, len(names)))
    return Embeddings(tuple(names), torch.tensor(np.array(rows)).float(), seconds)


def levels_of(embeddings, names, metadata):
    rows = sorted({(name[:2], f"f{name[0]}") for name in embeddings.utterances})
    text = "speaker,family\n" + "".join(f"{a},{b}\n" for a, b in rows)
    return find_levels(names, embeddings.utterances, metadata(text, "family"))


def values(judged):
    return {(one.name, one.level): one for one in judged.measures}


@looped(ball=[None, PoincareBall(1.0)])
def test_a_model_that_holds_the_tree(ball, metadata):
    embeddings = corpus()
    levels = levels_of(embeddings, ["family", "speaker", "session"], metadata)
    seconds = embeddings.seconds.numpy()
    judged = measure_model(Space(ball), embeddings, levels, 2, 30, 0, -seconds)
    found, nulls = values(judged), judged.nulls
    assert judged.points.shape == (48, 24) and judged.speakers.shape == (12, 12)
    for level in (0, 1):
        one, null = found["retrieval", level], nulls["retrieval", level]
        assert one.value > 0.95 and abs(null.mean() - 0.5) < 0.12
        assert 0.8 < one.draws.min() <= one.draws.max() <= 1
        assert found["purity", level].value > 1.5 * nulls["purity", level].mean()
    assert found["agreement", None].value > 0.9
    assert abs(nulls["agreement", None].mean()) < 0.1
    assert found["duration", None].value == -found["noise", None].value
    assert list(judged.pairs) == [
        "family differs", "speaker differs", "session differs", "same session"
    ]  # fmt: skip
    assert sum(map(len, judged.pairs.values())) == 48 * 47 / 2
    # The utterances of one speaker are near each other whatever their labels say.
    assert nulls["purity", 0].mean() > 1 / 3 + 0.1 > nulls["purity", 1].mean()


def test_speakers_are_points_where_nothing_lies_below(metadata, monkeypatch):
    embeddings = corpus(1)
    levels = levels_of(embeddings, ["family", "speaker"], metadata)
    judged = measure_model(Space(), embeddings, levels, 2, 20, 0)
    assert judged.points.shape == (12, 24)
    found = values(judged)
    means = embeddings.speaker_means().matrix.double()
    np.testing.assert_allclose(judged.points, means, atol=1e-6)
    assert found["retrieval", 0].value > 0.9
    assert math.isnan(found["retrieval", 1].value)
    delta, gaussian = found["delta", None].value, found["gaussian", None].value
    assert found["place", None].value == pytest.approx(1 - delta / gaussian)
    assert delta == relative_delta(judged.speakers)
    assert len(found["delta", None].draws) == 20
    monkeypatch.setattr(hierarchy, "_EXACT", 10)
    monkeypatch.setattr(hierarchy, "_SUBSET", 6)
    found = values(measure_model(Space(), embeddings, levels, 2, 0, 0))
    parts = found["delta", None].draws
    assert found["delta", None].value == pytest.approx(parts.mean()) != delta
    shares = parts / found["gaussian", None].draws.mean()
    np.testing.assert_allclose(found["place", None].draws, 1 - shares)
    assert found["agreement", None].draws is None


def test_the_radius_grows_with_depth_where_it_does(metadata):
    """A midpoint lies nearer to the origin than its members; by chance even more so."""
    embeddings = corpus(2)
    levels = levels_of(embeddings, ["family", "speaker"], metadata)
    judged = measure_model(Space(), embeddings, levels, 2, 50, 0)
    one = values(judged)["depth", None]
    assert 0 < one.value < judged.nulls["depth", None].mean()
    assert one.draws.min() < one.value < one.draws.max()


def test_rank_correlation_is_scipys_and_its_draws_lie_about_it():
    random = np.random.default_rng(0)
    x = random.normal(size=60)
    y = x + random.normal(size=60)
    y[3] = math.nan
    draws = Draws.make(np.arange(60) // 3, 400, 0)
    one = rank_correlation("noise", x, y, draws)
    known = np.isfinite(y)
    assert one.value == pytest.approx(spearmanr(x[known], y[known]).statistic)
    assert one.draws.mean() == pytest.approx(one.value, abs=0.03)
    ranks = np.stack([rankdata(x[known]), rankdata(y[known])])
    times = draws.weights[draws.owner[known], 7]
    counted = np.cov(ranks, aweights=times)
    share = counted[0, 1] / np.sqrt(counted.diagonal().prod())
    assert one.draws[7] == pytest.approx(share)
    assert math.isnan(rank_correlation("noise", np.ones(9), x[:9]).value)


# ------------------------------------------------------------------------- the disk


def test_the_disk_holds_a_tree_with_low_distortion():
    paths = np.array([[i, j, k] for i in range(3) for j in range(3) for k in range(3)])
    shared = (paths[:, None] == paths).cumprod(-1).sum(-1)
    tree = 2.0 * (3 - shared)
    points, distortion = embed_in_disk(tree, steps=120)
    assert (np.linalg.norm(points, axis=1) < 1).all() and distortion < 0.13
    ball = PoincareBall(1.0)
    found = ball.pairwise_distance(*[torch.from_numpy(points)] * 2).numpy()
    first, second = np.triu_indices(27, 1)
    ratio = found[first, second] / tree[first, second]
    known = min(
        np.abs(ratio / s - 1).mean() for s in np.linspace(0.5, 2, 4001) * ratio.mean()
    )
    assert distortion == pytest.approx(known, abs=1e-4)
    once, again = (embed_in_disk(tree, steps=5)[0] for _ in range(2))
    assert (once == again).all()
    flat = np.abs(np.subtract.outer(np.arange(9.0), np.arange(9.0)))
    assert embed_in_disk(flat, steps=150)[1] < 0.07
    for few in (np.zeros((1, 1)), np.zeros((4, 4))):
        assert embed_in_disk(few)[1] == 0


def test_momentum_is_carried_in_parallel():
    """The direction of a geodesic at its one end is that at the other."""
    random = torch.Generator().manual_seed(0)
    x, y = (0.5 * torch.randn(2, 9, 2, generator=random).double()).tanh() * 0.7
    ball = PoincareBall(1.0)
    there, back = ball.mobius_add(-x, y), ball.mobius_add(-y, x)
    found = disk._carried(there / disk._conformal(x), x, y)
    assert torch.allclose(found, -back / disk._conformal(y), atol=1e-12)


def test_the_edges_are_those_of_the_tree():
    points = np.array([[0.5, 0.0], [0.3, 0.3], [-0.5, 0.1], [-0.4, -0.4], [0.0, 0.7]])
    codes = level_codes([["f", "a"], ["f", "b"], ["m", "a"], ["m", "a"], ["m", ""]])
    nodes, found = edges(points, codes)
    # f and m at 5 and 6, their accents at 7 to 9, the root at 10.
    assert nodes.shape == (11, 2)
    assert found == [
        (5, 10, 0), (6, 10, 0), (7, 5, 1), (8, 5, 1), (9, 6, 1),
        (0, 7, 2), (1, 8, 2), (2, 9, 2), (3, 9, 2), (4, 6, 1),
    ]  # fmt: skip
    np.testing.assert_allclose(nodes[7], points[0])


# ------------------------------------------------------------------- several models


def test_systems_are_named_by_what_tells_them_apart(tmp_path):
    for seed in "21":
        (tmp_path / seed / "export").mkdir(parents=True)
    found = name_systems({"ham": f"{tmp_path}/*/export"})
    assert found == {"ham": [f"{tmp_path}/1/export", f"{tmp_path}/2/export"]}
    with pytest.raises(ValueError, match=r"nothing fits .*/4\*"):
        name_systems([f"{tmp_path}/4*"])
    one = name_systems("results/mini/1234/export")
    assert one == {"mini/1234": ["results/mini/1234/export"]}
    found = name_systems(["so/ham/1/export", "so/ham/2/export", "so/am/1/export"])
    assert list(found) == ["ham/1", "ham/2", "am/1"]
    found = name_systems({"ham": ["a", "b"], "am": "c"})
    assert found == {"ham": ["a", "b"], "am": ["c"]}
    assert list(name_systems(["a/export", "a"])) == ["a/export", "a"]
    for wrong in ([], ["a", "a"], {"x": []}, {"x": ["a"], "y": "a"}, {}, ""):
        with pytest.raises(ValueError, match="model="):
            name_systems(wrong)


@pytest.fixture
def judged(metadata):
    """Systems of two seeds and of one, and their levels."""
    spread = 1.0, 1.5, 0.4
    one, two = corpus(0, spread=spread), corpus(1, spread=spread)
    other = corpus(2, spread=(0.0, 1.5, 0.4))
    levels = levels_of(one, ["family", "speaker"], metadata)
    found = [measure_model(Space(), each, levels, 2, 40, 0) for each in (one, two, other)]
    return {"tree": found[:2], "flat": found[2:]}, levels


def test_seeds_are_summarized_and_systems_compared_draw_by_draw(judged):
    systems, levels = judged
    summary = summarize(systems)
    (line,) = [line for line in summary["measures"] if line["name"] == "agreement"]
    first, second, other = (
        values(one)["agreement", None] for each in systems.values() for one in each
    )
    tree, flat = line["systems"]["tree"], line["systems"]["flat"]
    assert tree["values"] == [first.value, second.value]
    assert tree["value"] == np.mean([first.value, second.value])
    assert tree["std"] == pytest.approx(np.std([first.value, second.value], ddof=1))
    draws = (first.draws + second.draws) / 2
    assert [tree["low"], tree["high"]] == list(np.quantile(draws, [0.025, 0.975]))
    assert flat["std"] is None and "difference" not in tree
    assert flat["difference"] == pytest.approx(other.value - tree["value"])
    known = np.quantile(other.draws - draws, [0.025, 0.975])
    assert [flat["difference_low"], flat["difference_high"]] == pytest.approx(list(known))
    assert flat["difference_high"] < 0 < tree["std"] < 0.2 and 0.6 < tree["value"] < 1
    null = np.concatenate([o.nulls["agreement", None] for e in systems.values() for o in e])
    assert (line["null"], line["null_std"]) == (null.mean(), null.std())

    table = result_table(summary, levels.names, 2, {"EER %": {"tree": "1.50"}})
    assert "| measure | tree | flat | null | true tree |" in table
    assert "| EER % | 1.50 |  |  |  |" in table
    one, other = (summarize({name: systems[name]})["measures"] for name in systems)
    nulls = [f"{m[4]['null']:.3f} ± {m[4]['null_std']:.3f}" for m in (one, other)]
    assert f"| - null | {' | '.join(nulls)} |  |  |" in table  # of Gaussians of their own
    assert f"| tree agreement | {tree['value']:.3f} ± {tree['std']:.3f} [" in table
    assert "sibling recall at 2, family" in table and ", speaker" not in table
    differences = difference_table(summary, levels.names, 2)
    assert f"| tree agreement | **{flat['difference']:+.3f} [" in differences


def test_error_rates_are_those_beside_the_exports(tmp_path):
    for name, eer in (("a", 0.05), ("b", 0.06), ("c", 0.2)):
        (tmp_path / name / "export").mkdir(parents=True)
        text = '{"results": [{"list": "O", "system": "trained", "calibrated": false, '
        (tmp_path / name / "metrics.json").write_text(f'{text}"eer": {eer}}}]}}')
    (tmp_path / "c" / "metrics.json").write_text('{"results": 3}')
    a, b, c = (tmp_path / name / "export" for name in "abc")
    rates = training_rates({"two": [a, b], "one": [b], "none": [c], "half": [a, c]})
    assert rates == {"O": {"two": [5.0, 6.0], "one": [6.0]}}
    row = {"two": "5.50 ± 0.71", "one": "6.00"}
    assert rate_rows(rates) == {"EER %, O, of the training": row}
    assert training_rates({"none": [c]}) == {}


# --------------------------------------------------------------------------- figures


def test_figures_show_what_they_say(judged, metadata):
    systems, _ = judged
    embeddings = corpus(0)
    levels = levels_of(embeddings, ["family", "speaker"], metadata)
    systems["tree"] = [measure_model(Space(), embeddings, levels, 2, 0, 0)]
    distances = systems["tree"][0].speakers
    paths = levels.of_speakers()[1][:, :1]
    figure = hierarchy_plots._tree_figure(distances, paths, ["family"], "angle (rad)")
    dendrogram, band = figure.subfigs[0].axes
    (branches,) = dendrogram.collections
    assert len(branches.get_segments()) == 11
    colors = [tuple(bar.get_facecolor()) for bar in band.patches]
    assert len(colors) == 12 and len({*colors}) == 3
    # Branches below one family have its color, and are 3 of each; the others are gray.
    drawn = [tuple(color) for color in branches.get_colors()]
    assert sorted(drawn.count(color) for color in {*colors}) == [3, 3, 3]

    points, distortion = embed_in_disk(distances, steps=50)
    figure = hierarchy_plots._disk_tree_figure(points, distortion, paths, ["family"])
    (axes,) = figure.axes
    assert len(axes.collections[0].get_segments()) == 12 + 3
    assert f"mean distortion {100 * distortion:.0f} %" in figure.get_suptitle()

    pairs = {name: each[0].pairs for name, each in systems.items()}
    figure = hierarchy_plots._levels_figure(pairs, {"tree": "angle", "flat": "angle"})
    first, second = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == [
        "family differs", "speaker differs"
    ]  # fmt: skip
    for axes, name in ((first, "tree"), (second, "flat")):
        low, high = np.quantile(pairs[name]["family differs"], [0.25, 0.75])
        assert axes.patches[0].get_x() == pytest.approx(low)
        assert axes.patches[0].get_width() == pytest.approx(high - low)


def test_what_systems_hold_is_drawn_against_their_error_rates():
    rates = {name: [5.0 + k, 6.0 + k] for k, name in enumerate("abcdefgh")}
    measured = {name: {"value": 0.5, "low": 0.4, "high": 0.7} for name in rates}
    measured["b"] = {"value": 0.6, "low": None, "high": None}
    measured["c"] = {"value": None, "low": None, "high": None}
    figure = hierarchy_plots._rates_figure(rates, measured, "EER (%)", "agreement")
    (axes,) = figure.axes
    points = [tuple(float(x[0]) for x in line.get_data()) for line in axes.lines]
    assert points == [(5.5 + k, 0.6 if k == 1 else 0.5) for k in range(8) if k != 2]
    assert len({(line.get_color(), line.get_marker()) for line in axes.lines}) == 7
    segments = [part.get_segments()[0].tolist() for part in axes.collections]
    assert segments[:3] == [
        [[5.5, 0.4], [5.5, 0.7]],
        [[5, 0.5], [6, 0.5]],
        [[6, 0.6], [7, 0.6]],
    ]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*"abdefgh"]


def test_more_groups_than_colors_and_unknown_ones_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(Figure, "savefig", lambda *_, **__: (tmp_path / "x").touch())
    random = np.random.default_rng(0)
    points = random.normal(size=(40, 5))
    distances = np.linalg.norm(points[:, None] - points, axis=-1)
    groups = np.array([[f"g{k % 11}", f"a{k % 7}" if k else ""] for k in range(40)])
    groups[1, 0] = ""
    palette = hierarchy_plots._palette(groups[:, 0], hierarchy_plots.BRIGHT)
    assert len(palette) == len(hierarchy_plots.BRIGHT)  # six, and what is not known
    names = hierarchy_plots._patches(palette, groups[:, 0])
    assert [*names][-2:] == ["not known", "5 others"]
    hierarchy_plots._tree_figure(distances, groups, ["group", "accent"], "distance")
    hierarchy_plots._disk_tree_figure(points[:, :2] / 9, 0.1, groups, ["group", "accent"])
    with pytest.raises(ValueError, match="no systems to plot"):
        hierarchy_plots._levels_figure({}, {})
