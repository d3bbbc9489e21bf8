"""The synthetic corpus: layout, contents, statistics and determinism.

One tiny corpus is spoken once by the real eSpeak NG; what needs many speakers
is tested on the draws, which cost nothing.
"""

import csv
import hashlib
import json
import sys
from collections import Counter

import numpy as np
import pytest
import soundfile
from scipy.stats import spearmanr

from hamsb.augment import simulation

pytest.importorskip("espeakng_loader")
mini_corpus = pytest.importorskip("mini.mini_corpus")

TINY = dict(  # noqa: C408, these are arguments
    seed=7,
    train_speakers=3,
    test_speakers=8,
    sessions=2,
    utterances=2,
    duration=1.5,
    trials=40,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """A tiny corpus, made by two workers."""
    folder = tmp_path_factory.mktemp("mini") / "deep" / "corpus"
    return mini_corpus.make_mini_corpus(folder, **TINY, workers=2)


@pytest.fixture
def data_folder(tmp_path):
    """A folder with eSpeak's data."""
    mini_corpus.copy_espeak_data(tmp_path)
    return tmp_path


@pytest.fixture
def espeak(data_folder):
    """eSpeak NG in the process of the tests."""
    with mini_corpus.Espeak(data_folder) as engine:
        yield engine


def metadata(folder):
    """The rows of metadata.csv as dictionaries of text."""
    with open(folder / "metadata.csv", newline="", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def digests(folder):
    """Relative path -> hash, of all files."""
    return {
        str(path.relative_to(folder)): hashlib.md5(path.read_bytes()).digest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def never(*_arguments):
    """Stands where nothing may be synthesised."""
    raise AssertionError("a corpus was built")


# ----------------------------------------------------------------- the files


def test_layout_and_metadata(corpus):
    rows = metadata(corpus)
    assert Counter(row["part"] for row in rows) == {"train": 12, "test": 32}
    for part, speakers in (("train", 3), ("test", 8)):
        mine = [row for row in rows if row["part"] == part]
        root = corpus / part / "wav"
        files = {str(p.relative_to(root)) for p in root.rglob("*.wav")}
        assert files == {row["path"] for row in mine}
        assert len({row["speaker"] for row in mine}) == speakers
        for row in mine:
            names = row["path"].split("/")
            assert names[:2] == [row["speaker"], row["session"]]
    parts = {(row["speaker"], row["part"]) for row in rows}
    assert len(parts) == len({speaker for speaker, _ in parts})
    assert all(value for row in rows for value in row.values())
    marker = json.loads((corpus / mini_corpus.MARKER).read_text())
    assert marker == {**TINY, "format_version": mini_corpus.FORMAT_VERSION}
    names = {path.name for path in corpus.iterdir()}
    assert names == {
        "train",
        "test",
        "veri_test.txt",
        "metadata.csv",
        mini_corpus.MARKER,
    }
    assert [path.name for path in corpus.parent.iterdir()] == ["corpus"]


def test_audio_is_sane(corpus):
    rows = metadata(corpus)
    # 1.5 s are asked for; noise at both ends adds 0.25 s on average.
    middle = np.median([float(row["duration_s"]) for row in rows])
    assert middle == pytest.approx(1.75, rel=0.15)
    for row in rows:
        path = corpus / row["part"] / "wav" / row["path"]
        info = soundfile.info(path)
        kind = (info.samplerate, info.channels, info.subtype)
        assert kind == (16000, 1, "PCM_16")
        wave, _ = soundfile.read(path)
        assert 0.8 < wave.size / 16000 < 3.0
        assert wave.size / 16000 == float(row["duration_s"])
        assert 0.01 < np.abs(wave).max() < 0.96
        level = 10 * np.log10(np.mean(wave**2))
        assert level < float(row["level_dbfs"]) + 0.1
        assert level > float(row["level_dbfs"]) - 6.0
        assert abs(wave.mean()) < 0.002
        # Speech comes and goes: the loudest tenth of the frames is well above
        # the median one.
        frames = wave[: wave.size // 320 * 320].reshape(-1, 320)
        energy = np.sort(10 * np.log10(np.mean(frames**2, 1) + 1e-12))
        assert energy[-energy.size // 10] > energy[energy.size // 2] + 1.0


def test_sessions_of_a_speaker_all_differ(corpus):
    rows = metadata(corpus)
    for key in ("channel_db", "snr_db", "rt60_s", "pitch", "level_dbfs"):
        values = {(row["path"].rsplit("/", 1)[0], row[key]) for row in rows}
        assert len(values) == 22
        assert len({value for _, value in values}) >= 21  # a rare tie
    assert len({row["text"] for row in rows}) == len(rows)


def test_trial_list(corpus):
    speaker = {
        row["path"]: (row["speaker"], row["session"])
        for row in metadata(corpus)
        if row["part"] == "test"
    }
    lines = (corpus / "veri_test.txt").read_text().splitlines()
    trials = [line.split() for line in lines]
    assert len({frozenset(trial[1:]) for trial in trials}) == len(trials)
    for label, enrol, test in trials:
        same = speaker[enrol][0] == speaker[test][0]
        assert label == str(int(same))
        assert not same or speaker[enrol][1] != speaker[test][1]
    # Eight speakers: two families twice, but no accent of a family twice.
    assert Counter(trial[0] for trial in trials) == {"1": 20, "0": 14}


# --------------------------------------------------------------- determinism


def test_bytes_depend_on_neither_workers_nor_other_speakers(corpus, tmp_path):
    other = {**TINY, "train_speakers": 4, "test_speakers": 2}
    other = mini_corpus.make_mini_corpus(tmp_path / "other", **other, workers=1)
    ours, theirs = digests(corpus), digests(other)
    shared = {name for name in theirs if name in ours and "wav" in name}
    assert len(shared) == (3 + 2) * 2 * 2
    assert all(theirs[name] == ours[name] for name in shared)
    rows = {(row["part"], row["path"]): row for row in metadata(corpus)}
    same = [row for row in metadata(other) if row == rows.get((row["part"], row["path"]))]
    assert len(same) == len(shared)


def test_trials_depend_on_the_seed(corpus):
    rows = [row for row in metadata(corpus) if row["part"] == "test"]
    drawn = [list(mini_corpus.draw_trials(rows, 10, seed)) for seed in (7, 7, 8)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_another_seed_is_another_corpus():
    for part in ("train", "test"):
        one, two = (mini_corpus.draw_speaker(s, part, 0) for s in (1, 2))
        assert one.name == two.name and one.formants != two.formants
        one, two = (mini_corpus.session_of(s, part, 0, 0) for s in (1, 2))
        assert one.channel_db != two.channel_db
    train, test = (mini_corpus.draw_speaker(1, p, 0) for p in ("train", "test"))
    assert train.formants != test.formants


def test_a_fresh_espeak_remembers_nothing(data_folder):
    """What was said before the library was unloaded does not matter.

    Flutter and roughness, which the corpus does not use, show what there is
    to remember: with them even a repeated utterance differs.
    """
    speaker = mini_corpus.draw_speaker(3, "train", 0)
    variant = mini_corpus.variant_text(speaker)
    for name in ("flutter", "roughness"):
        assert f"{name} 0" in variant
        variant = variant.replace(f"{name} 0", f"{name} 5")
    said = ("A thirsty sailor painted nine houses.", "en-US", variant, 160)
    waves = []
    for words in range(4):
        with mini_corpus.Espeak(data_folder) as engine:
            waves.append(engine.say(*said))
            repeated = engine.say(*said)
            for _ in range(words):
                engine.say("Something else.", "en-029", variant, 200)
    assert not np.array_equal(repeated, waves[0])
    for wave in waves[1:]:
        np.testing.assert_array_equal(wave, waves[0])


def test_the_seed_of_espeak_is_its_breath(espeak):
    speaker = mini_corpus.draw_speaker(3, "train", 0)
    breathy = mini_corpus.Speaker(**{**vars(speaker), "breath": 6})
    said = ("Hello.", "en-US", mini_corpus.variant_text(breathy), 160)
    one, two = (espeak.say(*said, seed=seed) for seed in (1, 2))
    assert not np.array_equal(one, two)


def test_espeak_does_not_clip(espeak):
    for index in range(60):
        speaker = mini_corpus.draw_speaker(1, "train", index)
        variant = mini_corpus.variant_text(speaker)
        wave = espeak.say("Nine old houses.", speaker.accent, variant, 180)
        assert 0.02 < np.abs(wave).max() < 0.9


# --------------------------------------------------------------- the draws


def test_speakers_are_distinct_and_the_hierarchy_is_filled():
    speakers = [
        mini_corpus.draw_speaker(1, part, index)
        for part, count in (("train", 150), ("test", 60))
        for index in range(count)
    ]
    assert len({s.name for s in speakers}) == 210
    assert len({(s.tract, s.formants, s.strengths) for s in speakers}) == 210
    leaves = Counter((s.part, s.family, s.accent) for s in speakers)
    cells = len(mini_corpus.FAMILIES) * len(mini_corpus.ACCENTS)
    assert len(leaves) == 2 * cells
    assert min(leaves.values()) == 60 // cells >= 2
    for speaker in speakers:
        low, high, tract = mini_corpus.FAMILIES[speaker.family]
        assert low <= speaker.f0_hz <= high
        assert speaker.tract == pytest.approx(tract, rel=0.1)


def test_a_session_knows_nothing_of_its_speaker():
    """One-way analysis of variance: no parameter clusters by speaker.

    Under independence F has mean 1 and, with 199 and 1400 degrees of freedom,
    a standard deviation of 0.11; a constant channel would give infinity.
    """
    sessions = [
        [mini_corpus.session_of(5, "train", speaker, s) for s in range(8)]
        for speaker in range(200)
    ]
    values = {
        key: np.array([[getattr(s, key) for s in row] for row in sessions])
        for key in ("pitch", "rate_wpm", "snr_db", "rt60_s", "drr_db")
        + ("low_cut_hz", "high_cut_hz", "channel_db", "level_dbfs")
    }
    values["noise"] = np.array([[s.noise == "hum" for s in row] for row in sessions], float)
    for key, value in values.items():
        value = value.reshape(200, 8, -1)
        between = 8 * value.mean(1).var(0, ddof=1)
        within = value.var(1, ddof=1).mean(0)
        ratio = between / within
        assert np.all((0.6 < ratio) & (ratio < 1.5)), (key, ratio)
        assert np.all(value.std((0, 1)) > 0), key


def test_no_session_draws_its_speakers_random_numbers():
    """Voice and day come from different generators, the first day too.

    300 independent pairs: a rank correlation beyond 0.3 has p < 1e-6.
    """
    for part in ("train", "test"):
        speakers = [mini_corpus.draw_speaker(1, part, i) for i in range(300)]
        bounds = [mini_corpus.FAMILIES[speaker.family] for speaker in speakers]
        voice = [
            [(s.f0_hz - low) / (high - low), s.span, s.formants[0], s.voicing]
            for s, (low, high, _) in zip(speakers, bounds)
        ]
        for number in range(3):
            days = [mini_corpus.session_of(1, part, i, number) for i in range(300)]
            day = [[d.pitch, d.rate_wpm, d.snr_db, d.rt60_s] for d in days]
            rank = spearmanr(np.hstack([voice, day])).statistic
            np.fill_diagonal(rank, 0.0)
            assert np.abs(rank).max() < 0.3


def test_no_session_is_among_the_distortions(monkeypatch):
    """Whatever the seeds: they are those of speakers whom no corpus has."""
    drawn, draw = [], simulation.draw_session
    monkeypatch.setattr(
        simulation, "draw_session", lambda rng: drawn.append(draw(rng)) or drawn[-1]
    )
    for number in range(3):
        simulation.draw_response(1, number)
    assert len(set(drawn)) == 3
    for speaker in range(3):
        assert mini_corpus.session_of(1, "train", speaker, 0) not in drawn
    with pytest.raises(ValueError, match="at most 9999"):
        mini_corpus.Options(1, 10000, 2, 2, 1, 2.5, 2)
    assert drawn[0] == mini_corpus.session_of(1, "train", 10000, 0)


def test_text_has_the_words_asked_for_and_varies():
    rng = np.random.default_rng(0)
    texts = [mini_corpus.draw_text(rng, 9) for _ in range(500)]
    assert {len(text.split()) for text in texts} == {9}
    assert len(set(texts)) == 500
    words = {word.strip(".").lower() for text in texts for word in text.split()}
    assert len(words) > 120


def test_trials_mix_hard_and_easy_impostors():
    rows = [
        {
            "speaker": speaker.name,
            "session": f"{session}",
            "family": speaker.family,
            "accent": speaker.accent,
            "path": f"{speaker.name}/{session}/{utterance}",
        }
        for speaker in (mini_corpus.draw_speaker(1, "test", index) for index in range(60))
        for session in range(2)
        for utterance in range(2)
    ]
    where = {row["path"]: row for row in rows}
    trials = mini_corpus.draw_trials(rows, 240, seed=1)
    kinds = Counter()
    for label, enrol, test in trials:
        one, two = where[enrol], where[test]
        same = one["speaker"] == two["speaker"]
        assert label == same
        assert not same or one["session"] != two["session"]
        kin = one["family"] == two["family"]
        close = kin and one["accent"] == two["accent"]
        kinds["same" if same else "close" if close else kin] += 1
    assert kinds == {"same": 120, "close": 40, True: 40, False: 40}
    assert trials == mini_corpus.draw_trials(rows, 240, seed=1)
    assert trials != mini_corpus.draw_trials(rows, 240, seed=2)


# --------------------------------------------------------------- the signal


def pitch_hz(wave, rate):
    """Median over loud frames of the autocorrelation's highest peak."""
    found = []
    for start in range(0, wave.size - 1024, 512):
        frame = wave[start : start + 1024]
        if np.sqrt(np.mean(frame**2)) < 0.1 * np.abs(wave).max():
            continue
        power = np.abs(np.fft.rfft(frame - frame.mean(), 4096)) ** 2
        echo = np.fft.irfft(power)
        first, last = rate // 550, rate // 55
        lag = first + np.argmax(echo[first:last])
        if echo[lag] > 0.6 * echo[0]:
            found.append(rate / lag)
    return np.median(found)


def test_the_voice_is_the_speakers(espeak):
    """eSpeak speaks at the pitch and with the formants of the variant."""
    text = "The old teacher followed a yellow river outside."
    for index in range(len(mini_corpus.FAMILIES)):
        speaker = mini_corpus.draw_speaker(1, "train", index)
        pitches = []
        for factor in (0.85, 1.2):
            variant = mini_corpus.variant_text(speaker, factor)
            wave = espeak.say(text, speaker.accent, variant, 160)
            pitch = pitch_hz(wave, espeak.sample_rate)
            bottom = 0.95 * factor * speaker.f0_hz
            assert bottom < pitch < 1.1 * factor * speaker.f0_hz * speaker.span
            pitches.append(pitch)
        assert pitches[1] / pitches[0] == pytest.approx(1.2 / 0.85, rel=0.1)
    centroids = []
    for tract in (0.9, 1.1, 1.3):
        voice = mini_corpus.Speaker(**{**vars(speaker), "tract": tract, "f0_hz": 120.0})
        wave = espeak.say(text, "en-US", mini_corpus.variant_text(voice), 160)
        power = np.abs(np.fft.rfft(wave)) ** 2
        hertz = np.fft.rfftfreq(wave.size, 1 / espeak.sample_rate)
        kept = hertz > 500
        centroids.append(np.average(hertz[kept], weights=power[kept]))
    assert centroids[0] < centroids[1] < centroids[2]


def test_trim_silence():
    wave = np.concatenate([np.zeros(50), [0.1, 0.0, -0.2], np.full(9, 1e-3)])
    np.testing.assert_array_equal(mini_corpus.trim_silence(wave), [0.1, 0.0, -0.2])


# ------------------------------------------------- finding, replacing, refusing


def fake_write(folder, options, workers):
    """In place of the synthesis: only the marker."""
    text = json.dumps(mini_corpus.asdict(options))
    (folder / mini_corpus.MARKER).write_text(text)


def test_a_corpus_is_found_and_not_made_again(corpus, monkeypatch):
    monkeypatch.setattr(mini_corpus, "_write_corpus", never)
    assert mini_corpus.make_mini_corpus(str(corpus), **TINY) == corpus
    options = {**TINY, "seed": 8}
    before = digests(corpus)
    with pytest.raises(AssertionError, match="was built"):
        mini_corpus.make_mini_corpus(corpus, **options)
    assert digests(corpus) == before  # the old one stays until the new is whole
    assert [path.name for path in corpus.parent.iterdir()] == ["corpus"]
    version = mini_corpus.FORMAT_VERSION + 1
    monkeypatch.setattr(mini_corpus.Options, "format_version", version)
    monkeypatch.setattr(
        mini_corpus.Options.__init__,
        "__defaults__",
        (version,),
    )
    with pytest.raises(AssertionError, match="was built"):
        mini_corpus.make_mini_corpus(corpus, **TINY)


def test_a_corpus_of_other_options_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_corpus, "_write_corpus", fake_write)
    folder = tmp_path / "corpus"
    folder.mkdir()  # an empty folder is in nobody's way
    mini_corpus.make_mini_corpus(folder, seed=1)
    (folder / "train").mkdir()
    mini_corpus.make_mini_corpus(folder, seed=2)
    assert json.loads((folder / mini_corpus.MARKER).read_text())["seed"] == 2
    assert not (folder / "train").exists()
    (folder / mini_corpus.MARKER).write_text("{ damaged")
    mini_corpus.make_mini_corpus(folder, seed=2)
    assert json.loads((folder / mini_corpus.MARKER).read_text())["seed"] == 2


def test_other_peoples_files_are_safe(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_corpus, "_write_corpus", never)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("precious")
    with pytest.raises(ValueError, match="thesis exists and is not a mini"):
        mini_corpus.make_mini_corpus(tmp_path / "thesis")
    with pytest.raises(ValueError, match="chapter.tex exists"):
        mini_corpus.make_mini_corpus(tmp_path / "thesis" / "chapter.tex")
    monkeypatch.setattr(mini_corpus, "_write_corpus", fake_write)
    folder = mini_corpus.make_mini_corpus(tmp_path / "corpus", seed=1)
    (folder / "results").mkdir()
    with pytest.raises(ValueError, match="results"):
        mini_corpus.make_mini_corpus(folder, seed=2)
    assert (folder / "results").is_dir()
    assert mini_corpus.make_mini_corpus(folder, seed=1) == folder


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(folder, options, workers):
        (folder / "train").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(mini_corpus, "_write_corpus", interrupted)
    with pytest.raises(KeyboardInterrupt):
        mini_corpus.make_mini_corpus(tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_the_faster_of_two_processes_wins(tmp_path, monkeypatch):
    folder = tmp_path / "corpus"

    def overtaken(work, options, workers):
        fake_write(work, options, workers)
        folder.mkdir()
        fake_write(folder, options, workers)
        (folder / "theirs").touch()

    monkeypatch.setattr(mini_corpus, "_write_corpus", overtaken)
    mini_corpus.make_mini_corpus(folder, seed=1)
    assert (folder / "theirs").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_the_folder_may_be_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_corpus, "_write_corpus", fake_write)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    mini_corpus.make_mini_corpus(".")
    assert (tmp_path / "here" / mini_corpus.MARKER).exists()


def test_senseless_options(tmp_path, monkeypatch):
    monkeypatch.setattr(mini_corpus, "_write_corpus", never)
    for name, value in (
        ("seed", -1), ("seed", 1.5),
        ("train_speakers", 1), ("train_speakers", True),
        ("test_speakers", 0), ("test_speakers", 10000),
        ("sessions", 1), ("sessions", 10000),
        ("utterances", 0),
        ("duration", 0.2), ("duration", float("nan")), ("duration", "2"),
        ("trials", 1),
        ("workers", 0), ("workers", 2.0),
    ):  # fmt: skip
        with pytest.raises(ValueError) as error:
            mini_corpus.make_mini_corpus(tmp_path / "corpus", **{name: value})
        assert name in str(error.value) and str(value) in str(error.value)
        assert list(tmp_path.iterdir()) == []


def test_without_espeak_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match=r'pip install "hamsb\[mini\]"'):
        mini_corpus.make_mini_corpus(tmp_path / "corpus")
    assert list(tmp_path.iterdir()) == []


def test_command_line(corpus, monkeypatch, capsys):
    monkeypatch.setattr(mini_corpus, "_write_corpus", never)
    arguments = [str(corpus)]
    for name, value in TINY.items():
        arguments += ["--" + name.replace("_", "-"), str(value)]
    mini_corpus.main(arguments)
    out = capsys.readouterr().out
    assert "train: 3 speakers, 12 files" in out
    assert "test: 8 speakers, 32 files" in out
    assert "trials: 34" in out
