#!/usr/bin/env python3
"""Train a speaker embedding model on speaker labels, verify it, and export it.

    python recipes/VoxCeleb/train.py hparams/<experiment>.yaml [--key=value ...]

What a run does and leaves is told in experiment.py. Here is what labels are for:
classes, heads, their losses, and speeds that make further classes.
"""

from pathlib import Path

import experiment
import torch
from command_line import main_or_exit
from experiment import EmbeddingBrain, millions, random_crop, unwrapped
from speechbrain.dataio.dataset import (
    DynamicItemDataset,
    add_dynamic_item,
    set_output_keys,
)
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.data_pipeline import provides, takes

# ---------------------------------------------------------------------- the data


def dataio_prep(hparams):
    """The training dataset (random crops and speaker indices) and its labels."""
    crop = int(hparams["sentence_len"] * hparams["sample_rate"])
    if "speed_perturb" in hparams:
        crop = hparams["speed_perturb"].read_length(crop)

    @takes("wav", "start", "stop")
    @provides("sig")
    def audio_pipeline(wav, start, stop):
        return random_crop(wav, int(start), int(stop), crop)

    labels = CategoricalEncoder()

    @takes("spk_id")
    @provides("spk_id", "spk_id_encoded")
    def label_pipeline(spk_id):
        yield spk_id
        yield labels.encode_sequence_torch([spk_id])

    train = DynamicItemDataset.from_csv(csv_path=hparams["train_annotation"])
    add_dynamic_item([train], audio_pipeline)
    add_dynamic_item([train], label_pipeline)
    labels.load_or_create(
        path=Path(hparams["save_folder"]) / "label_encoder.txt",
        from_didatasets=[train],
        output_key="spk_id",
    )
    if "speed_perturb" in hparams:
        label_speeds(labels, hparams["speed_perturb"])
    labels.expect_len(len(labels))
    set_output_keys([train], ["id", "sig", "spk_id_encoded"])
    return train, labels


def label_speeds(labels, speed_perturb):
    """Name the classes that speed perturbation adds: the k-th speed's class of
    speaker i is ``i + k * C``."""
    speakers = dict(labels.ind2lab)
    for k, speed in enumerate(speed_perturb.speeds[1:], start=1):
        for index, speaker in speakers.items():
            name = f"{speaker} at {speed} %"
            labels.enforce_label(name, index + k * speed_perturb.speakers)


def load_pretrained(folder, hparams, labels):
    """Start from the weights of a finished model with the same speakers.

    Arguments
    ---------
    folder : str
        Its export folder.
    """
    folder = Path(folder)
    if not (folder / "label_encoder.ckpt").is_file():
        raise FileNotFoundError(
            f"pretrained_model={folder}: no exported model here (no label_encoder.ckpt)."
        )
    theirs = CategoricalEncoder()
    theirs.load(folder / "label_encoder.ckpt")
    if theirs.lab2ind != labels.lab2ind:
        raise ValueError(
            f"pretrained_model={folder}: was trained with {len(theirs)} speakers that "
            f"are not the {len(labels)} of this training; give the same data."
        )
    for name in SpeakerBrain.averaged:
        hparams[name].load_state_dict(torch.load(folder / f"{name}.ckpt"))


# ------------------------------------------------------------------ the training


class SpeakerBrain(EmbeddingBrain):
    """Training of the embeddings and of one or several heads on speaker labels."""

    script = "train.py"
    averaged = ("embedding_model", "classifier")
    card = {
        "classify": 'scores, best, index, name = encoder.classify_file("speech.wav")'
        "  # training speakers\n",
        "needs": 'With `hparams_file="embedding.yaml"` embeddings\n'
        "and decisions of SpeechBrain's classes need SpeechBrain alone; "
        "`hyperparams.yaml` needs\nhamsb where it names hamsb's classifier.",
    }

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # What is learned: for each head among the modules, its loss and weight.
        self.branches = getattr(
            self.hparams,
            "branches",
            {"classifier": {"cost": self.hparams.compute_cost, "weight": 1.0}},
        )

    @staticmethod
    def training_data(hparams):
        data, labels = dataio_prep(hparams)
        if "pretrained_model" in hparams:
            load_pretrained(hparams["pretrained_model"], hparams, labels)
        return data, labels

    @staticmethod
    def facts(hparams):
        facts = EmbeddingBrain.facts(hparams)
        return {
            "loss": facts["loss"],
            "head": describe(hparams["classifier"]),
            "parameters": facts["parameters"],
            "in the head": millions(hparams["classifier"]),
        }

    def compute_forward(self, batch, stage):
        """The predictions of every view of the batch: a list of (predictions of
        each branch, targets, lengths).

        ``wav_augment`` may return several copies of the batch, as the clean one
        and an augmented one; ``separate_views`` passes them through the network
        one after the other, each with batch statistics of its own, instead of
        all at once.
        """
        batch = batch.to(self.device)
        wavs, lengths = batch.sig
        targets, _ = batch.spk_id_encoded
        self.utterances = batch.id
        if hasattr(self.hparams, "speed_perturb"):
            wavs, targets = self.hparams.speed_perturb(wavs, targets)
        if hasattr(self.hparams, "wav_augment"):
            wavs, lengths = self.hparams.wav_augment(wavs, lengths)
            targets = self.hparams.wav_augment.replicate_labels(targets)
        separate = getattr(self.hparams, "separate_views", False)
        size = len(batch) if separate else len(wavs)
        views = zip(wavs.split(size), targets.split(size), lengths.split(size))
        return [self.forward_view(*view) for view in views]

    def forward_view(self, wavs, targets, lengths):
        features = self.modules.compute_features(wavs)
        features = self.modules.mean_var_norm(features, lengths)
        if hasattr(self.hparams, "fea_augment"):
            features, lengths = self.hparams.fea_augment(features, lengths)
            targets = self.hparams.fea_augment.replicate_labels(targets)
        embeddings = self.modules.embedding_model(features)
        self.count_limited(embeddings)
        outputs = {name: self.modules[name](embeddings) for name in self.branches}
        return outputs, targets, lengths

    def compute_objectives(self, predictions, batch, stage):
        """The sum over views and branches of weight * mean loss."""
        return sum(
            branch["weight"] * branch["cost"](outputs[name], targets, lengths)
            for outputs, targets, lengths in predictions
            for name, branch in self.branches.items()
        )

    def count_limited(self, embeddings):
        """Count the embeddings that the head's ball, if it has one, cuts short."""
        ball = getattr(unwrapped(self.modules.classifier), "ball", None)
        if ball is not None:
            self.watch(limited=ball.limited(embeddings.detach()).float().mean())


def describe(classifier):
    """A head in a few words."""
    ball = getattr(classifier, "ball", None)
    return f"{type(classifier).__name__}" + (f", {ball}" if ball is not None else "")


# ------------------------------------------------------------------------- main


def main(arguments):
    experiment.main(arguments, SpeakerBrain)


if __name__ == "__main__":
    main_or_exit(main)
