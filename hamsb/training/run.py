"""A run from a yaml to an exported model.

    prepare -> train -> choose -> average -> export -> verify

A script holds a subclass of `hamsb.training.brain.EmbeddingBrain`, which tells
the training data, the forward pass and the loss, and gives it to `main`, with
the preparation of its data. Everything of a run is in its ``output_folder``:
``train_log.txt`` (a line an epoch) and ``epochs.json`` (the same for programs), what
verify.py writes too (``report.md``, ``metrics.json``, ``scores_<list>.txt``,
``det.png``, ``scores.png``) and ``export/``, the folder that
``EncoderClassifier.from_hparams`` loads. ``run.json`` says what the run began as; it
goes on as that, or not at all (`hamsb.training.identity`).

The export is written before the trials are scored, so that what fails there loses no
model. At the end it is loaded, and must give the scores of the report.

The yaml is loaded in two steps, because hyperpyyaml builds every object as it loads:
first the plain keys, on which the data are prepared; then the objects, with what was
counted in the data in the place of the yaml's keys (`count_overrides`).
"""

import ctypes
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.run_opts import RunOptions

from hamsb.augment.simulation import make_distortions
from hamsb.dataio.annotations import Utterance
from hamsb.dataio.audio import check_files
from hamsb.dataio.utterances import own_name
from hamsb.training.brain import EmbeddingBrain
from hamsb.training.dry_run import check_objects
from hamsb.training.finetuning import OPTION, Beginning, begin, check_finetuning
from hamsb.training.identity import begun, check_data, identity
from hamsb.training.kept import lacks_statistics
from hamsb.training.keys import KEYS, PREPARED, PREPARED_OPTIONALLY
from hamsb.training.outcome import Course, finish
from hamsb.training.processes import leave_together, normalized_together, share_batch
from hamsb.training.progress import quiet_imports, quiet_screen
from hamsb.training.report import Preparation
from hamsb.utils.checks import check_whole
from hamsb.utils.command_line import parse_arguments
from hamsb.utils.files import digest, only_run, replacing
from hamsb.utils.hparams import load_hparams, plain_keys, resolve
from hamsb.utils.keys import Key
from hamsb.utils.progress import OFF
from hamsb.utils.run_folder import write_run
from hamsb.utils.sharing import share
from hamsb.verification.embeddings import recordings
from hamsb.verification.lookup import Enrolment, find_recordings, read_lists
from hamsb.verification.trials import Trials, read_trials

#: The keys whose values are counted in the data.
COUNTED = ("out_n_neurons", "batches_per_epoch", "steps_per_epoch", "processes")


def _batches(plain: Mapping) -> tuple[int, bool]:
    """The utterances of a batch of one process, and whether all batches are whole."""
    loader = plain.get("dataloader_options")  # none where it holds a sampler of batches
    size = (loader or {}).get("batch_size") or plain["batch_size"]
    check_whole("batch_size", size, 1)
    return size, loader is None or loader.get("drop_last", False)


def count_overrides(
    overrides: str, plain: Mapping, preparation: Preparation, accumulated: int = 1
) -> str:
    """The overrides, with what was counted added.

    ``out_n_neurons`` becomes the number of training speakers, times the number
    of ``speeds``, unless the command line gives a larger one; a smaller one is a
    ValueError. ``batches_per_epoch`` becomes the number of batches of one process,
    ``steps_per_epoch`` that of its optimizer steps, and ``processes`` the number of
    processes.

    Arguments
    ---------
    overrides : str
        Lines of yaml; what they give is left as it is.
    plain : mapping
        The yaml's plain keys.
    preparation : Preparation
    accumulated : int
        Batches of an optimizer step, the run option ``grad_accumulation_factor``.
    """
    given = plain_keys(overrides) if overrides else {}
    nulls = {name for name in COUNTED if name in given and given[name] is None}
    given = {name: value for name, value in given.items() if name not in nulls}
    speeds = plain.get("speeds") or [100]
    speakers = preparation.speakers * len(speeds)
    if given.get("out_n_neurons", speakers) < speakers:
        raise ValueError(
            f"out_n_neurons={given['out_n_neurons']}, but the training data have "
            f"{speakers} speakers; leave it out to have it counted."
        )
    processes = share()[1]
    size, whole = _batches(plain)
    part, left = divmod(preparation.utterances, processes)
    if left and not whole:  # as torch deals a data set out to processes
        part += 1
    batches = part // size if whole else -(-part // size)
    if batches == 0:
        raise ValueError(
            f"batch_size={size} in {processes} process(es), but the "
            f"training data have only {preparation.utterances} utterances."
        )
    batches = given.get("batches_per_epoch", batches)
    steps = batches // accumulated
    if steps == 0:
        raise ValueError(
            f"grad_accumulation_factor={accumulated}: an optimizer step takes so many "
            f"batches, and an epoch has {batches}; give a smaller one."
        )
    counted = dict(zip(COUNTED, (speakers, batches, steps, processes)))
    added = [
        f"{name}: {count}"
        for name, count in counted.items()
        if name in plain and name not in given
    ]
    lines = [each for each in overrides.splitlines() if each.partition(":")[0] not in nulls]
    return "\n".join([*lines, *added])


def keep_memory() -> None:
    """Have the C library (glibc; others are left alone) keep freed memory for the
    next step instead of giving it back to the system, which would have to clear
    every page of it anew: that is a third of a step's time on a CPU."""
    if os.name != "posix":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            mallopt(parameter, 2**31 - 1)


def main(
    arguments: Sequence[str],
    brain_class: type[EmbeddingBrain],
    prepare: Callable,
    make_corpus: Callable | None = None,
    keys: Sequence[Key] = KEYS,
) -> None:
    """A whole run, as the command line asks for it.

    Arguments
    ---------
    arguments : sequence of str
        Those that follow the script's name.
    brain_class : type
        A subclass of `EmbeddingBrain`.
    prepare : callable
        Writes the yaml's ``train_annotation``. It is called by the main process, with
        the keys of PREPARED, those of PREPARED_OPTIONALLY that the yaml has, the
        ``least_utterances`` that a batch of all processes takes, and, where a run has
        begun, the digests ``expected`` of its files. It returns an object with the
        numbers ``speakers``, ``utterances`` and ``hours`` of the training data, and
        ``dev_trials`` and ``dev_csv``, the development trials' file and the csv file of
        their utterances, or None.
    make_corpus : callable, optional
        Makes the synthetic corpus that a yaml's group ``mini_corpus`` describes, whose
        keys it is called with.
    keys : sequence of Key
        What the script reads, KEYS among it.
    """
    keep_memory()
    quiet_imports()
    hparams_file, run_opts, overrides = parse_arguments(arguments, keys, brain_class.script)
    check_objects(hparams_file, overrides)
    if run_opts.noprogressbar:
        os.environ[OFF] = "1"
    sb.utils.distributed.ddp_init_group(run_opts)
    overrides = share_batch(hparams_file, overrides)
    plain = plain_keys(resolve(hparams_file, overrides))
    together = normalized_together(plain, run_opts)
    check_finetuning(plain)
    output_folder = Path(str(plain["output_folder"]))
    processes = share()[1]
    script = brain_class.script
    with only_run(output_folder) if if_main_process() else nullcontext():
        now = identity(script, hparams_file, overrides, run_opts, processes, together)
        began = begun(now, hparams_file, overrides, output_folder)
        beginning = begin(plain, began)
        if beginning is not None:
            beginning.check(hparams_file, overrides)
        if run_opts.log_config:
            sb.create_experiment_directory(output_folder, log_config=run_opts.log_config)
        else:
            with quiet_screen():
                sb.create_experiment_directory(output_folder)
        if plain.get("mini_corpus") and make_corpus is not None:
            run_on_main(make_corpus, kwargs=plain["mini_corpus"])
        if plain.get("distortions"):
            run_on_main(make_distortions, kwargs=plain["distortions"])
        # First: lists that are wrong leave an earlier preparation as it is.
        folders = plain.get("test_data_folder") or plain["data_folder"]
        lists, files = read_lists(plain["verification_file"], folders, none_allowed=True)
        run_on_main(check_files, args=[recordings(files), plain["sample_rate"]])
        data = {name: plain[name] for name in PREPARED}
        data |= {name: plain[name] for name in PREPARED_OPTIONALLY if name in plain}
        size, whole = _batches(plain)
        data["least_utterances"] = processes * (size if whole else 1)
        if began is not None:
            data["expected"] = began["prepared"]
        preparation = run_on_main(prepare, kwargs=data)
        accumulated = run_opts["grad_accumulation_factor"]
        overrides = count_overrides(overrides, plain, preparation, accumulated)
        train(
            brain_class,
            Course(
                arguments=arguments,
                experiment=Path(hparams_file).stem,
                settings=resolve(hparams_file, overrides),
                preparation=preparation,
                lists=lists,
                files=files,
                development=_development(preparation),
            ),
            load_hparams(hparams_file, overrides),
            run_opts,
            now,
            began,
            beginning,
        )
    leave_together()


def _development(
    preparation: Preparation,
) -> tuple[Trials, dict[str, Enrolment]] | None:
    """The development trials and their files; speakers are called as trial lists call
    them."""
    if preparation.dev_trials is None or preparation.dev_csv is None:
        return None
    trials = read_trials(preparation.dev_trials)
    (trials,), files = find_recordings([trials], preparation.dev_csv)
    told = {}
    for name, (speaker, session) in trials.told.items():
        (file,) = recordings({name: files[name]})
        wav = file.wav if isinstance(file, Utterance) else file
        told[name] = own_name(speaker, wav, preparation.prefixes), session
    return dataclasses.replace(trials, told=told), files


def train(
    brain_class: type[EmbeddingBrain],
    course: Course,
    hparams: dict,
    run_opts: RunOptions,
    now: Mapping,
    began: Mapping | None,
    beginning: Beginning | None,
) -> None:
    """Train on prepared data, and bring out the model.

    Arguments
    ---------
    brain_class : type
    course : Course
    hparams : dict
        The built keys of the yaml.
    run_opts : RunOptions
    now, began : mapping
        What the run is, and what it began as, None for a new one.
    beginning : Beginning, optional
        What fine-tuning begins with.
    """
    output_folder = Path(hparams["output_folder"])
    other = _other_data(hparams)
    if beginning is not None:
        other[OPTION] = beginning.digest
    check_data(began, other, output_folder)
    train_data, labels = brain_class.training_data(hparams)
    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        development=course.development,
    )
    brain.check_kept(hparams)
    scored = hparams["baselines"] and course.lists
    if beginning is not None:
        new = hparams["checkpointer"].find_checkpoint() is None
        beginning.start(brain, labels, course.lists, take=new or bool(scored))
    untrained = {}
    if scored:
        if lacks_statistics(brain.modules["mean_var_norm"]):
            raise ValueError(
                "baselines=True: before training mean_var_norm, of norm_type global, has "
                "no statistics for the untrained network. Add --baselines=False."
            )
        first = "untrained network" if beginning is None else "before fine-tuning"
        untrained[first] = course.score(brain, brain.encode)
        untrained["mean log-mel vector"] = course.score(brain, brain.mean_features)

    made = [Path(hparams["train_annotation"])]
    if course.development is not None:
        made.append(course.development[0].path)
    prepared = {path.name: digest(path) for path in made}
    if if_main_process():
        with replacing(output_folder / "hyperparams.yaml") as partial:
            partial.write_text(course.settings, encoding="utf-8")
        about = {} if brain.begun_from is None else {OPTION: brain.begun_from}
        write_run(output_folder, {**now, "prepared": prepared, "data": other, **about})
    brain.fit(
        brain.hparams.epoch_counter,
        train_data,
        train_loader_kwargs=hparams["dataloader_options"],
    )
    finish(brain, course, labels, untrained, prepared | other)


def _other_data(hparams: Mapping) -> dict[str, str]:
    """Name -> SHA-256 of what a run learns from beside the preparation's files."""
    found = {}
    for list_files in (hparams.get("prepare_noise_data"), hparams.get("prepare_rir_data")):
        if list_files is not None:
            path = run_on_main(list_files)
            found[path.name] = digest(path)
    return found
