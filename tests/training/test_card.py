"""The model card: front matter that the hub reads, code that runs, nobody's paths."""

import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import EvalResult, ModelCard

from hamsb.inference import SpeakerRecognition
from hamsb.training.card import TAGS, check_card, front_matter, model_card
from hamsb.training.export import write_card
from runs import EXPERIMENT, code_blocks, export_untrained, write_wav

RECORD = {
    "list": "veri_test",
    "system": "trained",
    "calibrated": False,
    "eer": 0.044812,
    "min_dcf_0.01": 0.38126,
    "min_dcf_threshold_0.01": 0.7,
    "target_trials": 10,
    "impostor_trials": 20,
}
OTHERS = [
    {**RECORD, "list": "hard: 2", "eer": 0.25},
    {**RECORD, "system": "untrained network"},
    {**RECORD, "calibrated": True},
]


def read(front):
    """A card's metadata, as Hugging Face reads it."""
    return ModelCard(f"---\n{front}\n---\n\n# A model\n").data


def test_the_hub_reads_the_runs_numbers():
    data = read(front_matter("small", [RECORD, *OTHERS], {}))
    assert data.library_name == "speechbrain" and data.tags == TAGS
    assert data.model_name == "small" and data.language is data.license is None
    found = [(each.dataset_name, each.metric_name, each.metric_value)
             for each in data.eval_results]  # fmt: skip
    assert found == [
        ("veri_test", "EER (%)", 4.48),
        ("veri_test", "minDCF (p=0.01)", 0.381),
        ("hard: 2", "EER (%)", 25.0),
        ("hard: 2", "minDCF (p=0.01)", 0.381),
    ]
    counts = {"target_trials": 10, "impostor_trials": 20}
    assert all(each.dataset_args == counts for each in data.eval_results)
    assert all(isinstance(each, EvalResult) for each in data.eval_results)
    assert read(data.to_yaml()).to_dict() == data.to_dict()


def test_before_the_trials_are_scored_there_are_no_numbers():
    assert "model-index" not in read(front_matter("small", [], {})).to_dict()


def test_what_the_run_cannot_know_is_the_users_to_say():
    widget = [{"example_title": "Zoë: one", "src": "https://example.org/a.wav"}]
    given = {"language": "no", "license": "mit", "tags": "voices", "widget": widget}
    data = read(front_matter("a", [RECORD], {**given, "metrics": ["EER"]})).to_dict()
    assert data["tags"] == [*TAGS, "voices"] and data["metrics"] == ["EER"]
    assert {key: data[key] for key in ("language", "license", "widget")} == {
        "language": "no",
        "license": "mit",
        "widget": widget,
    }


@pytest.mark.parametrize(
    "card, message",
    [
        ("en", "card=en: a group of keys"),
        ({1: "en"}, "card={1: 'en'}: a group of keys"),
        ({"language": False}, r"card\[language\]=False: must be text"),
        ({"datasets": ["voxceleb", 2]}, r"card\[datasets\]=.*: must be text"),
        ({"model-index": []}, r"card\[model-index\]: the run writes it; remove it"),
        ({"widget": object()}, "card=.*: texts, numbers, lists and groups of them"),
    ],
)
def test_a_card_that_is_none_is_refused(card, message):
    with pytest.raises(ValueError, match=f"^a.yaml: {message}"):
        check_card(card, "a.yaml")


@pytest.fixture
def folder(tmp_path):
    """An export without a threshold, with its card and three recordings."""
    folder = tmp_path / "an export"
    export_untrained(folder, EXPERIMENT)
    hparams = SimpleNamespace(compute_cost=torch.nn.ReLU(), sample_rate=16000, card=None)
    brain = SimpleNamespace(hparams=hparams, card={"classify": ""})
    write_card(folder, model_card(brain, "small", "No numbers.\n", None, [RECORD]))
    for seed, name in enumerate(("speech.wav", "one.wav", "other.wav")):
        write_wav(folder / name, 9000 + 1000 * seed, seed=seed)
    return folder


def test_its_code_runs_as_it_stands_also_without_a_threshold(folder, monkeypatch):
    card = (folder / "README.md").read_text()
    assert ModelCard(card).data.eval_results[0].metric_value == 4.48
    monkeypatch.chdir(folder)
    names = {}
    blocks = code_blocks(card, "python")
    assert len(blocks) == 2 == len(re.findall("^```$", card, re.M))
    for block in blocks:
        exec(block, names)
    assert names["embedding"].shape == (1, 1, 16)
    assert names["same"] == (names["score"] > 0.25)


def test_the_folder_works_without_what_names_the_speakers(folder):
    pair = folder / "one.wav", folder / "other.wav"
    before = SpeakerRecognition.from_hparams(folder).verify_files(*pair, threshold=0.5)
    advice = (folder / "README.md").read_text().split("## Before others get it")[1]
    for name in ("label_encoder.ckpt", "classifier.ckpt"):
        assert f"`{name}`" in advice
        (folder / name).unlink()
    shutil.copy(folder / "embedding.yaml", folder / "hyperparams.yaml")
    after = SpeakerRecognition.from_hparams(folder).verify_files(*pair, threshold=0.5)
    assert after == before
