#!/usr/bin/env python3
"""What each loss changes on several corpora, and on the mean of them.

    python recipes/VoxCeleb/studies/corpora.py hparams/studies/corpora.yaml [--key=value]

The runs are those that compare.py has trained and finished, on each corpus in a study of
its own. Each experiment's EER is compared with the baseline's over the seeds that both
have; the mean is that of the relative changes on the corpora. Intervals are from draws of
the test speakers of each corpus and of the pairs of runs, so that they hold what other
speakers and other seeds would add. In ``output_folder``: ``report.md``, ``corpora.csv``.
"""

from hamsb.utils.help import help_if_asked
from hamsb.utils.keys import Key

KEYS = [
    Key("output_folder", "folder", "the table"),
    Key(
        "verification_list",
        "name",
        "of the lists; {corpus: name} where they differ",
    ),
    Key("seeds", "list of numbers", "null: all that are there"),
    Key("bootstrap_draws", "count", "for the intervals"),
    Key("baseline", "name", "the experiment that others are compared with"),
    Key("experiments", "mapping", "name: {corpus: folder of its runs}"),
]

if __name__ == "__main__":
    help_if_asked(__doc__, KEYS, {})  # before what takes seconds to import

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from hamsb.training.comparison import check_seeds
from hamsb.training.corpora import MEAN, changes, read_corpus
from hamsb.utils.command_line import main_or_exit, parse_arguments
from hamsb.utils.conditions import conditions, versions
from hamsb.utils.files import only_run, replacing
from hamsb.utils.hparams import read_resolved
from hamsb.utils.run_folder import check_script, write_run
from hamsb.utils.tables import markdown_table, write_csv

import torch

SCRIPT = "corpora.py"
TEXT = """# {name}

{table}
EER: mean over seeds ± standard deviation. Change: of the mean EER against {baseline}'s,
over the seeds that both have; of the mean, that of these changes. Intervals: 95 %,
{draws} draws of the test speakers of each corpus and of its pairs of runs. Of three seeds
they see two thirds of the seeds' variance.

Runs:

{runs}
{conditions}
"""


def check(hparams: Mapping) -> None:
    """ValueError where a key's value cannot be."""
    if hparams["seeds"] is not None:
        check_seeds(hparams["seeds"], SCRIPT)
    experiments, baseline = hparams["experiments"], hparams["baseline"]
    if baseline not in experiments:
        raise ValueError(f"baseline={baseline}: one of {', '.join(experiments)}.")
    for name, folders in experiments.items():
        if not isinstance(folders, Mapping) or not folders:
            raise ValueError(f"experiments[{name}]={folders}: {{corpus: folder, ...}}.")
        if more := folders.keys() - experiments[baseline].keys():
            raise ValueError(
                f"experiments[{name}]: the baseline {baseline} has no runs on "
                f"{', '.join(sorted(more))}."
            )
        if MEAN in folders:
            raise ValueError(f"experiments[{name}]: a corpus cannot be called {MEAN}.")


def list_names(given: object, corpora: Iterable[str]) -> dict[str, str]:
    """Corpus -> name of its list; ValueError where that is not told."""
    corpora = [*corpora]
    names = given if isinstance(given, Mapping) else dict.fromkeys(corpora, given)
    if {*names} != {*corpora} or not all(isinstance(name, str) for name in names.values()):
        raise ValueError(
            f"verification_list={given}: the name of a list, or one for each of "
            f"{', '.join(corpora)}."
        )
    return dict(names)


def change_table(lines: Iterable[Mapping]) -> str:
    """corpora.csv for people."""
    header = ["experiment", "corpus", "seeds", "EER %", "change of EER %", "95 % interval"]
    return markdown_table(header, map(cells, lines))


def cells(line: Mapping) -> list[str]:
    """A row of `change_table`."""
    rate, deviation, change = (
        line[key] for key in ("EER %", "EER % deviation", "change %")
    )
    ends = [line[f"change {end} %"] for end in ("low", "high")]
    return [
        line["experiment"],
        line["corpus"],
        "" if line["seeds"] is None else str(line["seeds"]),
        " ± ".join(f"{value:.2f}" for value in (rate, deviation) if value is not None),
        "" if change is None else f"{change:+.1f}",
        " to ".join(f"{end:+.1f}" for end in ends if end is not None),
    ]


def main(arguments: Sequence[str]) -> None:
    hparams_file, _, overrides = parse_arguments(arguments, KEYS, SCRIPT, {})
    hparams = read_resolved(hparams_file, overrides)
    check(hparams)
    folder = Path(str(hparams["output_folder"]))
    check_script(folder, SCRIPT)
    experiments, baseline = hparams["experiments"], hparams["baseline"]
    corpora = {}
    lists = list_names(hparams["verification_list"], experiments[baseline])
    for number, corpus in enumerate(lists):
        corpora[corpus] = read_corpus(
            {name: runs[corpus] for name, runs in experiments.items() if corpus in runs},
            lists[corpus],
            hparams["seeds"],
            hparams["bootstrap_draws"],
            seed=number,
        )
    lines = changes(corpora, baseline)
    table = change_table(lines)
    text = TEXT.format(
        name=folder.name,
        table=table,
        baseline=baseline,
        draws=hparams["bootstrap_draws"],
        runs=markdown_table(
            ["experiment", *corpora],
            (
                [name, *(runs.get(corpus) for corpus in corpora)]
                for name, runs in experiments.items()
            ),
        ),
        conditions=conditions(SCRIPT, arguments, [], versions(torch.device("cpu"))),
    )
    with only_run(folder):
        write_csv(folder / "corpora.csv", lines)
        with replacing(folder / "report.md") as partial:
            partial.write_text(text, encoding="utf-8")
        write_run(folder, {"script": SCRIPT})
    print(f"{table}\nTable: {folder / 'report.md'}")


if __name__ == "__main__":
    main_or_exit(main)
