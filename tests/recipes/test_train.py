"""The whole path on a tiny corpus: train, choose, average, verify, export, load."""

import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import train
import verify
from speechbrain.lobes.features import Fbank
from speechbrain.inference.speaker import EncoderClassifier, SpeakerRecognition
from speechbrain.utils.checkpoints import Checkpointer

HAM = "hparams/small_ham.yaml"


@pytest.fixture
def run(repository, tiny_options, tmp_path, monkeypatch):
    """A function that trains and returns the output folder."""
    monkeypatch.chdir(repository)

    def run(yaml=HAM, **changes):
        train.main([yaml, *tiny_options(**changes)])
        return changes.get("output_folder", tmp_path / "run")

    return run


def test_whole_path(run, tiny_corpus, tmp_path, capsys, monkeypatch):
    out = run(number_of_epochs=3, avg_checkpoints=2)

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
    assert all("valid EER" in line and "limited" in line for line in log)
    assert len((out / "scores_veri_test.txt").read_text().splitlines()) == len(labels)

    # The export holds the mean of the last two epochs' weights.
    checkpointer = Checkpointer(out / "save")
    last = checkpointer.find_checkpoints(max_num_checkpoints=2)
    assert sorted(checkpoint.meta["epoch"] for checkpoint in last) == [2, 3]
    for name in ("embedding_model", "classifier"):
        one, other = (torch.load(c.paramfiles[name], map_location="cpu") for c in last)
        mean = torch.load(out / "export" / f"{name}.ckpt")
        for key in mean:
            torch.testing.assert_close(mean[key], (one[key] + other[key]) / 2, check_dtype=False)

    # It loads from elsewhere and gives the embeddings that were scored, bit for bit.
    moved = tmp_path / "elsewhere" / "model"
    moved.parent.mkdir()
    (out / "export").rename(moved)
    monkeypatch.chdir(moved.parent)
    verify.main([
        f"{train.__file__[:-len('recipes/VoxCeleb/train.py')]}hparams/verify.yaml",
        "--model=model",
        f"--test_data_folder={tiny_corpus / 'test'}",
        f"--verification_file={tiny_corpus / 'veri_test.txt'}",
        f"--output_folder={tmp_path / 'verified'}",
        "--noprogressbar",
    ])
    again = tmp_path / "verified" / "scores_veri_test.txt"
    assert again.read_bytes() == (out / "scores_veri_test.txt").read_bytes()
    assert f"| veri_test {counts}" in (tmp_path / "verified" / "report.md").read_text()

    # It classifies by speaker name.
    files = sorted((tiny_corpus / "train" / "wav").rglob("*.*"))
    encoder = EncoderClassifier.from_hparams(source="model", run_opts={"device": "cpu"})
    scores, best, index, names = encoder.classify_file(str(files[0]))
    assert scores.shape == (1, 6) and names == encoder.hparams.label_encoder.decode_torch(index)
    assert names[0] in {path.parts[-3] for path in files}
    assert best == scores.max()

    # Embeddings and verification in another process where there is no hamsb.
    alone = subprocess.run(
        [sys.executable, "-c", ALONE, str(files[0]), str(files[-1])],
        capture_output=True, text=True, cwd=moved.parent,
    )
    assert alone.returncode == 0, alone.stderr
    ours = encoder.encode_batch(encoder.load_audio(str(files[0])).unsqueeze(0))
    score, _ = SpeakerRecognition.from_hparams(
        source="model", run_opts={"device": "cpu"}
    ).verify_files(str(files[0]), str(files[-1]))
    theirs = [float(value) for value in alone.stdout.split()]
    assert theirs == [ours.double().sum().item(), score.item()]


ALONE = """
import sys

class NoHamsb:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hamsb":
            raise ImportError("hamsb is not installed here")

sys.meta_path.insert(0, NoHamsb())
import torch
torch.set_num_threads(1)
from speechbrain.lobes.features import Fbank
from speechbrain.inference.speaker import EncoderClassifier, SpeakerRecognition
options = {"source": "model", "hparams_file": "embedding.yaml", "run_opts": {"device": "cpu"}}
encoder = EncoderClassifier.from_hparams(**options)
audio = encoder.load_audio(sys.argv[1]).unsqueeze(0)
print(encoder.encode_batch(audio).double().sum().item())
print(SpeakerRecognition.from_hparams(**options).verify_files(*sys.argv[1:])[0].item())
"""


def test_an_interrupted_run_ends_as_an_uninterrupted_one(run, tmp_path, monkeypatch):
    """Interrupted in the middle of an epoch; and begun again when complete."""

    def log(folder):
        return (folder / "train_log.txt").read_text().splitlines()

    whole = run(output_folder=tmp_path / "whole", number_of_epochs=3)
    batches, fit_batch = [], train.SpeakerBrain.fit_batch

    def interrupted(self, batch):
        batches.append(batch)
        if len(batches) == 9:  # the third of the six batches of epoch 2
            raise KeyboardInterrupt
        return fit_batch(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train.SpeakerBrain, "fit_batch", interrupted)
        run(number_of_epochs=3)
    out = run(number_of_epochs=3)
    assert log(out) == log(whole) and len(log(out)) == 3
    for name in ("embedding_model", "classifier"):
        ours, theirs = (torch.load(f / "export" / f"{name}.ckpt") for f in (out, whole))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    run(number_of_epochs=3)
    assert log(out) == log(whole)


def test_checkpoints_within_an_epoch_are_not_averaged(run):
    out = run(number_of_epochs=2, ckpt_interval_steps=2, avg_checkpoints=2)
    assert "| 2 | 1, 2 |" in (out / "report.md").read_text()


def test_best_averages_the_epochs_of_lowest_development_eer(run):
    out = run(number_of_epochs=4, avg_checkpoints=1, average_by="best")
    log = (out / "train_log.txt").read_text().splitlines()
    eers = [float(line.rsplit(":", 1)[1]) for line in log]
    report = (out / "report.md").read_text()
    chosen = int(report.split("| 4 | ")[1].split(" |")[0])
    assert eers[chosen - 1] == min(eers)


def test_without_development_speakers_the_last_epochs_are_taken(run, capsys):
    out = run(dev_speakers=0, number_of_epochs=2)
    assert "EER" not in (out / "train_log.txt").read_text()
    assert "Development" not in (out / "report.md").read_text()
    with pytest.raises(ValueError, match="average_by='best'"):
        run(dev_speakers=0, number_of_epochs=2, average_by="best")


def test_equal_seeds_give_equal_models_and_others_do_not(run, tmp_path):
    def weights(name, seed):
        run(output_folder=tmp_path / name, seed=seed)
        return torch.load(tmp_path / name / "export" / "classifier.ckpt")["centers"]

    first = weights("first", 1)
    assert torch.equal(first, weights("second", 1))
    assert not torch.equal(first, weights("third", 2))


def test_bfloat16_trains(run):
    train_log = run(precision="bf16") / "train_log.txt"
    assert "nan" not in train_log.read_text()


def test_head_and_loss_are_changed_on_the_command_line(run):
    out = run(
        compute_cost="{margin: 0.35}", classifier="{ball: {curvature: 5.0}}"
    )
    report = (out / "report.md").read_text()
    assert "HAMSoftmax(margin=0.35, scale=30)" in report
    assert "ClippedUnitBall(curvature=5)" in report
    assert "curvature: 5.0" in (out / "export" / "hyperparams.yaml").read_text()


def test_several_trial_lists_and_folders(run, tiny_corpus, tmp_path):
    lines = (tiny_corpus / "veri_test.txt").read_text().splitlines(keepends=True)
    (tmp_path / "half.txt").write_text("".join(lines[:20]))
    out = run(
        verification_file=f"[{tiny_corpus / 'veri_test.txt'}, {tmp_path / 'half.txt'}]",
        data_folder=f"[{tiny_corpus / 'train'}, {tiny_corpus / 'test'}]",
    )
    report = (out / "report.md").read_text()
    assert "| veri_test: trained |" in report and "| half: trained |" in report
    # The test speakers are in a training root and in no training file.
    assert "6 speakers" in report
    assert (out / "scores_half.txt").is_file()


def test_speakers_are_counted_and_a_smaller_number_is_refused(run):
    with pytest.raises(ValueError, match="out_n_neurons=5.*6 speakers"):
        run(out_n_neurons=5)
    out = run(out_n_neurons=9)
    assert torch.load(out / "export" / "classifier.ckpt")["centers"].shape[0] == 9


def test_messages_of_bad_options(run, tmp_path):
    with pytest.raises(ValueError, match="batch_size=400.*only 24 utterances"):
        run(batch_size=400)
    with pytest.raises(ValueError, match="numbr_of_epochs.*did you mean number_of_epochs"):
        run(numbr_of_epochs=3)
    with pytest.raises(FileNotFoundError, match="no exported model"):
        verify.main(["hparams/verify.yaml", f"--model={tmp_path}"])


def test_two_runs_on_one_folder_are_refused(run, tmp_path):
    """The other run holds the folder until it is killed, and its child, as a
    data loader's worker, does not hold it longer."""
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, train.__file__, str(tmp_path / "run")],
        stdout=subprocess.PIPE, text=True,
    )
    try:
        child = int(other.stdout.readline())
        with pytest.raises(ValueError, match="another run is at work there"):
            run()
        assert not (tmp_path / "run" / "save").exists()
    finally:
        other.kill()
        other.wait()
    os.kill(child, 0)  # is still there
    with train.only_run(tmp_path / "run"):
        os.kill(child, signal.SIGKILL)


OTHER = """
import os, pathlib, sys, time
sys.path.insert(0, os.path.dirname(sys.argv[1]))
from train import only_run

with only_run(pathlib.Path(sys.argv[2])):
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(100)
"""


def test_a_folder_that_cannot_be_written_is_refused_at_once(run):
    with pytest.raises(OSError, match="/proc/hamsb"):
        run(output_folder="/proc/hamsb/run")


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(
    run, tmp_path, monkeypatch
):
    def poisoned(self, wavs):
        return forward(self, wavs) * float("nan") if self.training else forward(self, wavs)

    forward = Fbank.forward
    monkeypatch.setattr(Fbank, "forward", poisoned)
    with pytest.raises(ValueError, match=r"the loss is nan in step 1.*id1000\d/"):
        run()
    assert not list((tmp_path / "run" / "save").glob("CKPT*"))


def test_a_file_that_became_unreadable_is_named(run, tmp_path, tiny_corpus, monkeypatch):
    copy = tmp_path / "train"
    shutil.copytree(tiny_corpus / "train", copy)
    preparing = train.prepare_voxceleb

    def corrupting(**options):
        preparation = preparing(**options)
        for path in copy.rglob("*.*"):
            path.write_bytes(path.read_bytes()[:2000])
        return preparation

    monkeypatch.setattr(train, "prepare_voxceleb", corrupting)
    with pytest.raises(ValueError, match=f"{copy}/wav/id1000.*(cannot be read|too early)"):
        run(data_folder=copy, dev_speakers=0)


def test_clean_and_augmented_views_one_after_the_other_or_at_once(
    repository, tiny_options, tiny_distortions, tmp_path
):
    """With weights that do not change, the summed loss of two views is twice the
    mean loss of the joined batch but for the batch statistics."""
    losses = {}
    for separate in (True, False):
        out = tmp_path / str(separate)
        train.main([
            str(repository / "hparams" / "train_ecapa_ham.yaml"),
            *tiny_options(
                output_folder=out, separate_views=separate, lr=1e-12, **tiny_distortions
            ),
        ])
        log = (out / "train_log.txt").read_text()
        losses[separate] = float(log.split("train loss: ")[1].split(",")[0])
    assert losses[True] == pytest.approx(2 * losses[False], rel=0.05)


def test_speeds_make_further_speakers(repository, tiny_options, tiny_distortions, tmp_path):
    train.main([
        str(repository / "hparams" / "train_ecapa_ham.yaml"),
        *tiny_options(speeds="[100, 90, 110]", **tiny_distortions),
    ])
    export = tmp_path / "run" / "export"
    assert torch.load(export / "classifier.ckpt")["centers"].shape[0] == 18
    encoder = EncoderClassifier.from_hparams(source=str(export), run_opts={"device": "cpu"})
    names = encoder.hparams.label_encoder.ind2lab
    assert len(names) == 18
    assert names[6] == f"{names[0]} at 90 %" and names[17] == f"{names[5]} at 110 %"


def test_fine_tuning_starts_from_the_finished_model(
    run, tiny_distortions, tmp_path
):
    lmft = "hparams/train_ecapa_ham_lmft.yaml"
    finished = run(output_folder=tmp_path / "finished") / "export"
    options = {"pretrained_model": finished, **tiny_distortions}
    out = run(lmft, lr=1e-12, **options)
    for name in ("embedding_model", "classifier"):
        before, after = (torch.load(f / f"{name}.ckpt") for f in (finished, out / "export"))
        for key in before:
            if "running" not in key and "num_batches" not in key:
                torch.testing.assert_close(after[key], before[key], rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="6 speakers that are not the 5"):
        run(lmft, dev_speakers=3, output_folder=tmp_path / "other", **options)
    options["pretrained_model"] = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match="nowhere: no exported model"):
        run(lmft, output_folder=tmp_path / "none", **options)


def test_the_margin_grows_and_goes_on_after_an_interruption(
    repository, tiny_options, tmp_path, monkeypatch
):
    """In small_ham.yaml with a schedule in it."""
    text = (repository / HAM).read_text()
    schedule = (
        "margin_schedule: !new:hamsb.schedules.LinearMargin\n"
        "    margin: 0.2\n    warmup_steps: 10\n"
    )
    text = text.replace("checkpointer:", schedule + "\ncheckpointer:") + (
        "        margin_schedule: !ref <margin_schedule>\n"
    )
    yaml = tmp_path / "scheduled.yaml"
    yaml.write_text(text)
    margins, fit_batch = [], train.SpeakerBrain.fit_batch

    def watched(self, batch):
        loss = fit_batch(self, batch)
        margins.append(self.hparams.compute_cost.margin)  # of the next step
        return loss

    monkeypatch.setattr(train.SpeakerBrain, "fit_batch", watched)
    train.main([str(yaml), *tiny_options(number_of_epochs=1)])
    train.main([str(yaml), *tiny_options(number_of_epochs=2)])
    steps = range(1, 13)
    assert margins == pytest.approx([min(0.02 * step, 0.2) for step in steps])


def test_bad_trial_lists_are_noticed_before_training(run, tiny_corpus, tmp_path):
    lines = (tiny_corpus / "veri_test.txt").read_text().splitlines(keepends=True)

    def refused(error, message, text, name="bad.txt", also=()):
        (tmp_path / name).write_text("".join(text))
        with pytest.raises(error, match=message):
            run(verification_file=[*also, str(tmp_path / name)], baselines=False)
        assert not (tmp_path / "run" / "save" / "label_encoder.txt").exists()

    missing = "0 id20001/no/1.wav id20002/no/1.wav\n"
    refused(FileNotFoundError, r"bad.txt:3: no file", [*lines[:2], missing, *lines])
    targets = [line for line in lines if line.startswith("1")]
    refused(ValueError, "bad.txt: all .* have the label 1", targets)
    both = [str(tiny_corpus / "veri_test.txt")]
    refused(ValueError, "two lists are named 'veri_test'", lines, "veri_test.txt", both)


# ------------------------------------------------------------------ the parts


def test_plain_keys_build_nothing():
    text = (
        "a: 1\nb: [1, 2.5e-3]\nc: {d: x}\n"
        "made: !new:no.such.thing\nnested: {e: !name:no.such.thing {}}\n"
        "listed: [!apply:no.such.thing [1]]\nalias: &x 3\nused: *x\n"
    )
    assert train.plain_keys(text) == {
        "a": 1, "b": [1, 0.0025], "c": {"d": "x"}, "alias": 3, "used": 3,
    }


def test_counts_replace_only_keys_that_the_yaml_has():
    preparation = SimpleNamespace(speakers=7, utterances=100)
    plain = {"batch_size": 8, "out_n_neurons": 1}
    assert train.count_overrides("", plain, preparation) == "out_n_neurons: 7"
    plain["steps_per_epoch"] = 0
    assert train.count_overrides("seed: 3", plain, preparation) == (
        "seed: 3\nout_n_neurons: 7\nsteps_per_epoch: 12"
    )
    assert train.count_overrides("steps_per_epoch: 5", plain, preparation) == (
        "steps_per_epoch: 5\nout_n_neurons: 7"
    )


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_crops_lie_in_the_file_and_short_files_wrap(tmp_path, suffix):
    ramp = (np.arange(1000) / 2000).astype(np.float32)
    path = str(tmp_path / f"ramp.{suffix}")
    soundfile.write(path, np.stack([ramp, ramp / 2], 1), 16000, subtype="PCM_16")
    mono = torch.from_numpy(0.75 * ramp)
    torch.manual_seed(0)
    starts = set()
    for _ in range(200):
        crop = train.random_crop(path, 0, 1000, 990)
        assert crop.shape == (990,)
        start = int(torch.argmin((mono - crop[0]).abs()))
        torch.testing.assert_close(crop, mono[start : start + 990], atol=1e-4, rtol=0)
        starts.add(start)
    assert starts == set(range(11))
    wrapped = train.random_crop(path, 100, 400, 700)
    expected = torch.cat([mono[100:400], mono[100:400], mono[100:200]])
    torch.testing.assert_close(wrapped, expected, atol=1e-4, rtol=0)
