"""Training without labels on a tiny corpus: the whole path, and each promise of it."""

import csv
import math
import os
import pickle
import random
import re
from types import SimpleNamespace

import pytest
import torch
from speechbrain import Stage
from speechbrain.augment.augmenter import Augmenter
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.inference.speaker import EncoderClassifier, SpeakerRecognition
from speechbrain.processing.features import InputNormalization

import hamsb
import train_ssl
from hamsb.dataio.draws import Draw
from hamsb.nnet.contrastive import MoCo, NTXent, diagnostics
from hamsb.nnet.momentum import MomentumEncoder
from runs import launch, quick, same, untimed, weights  # noqa: F401
from stand_ins import Embedding, Framed

SIMCLR, MOCO = (f"hparams/small/{name}.yaml" for name in ("simclr", "moco"))
QUEUE = {"queue_size": 10}  # neither a multiple of the batch nor an epoch's 24


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory):
    """Simulated noises and rooms."""
    folder = tmp_path_factory.mktemp("simulated") / "distortions"
    return {"distortions": f"{{folder: {folder}, noises: 1, responses: 3}}"}


@pytest.fixture
def run(repository, tiny_options, tiny_folders, tmp_path, monkeypatch):
    """A function that trains, without baselines, and returns the output folder."""
    monkeypatch.chdir(repository)

    def run(yaml=SIMCLR, **changes):
        given = {"baselines": False, **tiny_folders, **changes}
        train_ssl.main([yaml, *tiny_options(**given)])
        return changes.get("output_folder", tmp_path / "run")

    return run


@pytest.mark.parametrize(
    "yaml, more",
    [
        ("hparams/mini/ssl.yaml", {}),
        (MOCO, QUEUE),
    ],
)
def test_whole_path(run, tiny_corpus, tmp_path, capsys, monkeypatch, yaml, more):
    if "mini" in yaml:  # its corpus is there
        monkeypatch.setattr(train_ssl, "make_mini_corpus", lambda **options: None)
    out = run(yaml, number_of_epochs=2, baselines=True, **more)
    screen, report = capsys.readouterr().out, (out / "report.md").read_text()
    for text in (screen, report):
        assert "AMSoftmax(margin=0.1, scale=30)" in text
        assert "| veri_test: trained |" in text and "veri_test: untrained network" in text
    assert "train_ssl.py" in report and "Development EER" in report

    # A line an epoch tells of collapse.
    log = (out / "train_log.txt").read_text().splitlines()
    assert len(log) == 2
    for line in log:
        values = {
            name: float(value) for name, value in re.findall(r"(\w+): ([-+.\de]+)", line)
        }
        assert {"loss", "EER", "lr"} < values.keys()
        assert 0 < values["alignment"] < 4 and -8 < values["uniformity"] < 0
        assert -1 < values["negative"] < 1 and -1 < values["positive"] < 1

    # The export is the encoder, and loads from elsewhere.
    assert sorted(path.name for path in (out / "export").iterdir()) == [
        "README.md",
        "decision.json",
        "embedding.yaml",
        "embedding_model.ckpt",
        "hyperparams.yaml",
        "training.json",
    ]
    assert "classify" not in (out / "export" / "README.md").read_text()
    assert "hamsb" not in (out / "export" / "hyperparams.yaml").read_text()
    (out / "export").rename(tmp_path / "model")
    options = {"source": str(tmp_path / "model"), "run_opts": {"device": "cpu"}}
    encoder = EncoderClassifier.from_hparams(**options)
    one, other = sorted((tiny_corpus / "test" / "wav").rglob("*.wav"))[:2]
    audio = [encoder.load_audio(str(path)).unsqueeze(0) for path in (one, other)]
    embeddings = [encoder.encode_batch(each) for each in audio]
    assert embeddings[0].shape == (1, 1, 16)
    cosine = torch.cosine_similarity(*embeddings, dim=-1).item()
    score, _ = SpeakerRecognition.from_hparams(**options).verify_files(str(one), str(other))
    assert score.item() == pytest.approx(cosine, abs=1e-6)
    for line in (out / "scores_veri_test.txt").read_text().splitlines():
        enrol, test, _, scored = line.split()
        if str(one).endswith(enrol) and str(other).endswith(test):
            assert float(scored) == pytest.approx(cosine, abs=1e-5)


@pytest.mark.parametrize("yaml, more", [(SIMCLR, {}), (MOCO, QUEUE)])
def test_no_label_reaches_the_training(run, tmp_path, monkeypatch, yaml, more):
    """The same run with and without the speakers in the csv file shuffled."""
    honest = run(yaml, output_folder=tmp_path / "honest", **more)
    prepare = train_ssl.prepare_voxceleb

    def shuffling(**options):
        preparation = prepare(**options)
        with open(preparation.train_csv, newline="") as file:
            rows = list(csv.DictReader(file))
        speakers = [row["spk_id"] for row in rows]
        random.Random(0).shuffle(speakers)
        assert speakers != [row["spk_id"] for row in rows]
        with open(preparation.train_csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({**r, "spk_id": s} for r, s in zip(rows, speakers))
        return preparation

    monkeypatch.setattr(train_ssl, "prepare_voxceleb", shuffling)
    shuffled = run(yaml, output_folder=tmp_path / "shuffled", **more)
    assert same(weights(honest), weights(shuffled))
    logs = [untimed(folder / "train_log.txt") for folder in (honest, shuffled)]
    assert logs[0] == logs[1]


def test_an_interrupted_run_ends_as_an_uninterrupted_one(run, tmp_path, monkeypatch):
    """MoCo, which has most to restore."""
    options = {"number_of_epochs": 3, **QUEUE}
    whole = run(MOCO, output_folder=tmp_path / "whole", **options)
    step, calls = train_ssl.ContrastiveBrain.fit_batch, []

    def interrupting(brain, batch):
        calls.append(1)
        if len(calls) == 9:  # of six in an epoch
            raise KeyboardInterrupt
        return step(brain, batch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_ssl.ContrastiveBrain, "fit_batch", interrupting)
        run(MOCO, **options)
    out = run(MOCO, **options)
    assert same(weights(out), weights(whole))
    logs = [untimed(folder / "train_log.txt") for folder in (whole, out)]
    assert logs[0] == logs[1]
    # And on what the next step would depend.
    ends = [sorted((folder / "save").glob("CKPT*"))[-1] for folder in (out, whole)]
    for name in ("compute_cost.ckpt", "momentum_encoder.ckpt"):
        assert same(*(torch.load(end / name) for end in ends))
    queue = torch.load(ends[0] / "compute_cost.ckpt")
    assert queue["queues.0.enqueued"] == queue["queues.1.enqueued"] == 72
    assert [(end / "margin_schedule.ckpt").read_text() for end in ends] == ["18"] * 2


@pytest.mark.parametrize(
    "yaml, options, shown",
    [
        (
            SIMCLR,
            {"symmetric": False, "margin": 0.0},
            "symmetric=False (loss): AMSoftmax(margin=0,",
        ),
        (MOCO, {"symmetric": False, **QUEUE}, "(0): MomentumQueue(size=10"),
        (
            SIMCLR,
            {"margin_loss": "!new:hamsb.AAMSoftmax [!ref <margin>, !ref <scale>]"},
            "AAMSoftmax(margin=0.1, scale=30)",
        ),
        (
            MOCO,
            {
                **QUEUE,
                "similarity": "!new:hamsb.HyperbolicSimilarity "
                "[!new:hamsb.PoincareBall {curvature: 1.0, learnable: True}]",
            },
            "PoincareBall(",
        ),
    ],
)
def test_variants_of_the_loss(run, yaml, options, shown):
    out = run(yaml, **options)
    assert shown in (out / "report.md").read_text()
    assert "nan" not in (out / "train_log.txt").read_text()
    # What the loss learns is checkpointed and trained; the export needs none of it.
    (saved,) = (out / "save").glob("CKPT*/compute_cost.ckpt")
    learned = [v for k, v in torch.load(saved).items() if "curvature" in k]
    assert len(learned) == ("learnable" in str(options))


def test_a_queue_that_holds_an_epoch_is_refused(run):
    with pytest.raises(ValueError, match="a queue of size=13 for 24 training utterances"):
        run(MOCO, queue_size=13)


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="autograd does not outlive a fork there"
)
def test_two_processes_share_queue_loss_and_encoder(run, tmp_path):
    """With a ball that learns, so that the loss is wrapped, too."""
    ball = "[!new:hamsb.PoincareBall {curvature: 1.0, learnable: True}]"
    options = {
        "batch_size": 2,
        "device": "cpu",
        "distributed_backend": "gloo",
        **QUEUE,
        "similarity": f"!new:hamsb.HyperbolicSimilarity {ball}",
    }

    def process():
        made = []
        init = train_ssl.ContrastiveBrain.__init__

        def keeping(brain, *args, **kwargs):
            made.append(brain)
            init(brain, *args, **kwargs)

        train_ssl.ContrastiveBrain.__init__ = keeping
        run(MOCO, **options)
        cost = made[0].hparams.compute_cost
        state = {**cost.state_dict(), **made[0].hparams.embedding_model.state_dict()}
        slow = made[0].modules.momentum_encoder.named_parameters()
        state |= {f"slow {name}": value.detach() for name, value in slow}
        torch.save(state, tmp_path / f"{os.environ['RANK']}.pt")

    statuses, screens = launch([process, process], tmp_path)
    assert statuses == [0, 0], screens
    assert "".join(screens).count("Report: ") == 1
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["queues.0.enqueued"] == 24 and one.keys() == other.keys()
    (curvature,) = (value for name, value in one.items() if "curvature" in name)
    assert curvature != hamsb.PoincareBall(1.0, learnable=True).state_dict().popitem()[1]
    for name in one:
        if "running" not in name and "num_batches" not in name:  # of each one's share
            assert torch.equal(one[name], other[name]), name


# ------------------------------------------------------------------ the parts


class Numbered(torch.nn.Module):
    """Stands for an augmentation: adds its number of calls."""

    calls = 0

    def forward(self, wavs):
        self.calls += 1
        return wavs + self.calls


@pytest.fixture
def brain():
    """A function: a tiny Brain with a loss; MoCo gets a momentum encoder."""

    def brain(cost, **hparams):
        torch.manual_seed(0)
        encoder = Embedding(10, 6)
        modules = {
            "compute_features": Framed(),
            "mean_var_norm": InputNormalization(norm_type="sentence", std_norm=False),
            "embedding_model": encoder,
            "compute_cost": cost,
        }
        if isinstance(cost, MoCo):
            modules["momentum_encoder"] = MomentumEncoder(encoder, momentum=0.5)
        given = {
            "embedding_model": encoder,
            "compute_cost": cost,
            "lr_annealing": SimpleNamespace(),
            **hparams,
        }
        made = train_ssl.ContrastiveBrain(
            modules, lambda p: torch.optim.SGD(p, 0.1), given, {"device": "cpu"}
        )
        made.init_optimizers()
        return made

    return brain


def drawn(size=8):
    """Utterances of two speakers in turn."""
    generator = torch.Generator().manual_seed(1)
    return PaddedBatch(
        [
            {
                "id": str(number),
                "spk_id_encoded": torch.tensor([number % 2]),
                "first": torch.randn(400, generator=generator),
                "second": torch.randn(400, generator=generator),
            }
            for number in range(size)
        ]
    )


def embedded(encoder, wavs):
    features = wavs.reshape(len(wavs), 40, 10)
    return encoder(features - features.mean(1, keepdim=True))


def test_simclr_compares_the_two_views(brain):
    cost = NTXent(hamsb.AMSoftmax(0.1, 30.0), symmetric=True)
    made, batch = brain(cost), drawn()
    views = [
        embedded(made.hparams.embedding_model, wavs.data)
        for wavs in (batch.first, batch.second)
    ]
    outputs = made.compute_forward(batch, Stage.TRAIN)
    for found, expected in zip(outputs, views):
        torch.testing.assert_close(found, expected)
    loss = made.compute_objectives(outputs, batch, Stage.TRAIN)
    assert loss.item() == pytest.approx(cost(*views).item(), rel=1e-5)
    for name, value in diagnostics(*views).items():
        (noted,) = made.watched[name]
        assert noted.item() == pytest.approx(value.item(), abs=1e-5)


@pytest.mark.parametrize("symmetric", [False, True])
def test_moco_compares_queries_with_keys_and_queues(brain, symmetric):
    """Two steps, against the losses computed by hand."""
    made = brain(MoCo(hamsb.AMSoftmax(0.1, 30.0), 5, 6, symmetric))
    twin = MoCo(hamsb.AMSoftmax(0.1, 30.0), 5, 6, symmetric)
    encoder, slow = made.hparams.embedding_model, made.modules.momentum_encoder
    for step in (1, 2):
        batch = drawn()
        first, second = batch.first.data, batch.second.data
        queries = [embedded(encoder, wavs) for wavs in (first, second)][: 1 + symmetric]
        keys = [embedded(slow, wavs) for wavs in (second, first)][: 1 + symmetric]
        expected = twin(queries, keys)
        before = [p.clone() for p in slow.parameters()]
        made.step = 0  # of accumulated gradients
        loss = made.fit_batch(batch)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert (loss > 0) == (step > 1)  # the queues were empty at first
        twin.update(keys)
        for ours, theirs in zip(made.hparams.compute_cost.queues, twin.queues):
            torch.testing.assert_close(ours.keys, theirs.keys)
        # The momentum encoder follows the encoder as it is after the step.
        for old, new, fast in zip(before, slow.parameters(), encoder.parameters()):
            torch.testing.assert_close(new, (old + fast) / 2)
            assert not new.requires_grad
            assert torch.equal(old, fast) == (step == 1)


@pytest.mark.parametrize("mask", [False, True])
def test_masked_collisions_are_no_negatives(brain, mask):
    """In the batch and in the queue, by the losses that are given the labels."""
    labels = torch.tensor([0, 1] * 4) if mask else None
    cost = NTXent(hamsb.AMSoftmax(0.1, 30.0), symmetric=True)
    made, batch = brain(cost, mask_collisions=mask), drawn()
    outputs = made.compute_forward(batch, Stage.TRAIN)
    loss = made.compute_objectives(outputs, batch, Stage.TRAIN)
    assert torch.equal(loss, cost(*outputs, labels))

    made = brain(MoCo(hamsb.AMSoftmax(0.1, 30.0), 8, 6), mask_collisions=mask)
    made.step = 0
    made.fit_batch(drawn())
    (queue,) = made.hparams.compute_cost.queues
    assert queue.labels.tolist() == ([0, 1] * 4 if mask else [-1] * 8)


def test_between_optimizer_steps_keys_and_momentum_wait(brain):
    """The keys of a step's batches are queued in their order."""
    made = brain(MoCo(hamsb.AMSoftmax(0.1, 30.0), 20, 6), seed=1)
    (queue,), keys = made.hparams.compute_cost.queues, []
    made.modules.momentum_encoder.register_forward_hook(
        lambda module, inputs, output: keys.append(output.squeeze(1))
    )
    made.grad_accumulation_factor = 2
    made.step = 1
    made.fit_batch(drawn())
    assert queue.enqueued == 0
    made.step = 2
    made.fit_batch(drawn())
    assert queue.enqueued == 16
    torch.testing.assert_close(queue.keys[:16], torch.cat(keys))
    made.step = 3
    made.fit_batch(drawn())
    made.on_stage_start(Stage.TRAIN, 2)  # with the gradients of an unfinished step
    made.step = 4
    made.fit_batch(drawn())
    assert queue.enqueued == 24


def test_each_view_is_distorted_on_its_own(brain):
    augment, seen = Augmenter(augmentations=[Numbered()]), []
    made = brain(NTXent(hamsb.Softmax()), wav_augment=augment)
    made.modules.compute_features.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    batch = drawn()
    made.compute_forward(batch, Stage.TRAIN)
    assert torch.equal(seen[0], batch.first.data + 1)
    assert torch.equal(seen[1], batch.second.data + 2)


def test_copies_of_an_utterance_are_no_utterances(brain):
    """They would be one another's negatives."""
    for flags in ({"concat_original": True}, {"repeat_augment": 2}):
        augment = Augmenter(augmentations=[Numbered()], **flags)
        made = brain(NTXent(hamsb.Softmax()), wav_augment=augment)
        with pytest.raises(ValueError, match="give 16 utterances for a view of 8; a view"):
            made.compute_forward(drawn(), Stage.TRAIN)


def test_a_loss_that_compares_no_views_is_refused():
    moco = MoCo(hamsb.Softmax(), 5, 4)
    for cost, modules, message in (
        (hamsb.SupCon(), {}, r"compute_cost=SupCon\(.*: compares no views"),
        (hamsb.AMSoftmax(), {}, "give hamsb.NTXent or hamsb.MoCo"),
        (moco, {"compute_cost": moco}, "modules: MoCo needs momentum_encoder among them"),
        (NTXent(hamsb.Softmax()), {}, "modules: NTXent needs compute_cost"),
    ):
        with pytest.raises(ValueError, match=message):
            train_ssl.check_cost({"compute_cost": cost, "modules": modules})
    given = {"compute_cost": moco, "momentum_encoder": torch.nn.Identity()}
    train_ssl.check_cost({"compute_cost": moco, "modules": given})


def test_the_two_crops_are_independent(tmp_path):
    import numpy as np
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.arange(1000) / 2000, 16000)
    (tmp_path / "train.csv").write_text(
        f"ID,duration,wav,start,stop,spk_id\na,0.0625,{tmp_path / 'a.wav'},0,1000,x\n"
    )
    hparams = {"train_annotation": tmp_path / "train.csv", "seed": 1}
    data = train_ssl.dataio_prep({**hparams, "sentence_len": 0.05, "sample_rate": 16000})
    crops = [data[Draw(row=0, epoch=1, position=place)] for place in range(50)]
    assert crops[0].keys() == {"id", "first", "second"}
    assert pickle.loads(pickle.dumps(data))[0].keys() == crops[0].keys()  # as workers are
    hparams |= {"sentence_len": 0.05, "sample_rate": 16000}
    masked = train_ssl.dataio_prep({**hparams, "mask_collisions": True})
    assert masked[0]["spk_id_encoded"] == 0
    with pytest.raises(ValueError, match="mask_collisions='yes': must be True or False"):
        train_ssl.dataio_prep({**hparams, "mask_collisions": "yes"})
    starts = torch.tensor([[crop["first"][0], crop["second"][0]] for crop in crops])
    assert crops[0]["first"].shape == crops[0]["second"].shape == (800,)
    assert math.fabs(torch.corrcoef(starts.T)[0, 1]) < 0.4
    assert (starts.std(0) > 0.01).all()
