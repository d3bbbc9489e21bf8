"""SpeechBrain's modules without what they do for nothing: the same numbers, in less time.

`make_lean` is given the modules of a training and of a loaded model.
"""

import torch
from speechbrain.nnet.CNN import Conv1d, Conv2d
from speechbrain.processing.features import DCT, STFT, ContextWindow, Deltas, Filterbank
from torch import nn


def make_lean(module: nn.Module, device: torch.device | str) -> None:
    """`skip_empty_padding` and `place_constants`.

    Arguments
    ---------
    module : torch.nn.Module
        Changed in place, with what is in it.
    device : torch.device or str
        Where it computes.

    Example
    -------
    >>> network = Conv1d(out_channels=4, kernel_size=1, in_channels=2)
    >>> make_lean(network, "cpu")
    >>> network.padding
    'valid'
    """
    skip_empty_padding(module)
    place_constants(module, device)


def place_constants(module: nn.Module, device: torch.device | str) -> None:
    """Have features keep their constants, as windows and filters, on the device.

    SpeechBrain's are plain tensors on the CPU, which a call sends to the device of the
    audio: a GPU's host then waits until all that was begun before is done, twice for each
    batch's filter banks, and the GPU after it for what comes next.

    Arguments
    ---------
    module : torch.nn.Module
        Changed in place, with what is in it. Features may still be called with audio on
        another device.
    device : torch.device or str

    Example
    -------
    >>> features = STFT(sample_rate=16000)
    >>> place_constants(features, "meta")
    >>> features.window.device
    device(type='meta')
    """
    device = torch.device(device)
    for each in module.modules():
        if isinstance(each, (STFT, Filterbank, DCT, Deltas, ContextWindow)):
            for name, value in vars(each).items():
                if isinstance(value, torch.Tensor):
                    setattr(each, name, value.to(device))
            if isinstance(each, Filterbank):
                each.device_inp = device  # of what it makes in a call


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
