"""Every experiment runs as it stands, and every key in it is used."""

import math
import re

import pytest
import train
import yaml
from hamsb.utils.command_line import load_hparams, parse_arguments
from compare import Comparison
from conftest import REPOSITORY
from runs import quick  # noqa: F401
from speechbrain.nnet.schedulers import StepScheduler
from speechbrain.utils.run_opts import RunOptions
from test_upstream import TRAINING, VERIFICATION, train_hparams

HPARAMS = REPOSITORY / "hparams"
COMPARISONS = sorted(HPARAMS.glob("compare_*.yaml"))
SSL = sorted({*HPARAMS.glob("ssl_*.yaml"), *HPARAMS.glob("*_ssl*.yaml")} - {*COMPARISONS})
# Read by our scripts, and by SpeechBrain's own.
SCRIPTS = [
    (REPOSITORY / "recipes" / "VoxCeleb" / name).read_text(encoding="utf-8")
    for name in (
        "experiment.py", "train.py", "train_ssl.py", "verify.py", "compare.py", "cluster.py",
        "radii.py",
    )
]
UPSTREAM = {"train_ecapa": TRAINING, "verification_ecapa": VERIFICATION}


def built(name, tmp_path, **changes):
    """The objects of an experiment, with speakers for a batch sampler to draw."""
    tmp_path.mkdir(exist_ok=True)
    annotation = tmp_path / "speakers.csv"
    rows = (f"{index},id{index // 2}\n" for index in range(1300))
    annotation.write_text("ID,spk_id\n" + "".join(rows))
    changes |= {"train_annotation": annotation, "steps_per_epoch": 2}
    return train_hparams(HPARAMS / f"{name}.yaml", tmp_path, **changes)


def keys(path):
    return [key.value for key, _ in yaml.compose(path.read_text(encoding="utf-8")).value]


def uses(text):
    """Names between quotes, as attributes of hparams, and in !ref <...>."""
    return set(re.findall(r'"(\w+)"|hparams\.(\w+)|<(\w+)[\[>]', text))


@pytest.mark.parametrize("name", [
    "train_ecapa_ham", "train_ecapa_softmax", "train_ecapa_aam", "train_ecapa_blend",
    "small_ham", "small_scaled_softmax",
])
def test_experiment_trains_and_exports(
    name, tiny_options, tiny_distortions, tmp_path, capsys
):
    """Each kind of head and of recipe. The others differ from these in their loss
    alone, as tests below show, or are in test_train.py (fine-tuning) and in the
    README's first command (mini); test_upstream.py makes a step with each loss."""
    path = HPARAMS / f"{name}.yaml"
    changes = dict(tiny_distortions) if "data_folder_noise" in keys(path) else {}
    changes |= {"baselines": False, "batch_size": 12}
    train.main([str(path), *tiny_options(**changes)])
    assert (tmp_path / "run" / "export" / "hyperparams.yaml").is_file()
    assert "veri_test" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name",
    ["small_ham", "small_blend", "train_ecapa_ham", "train_ecapa_blend",
     "train_ecapa_ham_lmft", "ssl_simclr_am", "ssl_moco_am", "mini_ssl",
     "small_ssl_simclr", "small_ssl_moco", "supcon", "small_hscl", "mini_chns"],
)
def test_whatever_training_changes_is_checkpointed(name, tmp_path):
    hparams = built(name, tmp_path)
    kept = list(hparams["checkpointer"].recoverables.values())
    changing = [m for m in hparams["modules"].values() if list(m.parameters())]
    changing += [hparams["epoch_counter"], hparams.get("margin_schedule", kept[0])]
    if not isinstance(hparams["lr_annealing"], StepScheduler):  # a function of the epoch
        changing.append(hparams["lr_annealing"])
    assert all(any(thing is other for other in kept) for thing in changing)
    for branch, parts in hparams.get("branches", {}).items():
        assert branch in hparams["modules"] and parts["weight"] > 0
    assert hparams["nonfinite_patience"] == 0  # the first loss stops the run


def test_fine_tuning_has_longer_crops_a_larger_margin_and_a_low_rate(tmp_path):
    published, tuned = (
        train_hparams(HPARAMS / f"train_ecapa_{name}.yaml", tmp_path / name)
        for name in ("ham", "ham_lmft")
    )
    assert tuned["sentence_len"] >= 2 * published["sentence_len"]
    assert tuned["lr"] <= published["lr"] / 10
    schedule = tuned["margin_schedule"]
    assert schedule.initial_margin == published["compute_cost"].margin
    assert schedule.margin == tuned["compute_cost"].margin > schedule.initial_margin


@pytest.mark.parametrize("path", sorted(HPARAMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_key_is_used(path):
    text = path.read_text(encoding="utf-8")
    used = {name for text in (*SCRIPTS, text) for names in uses(text) for name in names}
    used |= set(RunOptions().keys())
    for stem, table in UPSTREAM.items():
        used |= set(table) if path.stem.startswith(stem) else set()
    unused = [key for key in keys(path) if key not in used and not key.startswith("__")]
    assert unused == []


# The keys in which experiments may differ from HAM-Softmax of the same family.
HEAD_AND_LOSS = {"classifier", "compute_cost", "output_folder"}
BATCHES = {"dataloader_options", "batch_sampler", "processes"}
PAIRS = BATCHES | {"out_n_neurons", "modules", "checkpointer"}
HARD = {"clusters", "hard_ratio"}
FURTHER = {
    "supcon": PAIRS,
    "hscl": PAIRS,
    "chns": PAIRS | HARD,
    "chns_hscl": PAIRS | HARD,
    "chns_later": PAIRS | {"cluster_refresh"},
    "chns_ham": BATCHES | HARD,
    "cosine_study": {"initial_scale", "__initial_centers"},
    "ham_study": {"ball", "no_weight_decay", "margin_schedule", "checkpointer"},
    "blend": {
        "branches", "euclidean_classifier", "euclidean_cost", "modules", "checkpointer",
    },
    "ham_lmft": {
        "pretrained_model", "number_of_epochs", "batch_size", "sentence_len", "lr",
        "lr_decay", "steps_per_epoch", "margin_schedule", "checkpointer",
    },
}
FAMILIES = {
    "train_ecapa": {"softmax", "am", "aam", "ram", "h", "ham", "blend", "ham_lmft"},
    "small": {
        "softmax", "scaled_softmax", "am", "aam", "ram", "h", "ham", "blend",
        "supcon", "hscl", "chns", "chns_hscl", "chns_later", "chns_ham", "ham_study",
        "cosine_study",
    },
    "mini": {"softmax", "am", "h", "ham", "chns"},
}
CONTRASTIVE = ["supcon", "hscl", "chns", "chns_hscl", "chns_later", "chns_ham"]


@pytest.mark.parametrize("family, names", FAMILIES.items())
def test_experiments_of_a_family_differ_only_in_head_and_loss(family, names):
    found = sorted({*HPARAMS.glob(f"{family}_*.yaml")} - {*SSL})
    assert {path.stem for path in found} == {f"{family}_{name}" for name in names}
    for path in found:
        further = FURTHER.get(path.stem.removeprefix(f"{family}_"), set())
        if path.stem == "mini_chns":  # its clusters are made on the way
            further = PAIRS | {"cluster_refresh"}
        assert differing(HPARAMS / f"{family}_ham.yaml", path) <= HEAD_AND_LOSS | further


@pytest.mark.parametrize("name", ["softmax", "am", "aam", "ram", "h", "ham", "blend"])
def test_head_and_loss_are_the_same_in_every_family(name):
    published = HPARAMS / f"train_ecapa_{name}.yaml"
    keys = (HEAD_AND_LOSS | FURTHER.get(name, set())) - {"output_folder", "checkpointer"}
    for family in FAMILIES:
        path = HPARAMS / f"{family}_{name}.yaml"
        if path.exists():
            assert not differing(published, path) & keys


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_batches_of_pairs_differ_in_size_alone_between_the_scales(name):
    published, small = HPARAMS / f"{name}.yaml", HPARAMS / f"small_{name}.yaml"
    alike = (HEAD_AND_LOSS | BATCHES | HARD) - {"output_folder"}
    assert differing(published, small) & alike == set()
    scaled = {
        "output_folder", "number_of_epochs", "batch_size", "embedding_model", "lr",
        "lr_decay", "lr_annealing", "checkpointer", "opt_class", "max_grad_norm",
        "num_workers", "seed", "dev_speakers", "dev_trials", "min_duration", "baselines",
        "base_lr", "max_lr", "time_drop", "freq_drop", "fea_augment", "steps_per_epoch",
        "out_n_neurons", "cluster_refresh",
    }
    assert differing(published, small) <= scaled


def test_batches_of_pairs_are_the_published_ones(tmp_path):
    for name in CONTRASTIVE:
        text = top_level(HPARAMS / f"{name}.yaml")
        assert yaml.safe_load(text["batch_size"]) == 1300
        assert yaml.safe_load(text["number_of_epochs"]) == 200
        if name.startswith("chns") and name != "chns_later":
            assert yaml.safe_load(text["hard_ratio"]) == 1.0
    for name in ("supcon", "hscl"):
        cost = built(name, tmp_path / name)["compute_cost"]
        assert cost.temperature.item() == pytest.approx(0.1)
        assert cost.log_temperature.requires_grad
        assert getattr(cost, "beta", 0.1) == 0.1


@pytest.mark.parametrize("name", ["chns_later", "small_chns_later"])
def test_hard_negatives_come_in_the_second_half(name, tmp_path):
    for epochs, first_half in ((1, 1), (30, 15), (31, 16)):
        hparams = built(name, tmp_path / str(epochs), number_of_epochs=epochs)
        refresh = hparams["cluster_refresh"]
        assert refresh["every"] == first_half
        assert (refresh["k"], refresh["hard_ratio"]) == (50, 1.0)  # the published ones
        train.check_refresh(hparams)
        assert hparams["batch_sampler"].num_hard == 0  # until then


# The keys in which training without labels differs: from HAM-Softmax of the same
# size, and MoCo from SimCLR.
WITHOUT_LABELS = {
    "output_folder", "batch_size", "momentum_encoder", "margin", "scale", "symmetric",
    "similarity", "margin_loss", "queue_size", "compute_cost", "margin_schedule", "modules",
    "checkpointer", "wav_augment", "add_noise", "add_reverb",
}
LABELLED = {"classifier", "out_n_neurons"}
OF_MOCO = {
    "output_folder", "momentum_encoder", "symmetric", "queue_size", "compute_cost",
    "modules", "checkpointer",
}


@pytest.mark.parametrize("size, names, further", [
    ("train_ecapa", ["ssl_simclr_am", "ssl_moco_am"], {
        "lr_decay", "lr_annealing", "opt_class", "steps_per_epoch", "separate_views",
        "speeds", "speed_perturb", "valid_annotation", "split_ratio", "skip_prep",
        "random_chunk", "error_stats",
    }),
    ("small", ["small_ssl_simclr", "small_ssl_moco"], None),
    ("mini", ["mini_ssl"], None),
])
def test_training_without_labels_differs_in_views_and_loss(size, names, further):
    if further is None:  # SpecAugment, or rooms and noises
        further = {
            "time_drop", "freq_drop", "fea_augment", "distortions", "data_folder_noise",
            "data_folder_rir", "noise_annotation", "rir_annotation", "prepare_noise_data",
            "prepare_rir_data", "number_of_epochs", "sentence_len",
        }
    for name in names:
        changed = differing(HPARAMS / f"{size}_ham.yaml", HPARAMS / f"{name}.yaml")
        assert LABELLED <= changed <= WITHOUT_LABELS | LABELLED | further
    first, last = (HPARAMS / f"{name}.yaml" for name in (names[0], names[-1]))
    assert differing(first, last) <= OF_MOCO


def test_settings_without_labels_are_the_published_ones(tmp_path):
    simclr, moco = (
        train_hparams(HPARAMS / f"ssl_{name}_am.yaml", tmp_path / name, steps_per_epoch=10)
        for name in ("simclr", "moco")
    )
    for hparams in (simclr, moco):
        assert hparams["batch_size"] == 256 and hparams["sentence_len"] == 2.0
        cost, schedule = hparams["compute_cost"], hparams["margin_schedule"]
        assert (cost.margin, cost.loss.scale) == (0.1, 30.0)
        half = 10 * hparams["number_of_epochs"] / 2  # steps
        for step in (0, half / 3, half / 2, half, 2 * half):  # of arXiv 2404.14913
            share = min(step / half, 1)
            expected = 0.1 * (1 - (1 + math.cos(math.pi * share)) / 2)
            assert schedule.at(step) == pytest.approx(expected, abs=1e-9)
        rates = [hparams["lr_annealing"](epoch)[0] for epoch in (1, 4, 5, 10)]
        assert rates == pytest.approx([1e-3, 1e-3, 0.95e-3, 0.95**2 * 1e-3])
    assert simclr["compute_cost"].symmetric
    assert [len(queue.keys) for queue in moco["compute_cost"].queues] == [32768] * 2
    assert moco["momentum_encoder"].momentum == 0.999


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_comparison_gives_every_experiment_the_same_but_head_and_loss(path):
    placeholders = [
        f"--{key}=/somewhere"
        for key, value in top_level(path).items()
        if value.startswith("!PLACEHOLDER")
    ]
    hparams_file, _, overrides = parse_arguments([str(path), *placeholders])
    comparison = Comparison(hparams_file, load_hparams(hparams_file, overrides))
    comparison.check_runs()  # every option is one that the script takes
    options = {"compute_cost", "classifier", "euclidean_cost", "branches"}
    if "geometry" in path.stem:
        options |= {"ball", "no_weight_decay", "margin_schedule"}
    if "chns" in path.stem:
        options |= {"clusters", "hard_ratio"}
    if "_ssl" in path.stem:
        options = {"margin", "symmetric", "margin_loss", "similarity"}
    for name, experiment in comparison.experiments.items():
        if "_ssl" in path.stem:
            assert experiment["script"] == "train_ssl.py"
            assert HPARAMS / experiment["hparams"] in SSL
        else:
            loss, pairs, _ = name.partition("_pairs")
            loss = f"chns_{loss}" if pairs else loss.partition("_scale_")[0]
            studies = ("_ham_study.yaml", "_cosine_study.yaml")
            ends = (f"_{loss}.yaml", "_softmax.yaml", *studies)
            assert experiment["hparams"].endswith(ends)
            assert not pairs or experiment["options"]["hard_ratio"] == 0
        assert len(comparison.points(name)) <= 4
        for given in (experiment.get("options", {}), *comparison.points(name)):
            assert given.keys() <= options


def differing(path, other):
    """The top-level keys whose text differs."""
    a, b = top_level(path), top_level(other)
    return {key for key in a | b if a.get(key) != b.get(key)}


def top_level(path):
    """Key -> its yaml text."""
    root = yaml.compose(path.read_text(encoding="utf-8"))
    return {key.value: yaml.serialize(value) for key, value in root.value}
