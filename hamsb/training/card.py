"""The model card: an export's README.md, with the front matter that Hugging Face's hub
reads.

The front matter says what the run knows: its library, its measures, its error rates by
trial list. Language, license and data sets are the user's to say, in the yaml's key
``card``.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import yaml

import hamsb
from hamsb.training.branches import loss_text

if TYPE_CHECKING:
    from hamsb.training.brain import EmbeddingBrain

TAGS = ["speechbrain", "hamsb", "embeddings", "speaker-verification", "pytorch"]
METRICS = ["EER", "minDCF"]
TASK = "speaker-verification"
#: Keys of a front matter that hold text, or a list of it.
TEXTS = ("language", "license", "datasets", "tags", "metrics", "base_model")
#: Those that the run writes.
OURS = ("model-index", "model_name", "eval_results", "library_name")

CARD = """---
{front_matter}
---

# Speaker embeddings trained with {loss}

Made by [hamsb](https://arxiv.org/abs/2601.19709 "H- and HAM-Softmax") {version}, experiment `{experiment}`.

{report}
## How to use it

The code takes the folder that it runs in. From elsewhere, `source` is the folder's path or,
once it is on Hugging Face's hub, its name there, `owner/name`. The model takes
{sample_rate} Hz, mono; other files are resampled and their channels averaged.

Embeddings:

```python
from speechbrain.inference.speaker import EncoderClassifier

encoder = EncoderClassifier.from_hparams(source=".", hparams_file="embedding.yaml")
embedding = encoder.encode_batch(encoder.load_audio("speech.wav").unsqueeze(0))  # [1, 1, D]
```

Decisions, with hamsb:

```python
from hamsb.inference import SpeakerRecognition

verification = SpeakerRecognition.from_hparams(source=".")
{verify}
{classify}```

`decision.json` holds thresholds from held-out speakers, where there were any. SpeechBrain's
own `SpeakerRecognition` loads the folder too, but accepts above a cosine of 0.25. Give it no
`savedir`, or one for each model: in one for two models it finds the first one's files, and
loads these for the second as well.

## Before others get it

`label_encoder.ckpt`, `training.json` and `decision.json` have the speakers' names as the data
call them, and `classifier.ckpt` what tells each of them from others. Where these are people
who have not agreed, remove the first two and `classifier.ckpt`, copy `embedding.yaml` over
`hyperparams.yaml`, and remove `speakers` from `decision.json`. The rest gives the same
embeddings and decisions.

## What the yamls need
"""  # noqa: E501

_STORED = 'score, same = verification.verify_files("one.wav", "other.wav")'
_NONE_STORED = (
    "# No threshold is stored with the model; 0.25 is in the place of your own.\n"
    'score, same = verification.verify_files("one.wav", "other.wav", threshold=0.25)'
)


def model_card(
    brain: "EmbeddingBrain",
    experiment: str,
    report: str,
    decision: Mapping | None,
    results: Iterable[Mapping] = (),
) -> str:
    """The README.md of an exported model, markdown.

    Arguments
    ---------
    brain : EmbeddingBrain
    experiment : str
        The yaml's name.
    report : str
        What the run says of itself and its numbers.
    decision : mapping, optional
        What is stored with the model.
    results : iterable of mapping
        What metrics.json has as ``results``; nothing before the trials are scored.
    """
    given = getattr(brain.hparams, "card", None) or {}
    return CARD.format(
        front_matter=front_matter(experiment, results, given),
        loss=loss_text(vars(brain.hparams)),
        version=hamsb.__version__,
        experiment=experiment,
        report=report,
        sample_rate=brain.hparams.sample_rate,
        verify=_NONE_STORED if decision is None else _STORED,
        **brain.card,
    )


def front_matter(name: str, results: Iterable[Mapping], given: Mapping[str, Any]) -> str:
    """What stands between the two ``---`` of a card, yaml.

    Arguments
    ---------
    name : str
        Of the model, for ``model-index``.
    results : iterable of mapping
        As metrics.json has them; those of the system ``trained`` are taken.
    given : mapping
        What the user says, as `check_card` takes it. Tags are added to ours, other keys
        take the place of ours.

    Example
    -------
    >>> result = {"list": "veri_test", "system": "trained", "calibrated": False,
    ...     "eer": 0.0448, "min_dcf_0.01": 0.381, "target_trials": 9, "impostor_trials": 9}
    >>> print(front_matter("small", [result], {"language": "en"}))
    language: en
    library_name: speechbrain
    metrics:
    - EER
    - minDCF
    tags:
    - speechbrain
    - hamsb
    - embeddings
    - speaker-verification
    - pytorch
    model-index:
    - name: small
      results:
      - task:
          type: speaker-verification
          name: Speaker verification
        dataset:
          name: veri_test
          type: veri_test
          args:
            target_trials: 9
            impostor_trials: 9
        metrics:
        - type: eer
          value: 4.48
          name: EER (%)
        - type: min_dcf
          value: 0.381
          name: minDCF (p=0.01)
    """
    from huggingface_hub import ModelCardData  # not before a card is written

    tags = given.get("tags", [])
    data: dict[str, Any] = {
        "library_name": "speechbrain",
        "metrics": METRICS,
        **given,
        "tags": [*TAGS, *([tags] if isinstance(tags, str) else tags)],
    }
    if found := [each for record in results for each in _measured(record)]:
        data |= {"model_name": name, "eval_results": found}
    return ModelCardData(**data).to_yaml()


def _measured(record):
    """The results of one list, by Hugging Face's class; none of a baseline."""
    from huggingface_hub import EvalResult

    if record["system"] != "trained" or record["calibrated"]:
        return
    costs = [key for key in record if key.startswith("min_dcf_") and "threshold" not in key]
    numbers = [("eer", "EER (%)", round(100 * record["eer"], 2))] + [
        ("min_dcf", f"minDCF (p={key.removeprefix('min_dcf_')})", round(record[key], 3))
        for key in costs
    ]
    for kind, name, value in numbers:
        yield EvalResult(
            task_type=TASK,
            task_name="Speaker verification",
            dataset_type=record["list"],
            dataset_name=record["list"],
            dataset_args={key: record[key] for key in ("target_trials", "impostor_trials")},
            metric_type=kind,
            metric_name=name,
            metric_value=value,
        )


def check_card(card: object, hparams_file: object) -> None:
    """ValueError where what a user gives for the front matter is none.

    Arguments
    ---------
    card : object
        The yaml's key; None is nothing.
    hparams_file : str or Path
        For the message.

    Example
    -------
    >>> check_card({"language": "en", "license": "apache-2.0"}, "a.yaml")
    >>> check_card({"language": False}, "a.yaml")
    Traceback (most recent call last):
    ValueError: a.yaml: card[language]=False: must be text, or a list of texts.
    """
    if card is None:
        return
    if not isinstance(card, Mapping) or not all(isinstance(key, str) for key in card):
        raise ValueError(
            f"{hparams_file}: card={card}: a group of keys of the model card's front "
            "matter, as {language: en, license: apache-2.0}."
        )
    try:
        yaml.safe_dump(dict(card))
    except yaml.YAMLError as error:
        raise ValueError(
            f"{hparams_file}: card={dict(card)}: texts, numbers, lists and groups of them, "
            "and no objects."
        ) from error
    for key, value in card.items():
        if key in OURS:
            raise ValueError(f"{hparams_file}: card[{key}]: the run writes it; remove it.")
        texts = value if isinstance(value, list) else [value]
        if key in TEXTS and not all(isinstance(text, str) for text in texts):
            raise ValueError(
                f"{hparams_file}: card[{key}]={value}: must be text, or a list of texts."
            )
