"""A yaml's objects are tried before the data are read."""

import random

import numpy as np
import pytest
import torch

from hamsb.training.dry_run import check_objects

TINY = """\
data_folder: a
verification_file: b
embedding_model: {channels: [8, 8, 8, 8, 24], attention_channels: 8}
"""


class OfPairs:
    """A loss on embeddings, which a batch of one speaker says nothing to."""

    expects = ("embedding",)

    def __call__(self, *_):
        raise ValueError("no pairs")


LISTS = "data_folder_noise: a\ndata_folder_rir: b\n"
NOT_THERE = "There is no such entity as torch.optim.Adm"


@pytest.mark.parametrize(
    "name, overrides, message",
    [
        (
            "small",
            "dataloader_options: {num_worker: 2}",
            r"dataloader_options\[num_worker\]: no argument of torch's DataLoader; did you "
            "mean num_workers",
        ),
        (
            "small",
            "dataloader_options: {prefetch_factor: 2, num_workers: 0}",
            "dataloader_options: prefetch_factor",
        ),
        ("small", "dataloader_options: null", "dataloader_options=None: a group"),
        ("small", "card: en", "card=en: a group of keys of the model card's front"),
        ("small", "card: {language: [en, 2]}", r"card\[language\]=\['en', 2\]: must"),
        ("small", "opt_class: {weight_decai: 1}", "mean weight_decay"),
        ("small", "opt_class: {weight_decay: -1}", "opt_class: Invalid weight_decay"),
        ("small", "opt_class: !name:torch.optim.Adm {lr: 1}", NOT_THERE),
        ("small", "opt_class: !name:torch.optim.Adam {}", None),
        ("small", "speeds: [100, 90]", r"speeds=\[100, 90\]: makes classes that nothing"),
        ("small", "speeds: [100]", None),
        (
            "small/simclr",
            "momentum_encoder: !new:hamsb.MomentumEncoder\n"
            "    encoder: !ref <embedding_model>",
            "momentum_encoder: none of the modules, so nothing asks it",
        ),
        ("small/moco", "n_mels: 80", None),
        (
            "small",
            "batch_sampler: !new:builtins.list {}",
            "batch_sampler: makes no batch unless the data loader has it",
        ),
        (
            "small",
            "branches: {other: {cost: !ref <compute_cost>, weight: 1.0}}",
            "branches: other, but not classifier, which would be exported as it was made",
        ),
        (
            "small",
            "margin_schedule: !new:hamsb.LinearMargin {margin: 0.4, warmup_steps: 2}\n"
            "branches: {classifier: {cost: !new:hamsb.AAMSoftmax {}, weight: 1.0}}",
            "margin_schedule: moves the margin of compute_cost, which no branch has",
        ),
        (
            "small",
            "margin_schedule: !new:hamsb.LinearMargin {margin: 0.4, warmup_steps: 2}\n"
            "branches: {classifier: {cost: !ref <compute_cost>, weight: 1.0}}",
            None,
        ),
        (
            "small",
            "lr_annealing: !new:speechbrain.nnet.schedulers.NewBobScheduler "
            "{initial_value: 0.001}",
            None,
        ),
        (
            "small",
            "number_of_epochs: null",
            "^[^:]*: number_of_epochs=None: must be a whole",
        ),
        ("small", "number_of_epochs: 2.5", "number_of_epochs=2.5: must be a whole number"),
        ("small", "number_of_epochs: 0", "number_of_epochs=0: must be a whole number"),
        ("small", "epoch_counter: {limit: a}", r"epoch_counter\[limit\]='a': must be a"),
        ("small", "max_lr: null", "lr_annealing: unsupported operand"),
        ("small", "max_lr: -1", "lr_annealing: the learning rate after optimizer step 1=-"),
        ("small", "max_lr: .nan", "after optimizer step 1=nan: must be finite"),
        ("train_ecapa_am", f"{LISTS}lr: -0.1", "opt_class: Invalid learning rate"),
        (
            "train_ecapa_am",
            f"{LISTS}lr_annealing: {{decay_factor: -1.0}}",
            "the learning rate after epoch 2=-",
        ),
        ("small", "compute_cost: {margn: 0.3}", r"compute_cost\[margn\].*mean margin"),
        (
            "small",
            "fea_augment: {zzz: 3}",
            r"\[zzz\]: no argument of .*, which takes p",
        ),
        (
            "small",
            "embedding_model: {kernel_sizes: [5, 3, 3, 1]}",
            "^[^:]*: embedding_model: refused by .*ECAPA_TDNN; its lists differ in length "
            r"\(channels 5, kernel_sizes 4, dilations 5, groups 5\)",
        ),
        (
            "small",
            "compute_features: {sample_rate: 48000}",
            r"compute_features\[sample_rate\]=48000, but the audio has sample_rate=16000",
        ),
        (
            "small",
            "compute_features: !new:speechbrain.lobes.features.MFCC {}\nsample_rate: 8000",
            r"compute_features\[sample_rate\]=16000, but the audio has sample_rate=8000",
        ),
        ("small", "sample_rate: 48000", "compute_features .* Give it n_fft: 1200"),
        (
            "small",
            "compute_features: {n_mels: 40}",
            r"embedding_model does not take what mean_var_norm gives, .*\[2, 201, 40\].* "
            "Its input_size=80 must be that 40",
        ),
        (
            "small",
            "embedding_model: {lin_neurons: 64}",
            "classifier does not take what embedding_model gives.* input_size=192 must be "
            "that 64",
        ),
        (
            "small/blend",
            "euclidean_classifier: {input_size: 3}",
            "euclidean_classifier does not take .* Its input_size=3 must be that 192",
        ),
        (
            "small",
            "classifier: {class_fraction: 0.5}\ncompute_cost: {top_k: 5}",
            "compute_cost does not take what classifier gives, .*: class_fraction=0.5: "
            "such a loss takes all speakers; give one of hamsb.s softmaxes, without top_k",
        ),
        ("small", "classifier: {class_fraction: 0.5}", None),
        (
            "small/blend",
            "classifier: {class_fraction: 0.5}\ncompute_cost: {top_k: 5}",
            r"branches\[classifier\]\[cost\] does not take what classifier gives.*without",
        ),
        ("small", "compute_cost: null", "compute_cost=None: must be a loss, such as !new"),
        ("small/blend", "branches: [classifier]", r"branches=\['classifier'\]: {head"),
        ("small/blend", "branches: {classifier: {cost: null}}", "None: must be a loss"),
        ("small/supcon", "compute_cost: !new:test_dry_run.OfPairs {}", None),
        ("small/simclr", "n_mels: 40\nembedding_model: {input_size: 80}", "input_size=80"),
        ("small", "sentence_len: 0.01", "Is sentence_len=0.01 too short, with its 2"),
        ("small", "modules: !new:builtins.dict", "modules: no compute_features"),
        ("small", "modules: {classifier: null}", "modules: no classifier; add them"),
        ("small", "n_mels: 40", None),
        ("small", "mean_var_norm: {norm_type: global}", None),
    ],
)
def test_what_would_fail_late(repository, name, overrides, message):
    path = repository / "hparams" / f"{name}.yaml"
    given = [line.split(":")[0] for line in overrides.splitlines()]
    tiny = [line for line in TINY.splitlines() if line.split(":")[0] not in given]
    overrides = "\n".join([*tiny, overrides])
    if message is None:
        assert check_objects(path, overrides) is None
        return
    with pytest.raises(ValueError, match=message) as error:
        check_objects(path, overrides)
    assert str(error.value).startswith(str(path))


def test_a_training_draws_what_it_drew(repository):
    def drawn():
        return torch.rand(1).item(), np.random.random(), random.random()

    def seed():
        torch.manual_seed(0), np.random.seed(0), random.seed(0)

    seed()
    expected = drawn()
    seed()
    check_objects(repository / "hparams" / "small.yaml", TINY)
    assert drawn() == expected
