"""Fine-tuning: what is taken of a finished model, and what is refused."""

import copy
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError
from hyperpyyaml import load_hyperpyyaml
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.nnet.schedulers import CyclicLRScheduler, update_learning_rate
from speechbrain.utils import fetching

from hamsb import CosineClassifier, MomentumEncoder
from hamsb.training import finetuning
from hamsb.training.checkpoints import Checkpointer
from hamsb.training.export import export_model
from hamsb.training.finetuning import begin, check_finetuning, read_pretrained, start_from
from hamsb.training.step import own_rates, split_groups
from hamsb.verification.training_data import write_training
from runs import EXPERIMENT, same

# As the yaml of speechbrain/spkrec-ecapa-voxceleb has it, but for its sizes.
STOCK = """
n_mels: 20
pretrained_path: speechbrain/spkrec-ecapa-voxceleb
out_n_neurons: 3
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [8, 8, 8, 8, 24]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 8
    lin_neurons: 16
classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 16
    out_neurons: !ref <out_n_neurons>
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""
GLOBAL = EXPERIMENT.replace("norm_type: sentence", "norm_type: global")
SPEAKERS = ("ann", "bob", "cid")
LENGTHS = torch.ones(2)


def labels_of(names):
    labels = CategoricalEncoder()
    labels.update_from_iterable(names, sequence_input=False)
    return labels


def built(text=EXPERIMENT, speakers=3, seed=1):
    """The modules of an experiment's yaml, with random weights."""
    torch.manual_seed(seed)
    hparams = load_hyperpyyaml(text.replace("out_neurons: 2", f"out_neurons: {speakers}"))
    names = ("compute_features", "mean_var_norm", "embedding_model", "classifier")
    return {name: hparams[name].eval() for name in names if name in hparams}


def exported(folder, text=EXPERIMENT, names=SPEAKERS, classes=None):
    """A model in a folder, without a classifier where no names are given."""
    modules = built(text, classes or len(names), seed=2)
    kept = ["embedding_model", *(["classifier"] if names else [])]
    if "global" in text:
        modules["mean_var_norm"].train()(torch.randn(2, 50, 20) + 3, LENGTHS)
        kept.append("mean_var_norm")
    modules["embedding_model"].blocks[0].norm.norm.running_mean += 1
    for buffer in modules["classifier"].buffers() if names else ():
        buffer += torch.arange(buffer.numel()).view_as(buffer)
    text = text.replace("out_neurons: 2", f"out_neurons: {classes or len(names)}")
    labels = labels_of(names) if names else None
    export_model(folder, text, {n: modules[n] for n in kept}, labels, "# card\n")
    return modules


def started(folder, modules, names=SPEAKERS):
    """What is said of a start from a folder."""
    labels = None if names is None else labels_of(names)
    return start_from(read_pretrained(folder), modules, labels, 16000)


def test_encoder_and_head_are_taken_for_the_same_speakers(tmp_path):
    theirs, ours = exported(tmp_path / "model"), built()
    (said,) = started(tmp_path / "model", ours)
    assert said.endswith("/model and its head, of the same 3 speakers.")
    for name in ("embedding_model", "classifier"):
        assert same(ours[name].state_dict(), theirs[name].state_dict())
    assert all(p.requires_grad for p in ours["embedding_model"].parameters())


SUB_CENTERS = EXPERIMENT.replace("  ball:", "  sub_centers: 2\n  ball:")
# As many dimensions, of which the head has statistics, as speakers.
SQUARE = EXPERIMENT.replace("  ball:", "  batch_norm: True\n  ball:")


@pytest.mark.parametrize("text", [EXPERIMENT, SUB_CENTERS, SQUARE])
def test_speakers_in_another_order_keep_their_centers(text, tmp_path):
    names = [f"id{i:02}" for i in range(16)] if text is SQUARE else list(SPEAKERS)
    theirs, ours = exported(tmp_path / "model", text, names), built(text, len(names))
    (said,) = started(tmp_path / "model", ours, [names[-1], *names[:-1]])
    assert f"its head, of the same {len(names)} speakers" in said
    x = torch.randn(4, 1, 16)
    order = [len(names) - 1, *range(len(names) - 1)]
    assert torch.equal(ours["classifier"](x), theirs["classifier"](x)[..., order])


def test_more_classes_than_speakers_stay_as_they_are(tmp_path):
    """``out_n_neurons`` may be given larger than the number of speakers."""
    theirs, ours = exported(tmp_path / "model", classes=5), built(speakers=5)
    (said,) = started(tmp_path / "model", ours)
    assert "its head, of the same 3 speakers" in said
    assert same(ours["classifier"].state_dict(), theirs["classifier"].state_dict())
    (said,) = started(tmp_path / "model", built())
    assert "the head is new, since it is another: " in said


@pytest.mark.parametrize(
    ("text", "names", "why"),
    [
        (EXPERIMENT, ["ann", "bob", "dan"], "its 3 speakers are not the 3 of this"),
        (EXPERIMENT, ["ann", "bob"], "its 3 speakers are not the 2 of this training"),
        (
            EXPERIMENT.replace("3.0", "5.0"),
            SPEAKERS,
            "it is another: curvature is 5.0 here",
        ),
        (SUB_CENTERS, SPEAKERS, "it is another: sub_centers is 2 here, 1 there"),
        (
            re.sub(
                r"classifier: [^ ]*\n(.*\n.*)\n.*\n.*\n",
                r"classifier: !new:hamsb.CosineClassifier\n\1\n",
                EXPERIMENT,
            ),
            SPEAKERS,
            "it is another: CosineClassifier here, HyperbolicClassifier there",
        ),
    ],
    ids=["others", "fewer", "curvature", "sub-centers", "cosine"],
)
def test_else_the_head_is_new(tmp_path, text, names, why):
    theirs = exported(tmp_path / "model")
    ours = built(text, len(names))
    before = copy.deepcopy(ours["classifier"].state_dict())
    (said,) = started(tmp_path / "model", ours, names)
    assert f"; the head is new, since {why}" in said
    assert same(ours["classifier"].state_dict(), before)
    encoders = (each["embedding_model"].state_dict() for each in (ours, theirs))
    assert same(*encoders)


def test_a_model_without_labels_has_no_head(tmp_path):
    text = EXPERIMENT[: EXPERIMENT.index("classifier:")]
    exported(tmp_path / "model", text, ())
    (said,) = started(tmp_path / "model", built())
    assert said.endswith("; the head is new, since that model has none.")
    momentum = MomentumEncoder(built()["embedding_model"])
    ours = {**built(text), "momentum_encoder": momentum}
    (said,) = started(tmp_path / "model", ours, None)
    assert "head" not in said
    states = (ours["embedding_model"].state_dict(), momentum.encoder.state_dict())
    assert same(*states) and not any(p.requires_grad for p in momentum.parameters())


def test_a_published_folder_is_loaded_from_its_place(tmp_path, monkeypatch):
    """Where its yaml names a hub for its weights; speakers by name, features compared."""
    torch.manual_seed(3)
    whole = load_hyperpyyaml(STOCK)
    (tmp_path / "hyperparams.yaml").write_text(STOCK)
    whole["label_encoder"].update_from_iterable(SPEAKERS, sequence_input=False)
    whole["label_encoder"].save(tmp_path / "label_encoder.txt")
    whole["mean_var_norm_emb"].train()(torch.randn(2, 1, 16), LENGTHS)
    whole["mean_var_norm_emb"]._save(tmp_path / "mean_var_norm_emb.ckpt")
    for name in ("embedding_model", "classifier"):
        torch.save(whole[name].state_dict(), tmp_path / f"{name}.ckpt")
    pretrained, ours = read_pretrained(tmp_path), built()
    assert pretrained.speakers == list(SPEAKERS)
    (said,) = start_from(pretrained, ours, labels_of(SPEAKERS), 16000)
    assert "HyperbolicClassifier here, Classifier there" in said
    states = (ours["embedding_model"].state_dict(), whole["embedding_model"].state_dict())
    assert same(*states)


@pytest.mark.parametrize(
    ("old", "new", "rate", "message"),
    [
        (
            "[8, 8, 8, 8, 24]",
            "[12, 8, 8, 8, 24]",
            16000,
            "its embedding_model is another network: blocks.0.conv.conv.weight is of shape "
            r"\[12, 20, 5\] here and of shape \[8, 20, 5\] in the model",
        ),
        (
            "attention_channels: 8",
            "attention_channels: 8\n  global_context: False",
            16000,
            r"asp.*weight is of shape \[8, 24, 1\] here and of shape \[8, 72, 1\] in",
        ),
        ("20", "24", 16000, "its compute_features are others: n_mels is 24 here, 20 there"),
        (
            "n_mels: 20",
            "n_mels: 20\n  win_length: 20",
            16000,
            "its compute_features are others: win_length is 320 here, 400 there",
        ),
        ("", "", 8000, "is of audio at 16000 Hz, and sample_rate=8000"),
    ],
    ids=["channels", "context", "mels", "window", "rate"],
)
def test_what_does_not_fit_is_refused_with_both_values(tmp_path, old, new, rate, message):
    exported(tmp_path / "model")
    pretrained = read_pretrained(tmp_path / "model")
    modules = built(EXPERIMENT.replace(old, new))
    before = copy.deepcopy(modules["embedding_model"].state_dict())
    with pytest.raises(ValueError, match=f"^pretrained_model=.*model: .*{message}"):
        start_from(pretrained, modules, labels_of(SPEAKERS), rate)
    assert same(before, modules["embedding_model"].state_dict())


def test_another_normalization_is_told(tmp_path):
    exported(tmp_path / "model")
    ours = built(EXPERIMENT.replace("std_norm: False", "std_norm: True"))
    said = started(tmp_path / "model", ours)
    assert "another: std_norm is True here, False there." in said[1]
    assert len(started(tmp_path / "model", built())) == 1
    assert (
        "norm_type is global here, sentence there"
        in started(tmp_path / "model", built(GLOBAL))[1]
    )


def test_global_statistics_are_taken(tmp_path):
    theirs, ours = exported(tmp_path / "model", GLOBAL), built(GLOBAL)
    assert len(started(tmp_path / "model", ours)) == 1
    norm = ours["mean_var_norm"]
    assert norm.count == theirs["mean_var_norm"].count > 0
    assert torch.equal(norm.glob_mean, theirs["mean_var_norm"].glob_mean)


def test_reading_a_model_changes_no_draw_and_its_digest_is_its_weights(tmp_path):
    exported(tmp_path / "model")
    torch.manual_seed(5)
    one = read_pretrained(tmp_path / "model")
    drawn = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), drawn)
    (tmp_path / "model").rename(tmp_path / "moved")
    assert read_pretrained(tmp_path / "moved").digest == one.digest
    path = tmp_path / "moved" / "embedding_model.ckpt"
    state = torch.load(path)
    state["fc.conv.bias"][0] += 1
    torch.save(state, path)
    assert read_pretrained(tmp_path / "moved").digest != one.digest


def test_no_model_is_told_by_the_option_s_name(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="^pretrained_model=.*nowhere.*: no exported"
    ):
        read_pretrained(tmp_path / "nowhere" / "export")
    with pytest.raises(
        FileNotFoundError, match="^pretrained_model=.*no exported model here"
    ):
        read_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"head_epochs": 1}, "^head_epochs=1: .* there is no pretrained_model"),
        ({"head_epochs": 0.5, "pretrained_model": "x"}, "^head_epochs=0.5: "),
        (
            {"head_epochs": 3, "number_of_epochs": 3, "pretrained_model": "x"},
            "^head_epochs=3: leaves none of the number_of_epochs=3 for the encoder",
        ),
        ({"encoder_lr_factor": 0}, "^encoder_lr_factor=0: must be positive"),
        ({"encoder_lr_factor": True}, "^encoder_lr_factor=True: must be positive"),
    ],
)
def test_options_that_cannot_be_meant(keys, message):
    with pytest.raises(ValueError, match=message):
        check_finetuning(keys)
    check_finetuning({"head_epochs": None, "pretrained_model": None})


def test_a_run_goes_on_without_the_model_that_it_began_with(tmp_path):
    exported(tmp_path / "model")
    keys = {"pretrained_model": str(tmp_path / "model")}
    first = begin(keys, None)
    began = {
        "data": {"pretrained_model": first.digest},
        "pretrained_model": {"about": ["It began."], "speakers": ["ann"]},
    }
    assert begin(keys, began).digest == first.digest
    (tmp_path / "model").rename(tmp_path / "gone")
    again = begin(keys, began)
    assert (again.digest, again.pretrained) == (first.digest, None)
    assert begin({"pretrained_model": None}, began) is None
    with pytest.raises(FileNotFoundError, match="^pretrained_model="):
        begin(keys, {"data": {}})


def test_a_run_that_goes_on_takes_the_weights_where_it_scores_them_alone(tmp_path):
    """For the row "before fine-tuning"; what was said first is said again."""
    theirs = exported(tmp_path / "model")
    noted = {"about": ["It began."], "speakers": ["ann"]}
    brain = SimpleNamespace(
        modules=built(), hparams=SimpleNamespace(sample_rate=16000), checkpointer=None
    )
    brain.development = None
    beginning = begin({"pretrained_model": str(tmp_path / "model")}, None)
    beginning.noted = noted
    for take in (False, True):
        beginning.start(brain, labels_of(SPEAKERS), [], take)
        ours = brain.modules["embedding_model"].state_dict()
        assert same(ours, theirs["embedding_model"].state_dict()) == take
        assert brain.begun_from == noted
    beginning.digest = "0d"
    with pytest.raises(ValueError, match="^pretrained_model=.*: changed since the run in"):
        beginning.start(brain, labels_of(SPEAKERS), [], take=True)


def test_a_frozen_normalization_needs_statistics(tmp_path):
    """While the head learns alone they would not be counted."""
    exported(tmp_path / "sentence")
    exported(tmp_path / "global", GLOBAL)
    brain = SimpleNamespace(
        modules=built(GLOBAL),
        hparams=SimpleNamespace(sample_rate=16000, head_epochs=2),
        checkpointer=None,
        development=None,
    )
    labels = labels_of(SPEAKERS)
    beginning = begin({"pretrained_model": str(tmp_path / "sentence")}, None)
    with pytest.raises(ValueError, match="^head_epochs=2: .*/sentence has none; leave"):
        beginning.start(brain, labels, [], take=True)
    beginning = begin({"pretrained_model": str(tmp_path / "global")}, None)
    beginning.start(brain, labels, [], take=True)
    assert brain.begun_from["speakers"] == list(SPEAKERS)


def test_who_trained_the_model_is_told_of_the_trials(tmp_path, four_trials):
    """Of the lists, and of the development speakers."""
    exported(tmp_path / "model", names=["ann", "id1", "id2"])
    brain = SimpleNamespace(
        modules=built(),
        hparams=SimpleNamespace(sample_rate=16000),
        checkpointer=None,
        development=(four_trials, {}),
    )
    beginning = begin({"pretrained_model": str(tmp_path / "model")}, None)
    beginning.start(brain, None, [four_trials], take=True)
    about = " ".join(brain.begun_from["about"])
    assert "vox1_O: 2 of its 2 speakers trained this model (id1, id2)" in about
    assert "2 of the 2 development speakers trained that model" in about


def test_the_checkpointer_begins_with_a_model_once(tmp_path):
    """For SpeechBrain's script: the encoder, where there is no checkpoint yet."""
    theirs, ours = exported(tmp_path / "model"), built()
    checkpointer = Checkpointer(
        tmp_path / "save", dict(ours), pretrained_model=tmp_path / "model"
    )
    assert checkpointer.recover_if_possible() is None
    encoder = ours["embedding_model"]
    assert same(encoder.state_dict(), theirs["embedding_model"].state_dict())
    with torch.no_grad():
        encoder.fc.conv.bias += 1
    after = copy.deepcopy(encoder.state_dict())
    checkpointer.save_checkpoint()
    (tmp_path / "model").rename(tmp_path / "gone")
    assert checkpointer.recover_if_possible() is not None
    assert same(encoder.state_dict(), after)


def test_the_encoder_s_rate_is_part_of_every_schedule_s():
    one, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = split_groups([one, other], {id(other)}, weight_decay=0.0)
    groups = split_groups(groups, {id(one)}, lr_factor=0.1)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    cyclic = CyclicLRScheduler(base_lr=0.1, max_lr=0.5, step_size=2)

    def step():
        for parameter in (one, other):
            parameter.grad = torch.ones(2)
        before = one.detach().clone(), other.detach().clone()
        with own_rates(optimizer):
            optimizer.step()
        return [(b - p.detach())[0].item() for b, p in zip(before, (one, other))]

    for schedule in (
        lambda: update_learning_rate(optimizer, 0.2),
        *([lambda: cyclic.on_batch_end(optimizer)] * 3),
    ):
        schedule()
        rates = {group["lr"] for group in optimizer.param_groups}
        assert len(rates) == 1  # the schedule's
        moved = step()
        assert moved[0] == pytest.approx(0.1 * moved[1]) and moved[1] in map(
            pytest.approx, rates
        )
    state = optimizer.state_dict()
    again = torch.optim.SGD(groups, lr=1.0)
    again.load_state_dict(state)
    factors = [group.get("lr_factor") for group in again.param_groups]
    assert factors == [group.get("lr_factor") for group in optimizer.param_groups]
    assert 0.1 in factors and None in factors


def test_a_model_on_a_hub_tells_who_trained_it(tmp_path, monkeypatch):
    """By its training.json, which knows more than its classes; the hub is a folder here."""
    exported(tmp_path / "model", names=("ann", "ann at 90 %"))
    write_training(
        tmp_path / "model",
        {"speakers": ["ann", "eve"], "development_speakers": [], "data": {}},
    )

    def download(repo_id, filename, **options):
        if not (tmp_path / "model" / filename).is_file():
            raise EntryNotFoundError("404: no such file")
        path = tmp_path / "cache" / "models--owner--ours" / "snapshots" / "1" / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "model" / filename, path)
        return str(path)

    monkeypatch.setattr(fetching.huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    assert read_pretrained("owner/ours").speakers == ["ann", "eve"]


def test_of_a_head_in_several_processes_each_takes_its_rows():
    theirs, ours = CosineClassifier(3, 5), CosineClassifier(3, 5, sharded=True)
    ours.shard.rank, ours.shard.processes = 1, 2
    ours.weight = torch.nn.Parameter(torch.zeros(3, 3))
    head = finetuning._reordered(theirs, ours, [4, 3, 2, 1, 0])
    assert torch.equal(head.weight, theirs.weight[[2, 1, 0]])
