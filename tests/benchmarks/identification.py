#!/usr/bin/env python3
"""Identification with one and with three utterances of each speaker, in one table.

    python tests/benchmarks/identification.py MODEL DATA [--enroll 1 3]

DATA is of any layout that training takes; none of its speakers may have trained
the model. In each of ten splits half of those who have enough utterances are enrolled as
``hamsb enroll`` does, the others are strangers. What is enrolled is no test; the tests are
the same however many utterances are enrolled. Printed are the identification rate (closed
set), the detection and identification rate where 1 % of the strangers' recordings are
taken for someone, and what the thresholds of ``hamsb identify`` come to: means over the
splits, with 95 % intervals of a bootstrap over speakers.
"""

import argparse
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np

from hamsb.dataio.sources import open_source
from hamsb.dataio.utterances import recording
from hamsb.inference.extraction import EmbeddingExtractor
from hamsb.inference.speakers import Speakers
from hamsb.utils.tables import markdown_table
from hamsb.verification.bootstrap import interval
from hamsb.verification.identification import identification_rates

DIR = "detection_identification_rate"


RATES = ("identification_rate", DIR, "false_alarm_rate")


def percent(value, bounds):
    return f"{100 * value:.1f} ({100 * bounds[0]:.1f}, {100 * bounds[1]:.1f})"


class Means:
    """Rates over the splits: their means, and the intervals of these."""

    def __init__(self):
        self.found = []

    def add(self, rates):
        self.found.append(rates)

    def value(self, key):
        return float(np.mean([rates[key] for rates in self.found]))

    def draws(self, key):
        """Draw by draw, since those of all splits are of the same speakers."""
        return np.mean([rates["draws"][key] for rates in self.found], axis=0)

    def cell(self, key):
        return percent(self.value(key), interval(self.draws(key)))


def split(speakers, most, seed):
    """Speaker -> utterances in a random order; and who is enrolled: half of those who
    have more than are enrolled."""
    draw = random.Random(seed)
    order = {name: draw.sample(files, len(files)) for name, files in speakers.items()}
    able = [name for name, files in speakers.items() if len(files) > most]
    return order, sorted(draw.sample(able, len(able) // 2))


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--enroll", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--false-alarms", type=float, default=0.01)
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--decision", help="a file of hamsb threshold")
    parser.add_argument("--cache", help="folder of a cache of embeddings")
    options = parser.parse_args(arguments)

    extractor = EmbeddingExtractor(options.model, decision=options.decision)
    speakers = defaultdict(list)
    for row in sorted(
        open_source(options.data).rows(extractor.sample_rate), key=lambda row: row.name
    ):
        speakers[row.speaker].append(recording(row.path, row.start, row.stop))
    speakers = dict(sorted(speakers.items()))
    paths = [path for files in speakers.values() for path in files]
    with tempfile.TemporaryDirectory() as folder:
        cache = extractor.cache(options.cache or folder)
        found = extractor.embed_files(paths, cache=cache)
        results, decisions = defaultdict(Means), defaultdict(Means)
        for seed in range(options.splits):
            order, enrolled = split(speakers, max(options.enroll), seed)
            tests = {
                str(path): name
                for name, files in order.items()
                for path in files[max(options.enroll) if name in enrolled else 0 :]
            }
            matrix = found.matrix[found.rows(tests)]
            for count in options.enroll:
                store = Speakers(Path(folder, f"{seed}-{count}.json"), extractor)
                chosen = {name: order[name][:count] for name in enrolled}
                store.enroll_many(chosen, cache=cache, progress=False)
                given = store.scores(matrix), [*tests.values()], store.names
                share, draws = options.false_alarms, options.draws
                results[count].add(identification_rates(*given, share, draws=draws))
                for name, asked in (
                    ("eer", {"threshold": "eer"}),
                    *((f"--false-alarms {x}", {"false_alarms": x}) for x in (0.1, 0.01)),
                ):
                    if extractor.recognition.calibration is not None:
                        limit = store.threshold(**asked)
                        at = identification_rates(*given, threshold=limit, draws=draws)
                        decisions[count, name].add(at)
    known = sum(name in enrolled for name in tests.values())
    print(
        f"{options.splits} splits, in each {len(enrolled)} speakers enrolled, and "
        f"{len(speakers) - len(enrolled)} strangers. In the last {known} recordings of "
        f"enrolled speakers, {len(tests) - known} of strangers.\n"
    )
    alarms = f"{100 * options.false_alarms:g} %"
    header = ["enrolled with", "identified %", f"detected and identified % at {alarms}"]
    rows = [[n, *(each.cell(key) for key in RATES[:2])] for n, each in results.items()]
    print(markdown_table(header, rows, left=0))
    first, last = results[options.enroll[0]], results[options.enroll[-1]]
    for key, text in zip(RATES, ("identified", "detected and identified")):
        bounds = interval(last.draws(key) - first.draws(key))
        gain = percent(last.value(key) - first.value(key), bounds)
        print(f"{text}, {options.enroll[-1]} less {options.enroll[0]}: {gain} points")
    header = ["enrolled with", "threshold", "cosine", "detected and identified %"]
    rows = [
        [n, name, f"{each.value('threshold'):.3f}", *(each.cell(key) for key in RATES[1:])]
        for (n, name), each in decisions.items()
    ]
    print("\n" + markdown_table([*header, "false alarms %"], rows, left=0))


if __name__ == "__main__":
    main(sys.argv[1:])
