#!/usr/bin/env python3
"""Train a speaker embedding model on speaker labels, verify it, and export it.

    python recipes/VoxCeleb/train.py hparams/<experiment>.yaml [--key=value ...]
    python recipes/VoxCeleb/train.py hparams/mini.yaml --number_of_epochs=5

What a run does and leaves is told in ``hamsb.training.run``. Here is what labels are
for: classes, heads, their losses, and speeds that make further classes; or, with
``torch.nn.Identity`` for a classifier, losses that compare the embeddings of a batch.
A yaml's ``batch_sampler`` makes the batches, and with ``cluster_refresh`` is given new
clusters of the training speakers in the course of the training.
"""

from hamsb.training import keys
from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key

KEYS = [
    *keys.KEYS,
    Key("classifier", "object", "the head: embeddings -> similarities with the speakers"),
    Key(
        "branches",
        "mapping",
        "losses of heads among the modules, and weights",
        optional=True,
    ),
    Key("speed_perturb", "object", "speeds that make further speakers", optional=True),
    Key("separate_views", "boolean", "clean and augmented batch in turn", optional=True),
    Key("batch_sampler", "object", "makes the batches, anew each epoch", optional=True),
    Key("cluster_refresh", "mapping", "new clusters for the batch sampler", optional=True),
    Key(
        "head_epochs",
        "whole number",
        "train the head alone, of pretrained_model",
        optional=True,
    ),
    Key("encoder_lr_factor", "number", "the encoder's part of the rate", optional=True),
    Key(
        "export_classifier",
        "boolean",
        "export the head; by default up to 100,000 speakers",
        optional=True,
    ),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS)  # before what takes seconds to import

from hamsb.augment.reads import Reads, Speeds, augment
from hamsb.dataio.pipelines import RandomCrop, SpeakerIndex, add_steps, number_speakers
from hamsb.dataio.rows import RowDataset
from hamsb.training import run
from hamsb.training.brain import EmbeddingBrain, unwrapped
from hamsb.training.branches import check_branches, classes
from hamsb.training.cluster_refresh import ClusterRefresh
from hamsb.training.report import describe, millions
from hamsb.training.shards import MANY
from hamsb.utils.command_line import main_or_exit
from mini.mini_corpus import make_mini_corpus
from voxceleb_prepare import prepare_voxceleb

# ---------------------------------------------------------------------- the data

AUGMENTED = 1  # the view, beside the clean one


def dataio_prep(hparams):
    """The training dataset and its labels: random crops and speaker indices, speeds, and
    what the augmentations read."""
    crop = length = int(hparams["sentence_len"] * hparams["sample_rate"])
    seed, speed_perturb = hparams["seed"], hparams.get("speed_perturb")
    if speed_perturb is not None:
        crop = speed_perturb.read_length(length)

    needed = [*RandomCrop.columns, *SpeakerIndex.takes]
    train = RowDataset.from_csv(hparams["train_annotation"], needed)
    labels = number_speakers(train.data.column("spk_id"))
    steps = [RandomCrop(crop, seed), SpeakerIndex(labels)]
    if speed_perturb is not None:
        label_speeds(labels, speed_perturb)
        steps.append(Speeds(speed_perturb.draw, seed))
    steps.append(Reads(hparams.get("wav_augment"), length, seed, AUGMENTED))
    labels.expect_len(len(labels))
    add_steps(train, *steps)
    train.set_output_keys(["id", *(key for step in steps for key in step.provides)])
    return train, labels


def label_speeds(labels, speed_perturb):
    """Name the classes that speed perturbation adds: the k-th speed's class of
    speaker i is ``i + k * C``."""
    speakers = dict(labels.ind2lab)
    for k, speed in enumerate(speed_perturb.speeds[1:], start=1):
        for index, speaker in speakers.items():
            name = f"{speaker} at {speed} %"
            labels.enforce_label(name, index + k * speed_perturb.speakers)


def learned(modules):
    """The names, among modules, of the embedding model and of the classifier if it has
    parameters: one that hands on the embeddings has none, and no classes."""
    names = "embedding_model", "classifier"
    return [name for name in names if any(True for _ in modules[name].parameters())]


def check_head(hparams):
    """Whether the model has a head; ValueError where ``head_epochs`` would train none."""
    has_head = "classifier" in learned(hparams)
    if hparams.get("head_epochs") and not has_head:
        raise ValueError(
            f"head_epochs={hparams['head_epochs']}: trains the head alone, and the "
            "classifier has nothing to learn; leave head_epochs out."
        )
    return has_head


# ------------------------------------------------------------------ the training


class SpeakerBrain(EmbeddingBrain):
    """Training of the embeddings and of one or several heads on speaker labels."""

    script = "train.py"

    @property
    def averaged(self):
        names = learned(self.modules)
        wanted = getattr(self.hparams, "export_classifier", None)
        if wanted is None:
            wanted = (classes(unwrapped(self.modules.classifier)) or 0) <= MANY
        return [name for name in names if wanted or name != "classifier"]

    @property
    def training_only(self):
        costs = {id(branch["cost"]) for branch in self.branches.values()}
        losses = [name for name, module in self.modules.items() if id(module) in costs]
        return (*EmbeddingBrain.training_only, *self.branches, *losses)

    @property
    def card(self):
        if "classifier" not in self.averaged:
            return super().card
        return {
            "classify": "# One of the training speakers:\n"
            'scores, best, index, name = verification.classify_file("speech.wav")\n'
        }

    @property
    def branches(self):
        """What is learned: for each head among the modules, its loss and weight. A loss
        that is a module itself is that one, as it is wrapped for several processes."""
        default = {"classifier": {"cost": self.hparams.compute_cost, "weight": 1.0}}
        given = getattr(self.hparams, "branches", None) or default
        wrapped = {id(unwrapped(module)): module for module in self.modules.values()}
        return {
            name: {**branch, "cost": wrapped.get(id(branch["cost"]), branch["cost"])}
            for name, branch in given.items()
        }

    @staticmethod
    def training_data(hparams):
        data, labels = dataio_prep(hparams)
        check_branches(
            hparams.get("branches"),
            hparams["compute_cost"],
            hparams["modules"],
            len(labels),
        )
        return data, labels if check_head(hparams) else None

    @staticmethod
    def facts(hparams):
        facts = EmbeddingBrain.facts(hparams)
        return {
            "loss": facts["loss"],
            "head": describe(hparams["classifier"]),
            "parameters": facts["parameters"],
            "in the head": millions(hparams["classifier"]),
        }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.cluster_refresh = None
        if getattr(self.hparams, "cluster_refresh", None) is not None:
            self.cluster_refresh = ClusterRefresh(
                self.hparams.cluster_refresh,
                getattr(self.hparams, "batch_sampler", None),
                self.hparams.save_folder,
                self.hparams.train_annotation,
                self.hparams.sample_rate,
                self.hparams.seed,
                self.hparams.epoch_counter.limit,
            )

    def on_fit_start(self):
        super().on_fit_start()
        if self.cluster_refresh and self.checkpointer.find_checkpoint() is None:
            self.cluster_refresh.remove_files()

    def on_stage_start(self, stage, epoch=None):
        """The batch sampler is given new clusters when they are due."""
        super().on_stage_start(stage, epoch)
        if self.cluster_refresh:
            progress = not self.noprogressbar
            self.cluster_refresh.before_epoch(
                epoch, self.encode, progress=progress, **self.embedding_options
            )

    @property
    def by_view(self):
        return bool(getattr(self.hparams, "separate_views", False))

    def compute_forward(self, batch, stage):
        """The predictions of every view of the batch: a list of (predictions of
        each branch, targets, lengths)."""
        return [self.forward_view(*view) for view in self.views(batch)]

    def views(self, batch):
        """The batch as passed through the network: a list of (waveforms, targets,
        lengths).

        ``wav_augment`` may return several copies of the batch, as the clean one
        and an augmented one; ``separate_views`` passes them through the network
        one after the other, each with batch statistics of its own and a backward
        pass of its own, instead of all at once.
        """
        batch = batch.to(self.device, non_blocking=True)
        wavs, lengths = batch.sig
        targets, _ = batch.spk_id_encoded
        self.utterances = batch.id
        if getattr(self.hparams, "speed_perturb", None) is not None:
            drawn = getattr(batch, "speed", None)
            wavs, targets = self.hparams.speed_perturb(wavs, targets, drawn)
        if getattr(self.hparams, "wav_augment", None) is not None:
            given = wavs, lengths, batch, AUGMENTED
            wavs, lengths = augment(self.hparams.wav_augment, *given)
            targets = self.hparams.wav_augment.replicate_labels(targets)
        size = len(batch) if self.by_view else len(wavs)
        return [*zip(wavs.split(size), targets.split(size), lengths.split(size))]

    def forward_view(self, wavs, targets, lengths):
        with self.encoding():
            features = self.modules.compute_features(wavs)
            features = self.modules.mean_var_norm(features, lengths)
            if getattr(self.hparams, "fea_augment", None) is not None:
                features, lengths = self.hparams.fea_augment(features, lengths)
                targets = self.hparams.fea_augment.replicate_labels(targets)
            embeddings = self.modules.embedding_model(features)
        self.count_clipped(embeddings)
        outputs = {name: self.modules[name](embeddings) for name in self.branches}
        return outputs, targets, lengths

    def compute_objectives(self, predictions, batch, stage):
        """The sum over views and branches of weight * mean loss."""
        return sum(
            branch["weight"] * branch["cost"](outputs[name], targets, lengths)
            for outputs, targets, lengths in predictions
            for name, branch in self.branches.items()
        )

    def count_clipped(self, embeddings):
        """Count the embeddings that the head's ball, if it has one and is given them
        as they are, cuts short."""
        classifier = unwrapped(self.modules.classifier)
        if hasattr(classifier, "ball") and not hasattr(classifier, "batch_norm"):
            clipped = classifier.ball.clipped(embeddings.detach())
            self.watch(clipped=clipped.float().mean())


# ------------------------------------------------------------------------- main


def main(arguments):
    run.main(arguments, SpeakerBrain, prepare_voxceleb, make_mini_corpus, KEYS)


if __name__ == "__main__":
    main_or_exit(main)
