"""What a training run says of itself: its table, its report, the model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

import hamsb
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


CARD = """# Speaker embeddings trained with {loss}

Made by [hamsb](https://arxiv.org/abs/2601.19709 "H- and HAM-Softmax") {version}, experiment `{experiment}`.

{report}
## How to use it

The folder may be moved; nothing is downloaded. Audio: {sample_rate} Hz, mono.

```python
from speechbrain.inference.speaker import EncoderClassifier

from hamsb.inference import SpeakerRecognition

encoder = EncoderClassifier.from_hparams(source="path/to/this/folder")
embedding = encoder.encode_batch(encoder.load_audio("speech.wav").unsqueeze(0))  # [1, 1, D]
{classify}
verification = SpeakerRecognition.from_hparams(source="path/to/this/folder")
score, same = verification.verify_files("one.wav", "other.wav")  # cosine, decision
```

`decision.json`, where there were development speakers, holds the thresholds that
`SpeakerRecognition` decides with. SpeechBrain's own class of that name loads the folder
too, but accepts above a cosine of 0.25. Give it no `savedir`, or one for each model: in
one for two models it finds the first one's files, and loads these for the second as well.
"""  # noqa: E501


def one_line(thing: object) -> str:
    """An object in a line of text."""
    return " ".join(str(thing).split())


def millions(module: torch.nn.Module) -> str:
    """How many parameters a module has."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"


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
    arguments: Sequence[str],
    training: Mapping,
    decision: Mapping | None,
) -> str:
    """What the numbers were measured under, lines of markdown."""
    facts = [
        f"Training: {training['speakers']} speakers, {training['utterances']} "
        f"utterances, {training['hours']:.2f} hours, seed {brain.hparams.seed}",
        "Scoring: cosine, one embedding an utterance, no padding, no normalization; "
        "95 % intervals by bootstrap over speakers",
    ]
    if decision is not None:
        facts.insert(
            1,
            f"Development EER: {100 * decision['eer']:.2f} %; there the threshold "
            f"of the cosine is {decision['thresholds']['eer']:.3f}",
        )
    return conditions(brain.script, arguments, facts, versions(brain.device))


def model_card(brain: "EmbeddingBrain", experiment: str, report: str) -> str:
    """The README.md of an exported model, markdown."""
    return CARD.format(
        loss=one_line(brain.hparams.compute_cost),
        version=hamsb.__version__,
        experiment=experiment,
        report=report,
        sample_rate=brain.hparams.sample_rate,
        **brain.card,
    )
