"""Margin warm-up: a loss's margin as a function of the optimizer step.

From ``initial_margin`` the margin rises to its final value, and stays there:

    m(t) = m_0 + (m - m_0) r(p),   p = (t - delay) / warmup, held within [0, 1]

where t is the number of optimizer steps done, so the first batch trains with
m_0. r(p) = p is the linear and r(p) = (1 - cos(pi p)) / 2 the cosine warm-up;
over half of the training the latter is the schedule of Lepage & Dehak (arXiv
2404.14913), m [1 - (1 + cos(pi e / (E/2))) / 2].

A schedule counts its steps and saves them in a checkpoint: name it among the
checkpointer's recoverables. The loss itself is built with its final margin, and
keeps that where nobody steps a schedule.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)

from hamsb.utils.checks import check_not_negative


def next_rate(schedule: Callable, epoch: int, metric: float) -> float:
    """The learning rate after an epoch, of SpeechBrain's schedules by epoch: of its number,
    or as `NewBobScheduler` of how good it was.

    Arguments
    ---------
    schedule : callable
        (epoch), or (metric_value), to old and new rate.
    epoch : int
    metric : float
        Lower is better.

    Example
    -------
    >>> from speechbrain.nnet.schedulers import LinearScheduler, NewBobScheduler
    >>> next_rate(LinearScheduler(1.0, 0.0, 5), 3, 0.9)  # of the next, the fourth of five
    0.25
    >>> newbob = NewBobScheduler(1.0)
    >>> [next_rate(newbob, epoch, metric) for epoch, metric in [(1, 0.5), (2, 0.6)]]
    [1.0, 0.5]
    """
    takes = next(iter(inspect.signature(schedule).parameters), "")
    _, rate = schedule(metric if takes == "metric_value" else epoch)
    return rate


@register_checkpoint_hooks
class LinearMargin:
    """A margin that rises in a straight line.

    Arguments
    ---------
    margin : float
        The final margin m >= 0, in the loss's units (radians for AAM-Softmax, a
        hyperbolic length for HAM-Softmax, else a similarity).
    warmup_steps : float
        Optimizer steps of the rise, >= 0; 0 is a jump. Need not be whole.
    initial_margin : float
        m_0 >= 0. Above ``margin`` it makes the margin fall.
    delay_steps : float
        Optimizer steps before the rise, >= 0.

    A value that is no such number is a ValueError.

    Example
    -------
    >>> from hamsb import HAMSoftmax
    >>> loss = HAMSoftmax(margin=0.2)
    >>> schedule = LinearMargin(margin=0.2, warmup_steps=4)
    >>> schedule.apply(loss)  # before the first batch
    >>> loss.margin
    0.0
    >>> schedule.step(loss)  # after each optimizer step
    >>> loss.margin
    0.05
    """

    def __init__(
        self,
        margin: float,
        warmup_steps: float,
        initial_margin: float = 0.0,
        delay_steps: float = 0,
    ):
        self.margin = _checked("margin", margin)
        self.warmup_steps = _checked("warmup_steps", warmup_steps)
        self.initial_margin = _checked("initial_margin", initial_margin)
        self.delay_steps = _checked("delay_steps", delay_steps)
        self.steps = 0  # optimizer steps done

    def step(self, cost: Any) -> None:
        """Count an optimizer step and set the margin of the next.

        Arguments
        ---------
        cost : object
            A loss with an attribute ``margin``; without one, a ValueError.
        """
        self.steps += 1
        self.apply(cost)

    def apply(self, cost: Any) -> None:
        """Set the present margin, before the first batch and after a checkpoint
        was loaded.

        Arguments
        ---------
        cost : object
            A loss with an attribute ``margin``; without one, a ValueError, and
            also where the loss does not take one of the schedule's margins.
        """
        if not hasattr(cost, "margin"):
            raise ValueError(
                f"the loss {cost} has no margin that a schedule could set: use one "
                "of hamsb's margin losses, or no margin schedule."
            )
        cost.margin = self.margin  # out of the loss's range: now, not hours later
        cost.margin = self.at(self.steps)

    def at(self, step: float) -> float:
        """The margin after ``step`` optimizer steps, a float."""
        since = step - self.delay_steps
        if since >= self.warmup_steps:
            return self.margin
        if since <= 0:
            return self.initial_margin
        rise = self.rise(since / self.warmup_steps)
        return self.initial_margin + rise * (self.margin - self.initial_margin)

    def rise(self, progress: float) -> float:
        """r(p): from 0 at ``progress`` 0 to 1 at 1. Subclasses put their shape
        here."""
        return progress

    @mark_as_saver
    def _save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(self.steps))

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as file:
            self.steps = int(file.read())


class CosineMargin(LinearMargin):
    """A margin that rises along half a cosine, gently at both ends.

    Arguments are `LinearMargin`'s.

    Example
    -------
    >>> schedule = CosineMargin(margin=0.2, warmup_steps=4, delay_steps=1)
    >>> [round(schedule.at(step), 3) for step in range(7)]
    [0.0, 0.0, 0.029, 0.1, 0.171, 0.2, 0.2]
    """

    def rise(self, progress: float) -> float:
        """Half a cosine."""
        return (1 - math.cos(math.pi * progress)) / 2


def _checked(name: str, value: Any) -> float:
    check_not_negative(name, value)
    return value
