"""What SpeechBrain's modules do for nothing, and that nothing else changes."""

import copy

import pytest
import torch
from speechbrain.lobes.features import MFCC, Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.lobes.models.Xvector import Xvector
from speechbrain.nnet.CNN import Conv2d
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from hamsb.utils.lean import make_lean, place_constants, skip_empty_padding


class Pads(TorchDispatchMode):
    """Counts the paddings of one side or more, and the empty ones."""

    def __init__(self):
        super().__init__()
        self.empty = self.real = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "pad" in function.overloadpacket.__name__:
            self.real += any(args[-1])
            self.empty += not any(args[-1])
        return function(*args, **(kwargs or {}))


def ecapa():
    sizes = {"channels": [16, 16, 16, 16, 48], "attention_channels": 8}
    return ECAPA_TDNN(20, lin_neurons=12, **sizes)


def xvector():
    sizes = {"tdnn_channels": [16] * 5, "lin_neurons": 12}
    return Xvector(in_channels=20, activation=torch.nn.LeakyReLU, **sizes)


def planes():
    return torch.nn.Sequential(
        Conv2d(4, (3, 3), input_shape=(None, None, 20, 1)),
        Conv2d(4, (1, 1), input_shape=(None, None, 20, 4)),
    )


@pytest.mark.parametrize("make, shape, empty", [
    (ecapa, (4, 50, 20), 16), (xvector, (4, 50, 20), 2), (planes, (4, 50, 20, 1), 1),
])  # fmt: skip
def test_nothing_changes_but_the_copies(make, shape, empty):
    torch.manual_seed(0)
    before = make().train()
    after = copy.deepcopy(before)
    assert skip_empty_padding(after) == empty
    assert skip_empty_padding(after) == 0
    x = torch.randn(shape)
    found = []
    for network in (before, after):
        torch.manual_seed(1)  # an x-vector's pooling adds noise
        given = x.clone().requires_grad_()
        with Pads() as pads:
            output = network(given)
            output.square().sum().backward()
        gradients = [given.grad, *(p.grad for p in network.parameters())]
        found.append((pads, [output.detach(), *gradients, *network.buffers()]))
    (slow, expected), (fast, values) = found
    assert slow.empty >= empty and fast.empty == 0
    assert slow.real == fast.real > 0
    assert all(map(torch.equal, values, expected))
    assert before.state_dict().keys() == after.state_dict().keys()


class Sent(TorchDispatchMode):
    """The shapes of the tensors that are sent from one device to another."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            if source.device.type != found.device.type:
                self.shapes.append(tuple(source.shape))
        return found


@pytest.mark.parametrize("make, sent", [
    (lambda: Fbank(n_mels=80), [(400,), (201, 80)]),
    (lambda: Fbank(n_mels=20, deltas=True, context=True), None),
    (lambda: MFCC(), None),
])  # fmt: skip
def test_features_send_nothing_to_a_gpu(make, sent):
    """On a GPU that is pretended: each of these would wait for all that was begun."""
    features = make()
    with FakeTensorMode(allow_non_fake_inputs=True):
        for each in features.modules():  # as .to() does, which cannot pretend
            for name, buffer in each.named_buffers(recurse=False):
                setattr(each, name, buffer.to("cuda"))
        audio = torch.empty(4, 32000, device="cuda")
        with Sent() as before:
            features(audio)
        make_lean(features, "cuda")
        with Sent() as after:
            features(audio)
    assert len(before.shapes) >= 2 and sent in (None, before.shapes)
    assert after.shapes == []


def test_constants_elsewhere_take_audio_here():
    """A model's features are called on another device than it was loaded for."""
    features = Fbank(n_mels=20)
    with FakeTensorMode(allow_non_fake_inputs=True):
        place_constants(features, "cuda")
        assert features(torch.empty(2, 8000)).device.type == "cpu"
