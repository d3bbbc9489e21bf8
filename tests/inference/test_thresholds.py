"""A threshold of one's own domain: chosen, kept beside the model, and of no other."""

import itertools
import json
import shutil

import pytest

import runs
from hamsb.inference import EmbeddingExtractor, SpeakerRecognition, cli
from hamsb.inference.thresholds import find_threshold
from hamsb.verification.decision import make_decision, read_decision
from hamsb.verification.evaluation import decision_errors
from hamsb.verification.lookup import read_lists
from hamsb.verification.scoring import score_trials
from hamsb.verification.training_data import write_training


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An untrained model without a decision, recordings of six speakers, and trials."""
    place = tmp_path_factory.mktemp("threshold")
    runs.export_untrained(place / "model", runs.EXPERIMENT)
    files = []
    for speaker in range(6):
        for number in range(4):
            name = f"s{speaker}/a/{number}.wav"
            seed = 7 * speaker + number
            runs.write_wav(place / "data" / "wav" / name, 8000 + 500 * number, seed=seed)
            files.append(name)
    pairs = [
        (one.split("/")[0] == other.split("/")[0], one, other)
        for at, one in enumerate(files)
        for other in files[at + 1 :]
    ]
    write(place / "mine.txt", pairs)
    return place


def write(path, pairs):
    path.write_text("".join(f"{int(label)} {one} {other}\n" for label, one, other in pairs))


def read(path):
    for line in path.read_text().splitlines():
        label, one, other = line.split()
        yield label == "1", one, other


def test_it_is_the_decision_of_these_trials(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = runs.contents(place / "model")
    model, data = str(place / "model"), str(place / "data")
    assert cli.main(["threshold", model, str(place / "mine.txt"), data]) == 0
    said = capsys.readouterr()
    assert "36 target and 240 impostor trials, speakers: 6" in said.out
    assert "95 % interval over speakers" in said.out
    assert (
        "fewer than 30 errors" in said.err and "--decision=mine_decision.json" in said.err
    )
    assert runs.contents(place / "model") == before

    extractor = EmbeddingExtractor(model)
    (trials,), files = read_lists(place / "mine.txt", data)
    scores = score_trials(extractor.embed_files(files, progress=False), trials)
    expected = make_decision(trials, scores)
    written = json.loads((tmp_path / "mine_decision.json").read_text())
    assert written == {"model": extractor.fingerprint, **expected}
    errors = decision_errors(scores, trials.labels, expected["thresholds"]["eer"])
    line = next(line for line in said.out.splitlines() if line.startswith("| eer"))
    assert f"({errors['misses']})" in line and f"({errors['false_alarms']})" in line

    # The model and those who load it decide with it.
    given = tmp_path / "mine_decision.json"
    loaded = SpeakerRecognition.from_hparams(model, decision=given)
    assert loaded.threshold() == expected["thresholds"]["eer"]
    assert EmbeddingExtractor(model, decision=str(given)).recognition.decision == written
    pair = [str(files[name]) for name in (trials.enrol[0], trials.test[0])]
    capsys.readouterr()
    status = cli.main(["verify", model, *pair, f"--decision={given}"])
    assert status == (0 if scores[0] >= expected["thresholds"]["eer"] else 3)
    assert cli.main(["verify", model, *pair]) == 4  # the model has none of its own
    assert read_decision(model) is None


def test_another_model_is_refused(place, tmp_path, capsys):
    found = find_threshold(
        EmbeddingExtractor(place / "model"), place / "mine.txt", place / "data", draws=0
    )
    assert found.interval is None
    found.write(tmp_path / "mine.json")
    shutil.copytree(place / "model", tmp_path / "copy")
    EmbeddingExtractor(tmp_path / "copy", decision=tmp_path / "mine.json")  # it is the same
    yaml = tmp_path / "copy" / "hyperparams.yaml"
    yaml.write_text(yaml.read_text() + "# another\n")
    with pytest.raises(ValueError, match=r"mine.json: of another model \(.{12}\), and"):
        SpeakerRecognition.from_hparams(tmp_path / "copy", decision=tmp_path / "mine.json")


def test_too_few(place, tmp_path):
    model = EmbeddingExtractor(place / "model")
    pairs = [*read(place / "mine.txt")]
    targets, impostors = (
        [each for each in pairs if each[0] is kind] for kind in (True, False)
    )
    first = [each for each in pairs if not {"s4", "s5"} & {each[1][:2], each[2][:2]}]
    few = {
        "29 target trials": [*targets[:29], *impostors],
        "29 impostor trials": [*targets, *impostors[:29]],
        "4 speakers": 4 * first,
    }
    for why, trials in few.items():
        write(tmp_path / "few.txt", trials)
        with pytest.raises(ValueError, match=f"few.txt: {why} are too few"):
            find_threshold(model, tmp_path / "few.txt", place / "data")


def test_speakers_that_trained_the_model_are_told(place, tmp_path):
    shutil.copytree(place / "model", tmp_path / "model")
    trained = {"speakers": ["s0", "x"], "development_speakers": [], "data": {}}
    write_training(tmp_path / "model", trained)
    given = EmbeddingExtractor(tmp_path / "model"), place / "mine.txt", place / "data"
    found = find_threshold(*given, draws=0, progress=False)
    assert any("1 of its 6 speakers trained this model (s0)" in w for w in found.warnings)


def test_where_it_must_not_go(place, tmp_path, capsys):
    given = [
        "threshold",
        str(place / "model"),
        str(place / "mine.txt"),
        str(place / "data"),
    ]
    for output, why in (
        (place / "model" / "decision.json", "in the model's folder"),
        (tmp_path, "a folder; give a file"),
    ):
        assert cli.main([*given, "-o", str(output)]) == 2
        assert why in capsys.readouterr().err
    assert not (place / "model" / "decision.json").exists()


def test_models_of_several_recordings_and_a_kaldi_directory(place, tmp_path):
    """As CN-Celeb's lists have them: a model enrols with the mean of two recordings."""
    kaldi, lists = tmp_path / "kaldi", tmp_path / "lists"
    kaldi.mkdir()
    lists.mkdir()
    models, trials = [], []
    for speaker in range(6):
        names = [f"s{speaker}-{number}" for number in range(4)]
        for at, pair in enumerate(itertools.combinations(names, 2)):
            models.append(f"m{speaker}-{at} {' '.join(pair)}\n")
            others = [name for name in names if name not in pair]
            others += [f"s{(speaker + 1) % 6}-{at % 4}"]
            trials += [
                f"m{speaker}-{at} {name} {int(name.startswith(f's{speaker}'))}\n"
                for name in others
            ]
    for name, column in (("wav.scp", None), ("utt2spk", 0)):
        lines = (
            (f"s{s}-{n}", f"s{s}" if column == 0 else place / f"data/wav/s{s}/a/{n}.wav")
            for s in range(6)
            for n in range(4)
        )
        (kaldi / name).write_text("".join(f"{key} {value}\n" for key, value in lines))
    (lists / "enroll.map").write_text("".join(models))
    (lists / "calls.lst").write_text("".join(trials))
    extractor = EmbeddingExtractor(str(place / "model"))
    found = find_threshold(extractor, lists / "calls.lst", kaldi, draws=0, progress=False)
    assert (found.decision["target_trials"], found.decision["impostor_trials"]) == (72, 36)
    assert found.speakers == 6
    with pytest.raises(FileNotFoundError, match="^data=/nowhere: no such file or folder"):
        find_threshold(extractor, lists / "calls.lst", "/nowhere")


def test_labels_that_folders_contradict(place, tmp_path):
    """Where a folder is no speaker's: told, and there is no interval."""
    pairs = [
        (label or {one[:2], other[:2]} == {"s0", "s1"}, one, other)
        for label, one, other in read(place / "mine.txt")
    ]
    write(tmp_path / "mine.txt", pairs)
    extractor = EmbeddingExtractor(str(place / "model"))
    data = place / "data"
    found = find_threshold(extractor, tmp_path / "mine.txt", data, progress=False)
    assert found.interval is None
    assert any("16 of its 276 labels contradict the" in each for each in found.warnings)
