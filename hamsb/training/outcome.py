"""The model that comes out of a training: averaged, exported, verified, and checked."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger

from hamsb.dataio.annotations import read_columns
from hamsb.dataio.utterances import own_name
from hamsb.inference.speaker import load_encoder
from hamsb.training.brain import EmbeddingBrain, unwrapped
from hamsb.training.branches import loss_text
from hamsb.training.card import model_card
from hamsb.training.export import export_model, write_card
from hamsb.training.report import (
    REPORT,
    Preparation,
    run_conditions,
    run_table,
    training_facts,
)
from hamsb.training.shards import parted, whole_state
from hamsb.utils.conditions import versions
from hamsb.utils.files import read_json
from hamsb.verification.decision import (
    DECISION,
    fingerprint,
    make_decision,
    stored_elsewhere,
    write_decision,
)
from hamsb.verification.embeddings import embed_sets
from hamsb.verification.lookup import Enrolment
from hamsb.verification.results import DRAWS, System, write_verification
from hamsb.verification.scoring import score_lists, score_trials
from hamsb.verification.trials import Trials

NOT_SCORED = "The trials were not scored yet.\n"


logger = get_logger(__name__)


@dataclass(frozen=True)
class Course:
    """What a run was asked for, and on what.

    Attributes
    ----------
    arguments : sequence of str
        Of the command line.
    experiment : str
        The yaml's name.
    settings : str
        The resolved yaml.
    preparation : Preparation
    lists : sequence of Trials
        To be scored; may be empty.
    files : mapping of str to Path, Utterance or tuple of these
        Of every utterance and model of the lists.
    development : tuple of (Trials, mapping of str to Path or Utterance), optional
        The development trials and their files.
    """

    arguments: Sequence[str]
    experiment: str
    settings: str
    preparation: Preparation
    lists: Sequence[Trials]
    files: Mapping[str, Enrolment]
    development: tuple[Trials, Mapping[str, Enrolment]] | None

    def score(
        self, brain: EmbeddingBrain, encode: Callable[[torch.Tensor], torch.Tensor]
    ) -> dict[str, np.ndarray]:
        """Name of each list -> its cosines, [N]. The processes share the work: all must
        call it."""
        return score_lists(
            encode,
            self.lists,
            self.files,
            brain.hparams.sample_rate,
            progress=not brain.noprogressbar,
            **brain.embedding_options,
        )


def finish(
    brain: EmbeddingBrain,
    course: Course,
    labels: CategoricalEncoder | None,
    untrained: Mapping[str, Mapping[str, np.ndarray]],
    data: Mapping[str, str],
) -> None:
    """Average, export, verify, report; the export is there before anything is scored.

    All processes call it, and share the embedding. The main process does the rest.

    Arguments
    ---------
    brain : EmbeddingBrain
        Its training is done.
    course : Course
    labels : CategoricalEncoder or None
        Speaker <-> class, where the model has classes.
    untrained : mapping
        Name of a baseline -> its scores, as `Course.score` gives them.
    data : mapping of str to str
        Name -> SHA-256 of what the model was trained on.
    """
    output_folder = Path(brain.hparams.output_folder)
    epochs = brain.choose_and_average()
    held_out = None if course.development is None else brain.development_scores()
    modules = {name: unwrapped(brain.modules[name]) for name in brain.exported()}
    states = {
        name: whole_state(module, output_folder)
        for name, module in modules.items()
        if parted(module)
    }
    if not if_main_process():
        course.score(brain, brain.encode)  # its part, once the main process has exported
        return
    decision = None
    if course.development is not None and held_out is not None:
        decision = make_decision(course.development[0], held_out)
    folder = output_folder / "export"
    stored = stored_elsewhere(folder)
    earlier = None if stored is None else fingerprint(folder)
    training = training_facts(brain, course.preparation)
    table = run_table(brain.facts(dict(vars(brain.hparams))), training, epochs)

    def report(results: str, arguments: Sequence[str] | None) -> str:
        conditions = run_conditions(brain, arguments, training, decision)
        return f"{table}\n{results}\n{conditions}\n"

    def card(results: str, numbers: Sequence[Mapping] = ()) -> str:
        text = report(results, None)
        return model_card(brain, course.experiment, text, stored or decision, numbers)

    export = export_model(
        folder,
        course.settings,
        modules,
        labels if "classifier" in modules else None,
        card(NOT_SCORED),
        decision,
        _training_data(brain, course, data),
        states,
    )
    states.clear()
    if stored is not None and fingerprint(export) == earlier:
        write_decision(export, stored)
        logger.info(
            "%s: keeps the thresholds of %s, which %s stored",
            export / DECISION,
            stored.get("list"),
            stored["stored_by"],
        )
    elif stored is not None:
        logger.warning(
            "%s: the thresholds of %s, which %s stored, were for an earlier state of the "
            "model and are gone; store them again",
            export / DECISION,
            stored.get("list"),
            stored["stored_by"],
        )

    scores = course.score(brain, brain.encode)
    systems = [
        System("trained", scores, score_name="cosine", plain=True),
        *(System(name, other, baseline=True) for name, other in untrained.items()),
    ]
    results = write_verification(
        output_folder,
        course.lists,
        systems,
        lambda results, _, plots: REPORT.format(
            experiment=course.experiment,
            report=report(results, course.arguments),
            plots=plots,
        ),
        draws=DRAWS,
        about={
            "experiment": course.experiment,
            "arguments": course.arguments,
            "training": training,
            "development": decision,
            "epochs": epochs,
            "versions": versions(brain.device),
        },
        progress=not brain.noprogressbar,
        decision=decision,
    )
    numbers = read_json(output_folder / "metrics.json")["results"]
    write_card(export, card(results, numbers))
    scored = [(each, course.files, scores[each.name]) for each in course.lists]
    if course.development is not None and held_out is not None:
        scored.append((*course.development, held_out))
    check_export(export, brain, scored)
    print(f"\n{table}\n{results}\nReport: {output_folder / 'report.md'}\nModel: {export}")


def _training_data(
    brain: EmbeddingBrain, course: Course, data: Mapping[str, str]
) -> dict[str, object]:
    """What `hamsb.verification.training_data.write_training` stores: of speakers the
    names that trial lists call them by, those of a model that it started from too."""
    prefixes = course.preparation.prefixes
    speakers, development = _own_names(brain.hparams.train_annotation, prefixes), set()
    if course.preparation.dev_csv is not None:
        development = _own_names(course.preparation.dev_csv, prefixes)
    if brain.begun_from is not None:
        speakers |= set(brain.begun_from["speakers"] or ())
    return {
        "speakers": sorted(speakers),
        "development_speakers": sorted(development),
        "data": dict(data),
        "loss": loss_text(vars(brain.hparams)),
    }


def _own_names(annotation: str | Path, prefixes: Sequence[str]) -> set[str]:
    """The speakers of a csv file, without the prefixes that tell data sources apart."""
    found: dict[str, str] = {}
    for _, (wav, speaker) in read_columns(annotation, ("wav", "spk_id")):
        if speaker not in found:
            found[speaker] = own_name(speaker, wav, prefixes)
    return set(found.values())


def check_export(
    export: Path,
    brain: EmbeddingBrain,
    scored: Iterable[tuple[Trials, Mapping[str, Enrolment], np.ndarray]],
) -> None:
    """Load an exported model as its user will; ValueError where it does not give the
    scores of the trained one.

    Arguments
    ---------
    export : Path
        The folder.
    brain : EmbeddingBrain
        Which was trained.
    scored : iterable of tuple
        Trials, their files, and the trained model's scores of all of them, [N]. Of each
        list the first trial of either kind is compared.
    """
    encoder = load_encoder(export, {"device": brain.device, "noprogressbar": True})
    close = 1e-3 if brain.eval_precision == "fp32" else 3e-2
    for trials, files, scores in scored:
        few = [int(np.argmax(trials.labels == label)) for label in (0, 1)]
        names = {name for i in few for name in (trials.enrol[i], trials.test[i])}
        (embeddings,) = embed_sets(
            encoder.encode_batch,
            [{name: files[name] for name in names}],
            [],
            brain.hparams.sample_rate,
            progress=False,
        )
        chosen = Trials(
            trials.labels[few],
            tuple(trials.enrol[i] for i in few),
            tuple(trials.test[i] for i in few),
            trials.path,
        )
        for i, theirs, ours in zip(few, score_trials(embeddings, chosen), scores[few]):
            if not abs(theirs - ours) <= close:
                raise ValueError(
                    f"{export}: gives {theirs:.4f} for line {trials.header + i + 1} of "
                    f"{trials.path}, "
                    f"and the trained model {ours:.4f}. The exported model is not what "
                    "report.md is about; do not use it, and report this as a fault."
                )
