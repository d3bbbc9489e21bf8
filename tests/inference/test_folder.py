"""A model's folder is told from others, and found where it may be meant."""

import shutil

import pytest

from hamsb.inference.folder import model_folder
from runs import EXPERIMENT, export_untrained


@pytest.fixture
def folder(tmp_path):
    export_untrained(tmp_path / "export", EXPERIMENT)
    return tmp_path / "export"


def test_a_folder_of_a_model_is_told_from_others(folder, tmp_path):
    assert model_folder(folder) == model_folder(str(folder)) == folder
    assert model_folder(folder, file="embedding.yaml") == folder
    with pytest.raises(
        FileNotFoundError, match=f"^model={tmp_path}: no exported model.*mean"
    ):
        model_folder(tmp_path)
    (folder / "hyperparams.yaml").write_text("a: [")
    assert model_folder(folder) == folder  # loading it tells what is wrong
    shutil.rmtree(folder)
    with pytest.raises(FileNotFoundError, match="^pretrained_model=.*no such folder; give"):
        model_folder(folder, "pretrained_model")
