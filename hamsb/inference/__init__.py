"""A finished model at work."""

from hamsb.inference.speaker import SpeakerRecognition

__all__ = ["SpeakerRecognition"]
