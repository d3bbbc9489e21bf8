"""Convolutions without the copies that SpeechBrain's make for nothing."""

from speechbrain.nnet.CNN import Conv1d, Conv2d
from torch import nn


def skip_empty_padding(module: nn.Module) -> int:
    """Have a network's convolutions over one frame pad nothing.

    SpeechBrain's convolutions with ``padding="same"`` call ``torch.nn.functional.pad``
    whatever their kernel, and for one of size 1, which needs none, that copies the input,
    and the gradient on its way back: in ECAPA-TDNN 16 times in a pass, those of 1024 and
    3072 channels among them. Results and gradients stay the same to the last bit, and so
    do the parameters' names.

    Arguments
    ---------
    module : torch.nn.Module
        Changed in place, with what is in it.

    Returns
    -------
    int
        How many convolutions were changed.

    Example
    -------
    >>> network = nn.Sequential(
    ...     Conv1d(out_channels=4, kernel_size=1, in_channels=2),
    ...     Conv1d(out_channels=4, kernel_size=3, in_channels=4),
    ... )
    >>> skip_empty_padding(network)
    1
    >>> [each.padding for each in network]
    ['valid', 'same']
    """
    changed = 0
    for each in module.modules():
        if isinstance(each, (Conv1d, Conv2d)) and each.padding == "same":
            sizes = each.kernel_size
            if all(size == 1 for size in (sizes if isinstance(sizes, tuple) else [sizes])):
                each.padding = "valid"
                changed += 1
    return changed
