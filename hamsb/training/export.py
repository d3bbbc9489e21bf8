"""A trained result as a folder that SpeechBrain's ``EncoderClassifier`` loads.

The folder holds no path and may be moved: the ``Pretrainer`` in its yaml finds
``<name>.ckpt`` beside it, for every loadable.

``hyperparams.yaml``
    features, encoder, classifier and label encoder: embeddings, verification
    and classification by speaker name.
``embedding.yaml``
    the same without classifier and labels. Where the encoder is none of hamsb's,
    embeddings and verification need SpeechBrain alone.

    The first line of each yaml, and the model card, tell which packages it needs.
``embedding_model.ckpt``, ``classifier.ckpt``, ``label_encoder.ckpt``
    the parameters and the speakers' names; ``compute_features.ckpt``,
    ``mean_var_norm.ckpt`` where these learned or counted something.
``decision.json``
    where to decide: thresholds for the cosine of two embeddings, and the
    calibration of that cosine, from trials of other speakers; for
    ``hamsb.inference.SpeakerRecognition``. Not there where none was given.
``training.json``
    whose speech trained the model, and what data; not there where it was not given.
``README.md``
    the model card.

Of a model without a classifier both yamls are the encoder's, and classifier and
label encoder are not there.
"""

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import yaml
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.checkpoints import DEFAULT_SAVE_HOOKS, get_default_hook

from hamsb.inference.inspection import named_in_yaml
from hamsb.utils.files import disk_errors, replacing, replacing_folder
from hamsb.verification.decision import write_decision
from hamsb.verification.training_data import write_training

FEATURES = ("compute_features", "mean_var_norm")
#: What makes the embeddings, in this order.
ENCODER = (*FEATURES, "embedding_model")

_COMMON = """
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
  sample_rate: {sample_rate}
modules:
{modules}
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
{loadables}
"""
_OF_EXTRAS = {"hamsb.SSLFeatures": "hamsb[wavlm]"}
_LABELS = "label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder\n"


class _Dumper(yaml.SafeDumper):
    """Names its anchors apart from those that hyperpyyaml makes as it loads."""

    ANCHOR_TEMPLATE = "shared%03d"


def export_model(
    folder: str | os.PathLike,
    hparams_yaml: str,
    modules: Mapping[str, torch.nn.Module],
    label_encoder: CategoricalEncoder | None,
    card: str,
    decision: dict | None = None,
    training: Mapping | None = None,
    states: Mapping[str, Mapping] | None = None,
) -> Path:
    """Write the folder, whole or not at all; an older one is replaced.

    Arguments
    ---------
    folder : str or Path
        Where to.
    hparams_yaml : str
        The experiment's yaml with references resolved and overrides applied
        (``hyperpyyaml.resolve_references``). Its keys ``sample_rate``,
        ``compute_features``, ``mean_var_norm`` and those of the modules are taken
        over; a missing one is a ValueError.
    modules : mapping of str to torch.nn.Module
        ``embedding_model`` and, where there is one, ``classifier``, with their
        trained parameters; ``compute_features`` and ``mean_var_norm`` where they hold
        parameters or statistics. Each is saved as SpeechBrain's checkpoints save it,
        with the hooks of its class.
    label_encoder : speechbrain.dataio.encoder.CategoricalEncoder or None
        Speaker name <-> class index; None without a classifier.
    card : str
        The model card, markdown; what the yamls need is added to it.
    decision : dict, optional
        As for `hamsb.verification.decision.write_decision`.
    training : mapping, optional
        As for `hamsb.verification.training_data.write_training`.
    states : mapping of str to mapping, optional
        What is saved of modules of which this process has a part alone.

    Returns
    -------
    Path
        The folder.
    """
    folder = Path(folder)
    hparams_yaml = _stand_alone(hparams_yaml, modules)
    with replacing_folder(folder) as partial, disk_errors(partial):
        for name, module in modules.items():
            state = (states or {}).get(name)
            if state is None:
                _save(module, partial / f"{name}.ckpt")
            else:
                torch.save(_on_cpu(state), partial / f"{name}.ckpt")
        if label_encoder is not None:
            label_encoder.save(partial / "label_encoder.ckpt")
        whole = inference_yaml(hparams_yaml, tuple(modules), label_encoder is not None)
        encodes = [name for name in modules if name in (*FEATURES, "embedding_model")]
        encoder = inference_yaml(hparams_yaml, encodes, False)
        _write(partial / "hyperparams.yaml", f"# {_needs(whole, encoder)}\n{whole}")
        _write(partial / "embedding.yaml", f"# {_needs(encoder)}\n{encoder}")
        write_card(partial, card)
        if decision is not None:
            write_decision(partial, decision)
        if training is not None:
            write_training(partial, training)
    return folder


def write_card(folder: str | os.PathLike, card: str) -> None:
    """Write the model card of an exported folder, whole or not at all, in the place of an
    earlier one; what its yamls say that they need is added.

    Arguments
    ---------
    folder : str or Path
        As `export_model` wrote it.
    card : str
        Markdown.
    """
    folder = Path(folder)
    for name in ("hyperparams.yaml", "embedding.yaml"):
        needs = (folder / name).read_text(encoding="utf-8").partition("\n")[0]
        card += f"\n`{name}`: {needs.removeprefix('# ')}\n"
    with replacing(folder / "README.md") as partial:
        _write(partial, card)


def inference_yaml(hparams_yaml: str, trained: Sequence[str], labels: bool) -> str:
    r"""The yaml that ``EncoderClassifier.from_hparams`` loads.

    Arguments
    ---------
    hparams_yaml : str
        The experiment's resolved yaml.
    trained : sequence of str
        Its modules that have parameters or statistics to load.
    labels : bool
        Whether to load the speakers' names too.

    Returns
    -------
    str
        With the experiment's definitions of features and modules, all that
        they refer to written out, ``modules`` and ``pretrainer``.

    Example
    -------
    >>> text = inference_yaml(
    ...     "sample_rate: 16000\n"
    ...     "compute_features: !new:speechbrain.lobes.features.Fbank\n"
    ...     "mean_var_norm: !new:torch.nn.Identity\n"
    ...     "lin_neurons: &size 192\n"
    ...     "embedding_model: !new:torch.nn.Linear [80, *size]\n",
    ...     ("embedding_model",), labels=False)
    >>> print(text[:text.index("audio")].rstrip())
    compute_features: !new:speechbrain.lobes.features.Fbank ''
    mean_var_norm: !new:torch.nn.Identity ''
    embedding_model: !new:torch.nn.Linear [80, 192]
    """
    root = yaml.compose(hparams_yaml)
    nodes = {key.value: (key, value) for key, value in root.value} if root else {}
    names = tuple(dict.fromkeys((*FEATURES, *trained)))
    missing = [name for name in ("sample_rate", *names) if name not in nodes]
    if missing:
        raise ValueError(
            f"the experiment's yaml lacks {', '.join(missing)}: cannot export."
        )
    kept = yaml.MappingNode("tag:yaml.org,2002:map", [nodes[name] for name in names])
    loadables = (*trained, "label_encoder") if labels else trained
    return (
        yaml.serialize(kept, Dumper=_Dumper)
        + (_LABELS if labels else "")
        + _COMMON.format(
            sample_rate=nodes["sample_rate"][1].value,
            modules=_references(names, "  "),
            loadables=_references(loadables, "    "),
        )
    )


def _stand_alone(hparams_yaml: str, modules: Mapping[str, torch.nn.Module]) -> str:
    """The yaml with other arguments for those modules whose own name what the export
    does not hold: a module says them in ``exported_arguments``; and without those of
    training alone, which it says in ``training_arguments``."""
    root = yaml.compose(hparams_yaml)
    for key, value in root.value if root else ():
        module = modules.get(key.value)
        given = getattr(module, "exported_arguments", None)
        if given is not None:
            value.value = _Dumper(io.StringIO()).represent_data(given).value
        left_out = getattr(module, "training_arguments", ())
        if isinstance(value, yaml.MappingNode):
            value.value = [each for each in value.value if each[0].value not in left_out]
    return yaml.serialize(root, Dumper=_Dumper) if root else ""


def _references(names: Sequence[str], indent: str) -> str:
    return "\n".join(f"{indent}{name}: !ref <{name}>" for name in names)


def _needs(text, encoder=None):
    """Which packages a yaml needs, as sentences; ``encoder`` is the yaml that may need
    fewer."""
    named = {
        each.name: _OF_EXTRAS.get(each.name, each.name.split(".")[0])
        for each in named_in_yaml(text)
    }
    others = {
        name: package
        for name, package in named.items()
        if package not in ("speechbrain", "torch")
    }
    if not others:
        return "Needs SpeechBrain alone."
    packages = ", ".join(sorted(set(others.values())))
    needs = f"Needs {packages} beside SpeechBrain, for {', '.join(sorted(others))}."
    if encoder is not None and _needs(encoder) != _needs(text):
        needs += ' Embeddings and decisions need less, with hparams_file="embedding.yaml".'
    return needs


def _save(module, path):
    """Save a module as SpeechBrain's checkpoints do, and as its Pretrainer loads it: what
    a class keeps beside its parameters and buffers has a hook."""
    hook = get_default_hook(module, DEFAULT_SAVE_HOOKS)
    if hook is DEFAULT_SAVE_HOOKS[torch.nn.Module]:
        torch.save(_on_cpu(module.state_dict()), path)
    else:
        hook(module, path)


def _on_cpu(state):
    return {
        name: value.detach().cpu() if torch.is_tensor(value) else value
        for name, value in state.items()
    }


def _write(path, text):
    path.write_text(text, encoding="utf-8")
