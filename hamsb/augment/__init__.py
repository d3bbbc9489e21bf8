"""Noise, reverberation and speed, from local folders or simulated."""

# Where the flat module of version 0.1 went, for yamls that still name it.
_MOVED = {
    "AddNoise": "hamsb.AddNoise",
    "AddReverb": "hamsb.AddReverb",
    "SpeedPerturb": "hamsb.SpeedPerturb",
    "prepare_audio_csv": "hamsb.augment.corpora.prepare_audio_csv",
}


def __getattr__(name: str) -> object:
    if name in _MOVED:  # an ImportError, which pydoc.locate and so hyperpyyaml pass on
        raise ImportError(f"hamsb.augment.{name} is now {_MOVED[name]}.")
    raise AttributeError(f"module 'hamsb.augment' has no attribute {name!r}")
