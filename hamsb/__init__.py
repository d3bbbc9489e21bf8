"""hamsb: hyperbolic and margin losses for speaker verification with SpeechBrain.

The public names below are importable from here, and a yaml names them as
``!new:hamsb.HAMSoftmax``. Each is loaded when it is asked for: ``import hamsb`` by
itself loads neither torch nor SpeechBrain.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hamsb.utils.packages import check_torch_pair

if TYPE_CHECKING:
    from hamsb.augment.telephone import Telephone
    from hamsb.augment.time_domain import AddNoise, AddReverb, SpeedPerturb
    from hamsb.dataio.sampling import SpeakerBatchSampler
    from hamsb.inference.extraction import EmbeddingExtractor
    from hamsb.inference.speaker import SpeakerRecognition
    from hamsb.inference.speakers import Speakers
    from hamsb.integrations.huggingface import SSLFeatures
    from hamsb.nnet.balls import ClippedUnitBall, PoincareBall
    from hamsb.nnet.binary import SphereFace2
    from hamsb.nnet.classifiers import CosineClassifier, HyperbolicClassifier
    from hamsb.nnet.contrastive import HSCL, MoCo, NTXent, SupCon
    from hamsb.nnet.losses import (
        AAMSoftmax,
        AMSoftmax,
        HAMSoftmax,
        HSoftmax,
        RAMSoftmax,
        Softmax,
    )
    from hamsb.nnet.momentum import MomentumEncoder, MomentumQueue
    from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity
    from hamsb.training.checkpoints import Checkpointer
    from hamsb.training.schedules import CosineMargin, LinearMargin
    from hamsb.training.tensorboard import TensorBoardLogger

__version__ = "0.1.0"

# Where each public name is defined.
_PLACES = {
    "AAMSoftmax": "nnet.losses",
    "AMSoftmax": "nnet.losses",
    "AddNoise": "augment.time_domain",
    "AddReverb": "augment.time_domain",
    "Checkpointer": "training.checkpoints",
    "ClippedUnitBall": "nnet.balls",
    "CosineClassifier": "nnet.classifiers",
    "CosineMargin": "training.schedules",
    "CosineSimilarity": "nnet.similarities",
    "EmbeddingExtractor": "inference.extraction",
    "HAMSoftmax": "nnet.losses",
    "HSCL": "nnet.contrastive",
    "HSoftmax": "nnet.losses",
    "HyperbolicClassifier": "nnet.classifiers",
    "HyperbolicSimilarity": "nnet.similarities",
    "LinearMargin": "training.schedules",
    "MoCo": "nnet.contrastive",
    "MomentumEncoder": "nnet.momentum",
    "MomentumQueue": "nnet.momentum",
    "NTXent": "nnet.contrastive",
    "PoincareBall": "nnet.balls",
    "RAMSoftmax": "nnet.losses",
    "Softmax": "nnet.losses",
    "SSLFeatures": "integrations.huggingface",
    "SpeakerBatchSampler": "dataio.sampling",
    "SpeakerRecognition": "inference.speaker",
    "Speakers": "inference.speakers",
    "SpeedPerturb": "augment.time_domain",
    "SphereFace2": "nnet.binary",
    "SupCon": "nnet.contrastive",
    "Telephone": "augment.telephone",
    "TensorBoardLogger": "training.tensorboard",
}

# Where the flat modules of version 0.1 went, for yamls that still name them.
_MOVED = {
    "ball": "nnet.balls",
    "calibration": "verification.calibration",
    "checkpoints": "training.checkpoints",
    "classifiers": "nnet.classifiers",
    "clustering": "analysis.kmeans and hamsb.analysis.cluster_quality",
    "contrastive": "nnet.contrastive",
    "embeddings": "verification.embeddings",
    "evaluation": "verification.evaluation",
    "export": "training.export",
    "files": "utils.files",
    "losses": "nnet.losses",
    "metrics": "verification.metrics",
    "plots": "verification.plots and hamsb.analysis.plots",
    "sampling": "dataio.sampling",
    "schedules": "training.schedules",
    "scoring": "verification.scoring",
}

__all__ = [
    "AAMSoftmax",
    "AMSoftmax",
    "AddNoise",
    "AddReverb",
    "Checkpointer",
    "ClippedUnitBall",
    "CosineClassifier",
    "CosineMargin",
    "CosineSimilarity",
    "EmbeddingExtractor",
    "HAMSoftmax",
    "HSCL",
    "HSoftmax",
    "HyperbolicClassifier",
    "HyperbolicSimilarity",
    "LinearMargin",
    "MoCo",
    "MomentumEncoder",
    "MomentumQueue",
    "NTXent",
    "PoincareBall",
    "RAMSoftmax",
    "Softmax",
    "SSLFeatures",
    "SpeakerBatchSampler",
    "SpeakerRecognition",
    "Speakers",
    "SpeedPerturb",
    "SphereFace2",
    "SupCon",
    "Telephone",
    "TensorBoardLogger",
]


check_torch_pair()  # every module of hamsb passes here before it imports SpeechBrain


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(import_module(f"hamsb.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    if name in _MOVED:  # an ImportError, which pydoc.locate and so hyperpyyaml pass on
        raise ImportError(
            f"hamsb.{name} is now hamsb.{_MOVED[name]}; the public names are in hamsb "
            "itself, as hamsb.HAMSoftmax."
        )
    raise AttributeError(f"module 'hamsb' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
