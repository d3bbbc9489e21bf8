"""Tables: markdown for people, csv for programs."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence

from hamsb.utils.files import replacing


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence], left: int | None = None
) -> str:
    """A table in GitHub's markdown.

    Arguments
    ---------
    header : sequence of str
        The columns' names.
    rows : iterable of sequence
        Cells, which are written as ``str`` has them; None is an empty cell.
    left : int, optional
        How many columns, from the first, are text; the others are numbers, flush
        right. By default all are text.

    Returns
    -------
    str
        Ends in a newline.

    Example
    -------
    >>> rows = [["AM", 6.17], ["HAM", None]]
    >>> print(markdown_table(["loss", "EER %"], rows, left=1), end="")
    | loss | EER % |
    | --- | ---: |
    | AM | 6.17 |
    | HAM |  |
    """
    left = len(header) if left is None else left
    rule = ["---" if column < left else "---:" for column in range(len(header))]
    cells = ([("" if cell is None else str(cell)) for cell in row] for row in rows)
    return "".join(f"| {' | '.join(line)} |\n" for line in (header, rule, *cells))


def write_csv(path: str | os.PathLike, rows: Sequence[Mapping]) -> None:
    """Write rows of the same keys as csv, whole or not at all.

    Arguments
    ---------
    path : str or Path
        The file; its folder is made if need be.
    rows : sequence of dict
        Floats are written with six digits, None as an empty cell. No rows give an
        empty file.

    Example
    -------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_csv(f"{folder}/runs.csv", [{"loss": "AM", "EER %": 6.1700001}])
    ...     Path(folder, "runs.csv").read_text()
    'loss,EER %\\nAM,6.17\\n'
    """
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, rows[0] if rows else [], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    key: f"{value:.6g}" if isinstance(value, float) else value
                    for key, value in row.items()
                }
            )
