"""Packages beside hamsb: the optional ones, and the pair that must match.

Imports nothing but the standard library: ``import hamsb`` runs this module.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

# Extra of setup.cfg: the packages that pip installs for it, the modules to import.
_EXTRAS = {
    "plots": ("matplotlib", "matplotlib"),
    "clustering": ("scikit-learn", "sklearn"),
    "mini": ("espeakng-loader", "espeakng_loader"),
    "kaldi": ("kaldiio", "kaldiio"),
    "onnx": ("onnx onnxscript onnxruntime", "onnx onnxscript onnxruntime"),
    "tensorboard": ("tensorboard", "tensorboard"),
    "wavlm": ("transformers", "transformers"),
}


def missing(extra: str) -> str:
    """Why what an extra brings cannot be imported, as a sentence; "" where it can.

    Arguments
    ---------
    extra : str
        An extra of hamsb: ``plots``, ``clustering``, ``mini``, ``kaldi``, ``onnx``,
        ``tensorboard`` or ``wavlm``.

    Example
    -------
    >>> if why := missing("plots"):
    ...     print(f"det.png is not drawn: {why}")
    """
    packages, modules = (names.split() for names in _EXTRAS[extra])
    absent = [
        package
        for package, module in zip(packages, modules, strict=True)
        if find_spec(module) is None
    ]
    if not absent:
        return ""
    are = "is" if len(absent) == 1 else "are"
    return (
        f"{', '.join(absent)} {are} not installed, run `python -m pip install "
        f"{' '.join(absent)}` (hamsb's extra [{extra}])."
    )


@contextmanager
def optional(extra: str) -> Iterator[None]:
    """Around the imports of an extra: ImportError with the command that installs it.

    Example
    -------
    >>> with optional("clustering"):
    ...     from sklearn.cluster import KMeans
    """
    if why := missing(extra):
        raise ImportError(why)
    yield


def check_torch_pair() -> None:
    """ImportError where torchaudio was built for another torch than the installed one.

    SpeechBrain imports both, and dies of such a pair with a message about symbols of
    a library. Reads what is installed and imports neither; says nothing where one of
    them is not installed.
    """
    try:
        torch, torchaudio = version("torch"), version("torchaudio")
    except PackageNotFoundError:
        return
    minor = ".".join(torch.split(".")[:2])
    if minor != ".".join(torchaudio.split(".")[:2]):
        raise ImportError(
            f"torchaudio {torchaudio} does not fit torch {torch}, run "
            f'`python -m pip install "torchaudio=={minor}.*"`.'
        )
