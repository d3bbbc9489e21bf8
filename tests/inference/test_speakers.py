"""The store of enrolled speakers: kept, shared by processes, and who speaks."""

import json
import math
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from hamsb import EmbeddingExtractor, Speakers
from hamsb.dataio.annotations import Utterance
from hamsb.inference import speakers as speakers_module
from hamsb.utils import files
from hamsb.verification.embeddings import Embeddings
from runs import fork, status_of, write_wav


@pytest.fixture(scope="module")
def extractor(model):
    return EmbeddingExtractor(model)


@pytest.fixture
def store(tmp_path, extractor):
    return Speakers(tmp_path / "speakers.json", extractor)


class Stub:
    """An extractor whose embedding is its file's number."""

    source, fingerprint, sample_rate = "stub", "0" * 64, 16000
    recognition = None

    def embed_files(self, files, **options):
        values = [float(Path(path).read_text()) for path in files.values()]
        rows = torch.tensor([[value, 1.0] for value in values])
        seconds = torch.ones(len(values), dtype=torch.float64)
        return Embeddings(tuple(files), rows, seconds)


def test_what_is_enrolled_is_kept_to_the_last_bit(store, extractor, speech):
    a, b = [speech / "a" / "1.wav", speech / "a" / "2.wav"], speech / "b" / "1.wav"
    assert store.names == () and len(store) == 0 and not store.path.exists()
    assert store.enroll("anna", a) == 2
    assert store.enroll_many({"bob é": [b], "anna": a[:1]}) == 1
    for found in (store, Speakers(store.path, extractor), Speakers(store.path)):
        assert found.names == ("anna", "bob é") and "anna" in found and len(found) == 2
        own = found.utterances("anna")
        assert [each.file for each in own] == [str(path) for path in a]
        expected = extractor.embed_files(a, progress=False)
        assert torch.equal(torch.tensor([u.embedding for u in own]), expected.matrix)
        seconds = [round(value, 3) for value in expected.seconds.tolist()]
        assert [each.seconds for each in own] == seconds
        assert found.model == {
            "fingerprint": extractor.fingerprint,
            "source": str(extractor.source),
            "sample_rate": 16000,
            "dimension": 16,
        }
    lines = store.path.read_text(encoding="utf-8").splitlines()
    assert sum('"embedding"' in line for line in lines) == 3  # a line each
    json.loads("\n".join(lines))


def test_scores_are_cosines_with_the_mean_of_normalized_embeddings(store, speech):
    store.enroll("anna", [speech / "a" / "1.wav", speech / "a" / "2.wav"])
    store.enroll("bob", [speech / "b" / "1.wav"])
    test = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    scores = store.scores(test)
    for column, name in enumerate(store.names):
        own = torch.tensor([u.embedding for u in store.utterances(name)]).double()
        mean = (own / own.norm(dim=1, keepdim=True)).mean(0)
        for row in range(3):
            expected = test[row].double() @ mean / (test[row].double().norm() * mean.norm())
            assert scores[row, column] == pytest.approx(expected.item(), abs=1e-6)
    (first, second), *_ = found = store.identify(test, best=9, threshold=0.1)
    assert len(found) == 3 and first.score >= second.score
    assert [c.name for c in found[0]] == [
        store.names[i] for i in scores[0].argsort().flip(0)
    ]
    for candidate in (c for row in found for c in row):
        assert candidate.accepted == (candidate.score >= 0.1)
        assert candidate.ratio == pytest.approx(10 * candidate.score - 4, abs=1e-5)
    with pytest.raises(ValueError, match=r"embeddings: must be \[B, 16\], got \(3, 4\)"):
        store.scores(test[:, :4])


def test_the_threshold_for_so_many_speakers(store, speech, monkeypatch):
    with pytest.raises(ValueError, match="nobody is enrolled"):
        store.threshold(false_alarms=0.01)
    for number in (1, 2):
        store.enroll(f"id{number}", [speech / "a" / f"{number}.wav"])
        expected = (math.log(number / 0.01) + 4) / 10
        assert store.threshold(false_alarms=0.01) == pytest.approx(expected)
    assert store.threshold() == store.threshold(false_alarms=0.1)
    assert store.false_alarms_by == "calibration"
    recognition = store._needed().recognition
    rates = {"false_alarm_0.1": 0.6, "false_alarm_0.01": 0.7, "eer": 0.5}
    with monkeypatch.context() as patch:
        patch.setattr(recognition, "decision", {"thresholds": rates})
        assert store.false_alarms_by == "impostor trials"
        assert store.threshold(false_alarms=0.2) == pytest.approx(0.6)  # of two speakers
        assert store.threshold() == pytest.approx(0.6 + 0.1 * math.log10(2))
        rates["false_alarm_0.1"] = 0.0  # a threshold as any other
        assert store.false_alarms_by == "impostor trials"
        patch.setattr(recognition, "decision", {"thresholds": {"eer": 0.5}})
        assert store.false_alarms_by is None and store.threshold() == 0.5
        with pytest.raises(ValueError, match="stores nothing that tells how frequent"):
            store.threshold(false_alarms=0.2)
    assert (store.threshold("eer"), store.threshold(0.25)) == (0.5, 0.25)
    for share in (0, 1, -0.5, math.nan):
        with pytest.raises(ValueError, match="must be between 0 and 1"):
            store.threshold(false_alarms=share)


def test_one_recording_is_one_persons(store, speech, tmp_path):
    a = speech / "a" / "1.wav"
    copy = tmp_path / "copy.wav"
    copy.write_bytes(a.read_bytes())
    assert store.enroll("anna", [a, copy, a]) == 1
    for other in ({"bob": [copy]}, {"bob": [speech / "b" / "1.wav", copy]}):
        with pytest.raises(ValueError, match=f"^{copy}: the same recording as one of anna"):
            store.enroll_many(other)
    with pytest.raises(ValueError, match="the same recording as one of eve, so .* of ida"):
        store.enroll_many(
            {"eve": [speech / "b" / "1.wav"], "ida": [speech / "b" / "1.wav"]}
        )
    assert store.names == ("anna",)
    for name in ("", " anna", "an\tna", "an\nna", 3):
        with pytest.raises(ValueError, match=r"^name=.*: must be a text"):
            store.enroll(name, [a])
    with pytest.raises(ValueError, match="no recordings to enroll"):
        store.enroll("anna", [])


def test_stretches_of_one_file_are_recordings_of_their_own(store, extractor, speech):
    path = str(speech / "b" / "3.flac")
    parts = [Utterance(path, 0, 8000), Utterance(path, 8000, 16000)]
    assert store.enroll_many({"anna": parts[:1] * 2, "bob": parts[1:]}) == 2
    assert store.enroll("anna", parts[:1]) == 0
    wav = extractor.load_audio(path)
    expected = extractor.embed_batch(torch.stack([wav[:8000], wav[8000:16000]]))
    found = [store.utterances(name)[0].embedding for name in store.names]
    torch.testing.assert_close(torch.tensor(found), expected)
    with pytest.raises(ValueError, match="the same recording as one of anna"):
        store.enroll("bob", parts[:1])


def test_another_models_store_is_refused(store, extractor, speech, tmp_path):
    store.enroll("anna", [speech / "a" / "1.wav"])
    stub = Stub()
    with pytest.raises(ValueError, match=r"made with the model .*export .*mean nothing to"):
        Speakers(store.path, stub)
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in extractor.folder.iterdir():
        (moved / path.name).write_bytes(path.read_bytes())
    assert Speakers(store.path, EmbeddingExtractor(moved)).names == ("anna",)
    # Also where it was made in the meantime.
    late = Speakers(tmp_path / "late.json", stub)
    Speakers(tmp_path / "late.json", extractor).enroll("anna", [speech / "a" / "1.wav"])
    (tmp_path / "1").write_text("1")
    with pytest.raises(ValueError, match="mean nothing to stub"):
        late.enroll("bob", [tmp_path / "1"])
    with pytest.raises(ValueError, match="opened without a model"):
        Speakers(store.path).enroll("bob", [speech / "b" / "1.wav"])


def test_a_damaged_store_is_no_empty_one(store, speech, tmp_path):
    store.enroll("anna", [speech / "a" / "1.wav"])
    text = store.path.read_text()
    for damaged in (
        "",
        "[]",
        text[:-20],
        text.replace("speakers enrolled", "something"),
        text.replace('"embedding": [', '"embedding": [1, '),
        text.replace('"embedding": [', '"embedding": [NaN], "x": ['),
        text.replace('"sha256"', '"sha"'),
        text.replace('"fingerprint"', '"print"'),
    ):
        store.path.write_text(damaged)
        with pytest.raises(ValueError, match="no store of speakers, or damaged"):
            Speakers(store.path)
        with pytest.raises(ValueError, match="no store of speakers, or damaged"):
            store.enroll("bob", [speech / "b" / "1.wav"])
        assert store.path.read_text() == damaged
    with pytest.raises(ValueError, match="a folder; give a file"):
        Speakers(tmp_path)


def test_two_processes_write_to_one_store(tmp_path):
    """Neither loses what the other wrote."""
    path, stub = tmp_path / "speakers.json", Stub()

    def enroll(first):
        store = Speakers(path, stub)
        for number in range(first, first + 20):
            file = tmp_path / f"{number}"
            file.write_text(str(number))
            store.enroll(f"id{number % 7}", [file])

    processes = [fork(lambda n=n: enroll(20 * n), tmp_path / f"s{n}") for n in range(3)]
    assert [status_of(process) for process in processes] == [0, 0, 0]
    store = Speakers(path, stub)
    found = [u.embedding[0] for name in store.names for u in store.utterances(name)]
    assert sorted(found) == list(range(60))


def test_so_do_threads(tmp_path):
    """Whom the file's lock, a process's, does not keep apart; with a store for all, or
    one each."""
    stub = Stub()
    for count in (1, 4):
        path = tmp_path / f"{count}.json"
        stores = [Speakers(path, stub) for _ in range(count)]

        def enroll(number, stores=stores):
            file = tmp_path / f"{number}"
            file.write_text(str(number))
            return stores[number % len(stores)].enroll(f"id{number % 7}", [file])

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(enroll, range(60))) == [1] * 60
        store = Speakers(path, stub)
        found = [u.embedding[0] for name in store.names for u in store.utterances(name)]
        assert sorted(found) == list(range(60))
        assert not list(tmp_path.glob(".*.partial"))


def test_a_process_that_is_killed_while_it_writes_changes_nothing(
    store, speech, tmp_path, monkeypatch
):
    store.enroll("anna", [speech / "a" / "1.wav"])
    before = store.path.read_bytes()

    def die(source, target):
        signal.raise_signal(signal.SIGKILL)

    def killed():
        files.os.replace = die
        store.enroll("bob", [speech / "b" / "1.wav"])

    assert status_of(fork(killed, tmp_path / "screen")) == -signal.SIGKILL
    assert store.path.read_bytes() == before
    assert len(list(tmp_path.glob(".speakers.json.*.partial"))) == 1
    assert store.enroll("bob", [speech / "b" / "1.wav"]) == 1
    assert list(tmp_path.glob(".*.partial")) == []


def test_who_waits_for_another_process_too_long_is_told(store, speech, monkeypatch):
    monkeypatch.setattr(speakers_module, "_PATIENCE", 0.1)
    monkeypatch.setattr(speakers_module, "lock", lambda file: False)
    with pytest.raises(ValueError, match="another process has been writing to it for"):
        store.enroll("anna", [speech / "a" / "1.wav"])
    assert not store.path.exists()


def test_a_bad_recording_enrolls_nobody(store, speech, bad_recordings, tmp_path):
    for path, said in bad_recordings.items():
        with pytest.raises(ValueError) as told:
            store.enroll_many({"anna": [speech / "a" / "1.wav"], "bob": [path]})
        assert str(told.value).startswith(f"{path}: {said}")
    with pytest.raises(FileNotFoundError, match="no such audio file"):
        store.enroll("anna", [tmp_path / "none.wav"])
    write_wav(tmp_path / "a.wav", 8000)
    assert len(store) == 0 and not store.path.exists()
