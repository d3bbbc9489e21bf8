#!/usr/bin/env python3
"""Verify speakers with an exported model: scores, EER and minDCF of trial lists.

    python recipes/VoxCeleb/verify.py hparams/verify.yaml --model=<export folder>

writes ``scores_<list>.txt``, ``report.md`` and ``det.png`` to ``output_folder``
and prints the table. Every utterance is embedded once, without padding, and
compared by cosine.
"""

from pathlib import Path

from command_line import load_hparams, main_or_exit, parse_arguments
from speechbrain.inference.classifiers import EncoderClassifier

from hamsb.files import replacing
from hamsb.plots import plot_det
from hamsb.scoring import (
    cosine_scores,
    embed_utterances,
    evaluate_trials,
    find_utterances,
    read_trials,
    results_table,
    write_scores,
)


def read_lists(files, roots):
    """Read the trial lists and find their audio, before anything takes long.

    Arguments
    ---------
    files : str or list of str
        The trial lists.
    roots : str or list of str
        The folders that hold ``wav/``.

    Returns
    -------
    list of Trials
    dict of str to Path
        Every utterance of the lists and its file.

    Raises
    ------
    ValueError
        Two lists have one name, since their results would overwrite each other;
        a list has trials of one class only.
    FileNotFoundError
        A list or an utterance is missing.
    """
    lists = [read_trials(file) for file in ([files] if isinstance(files, str) else files)]
    names, utterances = [trials.name for trials in lists], {}
    for trials in lists:
        if names.count(trials.name) > 1:
            raise ValueError(f"verification_file: two lists are named {trials.name!r}.")
        if len(set(trials.labels.tolist())) < 2:
            raise ValueError(
                f"{trials.path}: all {len(trials)} trials have the label "
                f"{trials.labels[0]}; an error rate needs both."
            )
        utterances.update(find_utterances(trials, roots))
    return lists, utterances


def score_lists(encode, lists, utterances, sample_rate, progress=True):
    """Embed each utterance once and score every trial of the lists.

    Arguments
    ---------
    encode : callable
        Audio [1, T] -> embedding [1, 1, D].
    lists : list of Trials
    utterances : dict of str to Path
        As `read_lists` returns them.
    sample_rate : int
        Hz.
    progress : bool

    Returns
    -------
    dict
        Name of the list -> cosine of each trial, [N].
    """
    embeddings = embed_utterances(utterances, encode, sample_rate, progress)
    return {trials.name: cosine_scores(embeddings, trials) for trials in lists}


def write_results(folder, lists, systems, scored):
    """Write scores, DET plot and table of one or more systems.

    Arguments
    ---------
    folder : str or Path
    lists : list of Trials
    systems : dict
        Name of the system -> what `score_lists` returned for it.
    scored : str
        The system whose scores are written to ``scores_<list>.txt``.

    Returns
    -------
    str
        The results as a markdown table, one line a list and system.
    """
    folder, results, curves = Path(folder), [], {}
    for trials in lists:
        for system, scores in systems.items():
            label = f"{trials.name}: {system}" if len(systems) > 1 else trials.name
            results.append({**evaluate_trials(trials, scores[trials.name]), "list": label})
            curves[label] = (scores[trials.name], trials.labels)
        write_scores(
            folder / f"scores_{trials.name}.txt", trials, systems[scored][trials.name]
        )
    plot_det(curves, folder / "det.png")
    return results_table(results)


def main(arguments):
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    hparams = load_hparams(hparams_file, overrides)
    model = Path(str(hparams["model"]))
    if not (model / "hyperparams.yaml").is_file():
        raise FileNotFoundError(
            f"{model}: no exported model here (no hyperparams.yaml); give the export "
            "folder of a training run, --model=results/<name>/<seed>/export."
        )
    lists, utterances = read_lists(
        hparams["verification_file"], hparams["test_data_folder"]
    )
    encoder = EncoderClassifier.from_hparams(source=str(model), run_opts=run_opts)
    scores = score_lists(
        encoder.encode_batch,
        lists,
        utterances,
        encoder.hparams.audio_normalizer.sample_rate,
        progress=not run_opts.noprogressbar,
    )
    folder = Path(str(hparams["output_folder"]))
    table = write_results(folder, lists, {"model": scores}, scored="model")
    text = f"# Verification of {model}\n\nCosine scores, one embedding an utterance.\n\n{table}"
    with replacing(folder / "report.md") as partial:
        partial.write_text(text, encoding="utf-8")
    print(table)
    print(f"Scores, table and DET plot: {folder}")


if __name__ == "__main__":
    main_or_exit(main)
