"""A finished model at work."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamsb.inference.extraction import EmbeddingExtractor
    from hamsb.inference.inspection import inspect_model
    from hamsb.inference.speaker import SpeakerRecognition
    from hamsb.inference.speakers import Speakers

# Where each name is defined. Loaded when it is asked for, so that the command's --help
# waits for neither torch nor SpeechBrain.
_PLACES = {
    "EmbeddingExtractor": "extraction",
    "SpeakerRecognition": "speaker",
    "Speakers": "speakers",
    "inspect_model": "inspection",
}

__all__ = ["EmbeddingExtractor", "SpeakerRecognition", "Speakers", "inspect_model"]


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        value = getattr(import_module(f"hamsb.inference.{_PLACES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'hamsb.inference' has no attribute {name!r}")
