"""What stands for features, model and Brain in tests of training."""

import io

import torch


class Terminal(io.StringIO):
    """What a terminal shows, or a file, to which the screen is written."""

    is_one = True

    def isatty(self):
        return self.is_one


class Framed(torch.nn.Module):
    """Stands for the features, without any loss: [B, T] -> [B, T / 10, 10]."""

    def forward(self, wavs):
        return wavs.reshape(len(wavs), -1, 10)


class Embedding(torch.nn.Module):
    """A tiny model, whose samples do not meet: no batch normalization."""

    def __init__(self, input_size, lin_neurons):
        super().__init__()
        self.hidden = torch.nn.Linear(input_size, 32)
        self.linear = torch.nn.Linear(32, lin_neurons)

    def forward(self, features, lengths=None):
        """[B, T, F] -> [B, 1, D]."""
        return self.linear(self.hidden(features).relu().mean(1, keepdim=True))


class Echo(torch.nn.Module):
    """An augmentation without draws."""

    def forward(self, wavs):
        return wavs + 0.5 * wavs.roll(1000, dims=1)


def watched(brain_class, steps):
    """A Brain's class that appends to ``steps`` before each optimizer step."""

    class Watched(brain_class):
        def parameters(self):
            return {
                name.replace("module.", ""): parameter
                for name, parameter in self.modules.named_parameters()
                if parameter.requires_grad
            }

        def optimizers_step(self):
            parameters = self.parameters()
            gradients = {name: p.grad.clone() for name, p in parameters.items()}
            super().optimizers_step()
            weights = {name: p.detach().clone() for name, p in parameters.items()}
            steps.append((list(self.utterances), gradients, weights))

    return Watched
