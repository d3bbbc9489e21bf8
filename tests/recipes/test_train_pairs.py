"""Training on batches of pairs: contrastive losses, clusters, and new ones on the way."""

import csv
import os

import pytest
import torch
from speechbrain.inference.speaker import EncoderClassifier

import train
from hamsb.dataio.annotations import read_speakers
from hamsb.dataio.clusters import make_clusters, read_clusters, write_clusters
from runs import launch, quick, same, weights  # noqa: F401

SUPCON, MINI = "hparams/small/supcon.yaml", "hparams/mini/chns.yaml"
HSCL = {"compute_cost": "!new:hamsb.HSCL {beta: 0.1, temperature: 0.1}"}
HAM = {
    "classifier": "!new:hamsb.HyperbolicClassifier {input_size: !ref <lin_neurons>, "
    "out_neurons: !ref <out_n_neurons>, ball: !new:hamsb.ClippedUnitBall {curvature: 3.0}}",
    "compute_cost": "!new:hamsb.HAMSoftmax {margin: 0.2, scale: 30.0}",
}
REFRESH = "{every: 1, k: 2, hard_ratio: 1.0, utterances: 2, seconds: 0.5}"


@pytest.fixture
def run(repository, tiny_options, tmp_path, monkeypatch):
    """A function that trains, without baselines, and returns the output folder and
    the ids of each batch."""
    monkeypatch.chdir(repository)
    monkeypatch.setattr(train, "make_mini_corpus", lambda **options: None)
    step = train.SpeakerBrain.fit_batch

    def run(yaml=SUPCON, stop_at=None, **changes):
        batches = []

        def watched(brain, batch):
            batches.append(list(batch.id))
            if len(batches) == stop_at:
                raise KeyboardInterrupt
            return step(brain, batch)

        monkeypatch.setattr(train.SpeakerBrain, "fit_batch", watched)
        train.main([yaml, *tiny_options(**{"baselines": False, **changes})])
        return changes.get("output_folder", tmp_path / "run"), batches

    return run


@pytest.fixture
def speaker_of(tmp_path):
    """A function: an utterance's speaker, by the run's annotation."""

    def of(utterance, folder=tmp_path / "run"):
        with open(folder / "save" / "train.csv", encoding="utf-8") as file:
            return {row["ID"]: row["spk_id"] for row in csv.DictReader(file)}[utterance]

    return of


@pytest.mark.parametrize("loss", [{}, HSCL])
def test_whole_path(run, speaker_of, tiny_corpus, loss):
    folder, batches = run(number_of_epochs=2, **loss)
    assert len(batches) == 2 * 6
    for batch in batches:
        speakers = [speaker_of(utterance) for utterance in batch]
        assert speakers[0] == speakers[1] != speakers[2] == speakers[3]
        assert len(set(batch)) == 4
    assert batches[:6] != batches[6:]  # set_epoch is called
    (end, *_) = sorted((folder / "save").glob("CKPT*"), reverse=True)
    tau = torch.load(end / "compute_cost.ckpt")["log_temperature"].exp()
    assert tau != pytest.approx(0.1, abs=1e-6)  # it is learned

    assert not (folder / "export" / "label_encoder.ckpt").exists()
    assert "classify" not in (folder / "export" / "README.md").read_text()
    encoder = EncoderClassifier.from_hparams(
        source=str(folder / "export"), run_opts={"device": "cpu"}
    )
    audio = encoder.load_audio(str(next((tiny_corpus / "test" / "wav").rglob("*.wav"))))
    assert encoder.encode_batch(audio.unsqueeze(0)).shape == (1, 1, 16)


@pytest.mark.parametrize("loss", [{}, HAM])
def test_hard_speakers_come_from_the_clusters_of_the_file(run, speaker_of, tmp_path, loss):
    run()
    speakers = sorted(set(read_speakers(tmp_path / "run" / "save" / "train.csv")))
    pairs = {name: index // 2 for index, name in enumerate(speakers)}
    path = tmp_path / "clusters.csv"
    write_clusters(make_clusters(speakers, list(pairs.values())), path)
    hard = {"clusters": path, "hard_ratio": 1.0, "output_folder": tmp_path / "hard", **loss}
    folder, batches = run(**hard)
    for batch in batches:
        first, other = speaker_of(batch[0]), speaker_of(batch[2])
        assert first != other and pairs[first] == pairs[other]
    # A classifier is exported, an Identity is not.
    assert (loss == HAM) == (folder / "export" / "label_encoder.ckpt").exists()

    write_clusters(make_clusters(speakers[1:], [0] * 5), path)
    with pytest.raises(ValueError, match=speakers[0]):
        run(**hard)


def test_clusters_are_refreshed_and_outlive_an_interruption(run, speaker_of, tmp_path):
    options = {"number_of_epochs": 3, "cluster_refresh": REFRESH}
    whole, batches = run(MINI, output_folder=tmp_path / "whole", **options)
    files = sorted(path.name for path in (whole / "save").glob("clusters*"))
    assert files == ["clusters_after_epoch_1.csv", "clusters_after_epoch_2.csv"]
    for epoch in (1, 2):
        clusters = read_clusters(whole / "save" / f"clusters_after_epoch_{epoch}.csv")
        for batch in batches[6 * epoch : 6 * epoch + 6]:
            pair = [speaker_of(batch[i], whole) for i in (0, 2)]
            one, other = clusters.labels(pair)
            alone = list(clusters.of_speaker.values()).count
            assert one == other or 1 in (alone(one), alone(other))

    (tmp_path / "run" / "save").mkdir(parents=True)
    # of a run that is no more
    stale = tmp_path / "run" / "save" / "clusters_after_epoch_1.csv"
    stale.write_bytes((whole / "save" / "clusters_after_epoch_2.csv").read_bytes())
    with pytest.raises(KeyboardInterrupt):
        run(MINI, stop_at=15, **options)
    out, further = run(MINI, **options)
    assert further == batches[12:]
    assert same(weights(out), weights(whole))
    for name in files:
        ours, theirs = (folder / "save" / name for folder in (out, whole))
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="autograd does not outlive a fork there"
)
def test_two_processes_share_out_the_batches_and_learn_one_temperature(run, tmp_path):
    options = {
        "number_of_epochs": 2,
        "avg_checkpoints": 1,  # its weights stay
        "device": "cpu",
        "distributed_backend": "gloo",
        "cluster_refresh": REFRESH,
    }

    def process():
        made = []
        init = train.SpeakerBrain.__init__

        def keeping(brain, *args, **kwargs):
            made.append(brain)
            init(brain, *args, **kwargs)

        train.SpeakerBrain.__init__ = keeping
        _, batches = run(MINI, **options)
        hparams = made[0].hparams
        state = {**hparams.compute_cost.state_dict(), "plan": hparams.batch_sampler.plan()}
        state["weights"] = dict(hparams.embedding_model.named_parameters())
        torch.save({**state, "batches": batches}, tmp_path / f"{os.environ['RANK']}.pt")

    statuses, screens = launch([process, process], tmp_path)
    assert statuses == [0, 0], screens
    one, other = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2)
    )
    assert (one["plan"] == other["plan"]).all()
    assert len(one["batches"]) == len(other["batches"]) == 2 * 3
    assert one["batches"] != other["batches"]
    assert one["log_temperature"] == other["log_temperature"]
    assert same(one["weights"], other["weights"])
