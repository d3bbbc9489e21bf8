"""The command ``hamsb``: a model of a folder or a hub at work.

    hamsb embed results/mini/1234/export recordings/ -o embeddings.npz

Each subcommand has a function that declares its arguments, and one that does it, with the
documented classes of this package, and that imports them: ``--help`` waits for neither
torch nor SpeechBrain.

Exit status
-----------
0
    Done; of ``verify``: the same speaker.
1
    An error in the program, with its traceback.
2
    An error that the user can put right, as one message.
3
    ``verify``: different speakers.
4
    ``verify``: no decision, since the model has no threshold.
130, 141
    Interrupted; nobody reads the output any more, as of ``| head``.
"""

import argparse
import contextlib
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamsb.inference.extraction import EmbeddingExtractor

ACCEPTED, UNEXPECTED, EXPECTED, REJECTED, UNDECIDED = range(5)
INTERRUPTED, CLOSED = 130, 141
_SAVEDIR = "where a hub's files are kept; one for each model"


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line says.

    Arguments
    ---------
    arguments : sequence of str, optional
        What follows ``hamsb``; by default the command line's.

    Returns
    -------
    int
        The exit status, as above.
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name may be no text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        status = options.run(options) or 0
        sys.stdout.flush()
        return status
    except SystemExit as end:  # of argparse: --help, or a wrong command line
        return end.code if isinstance(end.code, int) else EXPECTED
    except KeyboardInterrupt:
        _note("interrupted; the same command goes on where it was.")
        return INTERRUPTED
    except BrokenPipeError:  # as of `| head`
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED
    except Exception as error:
        from hamsb.utils.command_line import expected_error

        if message := expected_error(error):
            _note(f"error: {message}")
            return EXPECTED
        traceback.print_exc()
        return UNEXPECTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hamsb",
        description="Use a model of speaker embeddings: a folder or a name on a hub.",
        epilog="hamsb <subcommand> --help tells of each.",
    )
    commands = parser.add_subparsers(required=True, metavar="<subcommand>")
    for declare in (
        _declare_info,
        _declare_embed,
        _declare_verify,
        _declare_enroll,
        _declare_speakers,
        _declare_identify,
        _declare_track,
        _declare_threshold,
        _declare_export,
    ):
        declare(commands)
    return parser


# ------------------------------------------------------------------------------ info


def _declare_info(commands):
    parser = _command(
        commands,
        "info",
        _info,
        "what a model is: sizes, loss, training, error rates, thresholds\n\n"
        "Loads and runs nothing of the model. What its yamls name that no model of\n"
        "SpeechBrain or hamsb has is listed: look at it before you load a stranger's.",
    )
    parser.add_argument("model", metavar="MODEL", help="an export folder, or a hub's name")


def _info(options):
    from hamsb.inference.folder import is_hub_name
    from hamsb.inference.inspection import inspect_model

    if os.path.isdir(options.model) or not is_hub_name(options.model):
        print(inspect_model(options.model))
        return
    from hamsb.inference.speaker import fetch_texts

    print(inspect_model(fetch_texts(options.model)))
    _note("its weights were not looked at; they are on the hub.")


# ----------------------------------------------------------------------------- embed


def _declare_embed(commands):
    parser = _command(
        commands,
        "embed",
        _embed,
        "embeddings of files, folders and lists\n\n"
        "Each recording is embedded whole. A recording that is bad (silent, broken, too\n"
        "short, no audio) is named on standard error, the others are done, and the exit\n"
        "status is 2. The same command goes on where a killed one was.",
    )
    _add_model(parser)
    _add_audio(parser)
    parser.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help="out.npz (names, embeddings, seconds), out.csv, or out.ark with out.scp",
    )
    _add_speed(parser)


def _embed(options):
    from hamsb.dataio.recordings import find_recordings
    from hamsb.inference.extraction import check_embeddings_file, embed_to_file
    from hamsb.utils.files import check_not_input

    files = find_recordings(options.audio)
    check_embeddings_file(options.output, files)
    stem, ending = os.path.splitext(options.output)
    for path in (options.output, *[f"{stem}.scp"] * (ending == ".ark")):
        check_not_input(path, options.audio)
    with _faults() as faults:
        found = embed_to_file(
            _load(options), files, options.output, faults, **_speed(options)
        )
    print(f"{options.output}: {len(found)} embeddings of {found.matrix.shape[1]} numbers")
    if faults:
        _note(f"{len(faults)} of {len(files)} recordings are bad, and not in it.")
        return EXPECTED


# ---------------------------------------------------------------------------- verify


def _declare_verify(commands):
    parser = _command(
        commands,
        "verify",
        _verify,
        "whether two recordings are of one speaker\n\n"
        "By the threshold eer, where misses and false alarms are equally frequent, or\n"
        "another.\n\n"
        "Exit status: 0 the same speaker, 3 different speakers, 4 no decision (the model\n"
        "has no threshold), 2 an error, as a bad recording: never a decision.",
    )
    _add_model(parser)
    parser.add_argument("one", metavar="A", help="an audio file")
    parser.add_argument("other", metavar="B", help="another")
    _add_threshold(parser)


def _verify(options):
    extractor = _load(options)
    recognition = extractor.recognition
    limit = None
    if options.threshold is not None or recognition.decision is not None:
        limit = recognition.limit(options.threshold)
    files = options.one, options.other
    wavs = [extractor.load_audio(path).unsqueeze(0) for path in files]
    rows = [extractor.embed_batch(wav, [path]) for wav, path in zip(wavs, files)]
    score = recognition.similarity(*rows)
    print(f"cosine {score.item():.4f}")
    if (recognition.decision or {}).get("calibration") is not None:
        ratio = recognition.log_likelihood_ratio(score).item()
        print(f"log-likelihood ratio {ratio:.3f}")
    if limit is None:
        _without_threshold(options.model)
        return UNDECIDED
    print(f"threshold {limit:.4f}{_named(options.threshold)}")
    same = score.item() >= limit
    print("same speaker" if same else "different speakers")
    return ACCEPTED if same else REJECTED


# ----------------------------------------------------------- enroll, list and identify


def _declare_enroll(commands):
    parser = _command(
        commands,
        "enroll",
        _enroll,
        "add recordings of a speaker, or of many, to a store\n\n"
        "The store is one text file (JSON), made if need be, for one model. A speaker may\n"
        "have any number of recordings, enrolled at once or one by one; one that is there\n"
        "is not added again. If one is bad, nothing is added.",
    )
    parser.usage = (
        "hamsb enroll [options] MODEL STORE NAME AUDIO [AUDIO ...]\n"
        "       hamsb enroll [options] MODEL STORE --speakers DATA [DATA ...]"
    )
    _add_model(parser)
    _add_store(parser)
    parser.add_argument("name", metavar="NAME", help="of the speaker")
    _add_audio(parser, "*")
    parser.add_argument(
        "--speakers",
        action="store_true",
        help="instead of NAME and AUDIO, DATA follow, which tell whose a recording is: "
        "folders of speakers, Kaldi directories, csv files, JSON lines; all their "
        "speakers are enrolled",
    )
    _add_speed(parser)


def _enroll(options):
    from hamsb.dataio.recordings import find_recordings, find_speakers
    from hamsb.inference.speakers import Speakers

    if options.speakers:
        found = find_speakers([options.name, *options.audio], _note)
    elif os.path.exists(options.name) and (
        not options.audio or _is_recordings(options.name)
    ):
        raise ValueError(
            f"name={options.name}: a file or folder; the speaker's name comes before the "
            "recordings."
        )
    else:
        found = {options.name: list(find_recordings(options.audio).values())}
    speakers = Speakers(options.store, _load(options))
    with _faults() as faults:
        added = speakers.enroll_many(found, faults=faults, **_speed(options))
    there = f"{len(speakers)} speakers are in it"
    if not options.speakers:
        there = f"{options.name} has {len(speakers.utterances(options.name))}"
    print(f"{options.store}: {added} recordings added, {there}")


def _is_recordings(name):
    """Whether a name is a path, or an audio file's or a list's, and so no speaker's."""
    from hamsb.dataio.recordings import LISTS
    from hamsb.dataio.utterances import AUDIO, OTHER_AUDIO

    return "/" in name or name.lower().endswith((*AUDIO, *OTHER_AUDIO, *LISTS))


def _declare_speakers(commands):
    parser = _command(
        commands, "speakers", _speakers, "list the speakers of a store, or remove one"
    )
    _add_store(parser)
    parser.add_argument("--remove", metavar="NAME", help="take this speaker out")


def _speakers(options):
    from hamsb.inference.speakers import Speakers

    if not os.path.exists(options.store):
        raise FileNotFoundError(f"store={options.store}: no such file; see hamsb enroll.")
    speakers = Speakers(options.store)
    if options.remove is not None:
        speakers.remove(options.remove)
        print(f"{options.store}: {options.remove} removed, {len(speakers)} left")
        return
    print("speaker\trecordings\tseconds")
    for name in speakers.names:
        utterances = speakers.utterances(name)
        seconds = sum(utterance.seconds for utterance in utterances)
        print(f"{name}\t{len(utterances)}\t{seconds:.1f}")


def _declare_identify(commands):
    parser = _command(
        commands,
        "identify",
        _identify,
        "which speaker of a store a recording is of, or none\n\n"
        "Prints a table with tabs: the recording; who it is, or none; the most similar\n"
        "speakers with cosine and log-likelihood ratio. A stranger is compared with every\n"
        "speaker: the more speakers a store has, the more often a stranger is taken for\n"
        "one of them. --false-alarms says how often that may be, judged by the trials\n"
        "that the model's thresholds were found on. A --threshold is that of a single\n"
        "comparison.",
    )
    _add_model(parser)
    _add_store(parser)
    _add_audio(parser)
    _add_threshold(parser)
    parser.add_argument(
        "--false-alarms",
        type=float,
        metavar="SHARE",
        help="of strangers' recordings that may be taken for someone; by default 0.1, "
        "where the model stores how frequent false alarms are",
    )
    parser.add_argument(
        "--best", type=_count, default=1, help="speakers told of each recording (default 1)"
    )
    _add_speed(parser)


def _identify(options):
    from hamsb.dataio.recordings import find_recordings
    from hamsb.inference.speakers import FALSE_ALARMS, Speakers
    from hamsb.inference.tracking import NONE

    files = find_recordings(options.audio)
    if not os.path.exists(options.store):
        raise FileNotFoundError(f"store={options.store}: no such file; see hamsb enroll.")
    extractor = _load(options)
    speakers = Speakers(options.store, extractor)
    share = options.false_alarms
    by = speakers.false_alarms_by
    if share is None and options.threshold is None and by is not None:
        share = FALSE_ALARMS
    asked = {"threshold": options.threshold, "false_alarms": share}
    if share is not None:
        limit = speakers.threshold(**asked)
        _note(
            f"threshold {limit:.4f}: {'at most' if by == 'calibration' else 'about'} "
            f"{100 * share:g} % of strangers' recordings are taken for one of "
            f"{len(speakers)} speakers, by the model's {by}"
        )
        if limit > 1:
            _note(
                f"no recording can reach it: the model's {by} cannot tell of so few false "
                "alarms. Give a larger --false-alarms, or find thresholds on more impostor "
                "trials: hamsb threshold."
            )
    elif options.threshold is not None or extractor.recognition.decision is not None:
        limit = speakers.threshold(**asked)
        _note(f"threshold {limit:.4f}{_named(options.threshold)}, of one comparison")
    else:
        _without_threshold(options.model)
    with _faults() as faults:
        found = extractor.embed_files(files, faults=faults, **_speed(options))
    print("recording\tidentified\tspeaker\tcosine\tlog_likelihood_ratio")
    rows = speakers.identify(found.matrix, options.best, **asked)
    for file, candidates in zip(found.utterances, rows):
        first = candidates[0]
        who = {True: first.name, False: NONE, None: ""}[first.accepted]
        for each in candidates:
            ratio = "" if each.ratio is None else f"{each.ratio:.3f}"
            print(f"{file}\t{who}\t{each.name}\t{each.score:.4f}\t{ratio}")
    if faults:
        _note(f"{len(faults)} of {len(files)} recordings are bad, and not in the table.")
        return EXPECTED


# ----------------------------------------------------------------------------- track


def _declare_track(commands):
    parser = _command(
        commands,
        "track",
        _track,
        "who of a store speaks when in a long recording\n\n"
        "Writes OUTPUT.csv, a table of who speaks from when to when, or none;\n"
        "OUTPUT.rttm, the speakers' part of it; OUTPUT.png, a picture (extra [plots]).\n"
        "Windows of the recording are compared with each speaker. Decided is what\n"
        "gains most, where a window gains its cosine less the threshold, times the\n"
        "hop, none gains nothing, and each change costs the penalty. One speaker at a\n"
        "time is found. Pauses are told by their level and have no speaker.",
    )
    _add_model(parser)
    _add_store(parser)
    parser.add_argument("audio", metavar="LONG_AUDIO", help="an audio file of any length")
    _add_threshold(parser)
    parser.add_argument(
        "-o", "--output", help="path without ending; default: the recording's, here"
    )
    for name, default, unit, text in (
        ("window", 2.0, "SECONDS", "length of a window"),
        ("hop", 0.5, "SECONDS", "from one window to the next"),
        ("penalty", 0.2, "COSINE*SECONDS", "what a change costs; more: fewer changes"),
        ("pause-level", 30.0, "DB", "below the loud level of the recording pauses begin"),
    ):
        parser.add_argument(
            f"--{name}",
            type=float,
            default=default,
            metavar=unit,
            help=f"{text} (default {default:g})",
        )
    parser.add_argument(
        "--reference", metavar="RTTM", help="who truly speaks: tells what share is wrong"
    )
    parser.add_argument(
        "--batch-size", type=_count, default=16, help="windows at a time (default 16)"
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def _track(options):
    from hamsb.inference.speakers import Speakers
    from hamsb.inference.tracking import check_output, error_lines, track
    from hamsb.utils.files import check_not_input
    from hamsb.utils.packages import missing
    from hamsb.verification.segments import read_rttm

    if not os.path.exists(options.store):
        raise FileNotFoundError(f"store={options.store}: no such file; see hamsb enroll.")
    stem = os.path.splitext(os.path.basename(options.audio))[0]
    output = check_output(options.output or stem)
    inputs = [options.audio, options.store, *filter(None, [options.reference])]
    for ending in ("csv", "rttm", "png"):
        check_not_input(f"{output}.{ending}", inputs)
    reference = None
    if options.reference is not None:
        reference = read_rttm(options.reference, stem)
    extractor = _load(options)
    speakers = Speakers(options.store, extractor)
    threshold = extractor.recognition.limit(options.threshold)
    _note(f"threshold {threshold:.4f}{_named(options.threshold)}, of one comparison")
    found = track(
        options.audio,
        speakers.names,
        lambda wavs, names: speakers.scores(extractor.embed_batch(wavs, names)),
        extractor.sample_rate,
        threshold,
        options.window,
        options.hop,
        options.penalty,
        options.pause_level,
        options.batch_size,
        not options.no_progress,
        extractor.recognition.encoder.check_length,
    )
    recognition = extractor.recognition
    calibrated = (recognition.decision or {}).get("calibration") is not None
    found.write_table(
        f"{output}.csv", recognition.log_likelihood_ratio if calibrated else None
    )
    found.write_rttm(f"{output}.rttm")
    written = f"{output}.csv, {output}.rttm"
    if why := missing("plots"):
        _note(f"{output}.png is not drawn: {why}")
    else:
        from hamsb.inference.plots import plot_track

        plot_track(found, f"{output}.png", reference or ())
        written += f", {output}.png"
    print("speaker\tseconds")
    for name, seconds in found.shares().items():
        print(f"{name}\t{seconds:.2f}")
    if reference is not None:
        print(error_lines(found.errors(reference)))
    _note(f"written: {written}")


# ------------------------------------------------------------------------- threshold


def _declare_threshold(commands):
    parser = _command(
        commands,
        "threshold",
        _threshold,
        "a threshold and a calibration for recordings like yours\n\n"
        "TRIALS is a list of lines 'label enrol test' (1: the same speaker), or\n"
        "Kaldi's, or a csv file, of speakers who neither trained the model nor are to be\n"
        "recognized later; DATA holds their audio. Prints error rates and writes the\n"
        "decision into a file of its own, which verify, identify, track and export\n"
        "take as --decision. The model stays as it is. Fewer than 30 trials of a kind,\n"
        "or 5 speakers, are refused.",
    )
    _add_model(parser)
    parser.add_argument("trials", metavar="TRIALS", help="a trial list")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="+",
        help="of the trials: folders, Kaldi directories, csv files, JSON lines",
    )
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="default: <TRIALS>_decision.json, here"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that read files; on a CPU, two or more embed as well",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def _threshold(options):
    from hamsb.inference.thresholds import decision_path, find_threshold
    from hamsb.utils.files import check_not_input

    extractor = _load(options)
    output = decision_path(options.output, options.trials, extractor.folder)
    check_not_input(output, [options.trials, *options.data])
    found = find_threshold(
        extractor,
        options.trials,
        options.data,
        num_workers=options.workers,
        progress=not options.no_progress,
    )
    for warning in found.warnings:
        _note(f"warning: {warning}")
    print(found)
    found.write(output)
    _note(f"written: {output}; give it as --decision={output}")


# ---------------------------------------------------------------------------- export


def _declare_export(commands):
    parser = _command(
        commands,
        "export",
        _export,
        "a model as one ONNX file, for programs without torch\n\n"
        "Waveform in, embedding out, of any length, features and normalization included.\n"
        "The file is written only where onnxruntime gives from it what torch gives. Needs\n"
        "hamsb's extra [onnx]; using the file needs onnxruntime alone.",
    )
    parser.add_argument("model", metavar="MODEL", help="an export folder, or a hub's name")
    parser.add_argument("--onnx", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--savedir", metavar="FOLDER", help=_SAVEDIR)
    _add_decision(parser)


def _export(options):
    from hamsb.inference.onnx import OPSET, export_onnx, read_metadata
    from hamsb.utils.tables import markdown_table

    found = export_onnx(
        options.model, options.onnx, savedir=options.savedir, decision=options.decision
    )
    header = ["seconds", "rows", "largest difference, relative", "least cosine"]
    rows = [
        [f"{x.seconds:.2f}", x.rows, f"{x.difference:.1e}", f"{x.cosine:.8f}"]
        for x in found
    ]
    print("onnxruntime beside torch, on noise:\n")
    print(markdown_table(header, rows, left=0))
    size = os.path.getsize(options.onnx) / 1e6
    print(f"{options.onnx}: {size:.1f} MB, opset {OPSET}; wav [B, T] -> embedding [B, D]")
    if thresholds := read_metadata(options.onnx).get("thresholds"):
        numbers = [f"{name} {x:.4f}" for name, x in json.loads(thresholds).items()]
        print(f"thresholds in it: {', '.join(numbers)}")
    else:
        _note(
            "no threshold is in it, since the model has none: find one on trials of your "
            "own with hamsb threshold, and export again with --decision."
        )


# ----------------------------------------------------------- what several of them share


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A subcommand's parser. The first line of the text is its line in ``hamsb --help``."""
    parser = commands.add_parser(
        name,
        help=text.partition("\n")[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL and how it is loaded."""
    parser.add_argument("model", metavar="MODEL", help="an export folder, or a hub's name")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda:0, ...")
    parser.add_argument("--savedir", metavar="FOLDER", help=_SAVEDIR)


def _load(options: argparse.Namespace) -> "EmbeddingExtractor":
    """The model that `_add_model` declared."""
    from hamsb.inference.extraction import EmbeddingExtractor

    return EmbeddingExtractor(
        options.model,
        device=options.device,
        savedir=options.savedir,
        decision=getattr(options, "decision", None),
    )


def _add_store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE", help="file of speakers, speakers.json")


def _add_audio(parser: argparse.ArgumentParser, number: str = "+") -> None:
    parser.add_argument(
        "audio",
        metavar="AUDIO",
        nargs=number,
        help="audio files; folders, for all below them; lists (.txt) of a path a line, "
        "- for one on standard input; Kaldi directories, csv files, JSON lines",
    )


def _add_threshold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--threshold",
        type=_number_or_name,
        help="a cosine, or the name of one that is stored with the model: eer, "
        "min_dcf_0.01, ...; hamsb info lists them",
    )
    _add_decision(parser)


def _add_decision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--decision",
        metavar="FILE",
        help="of hamsb threshold: its thresholds and calibration, not the model's",
    )


def _add_speed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--batch-size", type=_count, help="recordings of one length embedded together"
    )
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that read files; on a CPU, two or more embed as well",
    )
    parser.add_argument("--no-progress", action="store_true", help="no progress bar")


def _speed(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "batch_size": options.batch_size,
        "num_workers": options.workers,
        "progress": not options.no_progress,
    }


def _count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number, at least 1")
    return int(text)


def _number_or_name(text: str) -> float | str:
    try:
        value = float(text)
    except ValueError:
        return text
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: must be finite")
    return value


def _named(threshold: float | str | None) -> str:
    """Behind a threshold's number: its name."""
    return "" if isinstance(threshold, float) else f" ({threshold or 'eer'})"


def _without_threshold(model: str) -> None:
    _note(
        f"{model} has no threshold, and so there is no decision: give --threshold, or find "
        "one on trials of your own: hamsb threshold."
    )


@contextlib.contextmanager
def _faults() -> Iterator[dict[str, str]]:
    """What is wrong with recordings, to be filled in; told at the end, whatever ends it."""
    faults: dict[str, str] = {}
    try:
        yield faults
    finally:
        for text in faults.values():
            _note(text)


def _note(text: str) -> None:
    print(f"hamsb: {text}", file=sys.stderr)
