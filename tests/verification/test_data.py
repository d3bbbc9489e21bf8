"""What a verification reads: who is where, groups, and embedding all of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from hamsb.verification.data import VerificationData
from hamsb.verification.embeddings import Embeddings
from hamsb.verification.trials import Trials
from runs import write_wav


def make_list(name, *pairs):
    labels, enrol, test = zip(*pairs)
    return Trials(np.array(labels), enrol, test, Path(f"{name}.txt"))


TEST = make_list("O", (1, "a/x/1", "a/y/2"), (0, "a/x/1", "b/x/1"), (1, "b/x/1", "b/y/2"))
DEV = make_list("dev", (1, "c/x/1", "c/x/2"), (0, "b/x/1", "c/x/1"))


def test_who_is_in_which_part():
    data = VerificationData([TEST], {}, DEV, {}, {"d/1": Path("1"), "d/2": Path("2")})
    assert data.all_lists == [TEST, DEV] and VerificationData([TEST], {}).all_lists == [
        TEST
    ]
    assert data.cohort_speakers == {"d"}
    flat = make_list("flat", (1, "1.wav", "2.wav"))
    VerificationData([flat], {})  # asks for nobody
    with pytest.raises(ValueError, match="flat.txt:1: no speaker"):
        VerificationData([TEST], {}, flat)


def test_groups_of_every_list():
    seconds = torch.tensor([1.0, 5.0, 5.0, 5.0], dtype=torch.float64)
    embeddings = Embeddings(TEST.utterances, torch.eye(4), seconds)
    data = VerificationData([TEST], {})
    assert list(data.groups(duration_bins=[3])) == ["O"]
    assert not any(what == "duration" for what, _ in data.groups(duration_bins=[3])["O"])
    groups = data.groups(embeddings, [3])["O"]
    assert groups["duration", "below 3 s"].tolist() == [True, True, False]
    with pytest.raises(ValueError, match="must ascend"):
        data.groups(duration_bins=[3, 2])


def test_each_file_is_embedded_once_for_all_parts(tmp_path):
    names = (*TEST.utterances, "c/x/1", "c/x/2")
    files = {name: tmp_path / f"{name}.wav" for name in names}
    for seed, path in enumerate(files.values()):
        write_wav(path, 2000 + 10 * seed, seed=seed)
    part = {name: files[name] for name in TEST.utterances}
    dev = {name: files[name] for name in DEV.utterances}
    cohort = {"z/own": files["c/x/2"]}
    seen = []

    def encode(wavs):
        seen.append(wavs.shape[1])
        return wavs[:, :3]

    data = VerificationData([TEST], part, DEV, dev, cohort)
    embedded = data.embed(encode, 16000, progress=False)
    assert sorted(seen) == [2000 + 10 * k for k in range(6)]
    assert embedded.test.utterances == TEST.utterances
    assert embedded.calibration.utterances == DEV.utterances
    row = embedded.calibration.matrix[embedded.calibration.rows(["c/x/2"])]
    assert torch.equal(embedded.cohort.matrix, row)
    empty = VerificationData([TEST], part).embed(encode, 16000, progress=False)
    assert len(empty.calibration) == len(empty.cohort) == 0
    files["c/x/2"].write_text("no audio")
    with pytest.raises(ValueError, match=r"dev.txt:1: .*c/x/2.wav: cannot be read"):
        data.embed(encode, 16000, progress=False)


def test_files_are_looked_at_before_they_are_embedded(tmp_path):
    """In each part; the model is tried only where something is short."""
    files = {
        name: tmp_path / f"{name}.wav" for name in (*TEST.utterances, "c/x/1", "c/x/2")
    }
    for seed, path in enumerate(files.values()):
        write_wav(path, 16000, seed=seed)
    part = {name: files[name] for name in TEST.utterances}
    dev = {name: files[name] for name in DEV.utterances}
    cohort = {"z/own": tmp_path / "own.wav"}
    write_wav(cohort["z/own"], 16000)
    data = VerificationData([TEST], part, DEV, dev, cohort)
    data.check_files(lambda wavs: pytest.fail("embedded"), 16000)
    kernel = torch.nn.Conv1d(1, 4, kernel_size=400)
    encode = lambda wavs: kernel(wavs.unsqueeze(1)).amax(-1)  # noqa: E731
    for path, name in (
        (files["a/y/2"], "O.txt"), (files["c/x/2"], "dev.txt"), (cohort["z/own"], "cohort")
    ):  # fmt: skip
        good = path.read_bytes()
        write_wav(path, 400)
        data.check_files(encode, 16000)
        write_wav(path, 399)
        with pytest.raises(
            ValueError, match=f"^{name}: 1 of (?s:.*){path}: lasts 0.0249 s"
        ):
            data.check_files(encode, 16000)
        path.write_bytes(b"no audio")
        with pytest.raises(
            ValueError, match=f"^{name}: 1 of (?s:.*){path}: cannot be read"
        ):
            data.check_files(encode, 16000)
        path.write_bytes(good)
