"""A run goes on only as what it began as."""

import pytest
from speechbrain.utils.run_opts import RunOptions

from cases import looped
from hamsb.training.identity import begun, check_data, identity
from hamsb.utils.run_folder import read_run, write_run

YAML = """
seed: 1
output_folder: !ref results/<seed>
save_folder: !ref <output_folder>/save
number_of_epochs: 4
num_workers: 1
batch_size: 8
dataloader_options: {batch_size: !ref <batch_size>, num_workers: !ref <num_workers>}
cost: !new:hamsb.HAMSoftmax
    margin: 0.2
    scale: 30.0
head: !new:hamsb.Softmax
schedule: !new:hamsb.LinearMargin
    margin: 0.2
    warmup_steps: !ref <number_of_epochs> * 10
annotation: null
"""


@pytest.fixture
def start(tmp_path):
    """A function: what a start of the run in ``folder`` finds there, after which
    training begins and leaves a checkpoint."""
    yaml = tmp_path / "a.yaml"
    yaml.write_text(YAML)

    def start(
        overrides="", script="train.py", processes=1, folder="run", versions=None,
        together=True, **options,
    ):  # fmt: skip
        folder = tmp_path / folder
        overrides = f"output_folder: {folder}\n{overrides}"
        options = RunOptions(**options)
        now = identity(script, yaml, overrides, options, processes, together)
        now["versions"] |= versions or {}
        began = begun(now, yaml, overrides, folder)
        write_run(folder, {**now, "prepared": {}, "data": {}})
        (folder / "save" / "CKPT+1").mkdir(parents=True, exist_ok=True)
        return began

    return start


def test_a_new_folder_begins_and_an_equal_start_continues(start, tmp_path):
    assert start() is None
    assert start()["script"] == "train.py"
    (tmp_path / "run/save/CKPT+1").rmdir()  # nothing is trained: it may be another run
    assert start("seed: 2") is None


@pytest.mark.parametrize(
    "overrides, message",
    [
        ("seed: 2", r"began with seed=1, and now it is 2\. "),
        ("cost: {margin: 0.5}", r"cost\[margin\]=0.2, and now it is 0.5"),
        ("cost: !new:hamsb.AMSoftmax {margin: 0.2}", r"cost=!new:hamsb.HAMSoftmax, and "),
        ("cost: !new:hamsb.Softmax", r"cost=!new:hamsb.HAMSoftmax.*scale\]=30.0, and"),
        ("head: {scale: 3.0}", r"began with head\[scale\]=nothing, and now it is 3.0"),
        ("batch_size: 4", r"batch_size=8.*dataloader_options\[batch_size\]=8, and now"),
        ("annotation: a.csv", r"annotation=null, and now it is a.csv"),
        ("more: [1, 2]", r"more=nothing, and now it is \[1, 2\]"),
        ("number_of_epochs: 3", r"number_of_epochs=4, and now it is 3, and it may only be"),
        ("schedule: {warmup_steps: 30}", r"schedule\[warmup_steps\]=.*and now it is 30"),
        ("save_folder: elsewhere", r"save_folder=.*run/save, and now it is elsewhere"),
    ],
)
def test_other_settings_are_refused_by_name(start, tmp_path, overrides, message):
    start()
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(ValueError, match=message):
        start(overrides)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_what_may_change(start, tmp_path):
    start()
    for overrides in (
        "num_workers: 3",
        "dataloader_options: {pin_memory: True, num_workers: 0}",
        "cost: {margin: 0.20, scale: 30}",
        "card: {language: en, tags: [a]}",
        "card: {language: de}",
        "export_classifier: True",
        "number_of_epochs: 6",  # and with it the schedule's steps
        "number_of_epochs: 6",
    ):
        assert start(overrides) is not None
    with pytest.raises(ValueError, match="number_of_epochs=6, and now it is 4"):
        start()
    (tmp_path / "run").rename(tmp_path / "moved")
    assert start("number_of_epochs: 6", folder="moved") is not None
    assert start("number_of_epochs: 6", folder="moved", precision="bf16") is not None


def test_scripts_options_processes_and_versions(start):
    start()
    for change, message in (
        ({"script": "train_ssl.py"}, "holds a run of train.py"),
        ({"grad_accumulation_factor": 2}, "grad_accumulation_factor=1, and now it is 2"),
        ({"max_grad_norm": 1.0}, "max_grad_norm=5.0, and now it is 1.0"),
        ({"debug": True}, "debug=False, and now it is True"),
        ({"processes": 2}, r"processes=1, and now it is 2 \(batch_size is that of each"),
        ({"together": False}, "normalized_together=True, and now it is False"),
        ({"versions": {"torch": "2.10.0"}}, "torch=.*, and now it is 2.10.0"),
    ):
        with pytest.raises(ValueError, match=message):
            start(**change)


SHARED = """
global_batch_size: 8
dataloader_options: {drop_last: True}
wav_augment: !new:speechbrain.augment.augmenter.Augmenter
    min_augmentations: 2
    max_augmentations: 2
    augmentations:
        - !new:hamsb.AddReverb
            csv_file: a
        - !new:hamsb.AddNoise
            csv_file: b
"""


def test_another_number_of_processes_may_share_a_global_batch(start):
    """The key ``batch_size`` is that of each, as `share_batch` writes it."""
    start(SHARED)
    for _ in range(2):
        assert start(SHARED + "batch_size: 4", processes=2) is not None
        assert start(SHARED) is not None
    for change, message in (
        (("8", "4"), "global_batch_size=8, and now it is 4"),
        (
            ("global", "half: !ref <batch_size> // 2\nglobal"),
            r"half=nothing, and now it is 2",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            start(SHARED.replace(*change) + "batch_size: 4", processes=2)


@looped(
    case=[
        (("global_batch_size: 8", ""), "with global_batch_size it may change"),
        (("True", "False"), "drops the last batch"),
        (("True", "True, batch_sampler: 1"), "drops the last batch"),
        (("max_augmentations: 2", "max_augmentations: 3"), "but rooms and noises"),
        (("min_augmentations: 2", "min_augmentations: 1"), "but rooms and noises"),
        (("hamsb.AddReverb", "stand_ins.Echo"), "but rooms and noises"),
        (("    max", "    augment_prob: 0.5\n    max"), "but rooms and noises"),
        (("global", "fea_augment: {a: 1}\nglobal"), "draws the masks of fea_augment"),
        (("global", "head: {class_fraction: 0.1}\nglobal"), "draws for class_fraction"),
    ]
)
def test_where_the_number_of_processes_changes_what_is_trained(start, case):
    change, message = case
    text = SHARED.replace(*change)
    assert text != SHARED
    folder = str(abs(hash(case)))
    start(text, folder=folder)
    with pytest.raises(ValueError, match=rf"processes=1, and now it is 2 \(.*{message}"):
        start(text + "batch_size: 4", processes=2, folder=folder)


def test_batches_that_are_not_normalized_together_are_bound(start):
    start(SHARED, processes=2, together=False)
    with pytest.raises(ValueError, match=r"\(it may change where all batches are normal"):
        start(SHARED)


def test_a_trained_folder_without_its_note(start, tmp_path):
    start()
    note = tmp_path / "run" / "run.json"
    kept = read_run(tmp_path / "run")
    note.unlink()
    with pytest.raises(ValueError, match="a trained model, but no run.json"):
        start()
    del kept["options"]
    write_run(tmp_path / "run", kept)
    with pytest.raises(ValueError, match="run.json: lacks part of what the run there"):
        start()
    note.unlink()
    (tmp_path / "run/save/CKPT+1").rmdir()
    (tmp_path / "run/export").mkdir()
    with pytest.raises(ValueError, match="a trained model, but no run.json"):
        start()


def test_data_are_compared_by_their_contents(tmp_path):
    began = {"data": {"noise.csv": "0a", "rir.csv": "0b"}}
    for began_with in (None, began):
        check_data(began_with, began["data"], tmp_path)
    with pytest.raises(ValueError, match=r"rir.csv changed since the run there began"):
        check_data(began, {"noise.csv": "0a", "rir.csv": "0c"}, tmp_path)
    with pytest.raises(ValueError, match="noise.csv, rir.csv changed"):
        check_data(began, {}, tmp_path)
    with pytest.raises(ValueError, match="pretrained_model changed"):
        check_data(began, {**began["data"], "pretrained_model": "0d"}, tmp_path)
