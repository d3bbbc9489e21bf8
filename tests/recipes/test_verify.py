"""verify.py on tones: lists to results, every option, and what it refuses."""

import csv
import json
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from speechbrain.inference.classifiers import EncoderClassifier

import verify
from hamsb.inference import SpeakerRecognition
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity
from hamsb.utils.run_folder import write_run
from hamsb.verification import plots as plots_module
from hamsb.verification import results
from hamsb.verification.calibration import Calibration, symmetric_qualities
from hamsb.verification.decision import read_decision
from hamsb.verification.embeddings import embed_utterances
from hamsb.verification.evaluation import eer_intervals, evaluate_trials
from hamsb.verification.lookup import find_utterances
from hamsb.verification.normalization import (
    cohort_statistics,
    find_cohort,
    normalize_scores,
)
from hamsb.verification.scoring import score_trials
from hamsb.verification.training_data import write_training
from hamsb.verification.trials import read_trials
from runs import (
    EXPERIMENT,
    call,
    contents,
    export_untrained,
    write_list,
    write_speakers,
)
from voxceleb_prepare import prepare_voxceleb

FILES = [".lock", "det.png", "metrics.json", "report.md", "run.json", "scores.png"]
ALL = "[none, z-norm, t-norm, s-norm, as-norm]"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """test/, dev/ and train/ with their lists: 5, 4 and 6 speakers, and a model."""
    root = tmp_path_factory.mktemp("verification")
    for part, speakers, first in (("test", 5, 0), ("dev", 4, 20), ("train", 6, 40)):
        write_speakers(root / part, speakers, first)
    names = [f"id{i:02d}" for i in range(5)]
    write_list(root / "test", root / "O.txt", names)
    write_list(root / "test", root / "H.txt", names[:3], seed=1)
    write_list(root / "dev", root / "dev.txt", [f"id{i:02d}" for i in range(20, 24)])
    export_untrained(root / "export", EXPERIMENT)
    return root


@pytest.fixture
def plots(monkeypatch):
    """Stand-ins for the plots, which take most of the time."""

    drawn = {}

    def stand_in(name):
        def plot(curves, path, *options):
            assert curves
            Path(path).write_text("\n".join(curves))
            drawn[name] = options

        return plot

    for name in ("plot_det", "plot_scores"):
        monkeypatch.setattr(plots_module, name, stand_in(name))
    return drawn


@pytest.fixture
def real_plots():
    """Asked for where the plots are to be real."""


@pytest.fixture
def run(request, corpus, repository, tmp_path, monkeypatch):
    """A function that verifies and returns the output folder."""
    monkeypatch.chdir(repository)
    if "real_plots" not in request.fixturenames:
        request.getfixturevalue("plots")

    def run(**changes):
        values = {
            "model": corpus / "export",
            "test_data_folder": corpus / "test",
            "verification_file": corpus / "O.txt",
            "output_folder": tmp_path / "out",
            "cache_folder": corpus / "cache",
            "device": "cpu",
            **changes,
        }
        return call(verify.main, "hparams/verify.yaml", values)

    return run


@pytest.fixture
def embedded(corpus):
    """A function: a list's trials and embeddings, by the library alone."""
    encoder = EncoderClassifier.from_hparams(
        source=str(corpus / "export"), run_opts={"device": "cpu"}
    )
    ball = encoder.mods["classifier"].ball

    def embedded(part, list_name):
        trials = read_trials(corpus / f"{list_name}.txt")
        files = find_utterances(trials, corpus / part)
        return trials, embed_utterances(files, encoder.encode_batch, progress=False)

    def all_of(part):
        root = corpus / part / "wav"
        files = {str(path.relative_to(root)): path for path in sorted(root.rglob("*.wav"))}
        return embed_utterances(files, encoder.encode_batch, progress=False)

    embedded.all_of, embedded.similarities = (
        all_of,
        [CosineSimilarity(), HyperbolicSimilarity(ball)],
    )
    return embedded


def records(folder):
    return json.loads((folder / "metrics.json").read_text())["results"]


def test_by_default_cosines_as_they_are(real_plots, run, corpus, embedded, capsys):
    out = run()
    assert sorted(path.name for path in out.iterdir()) == sorted([*FILES, "scores_O.txt"])
    trials, embeddings = embedded("test", "O")
    scores = score_trials(embeddings, trials)
    written = [line.split() for line in (out / "scores_O.txt").read_text().splitlines()]
    assert [line[:3] for line in written] == [
        [e, t, str(label)] for e, t, label in zip(trials.enrol, trials.test, trials.labels)
    ]
    assert [float(line[3]) for line in written] == scores.tolist()

    numbers = json.loads((out / "metrics.json").read_text())
    (record,) = numbers["results"]
    expected = evaluate_trials(trials, scores)
    assert {key: record[key] for key in expected} == expected
    assert record["eer_interval"] == list(eer_intervals(trials, scores[None])[0])
    assert (record["backend"], record["normalization"]) == ("cosine", "none")
    assert record["calibrated"] is False
    assert [g["group"] for g in record["groups"]] == ["same", "different"]
    assert numbers["settings"]["model"] == str(corpus / "export")
    assert set(numbers["versions"]) >= {"hamsb", "torch", "speechbrain"}

    report, screen = (out / "report.md").read_text(), capsys.readouterr().out
    row = f"| O | 30 | 30 | {100 * expected['eer']:.3f} |"
    assert row in report and row in screen
    assert "| O | session | same | 10 | 30 |" in report
    for text in ("95 %, bootstrap over speakers, 1000 draws", "hamsb 0.", "(det.png)"):
        assert text in report
    for plot in ("det.png", "scores.png"):
        assert (out / plot).read_bytes()[1:4] == b"PNG"


def test_every_similarity_and_normalization(run, corpus, embedded):
    for means, subtract in [(False, False), (False, True), (True, False)]:
        out = run(
            verification_file=f"[{corpus / 'O.txt'}, {corpus / 'H.txt'}]",
            backends="[cosine, hyperbolic]",
            normalizations=ALL,
            cohort=corpus / "train",
            cohort_size=5,
            cohort_speaker_means=means,
            subtract_mean=subtract,
            bootstrap_draws=5,
        )
        found = {(r["list"], r["backend"], r["normalization"]): r for r in records(out)}
        assert len(found) == 20
        cohort = embedded.all_of("train")
        for name in ("O", "H"):
            trials, embeddings = embedded("test", name)
            others = cohort
            if subtract:
                others, embeddings = (e.minus(cohort.mean()) for e in (cohort, embeddings))
            if means:
                others = others.speaker_means()
            for similarity in embedded.similarities:
                raw = score_trials(embeddings, trials, similarity)
                for norm in ("none", "z-norm", "t-norm", "s-norm", "as-norm"):
                    scores = raw
                    if norm != "none":
                        k = 5 if norm == "as-norm" else None
                        statistics = cohort_statistics(embeddings, others, similarity, k)
                        method = "s" if norm == "as-norm" else norm[0]
                        scores = normalize_scores(raw, trials, statistics, method)
                    expected = evaluate_trials(trials, scores)
                    record = found[name, similarity.name, norm]
                    assert record["eer"] == pytest.approx(expected["eer"], abs=1e-12)
                    threshold = expected["eer_threshold"]
                    assert record["eer_threshold"] == pytest.approx(threshold, rel=1e-6)
        report = (out / "report.md").read_text()
        assert "| H: hyperbolic, as-norm | 18 | 18 |" in report
        kind = "their means" if means else "each an utterance"
        assert f"24 utterances of 6 speakers who are in no trial, {kind}" in report
        assert "their mean subtracted" in report or not subtract
        # The first similarity and normalization is what is written.
        trials, embeddings = embedded("test", "H")
        if not subtract:
            written = np.loadtxt(out / "scores_H.txt", usecols=3)
            assert written.tolist() == score_trials(embeddings, trials).tolist()


def test_the_cohort_has_no_speaker_of_the_trials(run, corpus, tmp_path):
    """As a folder, a csv file or several, with fewer utterances of a speaker."""
    everything = tmp_path / "everything"
    for part in ("test", "dev", "train"):
        shutil.copytree(corpus / part, everything, dirs_exist_ok=True)
    options = {"normalizations": "[s-norm]", "bootstrap_draws": 0, "cohort": everything}

    def cohort_line(**changes):
        report = (run(**{**options, **changes}) / "report.md").read_text()
        return next(line for line in report.splitlines() if line.startswith("- Cohort: "))

    assert "40 utterances of 10 speakers" in cohort_line()
    with_dev = {
        "calibration_file": corpus / "dev.txt",
        "calibration_data_folder": corpus / "dev",
    }
    assert "24 utterances of 6 speakers" in cohort_line(**with_dev)
    assert "12 utterances of 6 speakers" in cohort_line(**with_dev, cohort_per_speaker=2)
    table = tmp_path / "out" / "cohort" / "train.csv"
    rows = list(csv.reader(table.open()))
    path = tmp_path / "all.csv"
    for speaker in ("id00", "id21"):  # in the csv, but in the trials
        file = next((everything / "wav" / speaker).rglob("*.wav"))
        rows.append([speaker, "1", str(file), "0", "16000", speaker])
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    assert "24 utterances of 6 speakers" in cohort_line(**with_dev, cohort=path)
    assert "25 utterances of 7 speakers" in cohort_line(cohort=path)
    other = tmp_path / "other.csv"
    shutil.copy(path, other)
    with pytest.raises(ValueError, match="7 speakers occur both in .*25 utterances have"):
        run(**{**options, "cohort": f"[{path}, {other}]"})


def test_a_cohort_of_two_folders_with_namesakes(run, corpus, tmp_path):
    options = {"normalizations": "[s-norm]", "bootstrap_draws": 0}
    options["cohort"] = f"[{corpus / 'train'}, {tmp_path / 'more'}]"
    write_speakers(tmp_path / "more", 2, first=44)
    with pytest.raises(ValueError, match="2 speakers occur both in .*merge_speakers=True"):
        run(**options)
    report = (run(**options, prefix_speakers=True) / "report.md").read_text()
    assert "Cohort: 32 utterances of 8 speakers" in report


def test_utterances_of_a_speaker_are_spread_evenly(corpus, tmp_path):
    prepared = prepare_voxceleb(corpus / "train", tmp_path, dev_speakers=0)
    found = find_cohort(prepared.train_csv, [], per_speaker=2)
    sessions = [Path(file).parts[-2] for file in found.values()]
    assert sessions == ["x", "y"] * 6
    assert all(name.partition("/")[0] == file.parts[-3] for name, file in found.items())


def test_calibration_on_a_list_of_its_own(run, corpus, embedded):
    for measures in [[], ["duration", "norm"]]:
        out = run(
            calibration_file=corpus / "dev.txt",
            calibration_data_folder=corpus / "dev",
            quality_measures=measures,
            normalizations="[none, s-norm]",
            cohort=corpus / "train",
            bootstrap_draws=0,
        )
        found = {r["system"]: r for r in records(out)}
        assert list(found) == [
            "cosine",
            "cosine, s-norm",
            "cosine, calibrated",
            "cosine, s-norm, calibrated",
        ]

        def qualities(trials, embeddings, measures=measures):
            if not measures:
                return None
            lengths = embeddings.matrix.double().norm(dim=1)
            values = torch.stack([embeddings.seconds.log(), lengths], dim=1)
            sides = (values[embeddings.rows(side)] for side in (trials.enrol, trials.test))
            return symmetric_qualities(*sides)

        dev, dev_embeddings = embedded("dev", "dev")
        test, test_embeddings = embedded("test", "O")
        fitted = Calibration.fit(
            score_trials(dev_embeddings, dev), dev.labels, qualities(dev, dev_embeddings)
        )
        ratios = fitted(
            score_trials(test_embeddings, test), qualities(test, test_embeddings)
        )
        record = found["cosine, calibrated"]
        expected = evaluate_trials(test, ratios, calibrated=True)
        assert {key: record[key] for key in expected} == pytest.approx(expected)
        assert len(record["calibration"]["quality_weights"]) == 2 * len(measures)
        assert record["calibrated"] is True and "cllr" not in found["cosine"]
        report = (out / "report.md").read_text()
        assert (
            f"dev.txt, {len(dev)} trials" + ", with duration, norm" * bool(measures)
            in report
        )
        assert "speakers are in the test lists" not in report


def test_a_calibration_list_with_test_speakers_is_reported(run, corpus):
    out = run(calibration_file=corpus / "H.txt", bootstrap_draws=0)
    pairs = [
        [frozenset(line.split()[1:]) for line in (corpus / f"{name}.txt").open()]
        for name in "OH"
    ]
    shared = sum(pair in pairs[1] for pair in pairs[0])
    warning = f"O: {shared} of its 60 trials are in the calibration list H too."
    assert f"- Warning: {warning}" in (out / "report.md").read_text()
    numbers = json.loads((out / "metrics.json").read_text())
    assert warning in numbers["warnings"][0]
    assert len(numbers["speakers"]["lists"]["O"]["in_calibration"]) == 3


def test_speakers_who_trained_the_model_are_told_before_and_after(
    run, corpus, tmp_path, capsys, monkeypatch
):
    model = tmp_path / "model"
    shutil.copytree(corpus / "export", model)
    training = {"speakers": ["id00", "id03", "id40"], "development_speakers": ["id01"]}
    write_training(model, {**training, "data": {}})
    out = run(model=model, bootstrap_draws=0)
    report, screen = (out / "report.md").read_text(), capsys.readouterr().out
    warnings = json.loads((out / "metrics.json").read_text())["warnings"]
    assert "2 of its 5 speakers trained this model (id00, id03)" in warnings[0]
    assert "1 of its 5 speakers served as development speakers" in warnings[1]
    for warning in warnings[:2]:
        assert f"- Warning: {warning}\n" in report
        assert screen.startswith("Warning: ") and screen.count(warning) == 2
    assert "of the 3 that it names: 2 of 5 in O" in report

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(EncoderClassifier, "encode_batch", stop)
    with pytest.raises(KeyboardInterrupt):
        run(model=model, cache_folder="null")
    assert warnings[0] in capsys.readouterr().out


def test_calibrating_on_the_list_that_is_scored_is_told(run, corpus, tmp_path, capsys):
    shutil.copy(corpus / "O.txt", tmp_path / "dev.txt")
    out = run(calibration_file=tmp_path / "dev.txt", bootstrap_draws=0)
    warning = "Warning: O: 60 of its 60 trials are in the calibration list dev too."
    assert warning in (out / "report.md").read_text()
    assert capsys.readouterr().out.startswith(warning)


def test_the_stored_threshold_is_drawn_among_plain_cosines(run, plots, corpus, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(corpus / "export", model)
    options = {"model": model, "bootstrap_draws": 0}
    run(**options)
    assert plots == {"plot_scores": (None, "cosine"), "plot_det": ([], {})}
    calibration = {
        "calibration_file": corpus / "dev.txt",
        "calibration_data_folder": corpus / "dev",
    }
    run(**options, **calibration, store_decision=True)
    threshold = read_decision(model)["thresholds"]["eer"]
    for changes, expected in (
        ({}, (threshold, "cosine")),
        ({"backends": "[cosine, hyperbolic]"}, (threshold, "cosine")),
        ({"backends": "[hyperbolic]"}, (None, "minus hyperbolic distance")),
        (
            {"normalizations": "[z-norm]", "cohort": corpus / "train"},
            (None, "cosine, z-norm"),
        ),
        ({"subtract_mean": True, "cohort": corpus / "train"}, (None, "cosine")),
    ):
        out = run(**options, **changes)
        assert plots["plot_scores"] == expected
        name = "O" if not changes else "cosine"
        marks = {name: threshold} if expected[0] is not None else {}
        assert plots["plot_det"] == ([], marks)
        stored = [r["system"] for r in records(out) if "stored_thresholds" in r]
        assert stored == ["cosine"] * bool(marks)


def test_the_decision_is_stored_with_the_model(run, corpus, embedded, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(corpus / "export", model)
    options = {
        "model": model,
        "calibration_file": corpus / "dev.txt",
        "calibration_data_folder": corpus / "dev",
        "bootstrap_draws": 0,
    }
    run(**options)
    assert read_decision(model) is None
    # Whatever the tables are about, the thresholds are of plain cosines.
    run(
        **options,
        store_decision=True,
        backends="[hyperbolic]",
        cohort=corpus / "train",
        subtract_mean=True,
    )
    trials, embeddings = embedded("dev", "dev")
    scores = score_trials(embeddings, trials)
    expected = evaluate_trials(trials, scores)
    decision = read_decision(model)
    assert decision["thresholds"]["eer"] == expected["eer_threshold"]
    assert decision["list"] == "dev" and decision["eer"] == expected["eer"]
    assert Calibration.from_dict(decision["calibration"]) == Calibration.fit(
        scores, trials.labels
    )

    verification = SpeakerRecognition.from_hparams(
        source=str(model), run_opts={"device": "cpu"}
    )
    roots = corpus / "dev" / "wav"
    decided = []
    for enrol, test, score in zip(trials.enrol[:8], trials.test[:8], scores):
        cosine, same = verification.verify_files(roots / enrol, roots / test)
        assert cosine.item() == pytest.approx(score, abs=1e-6)
        decided.append(same.item())
    assert decided == (scores[:8] >= expected["eer_threshold"]).tolist()


def test_utterances_of_one_name_in_two_corpora(run, corpus, tmp_path):
    """A calibration list may name id00/x/00000.wav of another folder."""
    other = tmp_path / "other"
    shutil.copytree(corpus / "dev" / "wav", other / "wav")
    for number in range(4):
        (other / "wav" / f"id2{number}").rename(other / "wav" / f"id0{number}")
    text = (corpus / "dev.txt").read_text()
    (tmp_path / "dev.txt").write_text(text.replace("id2", "id0"))

    def calibrated(folder, file):
        out = run(calibration_data_folder=folder, calibration_file=file, bootstrap_draws=0)
        return records(out)[1]["calibration"]

    assert calibrated(other, tmp_path / "dev.txt") == calibrated(
        corpus / "dev", corpus / "dev.txt"
    )


def test_groups_by_metadata_and_duration(run, corpus, tmp_path):
    rows = [f"id{i:02d},{'fm'[i % 2]},{i}" for i in range(5)]
    (tmp_path / "meta.csv").write_text("\n".join(["speaker,gender,age", *rows]))
    out = run(
        metadata=tmp_path / "meta.csv",
        metadata_columns="[gender, age]",
        duration_bins="[1.1, 1.3]",
        bootstrap_draws=0,
    )
    found = {(g["what"], g["group"]): g for g in records(out)[0]["groups"]}
    assert {what for what, _ in found} == {"duration", "session", "gender"}
    impostors = [found["gender", name]["impostor_trials"] for name in ("same", "different")]
    assert sum(impostors) == 30 and min(impostors) > 0
    assert "| O | gender | different | 30 |" in (out / "report.md").read_text()


def test_a_second_run_embeds_nothing_and_gives_the_same(run, tmp_path, monkeypatch):
    cache = {"cache_folder": tmp_path / "cache", "bootstrap_draws": 0}
    first = (run(**cache) / "scores_O.txt").read_bytes()
    monkeypatch.setattr(
        EncoderClassifier, "encode_batch", lambda *_: pytest.fail("embedded again")
    )
    assert (run(**cache) / "scores_O.txt").read_bytes() == first
    with pytest.raises(pytest.fail.Exception, match="embedded again"):
        run(cache_folder="null")


def test_another_model_in_the_same_cache(run, corpus, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(corpus / "export", model)
    weights = torch.load(model / "embedding_model.ckpt")
    name = next(name for name in weights if name.endswith("fc.conv.weight"))
    weights[name] = weights[name].flip(1)
    torch.save(weights, model / "embedding_model.ckpt")
    options = {"model": model, "bootstrap_draws": 0}
    run(bootstrap_draws=0)
    cached = (run(**options) / "scores_O.txt").read_bytes()
    plain = (run(**options, cache_folder="null") / "scores_O.txt").read_bytes()
    assert cached == plain


def test_batches_give_the_same_scores(run, monkeypatch):
    sizes, encode_batch = [], EncoderClassifier.encode_batch

    def watched(self, wavs):
        sizes.append(len(wavs))
        return encode_batch(self, wavs)

    monkeypatch.setattr(EncoderClassifier, "encode_batch", watched)
    one, many = (
        np.loadtxt(run(batch_size=size, cache_folder="null") / "scores_O.txt", usecols=3)
        for size in (1, 8)
    )
    np.testing.assert_allclose(one, many, atol=1e-5)
    assert sizes[:20] == [1] * 20 and sorted(sizes[20:]) == [1] * 10 + [2, 8]


def test_no_intervals(run, corpus, tmp_path):
    out = run(bootstrap_draws=0)
    assert "eer_interval" not in records(out)[0]
    assert "95 %" not in (out / "report.md").read_text()
    # A list whose folders are no speakers has none either.
    root = tmp_path / "flat"
    (root / "wav").mkdir(parents=True)
    for i, path in enumerate(sorted((corpus / "test" / "wav").rglob("*.wav"))[:6]):
        shutil.copy(path, root / "wav" / f"{i}.wav")
    (tmp_path / "flat.txt").write_text("1 0.wav 1.wav\n0 0.wav 4.wav\n0 1.wav 5.wav\n")
    flat = {"test_data_folder": root, "verification_file": tmp_path / "flat.txt"}
    (record,) = records(out := run(**flat))
    assert "eer_interval" not in record
    warning = "flat: its paths name no speakers, so there is no interval."
    assert f"- Warning: {warning}\n" in (out / "report.md").read_text()
    assert warning in json.loads((out / "metrics.json").read_text())["warnings"]


def test_priors(run):
    (record,) = records(run(p_targets="[0.3]", bootstrap_draws=0))
    assert "min_dcf_0.3" in record and "min_dcf_0.01" not in record


# What is refused, before anything is embedded


@pytest.fixture
def nothing_is_embedded(monkeypatch):
    monkeypatch.setattr(
        EncoderClassifier, "encode_batch", lambda *_: pytest.fail("embedded")
    )


def test_wrong_values_are_named(run, tmp_path, nothing_is_embedded):
    for changes, message in [
        (
            {"backends": "[cosin]"},
            r"backends=\['cosin'\]: each once, of cosine, hyperbolic",
        ),
        ({"backends": "cosine"}, "backends=cosine: must be a list, similarities"),
        ({"backends": "[cosine, cosine]"}, "backends=.*each once"),
        ({"backends": "[]"}, "backends=.*at least one of"),
        ({"normalizations": "[snorm]"}, "normalizations=.*none, z-norm, t-norm"),
        ({"normalizations": "[none, s-norm]"}, "normalizations=.*needs a cohort"),
        ({"subtract_mean": True}, "subtract_mean=True: needs a cohort"),
        ({"quality_measures": "[duration]"}, "quality_measures=.*needs a calibration_file"),
        ({"quality_measures": "[snr]"}, "quality_measures=.*of duration, norm"),
        ({"store_decision": True}, "store_decision=True: needs a calibration_file"),
        ({"p_targets": "[0.01, 1]"}, "p_target must be in"),
        ({"batch_size": "1.5"}, "batch_size=1.5: must be a whole number"),
        ({"cohort_size": -1}, "cohort_size=-1: must be a whole number"),
        ({"num_workers": -1}, "num_workers=-1: must be a whole number, at least 0"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number, at least 1"),
        ({"duration_bins": "[5, 3]"}, r"duration_bins=\[5, 3\]: must ascend"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(**changes)
        assert not (tmp_path / "out").exists()


def test_a_list_is_needed(run, nothing_is_embedded, tmp_path):
    for none, message in (("[]", "at least one trial list"), ("null", "must be given")):
        with pytest.raises(ValueError, match=f"verification_file=.*{message}"):
            run(verification_file=none)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_script_is_left_as_it_is(run, tmp_path, nothing_is_embedded):
    write_run(tmp_path / "out", {"script": "train.py"})
    (tmp_path / "out" / "report.md").write_text("of the training")
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match="output_folder=.*holds a run of train.py"):
        run()
    assert contents(tmp_path / "out") == before


def test_one_verification_at_a_time_has_the_folder(run, tmp_path, monkeypatch):
    held, encode_batch = [], EncoderClassifier.encode_batch

    @contextmanager
    def only_run(folder):
        held.append(folder)
        yield
        held.remove(folder)
        assert (tmp_path / "out" / "run.json").is_file()

    def watched(self, wavs):
        assert held == [tmp_path / "out"]
        return encode_batch(self, wavs)

    monkeypatch.setattr(verify, "only_run", only_run)
    monkeypatch.setattr(EncoderClassifier, "encode_batch", watched)
    run(bootstrap_draws=0, cache_folder="null")
    assert not held


def test_wrong_data_are_named(run, corpus, tmp_path, nothing_is_embedded):
    def refused(error, message, **changes):
        with pytest.raises(error, match=message):
            run(**changes)

    refused(FileNotFoundError, "no exported model here", model=tmp_path)
    lines = (corpus / "O.txt").read_text().splitlines(keepends=True)
    bad = tmp_path / "bad.txt"
    for line, message in (
        ("0 id00/x/00000.wav id01/no/1.wav\n", "bad.txt:3: no file for id01/no/1.wav"),
        ("2 id00/x/00000.wav id01/x/00000.wav\n", "bad.txt:3: label must be 0 or 1"),
        ("\n", "bad.txt:3: empty line"),
    ):
        bad.write_text("".join([*lines[:2], line, *lines[2:]]))
        refused((ValueError, FileNotFoundError), message, verification_file=bad)
    norm = {"normalizations": "[as-norm]", "cohort": corpus / "train"}
    refused(
        ValueError, "cohort_size=300: as-norm takes .* most the 24 of the cohort", **norm
    )
    refused(ValueError, "most the 6 of", **norm, cohort_speaker_means=True, cohort_size=7)
    refused(
        FileNotFoundError, "nowhere", normalizations="[s-norm]", cohort=tmp_path / "nowhere"
    )
    table = tmp_path / "table.csv"
    table.write_text("wav,speaker\n")
    refused(ValueError, "table.csv:1: no column spk_id", cohort=table)
    table.write_text("wav,spk_id\n/a.wav,\n")
    refused(ValueError, "cohort: .*table.csv:2: needs a file and a speaker", cohort=table)
    table.write_text(f"wav,spk_id\n{corpus}/test/wav/id00/x/00000.wav,id00\n")
    refused(ValueError, "1 of 1 files .*: 1 of a speaker of the trial lists", cohort=table)
    refused(
        FileNotFoundError, "gone.csv: no such file or folder", cohort=tmp_path / "gone.csv"
    )
    (tmp_path / "meta.csv").write_text("speaker,gender\nid00,f\n")
    refused(
        ValueError, r"O.txt:\d+: .*meta.csv has no speaker", metadata=tmp_path / "meta.csv"
    )


def test_a_model_without_a_ball_has_no_hyperbolic_scores(run, corpus, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(corpus / "export", model)
    shutil.copy(model / "embedding.yaml", model / "hyperparams.yaml")
    run(model=model, bootstrap_draws=0)
    with pytest.raises(
        ValueError, match="hyperbolic needs the ball of .* this model does not have"
    ):
        run(model=model, backends="[cosine, hyperbolic]")


# All or nothing


def test_bad_audio_names_list_and_file_and_leaves_earlier_results(run, corpus, tmp_path):
    test, dev = tmp_path / "test", tmp_path / "dev"
    shutil.copytree(corpus / "test", test)
    shutil.copytree(corpus / "dev", dev)
    options = {
        "cache_folder": tmp_path / "cache",
        "test_data_folder": test,
        "calibration_data_folder": dev,
        "calibration_file": corpus / "dev.txt",
        "bootstrap_draws": 0,
    }
    out = run(**options)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for root, name in ((test, "O"), (dev, "dev")):
        trials = read_trials(corpus / f"{name}.txt")
        utterance = trials.utterances[-1]
        good = (root / "wav" / utterance).read_bytes()
        for bad, fault in (
            (b"RIFF, but no audio", "cannot be read"),
            (good[:844], "lasts 0.0250 s, and the model needs at least 0"),
        ):
            (root / "wav" / utterance).write_bytes(bad)
            with pytest.raises(
                ValueError, match=f"(?s){name}.txt: 1 of .*{root}/wav/{utterance}: {fault}"
            ):
                run(**options)
        (root / "wav" / utterance).write_bytes(good)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_results_appear_whole_or_not_at_all(run, tmp_path, monkeypatch):
    for place, broken in [
        (plots_module, "plot_det"), (results, "write_scores"), (results, "groups_table"),
    ]:  # fmt: skip
        out = run(p_targets="[0.3]", bootstrap_draws=0)
        before = {path.name: path.read_bytes() for path in out.iterdir()}

        def fail(*_, **__):
            raise OSError("disk full")

        with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
            patch.setattr(place, broken, fail)
            run(bootstrap_draws=0)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
        with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
            patch.setattr(place, broken, fail)
            run(output_folder=tmp_path / "new", bootstrap_draws=0)
        assert not (tmp_path / "new").exists() or not list((tmp_path / "new").iterdir())
        run(bootstrap_draws=0)
        assert {path.name for path in out.iterdir()} == set(before)
