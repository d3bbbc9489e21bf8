#!/usr/bin/env python3
"""Train a speaker embedding model without labels, verify it, and export it.

    python recipes/VoxCeleb/train_ssl.py hparams/<experiment>.yaml [--key=value ...]
    python recipes/VoxCeleb/train_ssl.py hparams/mini/ssl.yaml --number_of_epochs=5

Two random crops of each utterance, each distorted on its own, are to be alike, and
unlike those of other utterances (Lepage & Dehak, arXiv 2404.14913): SimCLR, with
``compute_cost`` an ``NTXent``, or MoCo, with a ``MoCo`` and a ``momentum_encoder``
(``hamsb.nnet.contrastive``). ``compute_cost`` is among the ``modules``, for what it may
learn and queue.

Training reads no speaker label, but for studies with ``mask_collisions: True``, in which a
speaker's other utterances are no negatives. Development trials have labels, and tell the
EER after each epoch and the decision threshold; which weights are exported they tell only
with ``average_by: best``.

What a run does and leaves is told in ``hamsb.training.run``. ``train_log.txt`` has,
beyond loss and EER, the means of ``hamsb.nnet.contrastive.diagnostics`` over an epoch: a
"uniformity" near 0 with "positive" and "negative" similarities alike is a collapse.
"""

from hamsb.training import keys
from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key

KEYS = [
    *keys.KEYS,
    Key("momentum_encoder", "object", "MoCo's, among the modules", optional=True),
    Key(
        "mask_collisions",
        "boolean",
        "a speaker's other utterances are no negatives; reads labels",
        optional=True,
    ),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS)  # before what takes seconds to import

from hamsb.augment.reads import Reads, augment
from hamsb.dataio.pipelines import SpeakerIndex, TwoCrops, add_steps, number_speakers
from hamsb.dataio.rows import RowDataset
from hamsb.nnet.contrastive import MoCo, diagnostics
from hamsb.training import run
from hamsb.training.brain import EmbeddingBrain
from hamsb.training.branches import expects
from hamsb.training.report import one_line
from hamsb.utils.checks import check_flag
from hamsb.utils.command_line import main_or_exit
from mini.mini_corpus import make_mini_corpus
from voxceleb_prepare import prepare_voxceleb

import torch


def dataio_prep(hparams):
    """The training dataset: two random crops of each utterance, what the augmentations of
    each read, and the speaker where collisions are masked alone."""
    crop, seed = int(hparams["sentence_len"] * hparams["sample_rate"]), hparams["seed"]
    train = RowDataset.from_csv(hparams["train_annotation"], needed=TwoCrops.columns)
    reads = [Reads(hparams.get("wav_augment"), crop, seed, view) for view in (0, 1)]
    steps = [TwoCrops(crop, seed), *reads]
    if masks_collisions(hparams):
        steps.append(SpeakerIndex(number_speakers(train.data.column("spk_id"))))
    add_steps(train, *steps)
    train.set_output_keys(["id", *(key for step in steps for key in step.provides)])
    return train


def masks_collisions(hparams):
    """The key ``mask_collisions``; ValueError where it is no truth value."""
    masks = hparams.get("mask_collisions") or False
    check_flag("mask_collisions", masks)
    return masks


def check_cost(hparams):
    """ValueError where the loss is none of two views, or what MoCo needs is missing."""
    cost, modules = hparams["compute_cost"], hparams["modules"]
    if "views" not in (expects(cost) or ("views",)):
        raise ValueError(
            f"compute_cost={one_line(cost)}: compares no views of an utterance; give "
            "hamsb.NTXent or hamsb.MoCo, or train with train.py."
        )
    needed = ["compute_cost", *(["momentum_encoder"] if isinstance(cost, MoCo) else [])]
    missing = [name for name in needed if name not in modules]
    if missing:
        raise ValueError(
            f"modules: {type(cost).__name__} needs {' and '.join(missing)} among them."
        )


def check_queue(cost, utterances):
    """ValueError where an utterance would often meet itself among its negatives.

    In shuffled epochs of n utterances a queue of K <= n holds the last epoch's view
    of an utterance with the probability (K / n)^2 / 2.
    """
    size = len(cost.queues[0].keys) if isinstance(cost, MoCo) else 0
    if 2 * size > utterances:
        raise ValueError(
            f"compute_cost: a queue of size={size} for {utterances} training utterances: "
            "they would meet themselves among their negatives. Give half of them at most."
        )


class ContrastiveBrain(EmbeddingBrain):
    """Training on two views of each utterance."""

    script = "train_ssl.py"

    @staticmethod
    def training_data(hparams):
        check_cost(hparams)
        data = dataio_prep(hparams)
        check_queue(hparams["compute_cost"], len(data))
        return data, None

    def compute_forward(self, batch, stage):
        """What the loss compares, two sequences of embeddings [N, 1, D].

        SimCLR: the first views and the second. MoCo: queries and, from the momentum
        encoder, their keys, the other views, for each queue. Views go through an
        encoder together.
        """
        batch = batch.to(self.device, non_blocking=True)
        self.utterances = batch.id
        views = [self.view(batch, 0), self.view(batch, 1)]
        cost = self.hparams.compute_cost
        if not isinstance(cost, MoCo):
            return self.modules.embedding_model(torch.cat(views)).chunk(2)
        queues = len(cost.queues)
        queries = self.modules.embedding_model(torch.cat(views[:queues]))
        keys = self.modules.momentum_encoder(torch.cat(views[::-1][:queues]))
        return queries.chunk(queues), keys.chunk(queues)

    def view(self, batch, number):
        """The features [N, L, F] of a view's crops, distorted by draws of their own."""
        wavs, lengths = (batch.first, batch.second)[number]
        if getattr(self.hparams, "wav_augment", None) is not None:
            given = wavs, lengths, batch, number
            wavs, lengths = augment(self.hparams.wav_augment, *given)
        features = self.modules.compute_features(wavs)
        features = self.modules.mean_var_norm(features, lengths)
        if getattr(self.hparams, "fea_augment", None) is not None:
            features, _ = self.hparams.fea_augment(features, lengths)
        if len(features) != len(batch):  # copies of one utterance would be negatives
            raise ValueError(
                f"wav_augment, fea_augment: give {len(features)} utterances for a view of "
                f"{len(batch)}; a view has each once: concat_original: False, "
                "parallel_augment: False, repeat_augment: 1."
            )
        return features

    def compute_objectives(self, predictions, batch, stage):
        one, other = predictions
        if isinstance(self.hparams.compute_cost, MoCo):
            one, other = one[0], other[0]
        similarity = self.hparams.compute_cost.similarity
        self.watch(**diagnostics(one.detach(), other.detach(), similarity))
        return self.modules.compute_cost(*predictions, self.speakers(batch))

    def speakers(self, batch):
        """Speaker indices [N, 1] where collisions are masked, else None."""
        if not masks_collisions(vars(self.hparams)):
            return None
        return batch.spk_id_encoded.data

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.waiting = []  # of each batch of a step: keys for the queues, and labels

    def on_stage_start(self, stage, epoch=None):
        super().on_stage_start(stage, epoch)
        self.waiting.clear()  # as Brain drops the gradients of an unfinished step

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """After a step MoCo's encoder follows, and the queues take the step's keys."""
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        cost = self.hparams.compute_cost
        if not isinstance(cost, MoCo):
            return
        self.waiting.append((outputs[1], self.speakers(batch)))
        if should_step:
            self.modules.momentum_encoder.update(self.hparams.embedding_model)
            for keys, speakers in self.waiting:
                cost.update(keys, speakers)
            self.waiting.clear()


def main(arguments):
    run.main(arguments, ContrastiveBrain, prepare_voxceleb, make_mini_corpus, KEYS)


if __name__ == "__main__":
    main_or_exit(main)
