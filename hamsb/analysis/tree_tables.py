"""What was measured of several models: over seeds, and system against system."""

import math
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path

import numpy as np

from hamsb.analysis.hierarchy import Judged
from hamsb.analysis.tree_measures import Measure
from hamsb.utils.files import read_json
from hamsb.utils.tables import markdown_table
from hamsb.verification.bootstrap import interval

#: Measures by name: their title, and what a true tree has.
TITLES: dict[str, tuple[str, float | None]] = {
    "delta": ("relative delta", 0.0),
    "gaussian": ("- of a Gaussian with the same covariance", None),
    "same_radii": ("- of random directions, same radii", None),
    "place": ("1 - delta / delta of the Gaussian", 1.0),
    "cophenetic": ("cophenetic correlation", 1.0),
    "agreement": ("tree agreement", 1.0),
    "purity": ("dendrogram purity", 1.0),
    "retrieval": ("retrieval", 1.0),
    "recall": ("sibling recall", 1.0),
    "precision": ("hierarchical precision", 1.0),
    "depth": ("radius with depth", None),
    "duration": ("radius with duration", None),
    "noise": ("radius with noise", None),
}
_OWN_NULL = ("place", "cophenetic", "depth")  # which is one of the system's own points


def ends(draws: np.ndarray | None) -> tuple[float, float] | None:
    """The 95 % interval of draws [B] that are finite; None without one."""
    if draws is None or not np.isfinite(draws).any():
        return None
    return interval(draws[np.isfinite(draws)])


def summarize(models: Mapping[str, Sequence[Judged]]) -> dict:
    """What systems have, over their models (seeds), and how they differ.

    Arguments
    ---------
    models : mapping of str to sequence of Judged
        Of equal utterances, levels and draws; the first system is compared with.

    Returns
    -------
    dict
        ``measures``, a list of dicts with ``name``, ``level``, ``true``, ``null`` and
        ``null_std`` (the mean over all models) and ``systems``: of each ``value`` (the
        mean over its models), ``std`` (between them, None of one), ``low``, ``high``
        (95 %, of the mean, draw by draw; of delta and its kin the least and the largest
        of random parts), ``values``, ``null`` and ``null_std``, and, but for the first,
        ``difference`` with ``difference_low`` and ``difference_high``. None is what cannot
        be measured.
    """
    first = next(iter(models))
    lines = []
    for place, one in enumerate(models[first][0].measures):
        key = one.name, one.level
        own = {
            name: [judged.measures[place] for judged in each]
            for name, each in models.items()
        }
        nulls = {name: _null_of(each, key) for name, each in models.items()}
        of_all = np.concatenate([*nulls.values()])
        line: dict = {
            "name": one.name,
            "level": one.level,
            "true": TITLES[one.name][1],
            "null": float(of_all.mean()) if len(of_all) else None,
            "null_std": float(of_all.std()) if len(of_all) else None,
            "systems": {},
        }
        spread = one.name in ("delta", "gaussian", "same_radii", "place")
        base_mean, base_draws = _together(own[first])
        for name, measures in own.items():
            mean, draws = _together(measures)
            values = [number(measure.value) for measure in measures]
            low_high = ends(draws)
            if spread and low_high is not None and draws is not None:
                known_draws = draws[np.isfinite(draws)]
                low_high = float(known_draws.min()), float(known_draws.max())
            known = math.isfinite(mean)
            std = None
            if known and len(measures) > 1:
                std = float(np.std([each.value for each in measures], ddof=1))
            entry = {
                "value": number(mean),
                "std": std,
                "low": low_high[0] if low_high and known else None,
                "high": low_high[1] if low_high and known else None,
                "values": values,
                "null": float(nulls[name].mean()) if len(nulls[name]) else None,
                "null_std": float(nulls[name].std()) if len(nulls[name]) else None,
            }
            if name != first and not spread:
                both = None
                if draws is not None and base_draws is not None:
                    both = ends(draws - base_draws)
                entry["difference"] = number(mean - base_mean)
                entry["difference_low"] = both[0] if both else None
                entry["difference_high"] = both[1] if both else None
            line["systems"][name] = entry
        lines.append(line)
    return {"measures": lines}


def _null_of(models: Sequence[Judged], key: tuple[str, int | None]) -> np.ndarray:
    """The finite values that a measure has under the null, of all of some models."""
    found = [model.nulls[key] for model in models if key in model.nulls]
    values = np.concatenate([np.empty(0), *found])
    return values[np.isfinite(values)]


def _together(measures: Sequence[Measure]) -> tuple[float, np.ndarray | None]:
    """Mean over models, and their draws averaged draw by draw."""
    draws = [measure.draws for measure in measures if measure.draws is not None]
    mean = float(np.mean([measure.value for measure in measures]))
    return mean, np.mean(draws, axis=0) if len(draws) == len(measures) else None


def number(value: float) -> float | None:
    """A float, None where it is not finite: JSON has neither NaN nor infinity."""
    return float(value) if math.isfinite(value) else None


# ------------------------------------------------------------------------------ systems


def name_systems(model: object) -> dict[str, list[str]]:
    """Systems, each of one model or of several seeds.

    Arguments
    ---------
    model : str, list of str, or mapping of str to str or list of str
        A folder; a system each; or by name. A ``*`` in a path stands for anything:
        ``results/ham/*/export`` are all that there are.

    Returns
    -------
    dict of str to list of str
        Without names, what tells the folders' paths apart.

    Raises
    ------
    ValueError
        Anything else, an empty list, one folder twice, a pattern that no folder fits.

    Example
    -------
    >>> name_systems(["results/ham/1/export", "results/aam/1/export"])
    {'ham': ['results/ham/1/export'], 'aam': ['results/aam/1/export']}
    """
    named: dict[str, object]
    if isinstance(model, Mapping):
        named = {str(name): paths for name, paths in model.items()}
    else:
        paths = _matching(model, model)
        names = _short_names(paths) if len({*paths}) == len(paths) else []
        named = dict(zip(names, paths))
    systems = {name: _matching(paths, model) for name, paths in named.items()}
    folders = [path for paths in systems.values() for path in paths]
    for name, paths in systems.items():
        if not paths or not all(paths):
            raise ValueError(f"model={model}: no folder of {name}.")
    if not folders or len({*folders}) < len(folders):
        raise ValueError(
            f"model={model}: must be an export folder, a list of them, or lists by name, "
            "as {ham: [one, another], aam: [third]}; each folder once."
        )
    return systems


def _matching(paths: object, model: object) -> list[str]:
    """One path or several as a list, patterns replaced by what fits them."""
    found = []
    for path in paths if isinstance(paths, list) else [paths]:
        fitting = sorted(glob(str(path))) if "*" in str(path) else [str(path)]
        if not fitting:
            raise ValueError(f"model={model}: nothing fits {path}.")
        found += fitting
    return found


def _short_names(paths: Sequence[str]) -> list[str]:
    """What tells paths apart: their parts without those that all have at either end."""
    parts = [[part for part in path.split("/") if part] or [path] for path in paths]
    parts = [
        each[:-1] if len(each) > 1 and each[-1] == "export" else each for each in parts
    ]
    if len(parts) == 1:
        return ["/".join(parts[0][-2:])]
    while len({each[0] for each in parts}) == 1 and all(len(each) > 1 for each in parts):
        parts = [each[1:] for each in parts]
    while len({each[-1] for each in parts}) == 1 and all(len(each) > 1 for each in parts):
        parts = [each[:-1] for each in parts]
    names = ["/".join(each) for each in parts]
    return names if len({*names}) == len(names) else list(paths)


def training_rates(
    systems: Mapping[str, Sequence[Path]],
) -> dict[str, dict[str, list[float]]]:
    """The EERs in percent of systems on the lists of their trainings, from the
    ``metrics.json`` beside the exports.

    Arguments
    ---------
    systems : mapping of str to sequence of Path
        System -> its export folders.

    Returns
    -------
    dict of str to dict of str to list of float
        List -> system -> EER of each model; without a system of which one has no such
        file.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for name, folders in systems.items():
        for folder in folders:
            path = folder.resolve().parent / "metrics.json"
            try:
                results = read_json(path)["results"]
                eers = {
                    line["list"]: float(line["eer"])
                    for line in results
                    if line["system"] == "trained" and not line["calibrated"]
                }
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                eers = {}
            for list_name, eer in eers.items():
                found.setdefault(list_name, {}).setdefault(name, []).append(100 * eer)
    known = {
        list_name: {
            name: each for name, each in rates.items() if len(each) == len(systems[name])
        }
        for list_name, rates in found.items()
    }
    return {list_name: rates for list_name, rates in known.items() if rates}


def rate_rows(
    rates: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, dict[str, str]]:
    """What `training_rates` returned, as `result_table` takes rows."""
    return {
        f"EER %, {list_name}, of the training": {
            name: f"{np.mean(values):.2f}"
            + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else "")
            for name, values in each.items()
        }
        for list_name, each in rates.items()
    }


# ------------------------------------------------------------------------------- tables


def level_table(levels: Sequence[Mapping], points: str) -> str:
    """What `hamsb.analysis.levels.Levels.describe` returned, markdown."""
    rows = [[line["name"], line["groups"], line["missing"]] for line in levels]
    return markdown_table(["level", "groups", f"{points} without it"], rows, left=1)


def title(line: Mapping, names: Sequence[str], nearest: int) -> str:
    """What a measure of `summarize` is called in a table."""
    text = TITLES[line["name"]][0]
    if line["name"] == "recall":
        text += f" at {nearest}"
    return text if line["level"] is None else f"{text}, {names[line['level']]}"


def result_table(
    summary: Mapping,
    names: Sequence[str],
    nearest: int,
    rates: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """What `summarize` returned, markdown: rows measures, columns systems, null and true
    tree. Measures that no system has are left out. A null of each system's own points,
    where there are several, has a row below.

    Arguments
    ---------
    summary : mapping
    names : sequence of str
        Of the levels.
    nearest : int
    rates : mapping of str to mapping of str to str, optional
        Further rows: what -> system -> cell.
    """
    lines = [line for line in summary["measures"] if _known(line)]
    systems = list(summary["measures"][0]["systems"])
    rows = []
    for line in lines:
        entries = [line["systems"][name] for name in systems]
        own = line["name"] in _OWN_NULL and len(systems) > 1
        null = "" if own else _plus_minus(line["null"], line["null_std"])
        true = "" if line["true"] is None else f"{line['true']:g}"
        rows.append([title(line, names, nearest), *map(_cell, entries), null, true])
        if own:
            nulls = [_plus_minus(each["null"], each["null_std"]) for each in entries]
            rows.append(["- null", *nulls, "", ""])
    for what, cells in (rates or {}).items():
        rows.append([what, *(cells.get(name, "") for name in systems), "", ""])
    return markdown_table(["measure", *systems, "null", "true tree"], rows, left=1)


def difference_table(summary: Mapping, names: Sequence[str], nearest: int) -> str:
    """How systems differ from the first, markdown; an interval that 0 is not in is
    bold."""
    systems = list(summary["measures"][0]["systems"])
    rows = []
    for line in summary["measures"]:
        others = [line["systems"][name] for name in systems[1:]]
        if not any(entry.get("difference") is not None for entry in others):
            continue
        rows.append([title(line, names, nearest), *map(_difference, others)])
    return markdown_table(["measure", *systems[1:]], rows, left=1)


def _known(line: Mapping) -> bool:
    return any(entry["value"] is not None for entry in line["systems"].values())


def _cell(entry: Mapping) -> str:
    if entry["value"] is None:
        return "none"
    text = _plus_minus(entry["value"], entry["std"])
    if entry["low"] is None:
        return text
    return f"{text} [{entry['low']:.3f}, {entry['high']:.3f}]"


def _plus_minus(value: float | None, std: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if std is None else f"{value:.3f} ± {std:.3f}"


def _difference(entry: Mapping) -> str:
    if entry.get("difference") is None:
        return "none"
    text = f"{entry['difference']:+.3f}"
    low, high = entry["difference_low"], entry["difference_high"]
    if low is None:
        return text
    text += f" [{low:+.3f}, {high:+.3f}]"
    return text if low <= 0 <= high else f"**{text}**"
