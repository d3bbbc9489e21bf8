"""The command ``hamsb``: a model of a folder or a hub at work.

    hamsb embed results/mini_ham/1234/export recordings/ -o embeddings.npz

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
130
    Interrupted.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hamsb.inference.extraction import EmbeddingExtractor

ACCEPTED, UNEXPECTED, EXPECTED, REJECTED, UNDECIDED, INTERRUPTED = 0, 1, 2, 3, 4, 130


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
    try:
        options = _parser().parse_args(arguments)
        return options.run(options) or 0
    except SystemExit as end:  # of argparse: --help, or a wrong command line
        return end.code if isinstance(end.code, int) else EXPECTED
    except KeyboardInterrupt:
        print("hamsb: interrupted.", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        from hamsb.utils.command_line import expected_error

        if message := expected_error(error):
            print(f"hamsb: error: {message}", file=sys.stderr)
            return EXPECTED
        traceback.print_exc()
        return UNEXPECTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hamsb",
        description="Use a model of speaker embeddings: a folder or a name on a hub.",
        epilog="hamsb <command> --help tells of each.",
    )
    commands = parser.add_subparsers(required=True, metavar="<command>")
    for declare in (
        _declare_info,
        _declare_embed,
        _declare_verify,
        _declare_enroll,
        _declare_speakers,
        _declare_identify,
    ):
        declare(commands)
    return parser


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """A subcommand's parser. The first line of the text is its line in ``hamsb --help``."""
    parser = commands.add_parser(
        name,
        help=text.partition("\n")[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    """MODEL and how it is loaded."""
    parser.add_argument("model", metavar="MODEL", help="an export folder, or a hub's name")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda:0, ...")
    parser.add_argument("--savedir", help="where files of a hub are kept")


def _load(options: argparse.Namespace) -> "EmbeddingExtractor":
    """The model that `_add_model` declared."""
    from hamsb.inference.extraction import EmbeddingExtractor

    return EmbeddingExtractor(
        options.model, device=options.device, savedir=options.savedir
    )


# ------------------------------------------------------------------------------ info


def _declare_info(commands):
    parser = _command(commands, "info", _info, "what a model is; runs nothing of it")
    parser.add_argument("model", metavar="MODEL", help="an export folder")


def _info(options):
    from hamsb.inference.folder import inspect_model

    print(inspect_model(options.model))


# ----------------------------------------------------------------------------- embed


def _declare_embed(commands):
    parser = _command(commands, "embed", _embed, "embeddings of files")
    _add_model(parser)


def _embed(options):
    pass


# ---------------------------------------------------------------------------- verify


def _declare_verify(commands):
    parser = _command(commands, "verify", _verify, "whether two recordings are of one")
    _add_model(parser)


def _verify(options):
    pass


# ------------------------------------------------------------- enroll and identify


def _declare_enroll(commands):
    parser = _command(commands, "enroll", _enroll, "add recordings to a store")
    _add_model(parser)


def _enroll(options):
    pass


def _declare_speakers(commands):
    parser = _command(commands, "speakers", _speakers, "list a store, or remove from it")
    parser.add_argument("store", metavar="STORE")


def _speakers(options):
    pass


def _declare_identify(commands):
    parser = _command(commands, "identify", _identify, "who of a store speaks, or none")
    _add_model(parser)


def _identify(options):
    pass
