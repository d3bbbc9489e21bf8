"""Fine-tuning: a training that begins with the weights of a finished model.

``pretrained_model`` names it: an export of a training with labels or without, or any
folder or name on a hub that SpeechBrain's ``EncoderClassifier`` loads. The encoder is
taken: its network, what its features have learned, global statistics of its
normalization. The head is taken where it tells the same speakers apart, in any order, in
the same way; else the training begins with a new one.

With ``head_epochs`` the first epochs train the head alone: nothing before it is in
training mode or has a gradient, so a new head's first steps cannot spoil the encoder.
With ``encoder_lr_factor`` the encoder's rate is the schedule's, times that.

Weights are taken once: a run that goes on has those of its checkpoint.
"""

import copy
import inspect
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from ruamel.yaml.comments import CommentedMap
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.checkpoints import (
    DEFAULT_LOAD_HOOKS,
    DEFAULT_SAVE_HOOKS,
    get_default_hook,
)
from speechbrain.utils.distributed import if_main_process
from torch import nn

from hamsb.inference.folder import model_folder
from hamsb.inference.inspection import HPARAMS
from hamsb.inference.speaker import SpeakerRecognition, source_folder
from hamsb.nnet._sharded import shards
from hamsb.nnet.momentum import MomentumEncoder
from hamsb.training.checkpoints import Checkpointer
from hamsb.training.dry_run import same_random_state
from hamsb.training.export import ENCODER
from hamsb.training.kept import (
    fingerprint,
    global_statistics,
    has_hooks,
    lacks_statistics,
)
from hamsb.utils.checks import check_whole, is_number
from hamsb.utils.hparams import build, read_resolved
from hamsb.utils.yaml_tree import option_text
from hamsb.verification.data import VerificationData
from hamsb.verification.overlaps import (
    ModelSpeakers,
    find_overlaps,
    model_speakers,
    overlap_warnings,
)
from hamsb.verification.trials import Trials

if TYPE_CHECKING:
    from hamsb.training.brain import EmbeddingBrain

OPTION = "pretrained_model"
NOISE = 1.0  # seconds
CLOSE = 1e-4  # of similarities, and relative to them


@dataclass(frozen=True)
class Pretrained:
    """A finished model, loaded, on the CPU.

    Attributes
    ----------
    source : str
        As it was given.
    modules : torch.nn.ModuleDict
        In evaluation mode.
    classes : mapping of str to int, optional
        Speaker -> the index of its class, where there is a classifier.
    speakers : sequence of str, optional
        Who trained it, where that is known.
    sample_rate : int
        Hz.
    digest : str
        SHA-256 of what its modules hold.
    """

    source: str
    modules: nn.ModuleDict
    classes: Mapping[str, int] | None
    speakers: Sequence[str] | None
    sample_rate: int
    digest: str


def check_finetuning(keys: Mapping) -> None:
    """Refuse what a yaml says of fine-tuning and cannot mean, before data are read.

    Arguments
    ---------
    keys : mapping
        Its plain keys.

    Raises
    ------
    ValueError
        ``head_epochs`` is no whole number, or without ``pretrained_model``, or leaves no
        epoch for the encoder; ``encoder_lr_factor`` is not positive.
    Example
    -------
    >>> check_finetuning({"head_epochs": 5, "number_of_epochs": 20})
    Traceback (most recent call last):
    ...
    ValueError: head_epochs=5: trains the head of a pretrained model alone, and there is \
no pretrained_model; name one, or leave head_epochs out.
    """
    source, alone = keys.get(OPTION), keys.get("head_epochs") or 0
    factor = keys.get("encoder_lr_factor")
    check_whole("head_epochs", alone, 0)
    if alone and source is None:
        raise ValueError(
            f"head_epochs={alone}: trains the head of a pretrained model alone, and there "
            f"is no {OPTION}; name one, or leave head_epochs out."
        )
    epochs = keys.get("number_of_epochs")
    if alone and isinstance(epochs, int) and alone >= epochs:
        raise ValueError(
            f"head_epochs={alone}: leaves none of the number_of_epochs={epochs} for the "
            "encoder; give fewer."
        )
    if factor is not None and not (is_number(factor) and factor > 0):
        raise ValueError(
            f"encoder_lr_factor={factor}: must be positive, as 0.1 for a tenth of the "
            "rate. head_epochs has epochs without the encoder."
        )


def read_pretrained(source: str | os.PathLike) -> Pretrained:
    """Load a finished model; no random number that training draws depends on it.

    Arguments
    ---------
    source : str or Path
        A folder, or the name of a model on Hugging Face's hub. What the model's yaml
        names is run, see `hamsb.inference.inspect_model`.

    Raises
    ------
    FileNotFoundError
        No model is there.
    ValueError
        It is no model of speaker embeddings.
    """
    source = os.fspath(source)
    if Path(source).is_dir():
        model_folder(source, OPTION)
    with same_random_state():
        try:
            model = SpeakerRecognition.from_hparams(source, run_opts={"device": "cpu"})
        except FileNotFoundError as error:
            raise FileNotFoundError(
                str(error).replace("source=", f"{OPTION}=", 1)
            ) from error
    modules = model.mods
    if missing := [name for name in ENCODER if name not in modules]:
        raise ValueError(
            f"{OPTION}={source}: no speaker embedding model; among its modules is no "
            f"{', no '.join(missing)}."
        )
    labels = getattr(model.hparams, "label_encoder", None)
    classes = dict(labels.lab2ind) if labels is not None else None
    known = model_speakers(source_folder(source))
    speakers = sorted(known.trained) if known is not None else None
    if speakers is None and classes is not None:
        speakers = sorted(map(str, classes))
    rate = model.audio_normalizer.sample_rate
    return Pretrained(source, modules, classes, speakers, rate, fingerprint(modules))


def start_from(
    pretrained: Pretrained,
    modules: Mapping[str, nn.Module],
    labels: CategoricalEncoder | None,
    sample_rate: int,
) -> list[str]:
    """Take a finished model's weights.

    Arguments
    ---------
    pretrained : Pretrained
    modules : mapping of str to torch.nn.Module
        What is trained, not wrapped; a ``MomentumEncoder`` among them starts as a copy of
        the encoder.
    labels : CategoricalEncoder, optional
        Speaker <-> class, where the training has classes.
    sample_rate : int
        Hz, of the training's audio.

    Returns
    -------
    list of str
        What was taken, and what differs: sentences.

    Raises
    ------
    ValueError
        The networks or the features differ: names what, with both values.
    """
    theirs = pretrained.modules.to(_device(modules))
    check_fit(pretrained, modules, sample_rate)
    for name in ENCODER:
        _take(modules[name], theirs[name])
    for module in modules.values():
        if isinstance(module, MomentumEncoder):
            module.encoder.load_state_dict(modules["embedding_model"].state_dict())
    said = [f"The training begins with the encoder of {pretrained.source}"]
    if labels is not None:
        said[0] += _take_head(pretrained, modules["classifier"], labels)
    said[0] += "."
    if differences := _normalization(modules, theirs, sample_rate):
        said.append(
            f"Its mean_var_norm is another: {differences}. The encoder has to adapt; give "
            "the same one to keep what it knows."
        )
    return said


# ------------------------------------------------------------------ what must fit


ADVICE = "Give embedding_model the arguments that it has in the model's hyperparams.yaml."


def check_fit(
    pretrained: Pretrained,
    modules: Mapping[str, nn.Module],
    sample_rate: int,
    advice: str = ADVICE,
) -> None:
    """ValueError where the networks or their features differ; arguments are
    `start_from`'s, and what to do where the networks do."""
    begin = f"{OPTION}={pretrained.source}: "
    _check_features(pretrained, modules, sample_rate, begin)
    for name in ENCODER:
        ours, theirs = (m[name].state_dict() for m in (modules, pretrained.modules))
        if any(True for _ in modules[name].parameters()):
            _check_weights(name, ours, theirs, begin, advice)


def _check_features(pretrained, modules, sample_rate, begin):
    """ValueError where the network would be given other features than it learned on."""
    if pretrained.sample_rate != sample_rate:
        raise ValueError(
            f"{begin}is of audio at {pretrained.sample_rate} Hz, and sample_rate="
            f"{sample_rate}; give audio and features of that rate."
        )
    ours, theirs = (m["compute_features"] for m in (modules, pretrained.modules))
    if any(True for _ in ours.parameters()):
        return  # learned: they are compared and taken
    if not _same_outputs(ours, theirs, _noise(sample_rate, _device(modules))):
        raise ValueError(
            f"{begin}its compute_features are others: "
            f"{_differences(ours, theirs) or 'they give other values'}. Give the same."
        )


def _check_weights(name, ours, theirs, begin, advice=ADVICE):
    """ValueError where two networks' weights differ in names or shapes: the first."""
    for key in dict.fromkeys([*ours, *theirs]):
        shapes = [list(w[key].shape) if key in w else None for w in (ours, theirs)]
        if shapes[0] != shapes[1]:
            here, there = ("not there" if s is None else f"of shape {s}" for s in shapes)
            both = f"{here} here and {there} in the model"
            raise ValueError(
                f"{begin}its {name} is another network: {key} is {both}. {advice}"
            )


def _advice(source, document):
    """How the network is given the arguments that it has in a model's yaml, where both
    yamls tell them."""
    here = document.get("embedding_model")
    try:
        there = read_resolved(Path(source, HPARAMS)).get("embedding_model")
    except (ValueError, OSError):  # on a hub, or one that hyperpyyaml alone reads
        return ADVICE
    if not (isinstance(here, CommentedMap) and isinstance(there, CommentedMap)):
        return ADVICE
    if here.tag.value != there.tag.value:
        return f"It is {here.tag.value} here, {there.tag.value} there."
    other = {key: value for key, value in there.items() if here.get(key) != value}
    return f"Give --embedding_model='{option_text(other)}'." if other else ADVICE


def _normalization(modules, theirs, sample_rate):
    """How two normalizations that give different outputs differ, as words; or ""."""
    ours, other = modules["mean_var_norm"], theirs["mean_var_norm"]
    with torch.no_grad():
        features = theirs["compute_features"](_noise(sample_rate, _device(modules)))
    if _same_outputs(ours, other, features, torch.ones(2, device=features.device)):
        return ""
    return _differences(ours, other) or "it gives other values"


def _noise(sample_rate, device):
    generator = torch.Generator().manual_seed(0)
    return (0.1 * torch.randn(2, int(NOISE * sample_rate), generator=generator)).to(device)


def _device(modules):
    return next(modules["embedding_model"].parameters()).device


def _same_outputs(ours, theirs, *inputs):
    """Whether two modules do the same; False where one of them fails."""
    outputs = []
    for module in (ours, theirs):
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                outputs.append(module(*inputs))
        except Exception:  # a global normalization without statistics, say
            return False
        finally:
            module.train(training)
    one, other = outputs
    return one.shape == other.shape and torch.allclose(one, other, CLOSE, CLOSE)


def _differences(ours, theirs):
    """In which arguments two modules differ, as words: ``n_mels is 80 here, 40 there``."""
    one, other = _arguments(ours), _arguments(theirs)
    if type(ours) is not type(theirs):
        return f"{type(ours).__name__} here, {type(theirs).__name__} there"
    found = {
        path.rpartition(".")[2]: f"{path.rpartition('.')[2]} is {value} here, "
        f"{other.get(path, 'nothing')} there"
        for path, value in one.items()
        if value != other.get(path)
    }
    return ", ".join(found.values())


def _arguments(module):
    """The numbers and texts that a module and its parts were made with, by name."""
    found = {}
    for name, part in module.named_modules():
        for key in inspect.signature(type(part).__init__).parameters:
            value = getattr(part, key, None)
            if isinstance(value, (int, float, str)) and key != "device":
                found[f"{name}.{key}"] = value
    return found


# -------------------------------------------------------------------------- weights


def _take(ours, theirs):
    """Give a module another one's weights, and statistics of a global normalization."""
    if any(True for _ in ours.parameters()):
        ours.load_state_dict(theirs.state_dict())
    for part, other in zip(global_statistics(ours), global_statistics(theirs)):
        if has_hooks(part) and type(part) is type(other):
            _copy_by_hooks(part, other)


def _copy_by_hooks(ours, theirs):
    """What a class keeps beside its parameters goes through its way to be saved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "statistics")
        get_default_hook(theirs, DEFAULT_SAVE_HOOKS)(theirs, path)
        get_default_hook(ours, DEFAULT_LOAD_HOOKS)(ours, path, True)


def _take_head(pretrained, ours, labels):
    """Give the head the weights of the model's where that tells the same speakers apart
    in the same way; the end of a sentence about it."""
    theirs = (
        pretrained.modules["classifier"] if "classifier" in pretrained.modules else None
    )
    classes = pretrained.classes
    if theirs is None or not classes:
        return "; the head is new, since that model has none"
    if classes.keys() != labels.lab2ind.keys():
        return (
            f"; the head is new, since its {len(classes)} speakers are not the "
            f"{len(labels)} of this training"
        )
    order = [classes[labels.ind2lab[index]] for index in range(len(labels))]
    head = _reordered(theirs, ours, order)
    if head is None or not _tells_the_same(head, theirs, order, pretrained):
        return (
            "; the head is new, since it is another: "
            f"{_differences(ours, theirs) or 'its weights or what it does with them'}"
        )
    ours.load_state_dict(head.state_dict())
    return f" and its head, of the same {len(labels)} speakers"


def _reordered(theirs, ours, order):
    """A copy of a head with another's weights, its classes in another order, where
    processes share them out those of this one; None where the weights do not fit."""
    state, classes = theirs.state_dict(), len(order)
    for shard in shards(ours).values():
        order = order[shard.first : shard.end]
    if order != list(range(classes)):
        rows = classes * getattr(theirs, "sub_centers", 1)  # those of a class together
        for key, value in theirs.named_parameters():
            if value.ndim and len(value) == rows:
                index = torch.tensor(order, device=value.device)
                by_class = state[key].unflatten(0, (classes, -1))
                state[key] = by_class[index].flatten(0, 1)
    head = copy.deepcopy(ours)
    try:
        head.load_state_dict(state)
    except RuntimeError:  # other names or shapes
        return None
    return head.eval()


def _tells_the_same(head, theirs, order, pretrained):
    """Whether a head's similarities are another's, in another order; of short and long
    embeddings, for what a ball's projection clips."""
    modules = pretrained.modules
    with torch.no_grad():
        noise = _noise(pretrained.sample_rate, _device(modules))
        lengths = torch.ones(len(noise), device=noise.device)
        features = modules["mean_var_norm"](modules["compute_features"](noise), lengths)
        embeddings = modules["embedding_model"](features)
        embeddings = torch.cat([scale * embeddings for scale in (0.01, 1.0, 100.0)])
        expected = theirs(embeddings)[..., order]
        return torch.allclose(head(embeddings)[..., : len(order)], expected, CLOSE, CLOSE)


@dataclass
class Beginning:
    """What a run begins with, or began with.

    Attributes
    ----------
    source : str
        The ``pretrained_model``.
    digest : str
        Of what is taken from it, for the run's ``run.json``.
    pretrained : Pretrained, optional
        None where the run goes on and its source is on a hub, or gone.
    noted : dict, optional
        What ``run.json`` says of it, where the run goes on: ``about``, sentences, and
        ``speakers``, who trained the model, or None.
    """

    source: str
    digest: str
    pretrained: Pretrained | None = None
    noted: dict | None = None

    def check(self, hparams_file: str | os.PathLike, overrides: str) -> None:
        """ValueError where features or network of a yaml are not the model's, before any
        data are read; arguments are `hamsb.utils.hparams.resolve`'s."""
        if self.pretrained is None:
            return
        document = read_resolved(hparams_file, overrides)
        names = (*document["modules"], "modules")
        tree = CommentedMap((name, document[name]) for name in names if name in document)
        with same_random_state():
            modules = build(tree, hparams_file)["modules"]
        advice = _advice(self.pretrained.source, document)
        check_fit(self.pretrained, modules, document["sample_rate"], advice)

    def start(
        self,
        brain: "EmbeddingBrain",
        labels: CategoricalEncoder | None,
        lists: Sequence[Trials],
        take: bool,
    ) -> None:
        """Say what the run begins with, on the screen and in ``brain.begun_from``.

        Arguments
        ---------
        brain : EmbeddingBrain
            Its modules are not wrapped yet.
        labels : CategoricalEncoder, optional
            As for `start_from`.
        lists : sequence of Trials
            That are to be scored.
        take : bool
            Whether to take the weights: not where a checkpoint's are all that is needed.
        """
        if take or self.noted is None:
            pretrained = self.pretrained or read_pretrained(self.source)
            if pretrained.digest != self.digest:
                raise ValueError(
                    f"{OPTION}={self.source}: changed since the run in this folder began. "
                    "Restore it, or give another output_folder."
                )
            if isinstance(brain.checkpointer, Checkpointer):  # which need not do it again
                brain.checkpointer.pretrained_model = None
            modules, rate = brain.modules, brain.hparams.sample_rate
            about = start_from(pretrained, modules, labels, rate)
            alone = getattr(brain.hparams, "head_epochs", None)
            if alone and lacks_statistics(modules["mean_var_norm"]):
                raise ValueError(
                    f"head_epochs={alone}: mean_var_norm, of norm_type global, would have "
                    f"no statistics, and {self.source} has none; leave head_epochs out, or "
                    "normalize as that model does."
                )
            speakers = pretrained.speakers
            about += _known_speakers(speakers, lists, brain.development)
            self.noted = self.noted or {
                "about": about,
                "speakers": None if speakers is None else list(speakers),
            }
        brain.begun_from = self.noted
        if if_main_process():
            print("\n".join(self.noted["about"]))


def _known_speakers(
    speakers: Sequence[str] | None,
    lists: Sequence[Trials],
    development: tuple[Trials, Mapping] | None,
) -> list[str]:
    """Who of the trials trained the model that a run begins with: sentences."""
    if speakers is None:
        return ["That model does not tell who trained it."]
    known = ModelSpeakers(frozenset(speakers), None)
    said = overlap_warnings(find_overlaps(VerificationData(lists, {}), known))
    if development is not None:
        trials = development[0]
        found = find_overlaps(VerificationData([trials], {}), known)["lists"][trials.name]
        if shared := found["trained_the_model"]:
            said.append(
                f"{len(shared)} of the {found['speakers']} development speakers trained "
                "that model: development EER and thresholds suit them better than new ones."
            )
    return said


def begin(keys: Mapping, began: Mapping | None) -> Beginning | None:
    """What a run begins with; None without a ``pretrained_model``.

    Arguments
    ---------
    keys : mapping
        The yaml's plain keys.
    began : mapping, optional
        What the run began as, where it goes on (`hamsb.training.identity.begun`).
    """
    source = keys.get(OPTION)
    if source is None:
        return None
    noted, earlier = (began or {}).get(OPTION), (began or {}).get("data", {}).get(OPTION)
    if noted and earlier and not Path(str(source)).is_dir():
        return Beginning(str(source), earlier, noted=noted)
    pretrained = read_pretrained(source)
    return Beginning(str(source), pretrained.digest, pretrained, noted)


def load_encoder_weights(source: str | os.PathLike, encoder: nn.Module) -> None:
    """Give an encoder the weights of a finished model's.

    Arguments
    ---------
    source : str or Path
        As for `read_pretrained`.
    encoder : torch.nn.Module

    Raises
    ------
    ValueError, FileNotFoundError
        As `read_pretrained`; the networks differ.
    """
    weights = read_pretrained(source).modules["embedding_model"].state_dict()
    begin = f"{OPTION}={source}: "
    _check_weights("embedding_model", encoder.state_dict(), weights, begin)
    encoder.load_state_dict(weights)
