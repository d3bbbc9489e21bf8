"""What a training run says of itself: its table, its report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from hamsb.training.shards import parted
from hamsb.utils.conditions import conditions, versions
from hamsb.utils.tables import markdown_table

if TYPE_CHECKING:
    from hamsb.training.brain import EmbeddingBrain


class Preparation(Protocol):
    """What a run asks of a preparation of the data.

    Attributes
    ----------
    speakers, utterances : int
        Of the training.
    hours : float
        Of the training.
    dev_trials : Path or None
        The trial list of the development speakers.
    dev_csv : Path or None
        Their utterances.
    prefixes : sequence of str
        What speakers' names begin with, to tell those of several sources apart.
    """

    speakers: int
    utterances: int
    hours: float
    dev_trials: Path | None
    dev_csv: Path | None
    prefixes: Sequence[str]


REPORT = """# {experiment}

{report}
{plots}"""


def one_line(thing: object) -> str:
    """An object in a line of text."""
    return " ".join(str(thing).split())


def millions(module: torch.nn.Module) -> str:
    """How many parameters a module has, in all processes."""
    number = sum(p.numel() for p in module.parameters())
    for name, shard in parted(module).items():
        rows = module.get_parameter(name)
        number += (shard.classes * shard.sub_centers - len(rows)) * rows[0].numel()
    return f"{number / 1e6:.2f} M"


def describe(classifier: torch.nn.Module) -> str:
    """A head in a few words."""
    ball = getattr(classifier, "ball", None)
    return f"{type(classifier).__name__}" + (f", {ball}" if ball is not None else "")


def training_facts(brain: "EmbeddingBrain", preparation: Preparation) -> dict:
    """What metrics.json says of the training: minutes, and what it was trained on."""
    return {
        "minutes": brain.seconds / 60,
        "speakers": preparation.speakers,
        "utterances": preparation.utterances,
        "hours": preparation.hours,
        "epochs": brain.hparams.epoch_counter.current,
    }


def run_table(facts: Mapping[str, str], training: Mapping, epochs: Sequence[int]) -> str:
    """The run in one line: loss, sizes, epochs, time.

    Arguments
    ---------
    facts : dict of str to str
        A Brain's ``facts``.
    training : dict
        From `training_facts`.
    epochs : sequence of int
        Those whose weights were averaged.
    """
    cells = {
        **facts,
        "epochs": training["epochs"],
        "averaged": ", ".join(map(str, epochs)),
        "minutes": f"{training['minutes']:.1f}",
    }
    return markdown_table(list(cells), [list(cells.values())])


def run_conditions(
    brain: "EmbeddingBrain",
    arguments: Sequence[str] | None,
    training: Mapping,
    decision: Mapping | None,
) -> str:
    """What the numbers were measured under, lines of markdown; without the command line,
    which has paths of this machine, where ``arguments`` is None."""
    facts = [
        f"Training: {training['speakers']} speakers, {training['utterances']} "
        f"utterances, {training['hours']:.2f} hours, seed {brain.hparams.seed}",
        "Scoring: cosine, one embedding an utterance, no padding, no normalization; "
        "95 % intervals by bootstrap over speakers",
    ]
    if brain.begun_from is not None:
        facts[1:1] = [about.rstrip(".") for about in brain.begun_from["about"]]
    if decision is not None:
        facts.insert(
            1,
            f"Development EER: {100 * decision['eer']:.2f} %; there the threshold "
            f"of the cosine is {decision['thresholds']['eer']:.3f}",
        )
    return conditions(brain.script, arguments, facts, versions(brain.device))
