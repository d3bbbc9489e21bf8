"""A model as one ONNX file: waveform in, embedding out.

Features and normalization are inside, so a program needs onnxruntime and numpy alone, and
no torch. What it must know beside the network is in the file's metadata, as text:

``sample_rate``
    of the waveform, in Hz.
``least_samples``
    the fewest that the model embeds. Fewer make onnxruntime fail, or give an embedding
    that says nothing.
``dimension``
    of the embedding.
``threshold``, ``thresholds``
    the cosine from which two embeddings are of one speaker, and all thresholds by their
    names, in JSON; not there where the model has none and none was given.
``calibration``
    ``{"scale": a, "offset": b}``: a * cosine + b is the log-likelihood ratio; in JSON, not
    there where the model has none.
``loss``
    that it was trained with, where that is known.
``hamsb``
    the version that wrote the file.
``fingerprint``
    of the model's folder, as `hamsb.verification.decision.fingerprint` gives it.

Exporting and the comparison that belongs to it need the extra ``[onnx]``.
"""

import inspect
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from speechbrain.lobes.models import ECAPA_TDNN
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.nnet.pooling import StatisticsPooling

import hamsb
from hamsb.inference.extraction import EmbeddingExtractor
from hamsb.utils.files import replacing
from hamsb.utils.packages import optional
from hamsb.verification.training_data import read_training

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
#: Largest difference from torch's embedding, relative to that one's largest value.
CLOSE = 1e-3
#: Least cosine of the two embeddings.
ALIKE = 0.99999
#: Lengths that are compared, in seconds, besides the model's least.
SECONDS = (0.5, 1.3, 6.0, 60.0)
_ROWS = 3  # of a batch, but of the longest
_TRACED = 2.0  # seconds


class Parity(NamedTuple):
    """How far an ONNX file is from its model, at one length.

    Attributes
    ----------
    seconds : float
        Of the recordings.
    rows : int
        How many of them, in one batch.
    difference : float
        The largest difference of an embedding's values, relative to its largest value.
    cosine : float
        The least cosine of torch's and onnxruntime's embeddings.
    """

    seconds: float
    rows: int
    difference: float
    cosine: float


def export_onnx(
    model: str | os.PathLike,
    path: str | os.PathLike,
    savedir: str | os.PathLike | None = None,
    decision: str | os.PathLike | dict | None = None,
) -> list[Parity]:
    """Write a model as an ONNX file that gives the model's embeddings.

    The file takes its place only after onnxruntime gave, from it, what torch gives: noise
    of the model's least length, and of up to a minute, is embedded by both. An earlier
    file stays where that is not so.

    Its input ``wav`` is float32 [B, T], mono at the model's rate, at full scale 1; its
    output ``embedding`` is float32 [B, D], not of unit length. B and T may be any. The
    rows of a batch are of one length, since the file knows no padding.

    Arguments
    ---------
    model : str or Path
        A folder, or a name on Hugging Face's hub, as for `EmbeddingExtractor`.
    path : str or Path
        The file to write; its folder is made if need be.
    savedir : str or Path, optional
        Where files of a hub are kept.
    decision : str, Path or dict, optional
        Whose thresholds and calibration the file has, in place of the model's own: as for
        `EmbeddingExtractor`.

    Returns
    -------
    list of Parity
        One for each length that was compared.

    Raises
    ------
    FileNotFoundError
        No model is there.
    ValueError
        torch cannot write the network as ONNX, or onnxruntime gives other embeddings; the
        decision is another model's.
    ImportError
        The extra ``[onnx]`` is not installed.

    Example
    -------
    >>> export_onnx("results/mini/1234/export", "model.onnx")  # doctest: +SKIP
    """
    if Path(path).is_dir():
        raise ValueError(f"onnx={path}: a folder; give the file to write, as model.onnx.")
    with optional("onnx"):
        import onnx

    extractor = EmbeddingExtractor(model, savedir=savedir, decision=decision)
    if extractor.least_samples is None:
        raise ValueError(
            f"model={model}: embeds one second of noise as any other, or fails there; "
            "there is nothing to export."
        )
    proto = _graph(extractor)
    onnx.helper.set_model_props(proto, _metadata(extractor))
    with replacing(path) as partial:
        partial.write_bytes(proto.SerializeToString())
        try:
            found = compare(partial, extractor)
        except ValueError as error:
            raise ValueError(f"onnx={path}: not written. {error}") from error
        for each in found:
            if not (each.difference < CLOSE and each.cosine > ALIKE):
                raise ValueError(
                    f"onnx={path}: not written. Of {each.seconds:.2f} s onnxruntime gives "
                    f"other embeddings than torch: the largest difference is "
                    f"{each.difference:.1e} of the largest value (limit {CLOSE:.0e}), the "
                    f"least cosine {each.cosine:.6f} (limit {ALIKE})."
                )
    return found


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """What a file of `export_onnx` tells beside its network; the module's docstring says
    what that is."""
    with optional("onnx"):
        import onnx

    return {each.key: each.value for each in onnx.load(path).metadata_props}


def compare(path: str | os.PathLike, extractor: EmbeddingExtractor) -> list[Parity]:
    """What onnxruntime gives from a file beside what torch gives, for noise that swells,
    fades and ends in silence, in rows of unlike loudness.

    Arguments
    ---------
    path : str or Path
        An ONNX file of `export_onnx`.
    extractor : EmbeddingExtractor
        The model.

    Raises
    ------
    ValueError
        onnxruntime cannot run the file.
    """
    with optional("onnx"):
        import onnxruntime

    rate, least = extractor.sample_rate, extractor.least_samples or 1
    lengths = sorted({least, *(max(round(s * rate), least) for s in SECONDS)})
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    found = []
    try:
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        for samples in lengths:
            rows = 1 if samples == lengths[-1] else _ROWS
            wavs = _noise(rows, samples)
            theirs = session.run(["embedding"], {"wav": wavs.numpy()})[0]
            ours = extractor.embed_batch(wavs).numpy()
            found.append(Parity(samples / rate, rows, *_difference(ours, theirs)))
    except Exception as error:  # onnxruntime's have no common class
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        first = str(error).splitlines()[0]
        raise ValueError(f"onnxruntime fails: {first}") from error
    return found


def _difference(ours, theirs):
    """Largest difference, relative to the largest value, and least cosine."""
    if theirs.shape != ours.shape:
        return float("inf"), -1.0
    ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
    relative = np.abs(theirs - ours).max(1) / np.abs(ours).max(1)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(relative.max()), float(((ours * theirs).sum(1) / lengths).min())


def _noise(rows, samples):
    """Audio [rows, samples]; the last tenth is silent, but in the first row."""
    generator = torch.Generator().manual_seed(samples)
    swell = 0.1 * torch.sin(torch.linspace(0.3, 9.0, samples)).abs()
    loudness = torch.tensor([1.0, 0.1, 3.0])[:rows, None]
    noise = loudness * swell * torch.randn(rows, samples, generator=generator)
    noise[1:, samples - samples // 10 :] = 0
    return noise


# -------------------------------------------------------------------------- the graph


class _Waveform(torch.nn.Module):
    """SpeechBrain's ``encode_batch`` of recordings that are whole: [B, T] -> [B, D]."""

    def __init__(self, modules):
        super().__init__()
        self.compute_features = modules["compute_features"]
        self.mean_var_norm = modules["mean_var_norm"]
        self.embedding_model = modules["embedding_model"]

    def forward(self, wav):
        features = self.mean_var_norm(self.compute_features(wav), None)
        return self.embedding_model(features, None).flatten(1)


def _graph(extractor: EmbeddingExtractor) -> "ModelProto":
    """The model's graph, by torch's exporter."""
    network = _Waveform(extractor.recognition.mods).eval()
    wavs = _noise(2, int(_TRACED * extractor.sample_rate))
    try:
        with _followable(), _silent(), torch.no_grad():
            program: Any = torch.onnx.export(
                network,
                (wavs,),
                dynamo=True,
                input_names=["wav"],
                output_names=["embedding"],
                dynamic_shapes={"wav": {0: "batch", 1: "samples"}},
                opset_version=OPSET,
                verbose=False,
            )
    except Exception as error:  # of any kind, by the network's code
        first = next((line for line in str(error).splitlines() if line.strip()), "")
        cause = error.__cause__ or error
        raise ValueError(
            f"model={extractor.source}: torch cannot write this network as ONNX "
            f"({type(network.embedding_model).__name__}: {type(cause).__name__}, {first})"
        ) from error
    (output,) = program.model.graph.outputs
    for value in (each for node in program.model.graph for each in node.outputs):
        if value is not output and value.name == output.name:  # of an embedding layer
            value.name = f"inner_{output.name}"
    proto = program.model_proto
    graph = proto.graph
    for part in (*graph.node, *graph.initializer, *graph.value_info, graph, proto):
        del part.metadata_props[:]  # where in which files of this machine each came from
        part.doc_string = ""
    return proto


@contextmanager
def _followable() -> Iterator[None]:
    """Three parts of SpeechBrain that torch's exporter cannot follow, or that draw noise,
    are replaced in this process by ones that give the same."""
    replaced = (
        (ECAPA_TDNN, "length_to_mask", _length_to_mask),
        (Xvector, "forward", _xvector),
        (StatisticsPooling, "_get_gauss_noise", _mean_noise),
    )
    before = [getattr(place, name) for place, name, _ in replaced]
    try:
        for place, name, other in replaced:
            setattr(place, name, other)
        yield
    finally:
        for (place, name, _), own in zip(replaced, before):
            setattr(place, name, own)


def _length_to_mask(length, max_len=None, dtype=None, device=None):
    """SpeechBrain's asks for ``len(length)``, which fixes the number of rows."""
    steps = torch.arange(max_len, device=length.device, dtype=length.dtype)
    return (steps < length.unsqueeze(1)).to(dtype or length.dtype)


def _xvector(self, x, lens=None):
    """SpeechBrain's finds out by a TypeError which layers take lengths."""
    for layer in self.blocks:
        takes = "lengths" in inspect.signature(layer.forward).parameters
        x = layer(x, lengths=lens) if takes else layer(x)
    return x


def _mean_noise(self, shape, device="cpu"):
    """SpeechBrain's draws uniform-like noise from eps to 9 eps, in ``eval()`` mode too."""
    return torch.full(tuple(shape), 5 * self.eps, device=device)


@contextmanager
def _silent() -> Iterator[None]:
    """Without what torch's exporter says of its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# ----------------------------------------------------------------------- the metadata


def _metadata(extractor: EmbeddingExtractor) -> dict[str, str]:
    """What the module's docstring tells of."""
    facts: dict[str, Any] = {
        "sample_rate": extractor.sample_rate,
        "least_samples": extractor.least_samples,
        "dimension": extractor.dimension,
    }
    if decision := extractor.recognition.decision:
        facts["threshold"] = decision["thresholds"]["eer"]
        facts["thresholds"] = json.dumps(decision["thresholds"])
        if decision.get("calibration"):
            facts["calibration"] = json.dumps(decision["calibration"])
    if loss := (read_training(extractor.folder) or {}).get("loss"):
        facts["loss"] = loss
    facts |= {"hamsb": hamsb.__version__, "fingerprint": extractor.fingerprint}
    return {name: str(value) for name, value in facts.items()}
