"""A finished model at work."""

from hamsb.inference.folder import inspect_model
from hamsb.inference.speaker import SpeakerRecognition

__all__ = ["SpeakerRecognition", "inspect_model"]
