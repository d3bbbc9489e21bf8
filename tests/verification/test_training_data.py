"""What is stored of a model's training, and what of it is refused."""

import json

import pytest

from hamsb.verification.training_data import TRAINING, read_training, write_training

TRAINED = {
    "speakers": ["id1", "id2 at 90 %"],
    "development_speakers": ["Zoë"],
    "data": {"train.csv": "0123456789abcdef" * 4},
    "seed": 1,
}


def test_training_is_read_as_it_was_written(tmp_path):
    assert read_training(tmp_path) is None
    write_training(tmp_path, TRAINED)
    assert read_training(str(tmp_path)) == TRAINED
    assert [path.name for path in tmp_path.iterdir()] == [TRAINING]
    assert json.loads((tmp_path / "training.json").read_text("utf-8")) == TRAINED


def test_what_is_no_training_is_neither_written_nor_read(tmp_path):
    for change, message in [
        ({"speakers": None}, "speakers is no list of names"),
        ({"speakers": [1]}, "speakers is no list of names"),
        ({"development_speakers": "id1"}, "development_speakers is no list of names"),
        ({"data": ["train.csv"]}, "data is no mapping of names to SHA-256 digests"),
        ({"data": {"train.csv": "0123"}}, "data is no mapping"),
        ({"data": {"train.csv": "Z" * 64}}, "data is no mapping"),
    ]:
        wrong = {**TRAINED, **change}
        with pytest.raises(ValueError, match=f"^training: {message}"):
            write_training(tmp_path, wrong)
        assert not list(tmp_path.iterdir())
        (tmp_path / TRAINING).write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=rf"{TRAINING}: damaged \({message}.*again"):
            read_training(tmp_path)
        (tmp_path / TRAINING).unlink()
    for key in ("speakers", "development_speakers", "data"):
        with pytest.raises(ValueError, match=f"^training: no {key}"):
            write_training(tmp_path, {k: v for k, v in TRAINED.items() if k != key})
    for text in ("", "[]", "null", '{"speakers": [', "[" * 100_000, b"\xff"):
        (tmp_path / TRAINING).write_bytes(
            text if isinstance(text, bytes) else text.encode()
        )
        with pytest.raises(ValueError, match=f"{TRAINING}: damaged"):
            read_training(tmp_path)
