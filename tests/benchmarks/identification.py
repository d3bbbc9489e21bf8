#!/usr/bin/env python3
"""Identification with one and with three utterances of each speaker, in one table.

    python tests/benchmarks/identification.py MODEL DATA [--enroll 1 3] [--seed 0]

DATA holds ``wav/<speaker>/<session>/<utterance>``; none of its speakers may have trained
the model. Half of them, drawn by the seed, are enrolled as ``hamsb enroll`` does, the
others are strangers. What is enrolled is no test; the tests are the same however many
utterances are enrolled. Printed are the identification rate (closed set), the detection
and identification rate where 1 % of the strangers' recordings are taken for someone, and
what the thresholds of ``hamsb identify`` come to. Intervals: 95 %, a bootstrap over
speakers.
"""

import argparse
import random
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from hamsb.dataio.recordings import find_recordings
from hamsb.inference.extraction import EmbeddingExtractor
from hamsb.inference.speakers import Speakers
from hamsb.utils.tables import markdown_table
from hamsb.verification.bootstrap import interval
from hamsb.verification.identification import identification_rates

DIR = "detection_identification_rate"


def percent(value, bounds=None):
    text = f"{100 * value:.1f}"
    return (
        text if bounds is None else f"{text} ({100 * bounds[0]:.1f}, {100 * bounds[1]:.1f})"
    )


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("data")
    parser.add_argument("--enroll", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--false-alarms", type=float, default=0.01)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--cache", help="folder of a cache of embeddings")
    options = parser.parse_args(arguments)

    extractor = EmbeddingExtractor(options.model)
    speakers = defaultdict(list)
    for path in find_recordings([Path(options.data, "wav")]).values():
        speakers[path.relative_to(Path(options.data, "wav")).parts[0]].append(path)
    most, draw = max(options.enroll), random.Random(options.seed)
    for files in speakers.values():
        draw.shuffle(files)
    chosen = draw.sample(sorted(speakers), len(speakers) // 2)
    enrolled = sorted(name for name in chosen if len(speakers[name]) > most)
    tests = {
        str(path): name
        for name, files in speakers.items()
        if name in enrolled or name not in chosen
        for path in (files[most:] if name in enrolled else files)
    }
    cache = None if options.cache is None else extractor.cache(options.cache)
    found = extractor.embed_files(list(tests), cache=cache)
    names = list(tests.values())
    strangers = [name for name in names if name not in enrolled]
    print(
        f"{len(enrolled)} enrolled speakers, {len(names) - len(strangers)} recordings; "
        f"{len(set(strangers))} strangers, {len(strangers)} recordings\n"
    )
    rows, decisions, results = [], [], {}
    with tempfile.TemporaryDirectory() as folder:
        for count in options.enroll:
            store = Speakers(Path(folder, f"{count}.json"), extractor)
            store.enroll_many(
                {name: speakers[name][:count] for name in enrolled}, cache=cache
            )
            scores = store.scores(found.matrix)
            given = scores, names, store.names
            rates = identification_rates(*given, options.false_alarms, draws=options.draws)
            results[count] = rates
            keys = ("identification_rate", DIR)
            cells = [percent(rates[key], rates["intervals"][key]) for key in keys]
            rows.append([count, *cells, f"{rates['threshold']:.3f}"])
            if extractor.recognition.decision is None:
                continue
            for text, asked in (
                ("eer", {"threshold": "eer"}),
                *((f"--false-alarms {x}", {"false_alarms": x}) for x in (0.1, 0.01)),
            ):
                limit = store.threshold(**asked)
                at = identification_rates(*given, threshold=limit, draws=options.draws)
                keys = (DIR, "false_alarm_rate")
                cells = [percent(at[key], at["intervals"][key]) for key in keys]
                decisions.append([count, text, f"{limit:.3f}", *cells])
    alarms = f"{100 * options.false_alarms:g} %"
    header = ["enrolled with", "identified %", f"detected and identified % at {alarms}"]
    print(markdown_table([*header, "threshold"], rows, left=0))
    first, last = options.enroll[0], options.enroll[-1]
    for key, text in (("identification_rate", "identified"), (DIR, "and detected")):
        gain = results[last][key] - results[first][key]
        draws = results[last]["draws"][key] - results[first]["draws"][key]
        bounds = percent(gain, interval(draws))
        print(f"{text}, {last} utterances less {first}: {bounds} points")
    header = ["enrolled with", "threshold", "cosine", "detected and identified %"]
    print("\n" + markdown_table([*header, "false alarms %"], decisions, left=0))


if __name__ == "__main__":
    main(sys.argv[1:])
