"""The whole path on a tiny corpus: train, choose, average, verify, export, load."""

import importlib
import json
import os
import pickle
import re
import shutil
import sys

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from speechbrain import Stage
from speechbrain.augment.augmenter import Augmenter
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.inference.speaker import EncoderClassifier, SpeakerRecognition
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import Checkpointer

import hamsb
import train
import train_ssl
import verify
from hamsb.augment.time_domain import SpeedPerturb
from hamsb.training import outcome
from hamsb.verification.decision import read_decision, write_decision
from runs import (  # noqa: F401
    EXPERIMENT,
    HAM,
    code_blocks,
    contents,
    export_untrained,
    fork,
    quick,
    same,
    status_of,
    untimed,
    weights,
)
from stand_ins import Embedding, Framed

SMALL = "hparams/small.yaml"


@pytest.fixture
def run(repository, tiny_options, tmp_path, monkeypatch):
    """A function that trains, without baselines, and returns the output folder."""
    monkeypatch.chdir(repository)

    def run(yaml=SMALL, **changes):
        train.main([yaml, *tiny_options(**{"baselines": False, **changes})])
        return changes.get("output_folder", tmp_path / "run")

    return run


def test_whole_path(run, tiny_corpus, tmp_path, capsys, monkeypatch):
    card = "{language: en, license: apache-2.0}"
    out = run(number_of_epochs=3, avg_checkpoints=2, baselines=True, card=card, **HAM)

    labels = [int(line[0]) for line in (tiny_corpus / "veri_test.txt").open()]
    counts = f"| {sum(labels)} | {len(labels) - sum(labels)} |"

    # Screen and report: three systems, the run's facts, a plot, a log line an epoch.
    screen = capsys.readouterr().out
    report = (out / "report.md").read_text()
    for text in (screen, report):
        assert "| HAMSoftmax(margin=0.2, scale=30) |" in text
        for system in ("untrained network", "mean log-mel vector", "trained"):
            assert f"| veri_test: {system} {counts}" in text
        assert "| 3 | 2, 3 |" in text
    assert "Development EER" in report
    assert (out / "det.png").read_bytes()[1:4] == b"PNG"
    log = (out / "train_log.txt").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ["epoch: 1", "epoch: 2", "epoch: 3"]
    assert all("valid EER" in line and "clipped" in line for line in log)
    epochs = json.loads((out / "epochs.json").read_text())
    assert [each["epoch"] for each in epochs] == [1, 2, 3]
    for each, line in zip(epochs, log):
        for name, value in (("train loss", each["loss"]), ("valid EER", 100 * each["EER"])):
            (logged,) = re.findall(rf"{name}: ([\d.e+-]+)", line)
            assert float(logged) == pytest.approx(value, rel=0.01, abs=0.005)
        assert 0 <= each["clipped"] <= 1
        assert each["global_batch"] == 4 and "batch: 4, waited: " in line
        assert 0 < each["loader_wait"] and 0 < each["loader_wait_share"] < 1
        assert f"waited: {each['loader_wait']:.1f} s (" in line
    metrics = json.loads((out / "metrics.json").read_text())
    training = metrics["training"]
    assert (training["speakers"], training["utterances"]) == (6, 24)
    assert training["epochs"] == 3 and 0 < training["hours"] < 1
    assert training["minutes"] > 0
    developed = re.search(r"Development EER: (.*) %", report)[1]
    assert f"{100 * metrics['development']['eer']:.2f}" == developed
    assert len((out / "scores_veri_test.txt").read_text().splitlines()) == len(labels)

    # The export holds the mean of the last two epochs' weights.
    checkpointer = Checkpointer(out / "save")
    last = checkpointer.find_checkpoints(max_num_checkpoints=2)
    assert sorted(checkpoint.meta["epoch"] for checkpoint in last) == [2, 3]
    for name in ("embedding_model", "classifier"):
        one, other = (torch.load(c.paramfiles[name], map_location="cpu") for c in last)
        mean = torch.load(out / "export" / f"{name}.ckpt")
        for key in mean:
            torch.testing.assert_close(
                mean[key], (one[key] + other[key]) / 2, check_dtype=False
            )

    # It loads from elsewhere and gives the embeddings that were scored, bit for bit.
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    (out / "export").rename(moved)
    monkeypatch.chdir(moved.parent)
    verify.main(
        [
            f"{train.__file__[: -len('recipes/VoxCeleb/train.py')]}hparams/verify.yaml",
            "--model=model",
            f"--test_data_folder={tiny_corpus / 'test'}",
            f"--verification_file={tiny_corpus / 'veri_test.txt'}",
            f"--output_folder={tmp_path / 'verified'}",
            "--noprogressbar",
        ]
    )
    again = tmp_path / "verified" / "scores_veri_test.txt"
    assert again.read_bytes() == (out / "scores_veri_test.txt").read_bytes()
    assert f"| veri_test {counts}" in (tmp_path / "verified" / "report.md").read_text()

    # Its card is read by the hub, has no path of this machine, and its code runs.
    card = (moved / "README.md").read_text()
    data = ModelCard(card).data
    assert (data.language, data.license) == ("en", "apache-2.0")
    (trained,) = (r for r in metrics["results"] if r["system"] == "trained")
    assert [each.metric_value for each in data.eval_results] == [
        round(100 * trained["eer"], 2),
        *(round(trained[f"min_dcf_{p}"], 3) for p in (0.01, 0.05)),
    ]
    assert str(tmp_path) not in card and str(tiny_corpus) not in card
    files = sorted((tiny_corpus / "train" / "wav").rglob("*.*"))
    for path, name in zip(files, ("speech.wav", "one.wav", "other.wav")):
        shutil.copy(path, moved / name)
    with monkeypatch.context() as patch:
        patch.chdir(moved)
        names = {}
        for block in code_blocks(card, "python"):
            exec(block, names)
    assert names["embedding"].shape == (1, 1, 16) and names["same"].dtype == torch.bool

    # It classifies by speaker name.
    encoder = EncoderClassifier.from_hparams(source="model", run_opts={"device": "cpu"})
    scores, best, index, names = encoder.classify_file(str(files[0]))
    assert scores.shape == (1, 6) and names == encoder.hparams.label_encoder.decode_torch(
        index
    )
    assert names[0] in {path.parts[-3] for path in files}
    assert best == scores.max()

    # Embeddings and verification in another process where there is no hamsb.
    pair = str(files[0]), str(files[-1])
    alone = fork(lambda: embed_and_verify_without_hamsb(*pair), tmp_path / "screen")
    assert status_of(alone) == 0, (tmp_path / "screen").read_text()
    ours = encoder.encode_batch(encoder.load_audio(pair[0]).unsqueeze(0))
    score, _ = SpeakerRecognition.from_hparams(
        source="model", run_opts={"device": "cpu"}
    ).verify_files(*pair)
    theirs = (tmp_path / "screen").read_text().split()[-2:]
    assert [float(value) for value in theirs] == [ours.double().sum().item(), score.item()]


def embed_and_verify_without_hamsb(one, other):
    """Print an embedding's sum and a score."""

    class NoHamsb:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "hamsb":
                raise ModuleNotFoundError("hamsb is not installed here")

    for name in list(sys.modules):
        if name.split(".")[0] == "hamsb":
            del sys.modules[name]
    sys.meta_path.insert(0, NoHamsb())
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("hamsb.nnet.classifiers")
    options = {"source": "model", "hparams_file": "embedding.yaml"}
    options["run_opts"] = {"device": "cpu"}
    encoder = EncoderClassifier.from_hparams(**options)
    audio = encoder.load_audio(one).unsqueeze(0)
    print(encoder.encode_batch(audio).double().sum().item())
    print(SpeakerRecognition.from_hparams(**options).verify_files(one, other)[0].item())


def test_an_interrupted_run_ends_as_an_uninterrupted_one(run, tmp_path, monkeypatch):
    """Interrupted before the first checkpoint, in the middle of an epoch and while a
    checkpoint is saved; and begun again when complete."""

    def weights(folder):
        return [
            torch.load(folder / "export" / f"{name}.ckpt")
            for name in ("embedding_model", "classifier")
        ]

    def same(ours, theirs):
        return all(torch.equal(a[key], b[key]) for a, b in zip(ours, theirs) for key in b)

    def interrupted(owner, name, call):
        calls, method = [], getattr(owner, name)

        def interrupting(*arguments, **options):
            calls.append(name)
            if len(calls) == call:
                raise KeyboardInterrupt
            return method(*arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, interrupting)
            run(**options)

    options = {"number_of_epochs": 2, "num_workers": 1}
    whole = run(output_folder=tmp_path / "whole", **options)
    interrupted(train.SpeakerBrain, "fit_batch", 4)  # of six in an epoch
    interrupted(train.SpeakerBrain, "fit_batch", 9)
    interrupted(hamsb.training.checkpoints.Checkpointer, "_publish", 1)  # of epoch 2
    expected = untimed(whole / "train_log.txt")
    for _ in range(2):
        out = run(**options)
        lines = untimed(out / "train_log.txt")
        assert lines == [*expected, expected[1]]  # epoch 2 was not saved at first
        assert same(weights(out), weights(whole))
        assert untimed(out / "epochs.json") == untimed(whole / "epochs.json")
        assert len(json.loads((out / "epochs.json").read_text())) == 2


def test_checkpoints_within_an_epoch_are_not_averaged(run):
    out = run(number_of_epochs=2, ckpt_interval_steps=2, avg_checkpoints=2)
    assert "| 2 | 1, 2 |" in (out / "report.md").read_text()


def test_best_averages_the_epochs_of_lowest_development_eer(run):
    out = run(number_of_epochs=3, avg_checkpoints=1, average_by="best")
    log = (out / "train_log.txt").read_text().splitlines()
    eers = [float(line.rsplit(":", 1)[1]) for line in log]
    report = (out / "report.md").read_text()
    chosen = int(report.split("| 3 | ")[1].split(" |")[0])
    assert eers[chosen - 1] == min(eers)


def test_without_development_speakers_the_last_epochs_are_taken(run, tmp_path):
    out = run(dev_speakers=0, number_of_epochs=2)
    for name in ("train_log.txt", "epochs.json"):
        assert "EER" not in (out / name).read_text()
    assert json.loads((out / "metrics.json").read_text())["development"] is None
    assert "Development" not in (out / "report.md").read_text()
    with pytest.raises(ValueError, match="average_by='best'"):
        run(dev_speakers=0, average_by="best", output_folder=tmp_path / "best")


def test_a_run_with_many_options(run, tiny_corpus, tmp_path):
    """Several lists and folders, another loss and ball, bfloat16, more classes."""
    lines = (tiny_corpus / "veri_test.txt").read_text().splitlines(keepends=True)
    (tmp_path / "half.txt").write_text("".join(lines[:20]))
    out = run(
        verification_file=f"[{tiny_corpus / 'veri_test.txt'}, {tmp_path / 'half.txt'}]",
        data_folder=f"[{tiny_corpus / 'train'}, {tiny_corpus / 'test'}]",
        test_data_folder="null",  # data_folder holds the trials' files, too
        compute_cost=HAM["compute_cost"].replace("0.2", "0.35"),
        classifier=HAM["classifier"].replace("3.0", "5.0"),
        precision="bf16",
        out_n_neurons=9,
    )
    report, export = (out / "report.md").read_text(), out / "export"
    assert "| veri_test |" in report and "| half |" in report
    assert (out / "scores_half.txt").is_file()
    # The test speakers are in a training root and in no training file.
    assert "6 speakers" in report
    assert "HAMSoftmax(margin=0.35, scale=30)" in report
    assert "ClippedUnitBall(curvature=5)" in report
    assert "curvature: 5.0" in (export / "hyperparams.yaml").read_text()
    assert torch.load(export / "classifier.ckpt")["centers"].shape[0] == 9
    assert "nan" not in (out / "train_log.txt").read_text()


def test_a_folder_that_cannot_be_written_is_refused_at_once(run):
    with pytest.raises(OSError, match="/proc/hamsb"):
        run(output_folder="/proc/hamsb/run")


def test_speeds_make_further_speakers(repository, tiny_options, tiny_distortions, tmp_path):
    train.main(
        [
            str(repository / "hparams" / "train_ecapa_ham.yaml"),
            *tiny_options(speeds="[100, 90, 110]", **tiny_distortions),
        ]
    )
    export = tmp_path / "run" / "export"
    assert torch.load(export / "classifier.ckpt")["centers"].shape[0] == 18
    encoder = EncoderClassifier.from_hparams(source=str(export), run_opts={"device": "cpu"})
    names = encoder.hparams.label_encoder.ind2lab
    assert len(names) == 18
    assert names[6] == f"{names[0]} at 90 %" and names[17] == f"{names[5]} at 110 %"


def test_labels_are_those_of_the_data_whatever_was_left_of_others(tmp_path):
    """A file of labels, as earlier versions kept one, may be torn."""
    (tmp_path / "label_encoder.txt").write_text("'id1' =>")
    table = tmp_path / "train.csv"
    rows = [f"{s}/{i},1.0,{s}{i}.wav,0,16000,{s}" for s in ("id2", "id1") for i in "ab"]
    table.write_text("\n".join(["ID,duration,wav,start,stop,spk_id", *rows]) + "\n")
    hparams = {"sentence_len": 1.0, "sample_rate": 16000, "train_annotation": table}
    hparams["seed"] = 1
    for _ in range(2):
        data, labels = train.dataio_prep({**hparams, "save_folder": tmp_path})
        assert labels.lab2ind == {"id2": 0, "id1": 1} and len(data) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"label_encoder.txt", "train.csv"}


def test_fine_tuning(run, tmp_path, monkeypatch, capsys):
    """The new head alone, then both; and again, interrupted, and without the model."""
    finished = run(output_folder=tmp_path / "finished") / "export"
    options = {
        "pretrained_model": finished,
        "number_of_epochs": 3,
        "head_epochs": 1,
        "encoder_lr_factor": 0.1,
        "no_weight_decay": "[classifier]",
        "avg_checkpoints": 3,
        "dev_speakers": 3,
    }
    whole = run(output_folder=tmp_path / "whole", **{**options, "baselines": True})
    said = "the head is new, since its 6 speakers are not the 5 of this training"
    report = (whole / "report.md").read_text()
    assert said in capsys.readouterr().out and said in report
    assert "veri_test: before fine-tuning" in report and "untrained" not in report

    # The first epoch leaves the encoder as it was, statistics included; no average has it.
    by_epoch = {c.meta["epoch"]: c for c in Checkpointer(whole / "save").list_checkpoints()}
    encoders = [
        torch.load(by_epoch[epoch].paramfiles["embedding_model"]) for epoch in (1, 2, 3)
    ]
    assert same(encoders[0], weights(finished.parent))
    assert not same(encoders[1], encoders[0])
    assert "| 3 | 2, 3 |" in report
    heads = [torch.load(by_epoch[epoch].paramfiles["classifier"]) for epoch in (1, 2)]
    assert not same(*heads)
    groups = torch.load(by_epoch[3].paramfiles["optimizer"])["param_groups"]
    found = {(g.get("lr_factor"), g["weight_decay"] > 0): len(g["params"]) for g in groups}
    assert found == {(0.1, True): len(list_parameters(encoders[0])), (None, True): 0} | {
        (None, False): 1, (0.1, False): 0
    }  # fmt: skip
    assert len({group["lr"] for group in groups}) == 1

    # What it began with is noted, and whose speech.
    noted = json.loads((whole / "run.json").read_text())
    assert len(noted["data"]["pretrained_model"]) == 64
    assert said in noted["pretrained_model"]["about"][0]
    trained = json.loads((whole / "export" / "training.json").read_text())
    assert len(trained["speakers"]) == 6 and len(trained["development_speakers"]) == 3

    start = train.SpeakerBrain.on_stage_start

    def interrupted(self, stage, epoch=None):
        start(self, stage, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    again = {**options, "output_folder": tmp_path / "again"}
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train.SpeakerBrain, "on_stage_start", interrupted)
        run(**again)
    with pytest.raises(ValueError, match=r"began with head_epochs=1, and now it is 2"):
        run(**{**again, "head_epochs": 2})
    finished.rename(tmp_path / "gone")
    assert same(weights(run(**again)), weights(whole))
    assert said in (tmp_path / "again" / "report.md").read_text()
    with pytest.raises(FileNotFoundError, match="pretrained_model=.*: no exported model"):
        run(**{**again, "output_folder": tmp_path / "new"})


def list_parameters(state):
    return [key for key in state if "running_" not in key and "num_batches" not in key]


def test_a_model_of_another_size_is_refused_before_data_are_read(run, tmp_path):
    text = EXPERIMENT.replace("n_mels: 20", "n_mels: 80").replace(" 16\n", " 24\n")
    text = text.replace("input_size: 20", "input_size: 80").replace("[8,", "[12,")
    export_untrained(tmp_path / "model", text)
    with pytest.raises(
        ValueError,
        match=r"conv.weight is of shape \[8, 80, 5\] here and .*"
        r"Give --embedding_model='{channels: .*, lin_neurons: 24}'\.$",
    ):
        run(pretrained_model=tmp_path / "model", data_folder=tmp_path / "nowhere")


def test_the_margin_grows_and_goes_on_after_an_interruption(
    repository, tiny_options, tmp_path, monkeypatch
):
    """In small.yaml with a schedule in it that its checkpointer does not name."""
    text = (repository / SMALL).read_text()
    schedule = (
        "margin_schedule: !new:hamsb.LinearMargin\n    margin: 0.3\n    warmup_steps: 5\n"
    )
    yaml = tmp_path / "scheduled.yaml"
    yaml.write_text(text.replace("checkpointer:", schedule + "\ncheckpointer:"))
    margins, fit_batch = [], train.SpeakerBrain.fit_batch

    def watched(self, batch):
        loss = fit_batch(self, batch)
        margins.append(self.hparams.compute_cost.margin)  # of the next step
        return loss

    monkeypatch.setattr(train.SpeakerBrain, "fit_batch", watched)
    train.main([str(yaml), *tiny_options(number_of_epochs=1)])
    for _ in range(2):  # the second time nothing is left to train
        train.main([str(yaml), *tiny_options(number_of_epochs=2)])
        told = json.loads(next(tmp_path.rglob("training.json")).read_text())
        assert told["loss"] == "AAMSoftmax(margin=0.3, scale=15)"
    steps = range(1, 13)
    assert margins == pytest.approx([min(0.06 * step, 0.3) for step in steps])


def test_the_last_optimizer_step_is_the_schedules_last(run, tmp_path, monkeypatch):
    """Also where an epoch's last batches make no step, and after more epochs."""
    seen, on_fit_end = {}, train.SpeakerBrain.choose_and_average

    def look(self):
        annealing, margin = self.hparams.lr_annealing, self.hparams.margin_schedule
        seen.update(
            steps=(self.optimizer_step, annealing.clr_iterations, margin.steps),
            ends=(2 * annealing.step_size, margin.warmup_steps),
            rate=self.optimizer.param_groups[0]["lr"],
        )
        return on_fit_end(self)

    monkeypatch.setattr(train.SpeakerBrain, "choose_and_average", look)
    schedule = "!new:hamsb.LinearMargin {margin: 0.2, warmup_steps: !ref "
    changes = {
        "grad_accumulation_factor": 2,
        "batch_size": 5,  # 24 utterances: 4 batches
        "dataloader_options": "{drop_last: False}",  # 5
        "margin_schedule": schedule + "<number_of_epochs> * <steps_per_epoch>}",
    }
    for epochs, steps in ((2, 4), (3, 6)):
        run(number_of_epochs=epochs, **changes)
        assert seen["steps"] == (steps,) * 3 and seen["ends"] == (steps,) * 2
        assert seen["rate"] == pytest.approx(1e-5)
    with pytest.raises(ValueError, match="reaches its margin after 7 optimizer steps"):
        changes["margin_schedule"] = schedule.replace("!ref ", "7}")
        run(output_folder=tmp_path / "long", number_of_epochs=3, **changes)
    with pytest.raises(ValueError, match="steps_per_epoch=3: what the schedules count"):
        run(output_folder=tmp_path / "given", steps_per_epoch=3)


def test_a_folder_continues_only_as_what_it_began_as(run, tmp_path, tiny_options):
    out = run()
    before = contents(out)
    for changes, message in (
        (
            {"compute_cost": "{margin: 0.5}"},
            r"compute_cost\[margin\]=0.2, and now it is 0.5",
        ),
        ({"dev_speakers": 3}, "dev_speakers=2, and now it is 3"),
        ({"save_folder": tmp_path / "other"}, "save_folder="),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
    with pytest.raises(ValueError, match="a run of train.py, whose results train_ssl"):
        train_ssl.main(["hparams/small/simclr.yaml", *tiny_options()])
    assert contents(out) == before
    run()
    assert {*contents(out)} == {*before}


def test_other_data_are_refused_before_anything_is_replaced(run, tiny_corpus, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(tiny_corpus / "train", data)
    out = run(data_folder=data)
    before = contents(out)
    gone = sorted((data / "wav").rglob("*.*"))[0]
    gone.rename(tmp_path / "gone")
    with pytest.raises(ValueError, match="data_folder: .* gone"):
        run(data_folder=data)
    assert contents(out) == before
    (tmp_path / "gone").rename(gone)
    os.utime(gone)  # the same file, copied back
    run(data_folder=data)


def test_without_a_trial_list(run, tmp_path, capsys):
    out = run(verification_file="null", baselines=True)
    report = (out / "report.md").read_text()
    assert "No trial list was given" in report and "Development EER" in report
    assert "No trial list was given" in (out / "export" / "README.md").read_text()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["results"] == [] and 0 <= metrics["development"]["eer"] <= 1
    assert (out / "export" / "decision.json").is_file()
    again = run(verification_file="[]", dev_speakers=0, output_folder=tmp_path / "none")
    assert (again / "export" / "hyperparams.yaml").is_file()


def test_thresholds_stored_with_a_finished_model_stay(run):
    """The same command again, as for another card, trains nothing and keeps them; where
    it trains on, they are another model's."""
    out = run(verification_file="null", number_of_epochs=1)
    own = read_decision(out / "export")
    given = {**own, "list": "calls", "thresholds": {"eer": 0.123}}
    write_decision(out / "export", given, by="verify.py")
    run(verification_file="null", number_of_epochs=1, card="{language: en}")
    assert read_decision(out / "export") == {**given, "stored_by": "verify.py"}
    log = out / "log.txt"
    assert "keeps the thresholds of calls, which verify.py stored" in log.read_text()
    run(verification_file="null", number_of_epochs=2)
    assert read_decision(out / "export")["list"] == "veri_dev"
    assert "were for an earlier state of the model" in log.read_text()


def test_the_export_is_there_when_scoring_fails(run, tiny_corpus, tmp_path, monkeypatch):
    """And labels that the names of folders contradict, of which reading the list only
    warns, cost the interval alone."""
    real = outcome.score_lists
    label, *first = (tiny_corpus / "veri_test.txt").read_text().partition(" ")
    doubtful = tmp_path / "veri_test.txt"
    doubtful.write_text("".join([str(1 - int(label)), *first]))

    def fails(*args, **kwargs):
        raise ValueError("no scores")

    monkeypatch.setattr(outcome, "score_lists", fails)
    with pytest.raises(ValueError, match="no scores"):
        run(verification_file=doubtful)
    out = tmp_path / "run"
    assert "not scored yet" in (out / "export" / "README.md").read_text()
    assert not (out / "report.md").exists()
    monkeypatch.setattr(outcome, "score_lists", real)
    run(verification_file=doubtful)
    metrics = json.loads((out / "metrics.json").read_text())
    assert "eer_interval" not in metrics["results"][0]
    assert any("1 of its" in each for each in metrics["warnings"])
    card = (out / "export" / "README.md").read_text()
    assert "not scored yet" not in card and "| veri_test |" in card


def test_an_export_that_gives_other_scores_is_found(run, monkeypatch):
    real = outcome.export_model

    def damaged(folder, *args):
        export = real(folder, *args)
        weights = torch.load(export / "embedding_model.ckpt")
        name = next(name for name in weights if name.endswith("fc.conv.weight"))
        weights[name][0] += 1.0
        torch.save(weights, export / "embedding_model.ckpt")
        return export

    monkeypatch.setattr(outcome, "export_model", damaged)
    with pytest.raises(ValueError, match="not what report.md is about"):
        run()


@pytest.mark.parametrize(
    "changes, files",
    [
        ({"mean_var_norm": "{norm_type: global}"}, {"mean_var_norm.ckpt"}),
        (
            {
                "compute_features": "{requires_grad: True}",
                "checkpointer": "{recoverables: {features: !ref <compute_features>}}",
                "avg_checkpoints": 2,
            },
            {"compute_features.ckpt"},
        ),
    ],
)
def test_features_and_statistics_are_exported(run, changes, files):
    """The run itself compares the scores of what it exported with its own."""
    out = run(number_of_epochs=2, **changes)
    found = {path.name for path in (out / "export").glob("*.ckpt")}
    assert found == files | {
        f"{n}.ckpt" for n in ("embedding_model", "classifier", "label_encoder")
    }
    for name in ("hyperparams.yaml", "embedding.yaml"):
        text = (out / "export" / name).read_text()
        assert all(f"<{file[:-5]}>" in text for file in files)


def test_baselines_need_statistics(run):
    with pytest.raises(ValueError, match="baselines=True: .* norm_type global"):
        run(mean_var_norm="{norm_type: global}", baselines=True)


# ------------------------------------------------------------------ the parts


def test_the_dataset_can_be_sent_to_other_processes(tmp_path):
    """So that forkserver and spawn may start the workers of a data loader."""
    soundfile.write(tmp_path / "a.wav", np.arange(1000) / 2000, 16000)
    (tmp_path / "train.csv").write_text(
        f"ID,duration,wav,start,stop,spk_id\na,0.0625,{tmp_path / 'a.wav'},0,1000,x\n"
    )
    hparams = {"train_annotation": tmp_path / "train.csv", "save_folder": tmp_path}
    hparams |= {"sentence_len": 0.05, "sample_rate": 16000, "seed": 1}
    data, labels = train.dataio_prep(hparams)
    assert len(labels) == 1
    (entry,) = pickle.loads(pickle.dumps(data))
    assert entry["sig"].shape == (800,) and entry["spk_id_encoded"].tolist() == [0]


class Distorted(torch.nn.Module):
    """Stands for an augmentation."""

    def forward(self, wavs):
        return wavs.cumsum(1)


@pytest.fixture
def brain():
    """A function: a tiny SpeakerBrain with two heads, changed by hparams."""

    def brain(**hparams):
        torch.manual_seed(0)
        modules = {
            "compute_features": Framed(),
            "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
            "embedding_model": Embedding(10, 6),
            "classifier": hamsb.HyperbolicClassifier(6, 5, hamsb.PoincareBall(1.0)),
            "euclidean_classifier": Classifier(6, out_neurons=5),
        }
        given = {"compute_cost": hamsb.HAMSoftmax(), **hparams}
        return train.SpeakerBrain(modules, hparams=given, run_opts={"device": "cpu"})

    return brain


def drawn(samples, size=40):
    generator = torch.Generator().manual_seed(1)
    return PaddedBatch(
        [
            {
                "id": str(number),
                "sig": torch.randn(samples, generator=generator),
                "spk_id_encoded": torch.tensor([number % 5]),
            }
            for number in range(size)
        ]
    )


def test_large_heads_are_exported_on_request(brain, monkeypatch):
    assert brain().averaged == ["embedding_model", "classifier"]
    assert brain(export_classifier=False).averaged == ["embedding_model"]
    monkeypatch.setattr(train, "MANY", 4)
    assert brain().averaged == ["embedding_model"] and brain().card == {"classify": ""}
    assert "classifier" in brain(export_classifier=True).averaged


def test_branches_are_added_by_their_weights(brain):
    costs = hamsb.HAMSoftmax(margin=0.3), hamsb.RAMSoftmax(margin=0.1)
    names = ("classifier", "euclidean_classifier")
    branches = {
        name: {"cost": cost, "weight": weight}
        for name, cost, weight in zip(names, costs, (0.7, 0.3))
    }
    blend, batch = brain(branches=branches), drawn(400)
    forward = blend.compute_forward(batch, Stage.TRAIN)
    loss = blend.compute_objectives(forward, batch, Stage.TRAIN)
    loss.backward()
    wavs, targets = batch.sig.data, batch.spk_id_encoded.data
    features = wavs.reshape(40, 40, 10)
    features = features - features.mean(1, keepdim=True)
    embeddings = blend.modules.embedding_model(features)
    parts = [
        cost(blend.modules[name](embeddings), targets) for name, cost in zip(names, costs)
    ]
    assert loss.item() == pytest.approx((0.7 * parts[0] + 0.3 * parts[1]).item())
    for name in names:
        assert all(p.grad.abs().sum() > 0 for p in blend.modules[name].parameters())
    alone = brain(compute_cost=costs[0])
    forward = alone.compute_forward(batch, Stage.TRAIN)
    loss = alone.compute_objectives(forward, batch, Stage.TRAIN)
    assert loss.item() == pytest.approx(parts[0].item())


def test_a_loss_that_is_a_module_is_taken_as_it_is_wrapped(brain):
    """Where it learns, several processes average its gradient in the wrapped one alone."""
    cost = hamsb.SphereFace2()
    branches = {"euclidean_classifier": {"cost": cost, "weight": 1.0}}
    for given in ({"compute_cost": cost}, {"branches": branches}):
        made = brain(**given)
        assert "own_cost" not in made.training_only
        made.modules["own_cost"] = torch.compile(cost)
        (branch,) = made.branches.values()
        assert branch["cost"] is made.modules["own_cost"] is not cost
        assert "own_cost" in made.training_only


def test_the_clean_and_the_augmented_view(brain):
    for separate in (True, False):
        check_views(brain, separate)


def check_views(brain, separate):
    """One after the other, or in one batch; at one speed for both."""
    augment = Augmenter(concat_original=True, augmentations=[Distorted()])
    speeds = SpeedPerturb([100, 50], out_neurons=10)
    given = {"speed_perturb": speeds, "wav_augment": augment, "separate_views": separate}
    made, batch, seen = brain(**given), drawn(speeds.read_length(400)), []
    made.modules.compute_features.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    views = made.compute_forward(batch, Stage.TRAIN)
    assert [len(view[1]) for view in views] == ([40, 40] if separate else [80])
    assert [len(wavs) for wavs in seen] == [len(view[1]) for view in views]
    wavs, targets = torch.cat(seen), torch.cat([view[1] for view in views])
    assert wavs.shape == (80, 400)
    torch.testing.assert_close(wavs[40:], wavs[:40].cumsum(1))
    assert torch.equal(targets[40:], targets[:40])
    speed = targets[:40, 0] // 5
    assert torch.equal(targets[:40, 0] % 5, batch.spk_id_encoded.data[:, 0])
    assert speed.unique().tolist() == [0, 1]
    assert torch.equal(wavs[:40][speed == 0], batch.sig.data[speed == 0])
    assert [len(outputs["classifier"]) for outputs, *_ in views] == [len(w) for w in seen]
    # At one speed and without augmentation: the batch as it is.
    ((_, targets, _),) = brain().compute_forward(batch, Stage.TRAIN)
    assert torch.equal(targets, batch.spk_id_encoded.data)
