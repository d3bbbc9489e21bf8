"""Every yaml runs as it stands, and every key in it is used."""

import csv
import math
import re

import compare
import corpora
import pytest
import radii
import soundfile
import yaml
from speechbrain.nnet.schedulers import LinearScheduler, StepScheduler
from speechbrain.utils.run_opts import RunOptions
from test_upstream import TRAINING, VERIFICATION, train_hparams

import cluster
import hamsb
import hierarchy
import train
import train_ssl
import verify
from conftest import REPOSITORY
from hamsb.training.comparison import Comparison
from hamsb.training.study import declared_keys
from hamsb.utils.command_line import parse_arguments
from hamsb.utils.hparams import load_hparams, read_resolved
from hamsb.utils.keys import header
from runs import EXPERIMENT, export_untrained, quick  # noqa: F401

HPARAMS = REPOSITORY / "hparams"
STUDIES = sorted(HPARAMS.glob("studies/compare_*.yaml"))
LOSSES = HPARAMS / "studies" / "losses.yaml"  # of which no script is given the path
SMALL = "{channels: [8, 8, 8, 8, 24], attention_channels: 8}"
REFRESH = "{every: 1, k: 2, utterances: 2, seconds: 0.5}"
PRETRAINED = "a run of train_ecapa_ham.yaml"
WAVLM = "a WavLM in a folder"
CORPUS = {
    "mini_corpus": "{folder: mini, train_speakers: 8, test_speakers: 4, sessions: 2, "
    "utterances: 2, duration: 1.2, trials: 40, workers: 1}",
}
NOISES = {"distortions": "{folder: distortions, noises: 1, responses: 4}"}

# Which script runs a yaml, and the options that make it tiny, beyond tiny_options.
TRAINED = {
    **{
        f"train_ecapa_{loss}": (train, {"batch_size": 12})
        for loss in ("softmax", "am", "aam", "aam_origin", "ram", "h", "ham", "blend")
    },
    "finetune_ham": (
        train,
        {"pretrained_model": PRETRAINED, "head_epochs": 1, "number_of_epochs": 2},
    ),
    "mini": (train, CORPUS),
    "small": (train, {}),
    "backbones/resnet_ham": (
        train,
        {"embedding_model": "{channels: [4, 4, 4, 4], block_sizes: [1, 1, 1, 1]}"},
    ),
    "backbones/xvector_ham": (
        train,
        {"embedding_model": "{tdnn_channels: [8, 8, 8, 8, 24]}"},
    ),
    "backbones/wavlm_ham": (train, {"wavlm": WAVLM, "feature_size": 16}),
    "small/blend": (train, {}),
    "small/supcon": (
        train,
        {"cluster_refresh": REFRESH[:-1] + ", hard_ratio: 1.0}", "number_of_epochs": 2},
    ),
    "contrastive/supcon": (train, {}),
    "contrastive/chns": (train, {"clusters": "clusters.csv"}),
    "mini/chns": (train, {**CORPUS, "cluster_refresh": REFRESH, "number_of_epochs": 2}),
    "contrastive/simclr_am": (train_ssl, {}),
    "contrastive/moco_am": (train_ssl, {"queue_size": 4}),
    "small/simclr": (train_ssl, NOISES),
    "small/moco": (train_ssl, {**NOISES, "queue_size": 4}),
    "mini/ssl": (train_ssl, {**CORPUS, **NOISES}),
}
ANALYSED = {
    "verify": (verify, {"cache_folder": "cache", "bootstrap_draws": 10}),
    "cluster": (cluster, {"annotation": "train.csv", "k": "[2]", "seconds": 0.5}),
    "hierarchy": (hierarchy, {"bootstrap_draws": 10}),
    "studies/radii": (
        radii,
        {"crop_seconds": "[0.5]", "snrs": "[10]", "nearest": 1, "bootstrap_draws": 10},
    ),
}
OTHERS = {
    "verification_ecapa": "SpeechBrain's speaker_verification_cosine.py: test_upstream.py",
    **{f"studies/{path.stem}": "compare.py: below" for path in STUDIES},
    "studies/corpora": "corpora.py: test_corpora_study.py",
    "studies/corpora_both": "corpora.py: test_corpora_study.py",
    "studies/losses": "the studies' losses: below, in each of them",
}
SCRIPTS = {"train": train, "ssl": train_ssl, "verify": verify, "cluster": cluster}
SSL = [name for name, (script, _) in TRAINED.items() if script is train_ssl]


def test_the_tables_hold_every_yaml():
    found = {str(p.relative_to(HPARAMS).with_suffix("")) for p in HPARAMS.rglob("*.yaml")}
    assert found == TRAINED.keys() | ANALYSED.keys() | OTHERS.keys()
    listed = (HPARAMS / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"`([\w/]+)\.yaml`", listed)) == found


# --------------------------------------------------------------------- every yaml


@pytest.fixture(scope="module")
def of_recipes(tmp_path_factory, tiny_corpus):
    """A folder with an untrained model, the annotation of the corpus, and clusters."""
    folder = tmp_path_factory.mktemp("recipes")
    export_untrained(folder / "model", EXPERIMENT)
    with open(folder / "train.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "duration", "wav", "start", "stop", "spk_id"])
        for wav in sorted((tiny_corpus / "train" / "wav").glob("*/*/*")):
            frames = soundfile.info(wav).frames
            writer.writerow([wav.stem, frames / 16000, wav, 0, frames, wav.parts[-3]])
    speakers = sorted(path.name for path in (tiny_corpus / "train" / "wav").iterdir())
    (folder / "clusters.csv").write_text(
        "speaker,cluster\n" + "".join(f"{s},{i % 2}\n" for i, s in enumerate(speakers))
    )
    return folder


@pytest.mark.parametrize("name", TRAINED)
def test_training_yaml_runs(
    name, tiny_options, tiny_distortions, of_recipes, tmp_path, capsys, monkeypatch, request
):
    script, changes = TRAINED[name]
    path = HPARAMS / f"{name}.yaml"
    monkeypatch.chdir(of_recipes)
    changes = {"baselines": False, **changes}
    if "data_folder_noise" in keys(path):
        changes |= tiny_distortions
    if changes.get("wavlm") == WAVLM:
        changes["wavlm"] = request.getfixturevalue("tiny_wavlm")
    if changes.get("pretrained_model") == PRETRAINED:
        changes["pretrained_model"] = tmp_path / "first" / "export"
        first = {**tiny_distortions, "output_folder": tmp_path / "first"}
        train.main([str(HPARAMS / "train_ecapa_ham.yaml"), *tiny_options(**first)])
    script.main([str(path), *tiny_options(**changes)])
    assert (tmp_path / "run" / "export" / "hyperparams.yaml").is_file()
    assert "veri_test" in capsys.readouterr().out


@pytest.mark.parametrize("name", ANALYSED)
def test_analysis_yaml_runs(name, of_recipes, tiny_corpus, tmp_path, monkeypatch):
    script, changes = ANALYSED[name]
    monkeypatch.chdir(of_recipes)
    options = {"model": "model", "output_folder": tmp_path, **changes}
    if "verification_file" in keys(HPARAMS / f"{name}.yaml"):
        options["verification_file"] = tiny_corpus / "veri_test.txt"
        options["test_data_folder"] = tiny_corpus / "test"
    options = [f"--{key}={value}" for key, value in options.items()]
    script.main([str(HPARAMS / f"{name}.yaml"), *options, "--noprogressbar"])
    assert any(tmp_path.iterdir())


def keys(path):
    return [key.value for key, _ in yaml.compose(path.read_text(encoding="utf-8")).value]


# ----------------------------------------------------------------- keys and scripts

SPEECHBRAINS = {
    "train_ecapa": TRAINING,
    "finetune_ham": TRAINING,
    "verification_ecapa": VERIFICATION,
}
# What else reads for a script, and how: hparams["x"], "x" in hparams, hparams.x,
# hasattr(self.hparams, "x").
OF_STUDIES = ["comparison", "study", "corpora"]
RUN = [
    path.stem
    for path in sorted((REPOSITORY / "hamsb" / "training").glob("*.py"))
    if path.stem not in OF_STUDIES
]
READERS = {
    train: RUN, train_ssl: RUN, compare: ["comparison", "study"], corpora: ["corpora"],
}  # fmt: skip
READ = re.compile(
    r'(?<!\.)\b(?:hparams|plain)(?:\["(\w+)"\]|\.get\("(\w+)")'
    r'|"(\w+)" in (?:hparams|plain)\b'
    r'|(?:self|brain)\.hparams(?:\.(\w+)|, "(\w+)")'
)


@pytest.mark.parametrize(
    "script",
    [train, train_ssl, verify, cluster, hierarchy, radii, compare, corpora],
    ids=lambda s: s.__name__,
)
def test_what_a_script_reads_is_declared(script):
    training = REPOSITORY / "hamsb" / "training"
    paths = [script.__file__, *(training / f"{m}.py" for m in READERS.get(script, []))]
    read = set()
    for path in paths:
        with open(path, encoding="utf-8") as file:
            read |= {name for names in READ.findall(file.read()) for name in names if name}
    declared = [key.name for key in script.KEYS]
    # A module that two scripts share may ask for a key of the other.
    sharing = [
        other for other, modules in READERS.items() if modules is READERS.get(script)
    ]
    others = {key.name for other in sharing for key in other.KEYS}
    assert read, "the pattern finds nothing"
    assert read - {*declared} <= others, "read, and not declared"
    assert len({*declared}) == len(declared)
    assert all(key.help and key.kind for key in script.KEYS)


@pytest.mark.parametrize(
    "path", sorted({*HPARAMS.rglob("*.yaml")} - {LOSSES}), ids=lambda p: p.stem
)
def test_every_key_is_used(path):
    """By the script, by Brain, or by another key."""
    name = str(path.relative_to(HPARAMS).with_suffix(""))
    scripts = {**TRAINED, **ANALYSED}
    script = scripts[name][0] if name in scripts else compare
    script = corpora if name.startswith("studies/corpora") else script
    text = path.read_text(encoding="utf-8")
    used = set(re.findall(r"<(\w+)[\[>]", text)) | set(RunOptions().keys())
    anchors = {re.sub(r".*&(\w+).*", r"\1", line): line for line in text.splitlines()}
    used |= {
        line.partition(":")[0] for anchor, line in anchors.items() if f"*{anchor}" in text
    }
    if name != "verification_ecapa":
        used |= {key.name for key in script.KEYS}
    for stem, table in SPEECHBRAINS.items():
        used |= set(table) if path.stem.startswith(stem) else set()
    unused = [key for key in keys(path) if key not in used and not key.startswith("__")]
    assert unused == []


# ------------------------------------------------------------------- their contents


def built(name, tmp_path, **changes):
    """The objects of an experiment, with speakers for a batch sampler to draw."""
    tmp_path.mkdir(exist_ok=True)
    return train_hparams(HPARAMS / f"{name}.yaml", tmp_path, **counted(tmp_path), **changes)


def counted(folder):
    """What a run replaces, and an annotation."""
    annotation = folder / "speakers.csv"
    rows = (f"{index},id{index // 2}\n" for index in range(1300))
    annotation.write_text("ID,spk_id\n" + "".join(rows))
    return {"train_annotation": annotation, "batches_per_epoch": 2, "steps_per_epoch": 2}


def test_whatever_training_changes_is_checkpointed(tmp_path, tiny_wavlm):
    for name, (_, options) in TRAINED.items():
        changes = {"clusters": None, "hard_ratio": 0.0} if name.endswith("chns") else {}
        if "embedding_model" in options:
            changes["embedding_model"] = yaml.safe_load(options["embedding_model"])
        if "wavlm" in options:
            changes |= {"wavlm": tiny_wavlm, "feature_size": 16}
        hparams = built(name, tmp_path / name.replace("/", "_"), **changes)
        kept = list(hparams["checkpointer"].recoverables.values())
        changing = [m for m in hparams["modules"].values() if list(m.parameters())]
        changing += [hparams["epoch_counter"], hparams.get("margin_schedule", kept[0])]
        of_epoch = StepScheduler, LinearScheduler
        if not isinstance(hparams["lr_annealing"], of_epoch):
            changing.append(hparams["lr_annealing"])
        assert all(any(thing is other for other in kept) for thing in changing)
        if "classifier" in hparams:  # another one may be an option
            assert any(hparams["classifier"] is other for other in kept)
        for branch, parts in hparams.get("branches", {}).items():
            assert branch in hparams["modules"] and parts["weight"] > 0
        assert hparams["nonfinite_patience"] == 0  # the first loss stops the run


def test_the_options_of_large_margin_fine_tuning(tmp_path):
    """Those of finetune_ham.yaml's first lines: longer crops, a larger margin, which grows
    from the usual one, and a lower rate, for both parts at once."""
    path = HPARAMS / "finetune_ham.yaml"
    options = dict(re.findall(r"--(\w+)=([\d.]+)\b", header(path).partition("adds")[2]))
    published = train_hparams(HPARAMS / "train_ecapa_ham.yaml", tmp_path / "ham")
    tuned = train_hparams(
        path,
        tmp_path / "lmft",
        pretrained_model=None,
        steps_per_epoch=9,
        **{key: yaml.safe_load(value) for key, value in options.items()},
    )
    assert tuned["sentence_len"] >= 2 * published["sentence_len"]
    assert tuned["lr"] <= published["lr"] / 10
    assert (tuned["head_epochs"], tuned["encoder_lr_factor"]) == (0, 1)
    schedule = tuned["margin_schedule"]
    assert schedule.at(0) == published["compute_cost"].margin
    assert schedule.at(9) == tuned["compute_cost"].margin > schedule.at(0)


# The keys in which a yaml differs from another.
HEAD_AND_LOSS = {"classifier", "compute_cost", "output_folder"}
BLEND = {"branches", "euclidean_classifier", "euclidean_cost", "modules", "checkpointer"}
FINETUNING = {
    "pretrained_model", "head_epochs", "encoder_lr_factor", "number_of_epochs",
    "batch_size", "sentence_len", "lr", "lr_decay", "steps_per_epoch", "margin_schedule",
    "checkpointer", "margin", "compute_cost", "output_folder", "baselines",
    "dev_speakers", "dev_trials",
}  # fmt: skip
PAIRS = {
    "dataloader_options", "batch_sampler", "processes", "modules", "checkpointer",
    "clusters", "hard_ratio", "batches_per_epoch",
}  # fmt: skip
SCALE = {
    "output_folder", "number_of_epochs", "batch_size", "embedding_model", "lr",
    "lr_decay", "lr_annealing", "checkpointer", "opt_class", "max_grad_norm",
    "num_workers", "seed", "dev_speakers", "dev_trials", "min_duration", "baselines",
    "base_lr", "max_lr", "time_drop", "freq_drop", "fea_augment", "steps_per_epoch",
    "out_n_neurons",
}  # fmt: skip
MINI = {
    "data_folder", "test_data_folder", "verification_file", "mini_corpus",
    "output_folder", "number_of_epochs", "embedding_model", "num_workers",
    "dev_speakers", "max_lr", "sentence_len",
}  # fmt: skip
VIEWS = {
    "output_folder", "batch_size", "momentum_encoder", "margin", "scale", "symmetric",
    "similarity", "margin_loss", "queue_size", "compute_cost", "margin_schedule", "modules",
    "checkpointer", "wav_augment", "add_noise", "add_reverb", "classifier", "out_n_neurons",
}  # fmt: skip
ROOMS = {
    "time_drop", "freq_drop", "fea_augment", "distortions", "data_folder_noise",
    "data_folder_rir", "noise_annotation", "rir_annotation", "prepare_noise_data",
    "prepare_rir_data", "number_of_epochs", "sentence_len",
}  # fmt: skip
SPEEDS = {"speeds", "speed_perturb"}
UPSTREAMS = {
    "lr_decay", "lr_annealing", "opt_class", "steps_per_epoch", "separate_views",
    "valid_annotation", "split_ratio", "skip_prep", "random_chunk", "error_stats",
}  # fmt: skip
BACKBONE = {
    "output_folder", "number_of_epochs", "batch_size", "sentence_len", "embedding_model",
    "lin_neurons", "opt_class",
}  # fmt: skip
PARALLEL = {
    "separate_views", "add_noise", "drop_freq", "drop_chunk", "wav_augment",
    "lr_annealing",
} | UPSTREAMS  # fmt: skip
CYCLE = {"base_lr", "max_lr", "lr", "lr_decay", "steps_per_epoch", "checkpointer"}
LAYERS = {
    "wavlm", "feature_size", "freeze_wavlm", "compute_features", "mean_var_norm",
    "n_mels", "lr_decay", "checkpointer",
}  # fmt: skip
OF_MOCO = {
    "output_folder", "momentum_encoder", "queue_size", "compute_cost", "modules",
    "checkpointer",
}  # fmt: skip


def test_yamls_differ_only_in_what_they_are_about():
    for one, other, about in (
        *(
            ("train_ecapa_ham", f"train_ecapa_{loss}", HEAD_AND_LOSS)
            for loss in ("softmax", "am", "aam", "aam_origin", "ram", "h")
        ),
        ("train_ecapa_aam", "train_ecapa_aam_origin", {"classifier", "output_folder"}),
        ("train_ecapa_ham", "train_ecapa_blend", {"output_folder"} | BLEND),
        ("train_ecapa_ham", "backbones/resnet_ham", BACKBONE | PARALLEL | CYCLE),
        ("train_ecapa_ham", "backbones/xvector_ham",
         (BACKBONE | PARALLEL | {"lr_final", "n_mels"})
         - {"batch_size", "steps_per_epoch"}),
        ("train_ecapa_ham", "backbones/wavlm_ham",
         (BACKBONE | LAYERS | UPSTREAMS)
         - {"lin_neurons", "lr_annealing", "opt_class", "separate_views",
            "steps_per_epoch"}),
        ("train_ecapa_ham", "finetune_ham", FINETUNING - {"lr"}),
        ("small", "small/blend", HEAD_AND_LOSS | BLEND),
        ("small", "small/supcon", HEAD_AND_LOSS | PAIRS),
        ("small", "mini", MINI),
        ("mini", "mini/chns",
         (HEAD_AND_LOSS | PAIRS | {"cluster_refresh", "number_of_epochs", "sentence_len"})
         - {"clusters", "hard_ratio"}),
        ("contrastive/supcon", "contrastive/chns",
         {"output_folder", "clusters", "hard_ratio"}),
        ("contrastive/supcon", "small/supcon", SCALE),
        ("train_ecapa_ham", "contrastive/simclr_am",
         (VIEWS | UPSTREAMS | SPEEDS)
         - {"add_noise", "add_reverb", "batch_size", "momentum_encoder", "queue_size"}),
        ("contrastive/simclr_am", "contrastive/moco_am", OF_MOCO),
        ("small", "small/simclr",
         (VIEWS | ROOMS) - {"momentum_encoder", "number_of_epochs", "queue_size"}),
        ("small/simclr", "small/moco", OF_MOCO),
        ("mini", "mini/ssl",
         (VIEWS | ROOMS) - {"momentum_encoder", "queue_size", "sentence_len"}),
    ):  # fmt: skip
        changed = differing(HPARAMS / f"{one}.yaml", HPARAMS / f"{other}.yaml")
        assert changed == about, (one, other)


NUMBERS = (
    "number_of_epochs", "batch_size", "sentence_len", "max_lr", "lr_decay", "dev_speakers",
    "dev_trials", "min_duration", "lin_neurons", "n_mels",
)  # fmt: skip


def test_the_readme_has_every_number_in_which_a_yaml_differs():
    rows = re.findall(
        r"^\| `([\w/]+)\.yaml` \| .* \| `([\w/]+)\.yaml` \| (.*) \|$",
        (HPARAMS / "README.md").read_text(encoding="utf-8"),
        re.M,
    )
    assert len(rows) > 15
    for name, base, by in rows:
        one, other = (top_level(HPARAMS / f"{each}.yaml") for each in (name, base))
        for key in (key for key in NUMBERS if key in one and one[key] != other.get(key)):
            value = yaml.safe_load(one[key])
            assert re.search(rf"\b{key} {value}(?![\d.]\d)", by), (name, key, value)


def test_a_blend_is_the_same_in_both_sizes():
    published, small = (
        HPARAMS / f"{name}.yaml" for name in ("train_ecapa_blend", "small/blend")
    )
    assert not differing(published, small) & (HEAD_AND_LOSS | BLEND) - {
        "output_folder", "checkpointer"
    }  # fmt: skip


def test_batches_of_pairs_are_the_published_ones(tmp_path):
    for name in ("supcon", "chns"):
        changes = {"clusters": None, "hard_ratio": 0.0} if name == "chns" else {}
        hparams = built(f"contrastive/{name}", tmp_path / name, **changes)
        assert (hparams["batch_size"], hparams["number_of_epochs"]) == (1300, 200)
        assert hparams["batch_sampler"].num_hard == 0
        cost = hparams["compute_cost"]
        assert cost.temperature.item() == pytest.approx(0.1)
        assert cost.log_temperature.requires_grad
    text = top_level(HPARAMS / "contrastive" / "chns.yaml")
    assert yaml.safe_load(text["hard_ratio"]) == 1.0


def test_settings_without_labels_are_the_published_ones(tmp_path):
    simclr, moco = (
        built(f"contrastive/{name}_am", tmp_path / name) for name in ("simclr", "moco")
    )
    for hparams in (simclr, moco):
        assert hparams["batch_size"] == 256 and hparams["sentence_len"] == 2.0
        cost, schedule = hparams["compute_cost"], hparams["margin_schedule"]
        assert (cost.margin, cost.loss.scale) == (0.1, 30.0)
        half = 2 * hparams["number_of_epochs"] / 2  # steps
        for step in (0, half / 3, half / 2, half, 2 * half):  # of arXiv 2404.14913
            share = min(step / half, 1)
            expected = 0.1 * (1 - (1 + math.cos(math.pi * share)) / 2)
            assert schedule.at(step) == pytest.approx(expected, abs=1e-9)
        rates = [hparams["lr_annealing"](epoch)[0] for epoch in (1, 4, 5, 10)]
        assert rates == pytest.approx([1e-3, 1e-3, 0.95e-3, 0.95**2 * 1e-3])
    assert simclr["compute_cost"].symmetric
    assert [len(queue.keys) for queue in moco["compute_cost"].queues] == [32768] * 2
    assert moco["momentum_encoder"].momentum == 0.999


def differing(path, other):
    """The top-level keys whose text differs."""
    a, b = top_level(path), top_level(other)
    return {key for key in a | b if a.get(key) != b.get(key)}


def top_level(path):
    """Key -> its yaml text."""
    root = yaml.compose(path.read_text(encoding="utf-8"))
    return {key.value: yaml.serialize(value) for key, value in root.value}


# ------------------------------------------------------------------------- studies

# The head and loss that an experiment's name promises, by its first word.
CENTERS, BALL = "Classifier", "HyperbolicClassifier"
PROMISED = {
    "softmax": ("Linear", "Softmax"), "scaled": ("Linear", "Softmax"),
    "am": (CENTERS, "AMSoftmax"), "aam": (CENTERS, "AAMSoftmax"),
    "ram": (CENTERS, "RAMSoftmax"), "h": (BALL, "HSoftmax"), "ham": (BALL, "HAMSoftmax"),
    "blend": (BALL, "HAMSoftmax"), "supcon": ("Identity", "SupCon"),
    "hscl": ("Identity", "HSCL"), "chns": ("Identity", "SupCon"),
    "chns_hscl": ("Identity", "HSCL"), "chns_ham": (BALL, "HAMSoftmax"),
    "chns_hscl_later": ("Identity", "HSCL"),
    "am_0.001": ("CosineClassifier", "AMSoftmax"),
    "aam_0.001_scale_15": ("CosineClassifier", "AAMSoftmax"),
    "am_origin": ("CosineClassifier", "AMSoftmax"),
    "aam_origin": ("CosineClassifier", "AAMSoftmax"),
    "aam_origin_scale_15": ("CosineClassifier", "AAMSoftmax"),
    "aam_sub_centers": ("CosineClassifier", "AAMSoftmax"),
    "aam_top_k": ("CosineClassifier", "AAMSoftmax"),
    "aam_sub_centers_top_k": ("CosineClassifier", "AAMSoftmax"),
    "sphereface2": ("CosineClassifier", "SphereFace2"),
}  # fmt: skip
# With SpeechBrain's start, where others of these cosine heads have HAM's.
PLAIN = {"am", "aam", "aam_scale_15", "ram"}
LABELLED = {
    "compute_cost", "classifier", "euclidean_cost", "clusters", "hard_ratio",
    "no_weight_decay", "margin_schedule", "cluster_refresh", "modules", "checkpointer",
}  # fmt: skip
CANDIDATES = {"first_candidate", "second_candidate", "winner"}  # options that a user gives
UNLABELLED = {"margin", "symmetric", "margin_loss", "similarity", "mask_collisions"}
OF_FINETUNING = {
    "classifier", "compute_cost",
    "pretrained_model", "head_epochs", "encoder_lr_factor", "max_lr", "number_of_epochs",
    "data_folder",
}  # fmt: skip


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_study_gives_every_experiment_the_same_but_head_and_loss(
    path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    candidate = "{compute_cost: !new:hamsb.AMSoftmax {scale: 20.0}}"
    placeholders = [
        f"--{key}={candidate if key in CANDIDATES else '/somewhere'}"
        for key, value in top_level(path).items()
        if value.startswith("!PLACEHOLDER")
    ]
    tiny = [f"--output_folder={tmp_path}/out"]
    tiny += ["--channels=[8, 8, 8, 8, 24]"] if "channels" in keys(path) else []
    # Other seeds differ in that number alone.
    arguments = [str(path), *placeholders, *tiny, "--seeds=[1]"]
    hparams_file, _, overrides = parse_arguments(arguments, compare.KEYS)
    comparison = Comparison(
        hparams_file, read_resolved(hparams_file, overrides), compare.TRAIN, HPARAMS
    )
    comparison.check_runs()  # every option is one that the script takes
    for name, experiment in comparison.experiments.items():
        unlabelled = experiment.get("script") == "train_ssl.py"
        points = comparison.points(name)
        assert len(points) <= 4
        for given in (experiment.get("options", {}), *points):
            allowed = UNLABELLED if unlabelled else LABELLED
            if path.stem == "compare_finetuning":  # another contract: one loss
                allowed = OF_FINETUNING
            assert given.keys() <= allowed
        for run in comparison.search(name) or comparison.finals(name)[:1]:
            hparams = built_run(run, tmp_path)
            if unlabelled:
                check_unlabelled(name, hparams)
                continue
            default = (BALL, "HAMSoftmax")  # of compare_geometry's factors
            promised = PROMISED.get(name) or PROMISED.get(name.partition("_")[0], default)
            if name in CANDIDATES:
                promised = ("CosineClassifier", "AMSoftmax")
            head, loss = hparams["classifier"], hparams["compute_cost"]
            if isinstance(head, hamsb.CosineClassifier):
                near = next(head.parameters()).abs().max() < 0.01
                assert near == (name not in PLAIN), name
            head = type(head).__name__
            if promised[0] == CENTERS:  # SpeechBrain's or ours, which compute the same
                head = head.removeprefix("Cosine")
            assert (head, type(loss).__name__) == promised, name


def built_run(run, tmp_path):
    """The objects of a study's run, its clusters left out."""
    arguments = [
        a for a in run.arguments if not a.startswith(("--clusters", "--hard_ratio"))
    ]
    hparams_file, _, overrides = parse_arguments(arguments, declared_keys(run.script))
    changes = {**counted(tmp_path), "out_n_neurons": 3, "queue_size": 4}
    with open(hparams_file, encoding="utf-8") as file:
        known = {key.value for key, _ in yaml.compose(file).value}
    more = "".join(f"\n{key}: {value}" for key, value in changes.items() if key in known)
    return load_hparams(hparams_file, overrides + more)


def check_unlabelled(name, hparams):
    """The loss, margin and similarity that an experiment's name promises."""
    cost, kind = hparams["compute_cost"], name.partition("_")[0]
    assert type(cost).__name__ == ("MoCo" if "moco" in name else "NTXent")
    assert type(cost.loss).__name__ == ("AAMSoftmax" if kind == "aam" else "AMSoftmax")
    if name == "unlabelled":  # as small/simclr.yaml has it
        return
    geometry = "Hyperbolic" if kind in ("h", "ham") else "Cosine"
    assert type(cost.similarity).__name__ == f"{geometry}Similarity"
    margin = re.search(r"0\.\d+$", name)
    assert hparams["margin_schedule"].margin == (float(margin[0]) if margin else 0)
    assert hparams["symmetric"] == (kind != "asymmetric")
    assert hparams.get("mask_collisions", False) == name.endswith("_masked")
