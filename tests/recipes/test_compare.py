"""Comparisons: what is trained, what is chosen, and the arithmetic of the table.

One comparison is trained for real; elsewhere stand_in_train.py leaves the files of
runs with the error rates that the test wants.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import compare
import numpy as np
import pytest
import speechbrain
import yaml

import train
from conftest import REPOSITORY
from hamsb.training import study
from hamsb.training.study import Run
from hamsb.verification.bootstrap import bootstrap_eer
from runs import fork

sys.path.insert(0, str(Path(__file__).parent))
import stand_in_train  # noqa: E402

SMALL = "small.yaml"
COSINE = (
    "!new:speechbrain.lobes.models.ECAPA_TDNN.Classifier "
    "{input_size: !ref <lin_neurons>, out_neurons: !ref <out_n_neurons>}"
)
AM = {
    "classifier": COSINE, "compute_cost": "!new:hamsb.AMSoftmax {margin: 0.2, scale: 30.0}"
}  # fmt: skip
EXPERIMENTS = {
    "am": {"hparams": SMALL, "options": AM}, "ham": {"hparams": SMALL, "baseline": "am"}
}  # fmt: skip


@pytest.fixture
def comparison(tmp_path, tiny_options):
    """A function that writes a comparison's yaml, changed by keywords, and returns its
    path; its options make training a matter of seconds."""
    given = (option[2:].partition("=") for option in tiny_options(baselines=False))
    options = {key: yaml.safe_load(value) for key, equals, value in given if equals}
    del options["output_folder"]

    def write(**changes):
        content = {
            "output_folder": str(tmp_path / "out"),
            "processes": 1,
            "keep_checkpoints": True,
            "seeds": [1],
            "options": options | changes.pop("options", {}),
            "experiments": EXPERIMENTS,
            **changes,
        }
        path = tmp_path / "compare_tiny.yaml"
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return str(path)

    return write


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """`tell` how runs go, and see the `calls` and their `names`."""
    monkeypatch.setattr(compare, "TRAIN", Path(stand_in_train.__file__))
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    for plot in ("plot_curves", "plot_det"):  # test_real_runs has them
        monkeypatch.setattr(compare, plot, lambda *_: None)

    def tell(runs):
        (tmp_path / "told.json").write_text(json.dumps(runs))

    def calls():
        path = tmp_path / "calls.txt"
        return [json.loads(line) for line in path.open()] if path.exists() else []

    tell({})
    return SimpleNamespace(
        tell=tell, calls=calls, names=lambda: [call["name"] for call in calls()]
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def with_search(*points, **search_options):
    """The keys of a comparison in which HAM has a search."""
    ham = {**EXPERIMENTS["ham"], "search": list(points)}
    return {"experiments": {**EXPERIMENTS, "ham": ham}, "search_options": search_options}


# ------------------------------------------------------------------ for real


class Forked:
    """What a study needs of subprocess.Popen, for train.py: in a child of this process,
    which has imported all of it, on one thread."""

    def __init__(self, command, stdout, env, **_):
        _, script, *arguments = command
        assert Path(script) == compare.TRAIN
        self.status = None

        def run():
            os.setsid()
            os.environ.update(env)
            speechbrain.utils.logger.get_environment_description = lambda: "not listed"
            train.main(arguments)

        self.pid = fork(run, stdout.name)

    def poll(self):
        if self.status is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            self.status = os.waitstatus_to_exitcode(ended[1])
        return self.status


def test_real_runs(comparison, out, capsys, monkeypatch):
    """The first run is a process of its own, as all are; the second costs less."""
    file = comparison(keep_checkpoints=False, processes=2)  # a thread each
    begun = []

    def popen(command, **options):
        begun.append(command)
        return (subprocess.Popen if len(begun) == 1 else Forked)(command, **options)

    monkeypatch.setattr(
        study, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": popen})
    )
    compare.main([file])
    assert len(begun) == 2
    screen = capsys.readouterr().out
    report = (out / "report.md").read_text()
    assert "| am | veri_test | 1 |" in screen and "| am | veri_test | 1 |" in report

    # The table holds what the runs themselves reported.
    for line in rows(out / "runs.csv"):
        own = (out / line["experiment"] / "1" / "report.md").read_text()
        cells = re.search(r"^\| veri_test .*", own, re.M)[0].split(" | ")
        for rate in ("EER %", "minDCF(p=0.01)", "minDCF(p=0.05)"):
            assert f"{float(line[rate]):.3f}" in cells
        development = re.search("Development EER: (.*) %", own)[1]
        assert f"{float(line['development EER %']):.2f}" == development
    curves = rows(out / "curves.csv")
    assert [line["experiment"] for line in curves] == ["am", "ham"]
    assert all(float(line["train loss"]) > 0 for line in curves)
    for name in ("curves.png", "det_veri_test.png"):
        assert (out / name).read_bytes()[1:4] == b"PNG"
    assert not list(out.glob("*/*/save/CKPT*")) and len(list(out.glob("*/*/export"))) == 2

    # Only the head and the loss differ in what the two were given.
    am, ham = (
        json.loads((out / n / "1" / "starts.json").read_text()) for n in ("am", "ham")
    )
    differing = {k for k, v in am["settings"].items() if ham["settings"].get(k) != v}
    folders = {"output_folder", "save_folder", "train_log", "train_annotation"}
    assert differing - folders == {
        "classifier",
        "compute_cost",
        "modules",
        "checkpointer",
        "train_logger",
    }
    assert am["starts"][0]["torch"] in report and am["starts"][0]["commit"] in report

    # The same command trains nothing; other settings are refused, before anything runs.
    compare.main([file])
    assert "started" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"out/am/1 .* batch_size was 4, is 5. Give"):
        compare.main([comparison(options={"batch_size": 5})])
    assert "started" not in capsys.readouterr().out


# -------------------------------------------------------------- what is trained


def test_an_experiment_may_have_another_script(comparison, stand_in, tmp_path, monkeypatch):
    other = tmp_path / "other.py"
    other.write_text(Path(stand_in_train.__file__).read_text())
    monkeypatch.setattr(compare, "TRAIN", tmp_path / "none.py")
    experiments = {"am": {"hparams": SMALL, "script": "other.py"}}
    compare.main([comparison(experiments=experiments)])
    assert stand_in.names() == ["am/1"]


def test_seeds_options_threads_and_order(comparison, stand_in, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    experiments = {**EXPERIMENTS, "h": {"hparams": SMALL, "options": {"lin_neurons": 8}}}
    compare.main([comparison(seeds=[5, 6], experiments=experiments), "--debug"])
    assert stand_in.names() == ["am/5", "ham/5", "h/5", "am/6", "ham/6", "h/6"]
    calls = stand_in.calls()
    assert [call["seed"] for call in calls] == ["5"] * 3 + ["6"] * 3
    assert [call["lin_neurons"] for call in calls] == ["16", "16", "8"] * 2
    cores = str(len(os.sched_getaffinity(0)))
    assert all(call["debug"] == "true" and call["threads"] == cores for call in calls)


def test_an_experiment_waits_for_the_models_that_it_needs(comparison, stand_in, capsys):
    path = "!ref <output_folder>/../../am/<seed>/export"
    own = {"hparams": SMALL, "after": ["am"], "options": {"train_log": path}}
    file = comparison(seeds=[1, 2], experiments={"own": own, **EXPERIMENTS})
    stand_in.tell({"am/2": {"status": 3}})
    with pytest.raises(ValueError, match="1 runs failed: am, seed 2"):
        compare.main([file])
    assert stand_in.names() == ["am/1", "ham/1", "am/2", "ham/2"]
    assert "Missing: own, seed 1; own, seed 2; am, seed 2." in capsys.readouterr().out
    stand_in.tell({})
    compare.main([file])
    assert stand_in.names()[4:] == ["am/2", "own/1", "own/2"]
    assert stand_in.calls()[-1]["train_log"] == path


def test_modules_to_compile_are_those_of_the_runs(comparison, stand_in):
    """Which the study's yaml lacks."""
    compare.main([comparison(), "--compile", "--compile_module_keys", "classifier"])
    assert stand_in.calls()[0]["compile_module_keys"] == "[classifier]"
    with pytest.raises(ValueError, match="=head: no such module; the yaml's modules are"):
        compare.main([comparison(seeds=[2]), "--compile", "--compile_module_keys=head"])


def test_a_set_number_of_threads_is_kept(comparison, stand_in, monkeypatch):
    """As for two studies side by side."""
    for given, threads in (("3", "3"), ("0", None), ("many", None)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        compare.main([comparison(seeds=[len(stand_in.calls())])])
        share = str(len(os.sched_getaffinity(0)))
        assert stand_in.calls()[-1]["threads"] == (threads or share)


def test_processes_share_the_cores_and_run_side_by_side(
    comparison, stand_in, monkeypatch, capsys
):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    stand_in.tell({"am/1": {"after": "ham/1"}})
    compare.main([comparison(processes=2)])
    assert {call["threads"] for call in stand_in.calls()} == {
        str(max(1, len(os.sched_getaffinity(0)) // 2))
    }
    done = re.findall(r"\] (.*), seed 1: test EER 10.00 %", capsys.readouterr().out)
    assert sorted(done) == ["am", "ham"]


def test_a_failed_run_is_reported_and_tried_again(comparison, stand_in, out, capsys):
    stand_in.tell({"am/1": {"status": 3}})
    with pytest.raises(ValueError, match="1 runs failed: am, seed 1"):
        compare.main([comparison()])
    screen = capsys.readouterr().out
    assert "am, seed 1: failed with status 3.\n    it went wrong" in screen
    assert "Missing: am, seed 1." in screen and "| ham | test | 1 |" in screen
    (line,) = rows(out / "results.csv")
    assert line["baseline"] == "am" and line["change %"] == ""

    stand_in.tell({})
    compare.main([comparison()])
    assert stand_in.names() == ["am/1", "ham/1", "am/1"]
    assert "Missing" not in (out / "report.md").read_text()
    assert len(Run("am", "seed 1", out / "am" / "1", compare.TRAIN, ()).starts()) == 2


def test_a_stopped_comparison_stops_its_runs(comparison, stand_in, out):
    stand_in.tell({"am/1": {"sleep": 60}, "ham/1": {"sleep": 60}})

    def terminate():
        while len(stand_in.calls()) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    old = signal.signal(signal.SIGTERM, compare.interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            threading.Thread(target=terminate, daemon=True).start()
            compare.main([comparison(processes=2)])
    finally:
        signal.signal(signal.SIGTERM, old)
    for call in stand_in.calls():
        with pytest.raises(ProcessLookupError):
            os.kill(call["pid"], 0)

    # The same command starts them again.
    stand_in.tell({})
    compare.main([comparison()])
    assert stand_in.names()[2:] == ["am/1", "ham/1"]


def test_checkpoints_of_finished_runs_are_dropped_where_asked(comparison, stand_in, out):
    compare.main([comparison()])
    assert len(list(out.glob("*/1/save/CKPT*"))) == 2
    compare.main([comparison(seeds=[2], keep_checkpoints=False)])
    assert not list(out.glob("*/2/save/CKPT*"))
    assert len(list(out.glob("*/2/save/*.csv"))) == 2


def test_a_folder_of_unknown_settings_is_refused(comparison, stand_in, out):
    stand_in_train.leave_a_run(out / "am" / "1")
    with pytest.raises(ValueError, match=r"out/am/1 .* not known \(no starts.json\)"):
        compare.main([comparison()])
    assert stand_in.calls() == []


# ------------------------------------------------------------------- the search


POINTS = [{"compute_cost": {"scale": scale}} for scale in (30.0, 20.0, 10.0)]


def test_search_chooses_by_development_eer(comparison, stand_in, out):
    # The test list would choose another point, the first of the two equal ones wins.
    stand_in.tell(
        {
            "ham/search_1": {"dev": 5.0, "wrong": 1},
            "ham/search_2": {"dev": 4.0, "wrong": 9},
            "ham/search_3": {"dev": 4.0, "wrong": 0},
        }
    )
    search = with_search(*POINTS, seed=0, number_of_epochs=7)
    compare.main([comparison(**search, seeds=[1, 2])])
    calls = {call["name"]: call for call in stand_in.calls()}
    assert stand_in.names()[:3] == ["ham/search_1", "ham/search_2", "ham/search_3"]
    for n, scale in enumerate(("30.0", "20.0", "10.0"), start=1):
        call = calls[f"ham/search_{n}"]
        assert call["compute_cost"] == f"{{scale: {scale}}}"
        assert (call["seed"], call["number_of_epochs"]) == ("0", "7")
    for seed in ("1", "2"):
        assert calls[f"ham/{seed}"]["compute_cost"] == "{scale: 20.0}"
        assert calls[f"ham/{seed}"]["number_of_epochs"] == "1"
        assert calls[f"am/{seed}"]["compute_cost"] == AM["compute_cost"]
    lines = rows(out / "search.csv")
    assert [line["chosen"] for line in lines] == ["", "yes", ""]
    assert [line["development EER %"] for line in lines] == ["5", "4", "4"]
    assert lines[1]["options"] == "{compute_cost: {scale: 20.0}}"
    report = (out / "report.md").read_text()
    assert "| ham | `{compute_cost: {scale: 20.0}}` | 4.00 | yes |" in report
    assert "Hours of training: 0.70, 0.30 of them the search." in report


def test_an_experiment_waits_for_its_search(comparison, stand_in, out):
    stand_in.tell({"ham/search_2": {"status": 1}})
    with pytest.raises(ValueError, match="1 runs failed: ham, point 2"):
        compare.main([comparison(**with_search(*POINTS))])
    assert stand_in.names() == ["ham/search_1", "ham/search_2", "ham/search_3", "am/1"]
    report = (out / "report.md").read_text()
    assert "Missing: ham, point 2; ham, seed 1." in report
    assert "| ham | `{compute_cost: {scale: 20.0}}` | missing |  |" in report


def test_finalists_are_the_best_of_the_searches(comparison, stand_in, out, capsys):
    """Those that were not searched go on too, but after a search alone."""
    experiments = with_search(*POINTS[:2])["experiments"]
    experiments |= dict.fromkeys(("two", "three"), experiments["ham"])
    stand_in.tell({"two/search_2": {"dev": 2.0, "wrong": 9}, "ham/search_1": {"dev": 3.0}})
    search_options = {"verification_file": None}  # which reads no test list
    path = comparison(experiments=experiments, finalists=1, search_options=search_options)
    compare.main([path, "--finalists=0"])
    assert len(stand_in.names()) == 6 and not [n for n in stand_in.names() if "/1" in n]
    assert "Missing" not in (out / "report.md").read_text()
    chosen = [line["point"] for line in rows(out / "search.csv") if line["chosen"]]
    assert chosen == ["1", "2", "1"]
    compare.main([path])
    assert stand_in.names()[6:] == ["am/1", "two/1"]
    assert "Missing" not in (out / "report.md").read_text()
    compare.main([path, "--finalists=2"])
    assert stand_in.names()[8:] == ["ham/1"]
    with pytest.raises(ValueError, match="finalists=0.5: must be a whole number"):
        compare.main([path, "--finalists=0.5"])


def test_a_single_point_is_no_search(comparison, stand_in):
    compare.main([comparison(**with_search(POINTS[1]))])
    assert stand_in.names() == ["am/1", "ham/1"]
    assert stand_in.calls()[1]["compute_cost"] == "{scale: 20.0}"


def test_other_settings_are_told_key_by_key(tmp_path, monkeypatch):
    """Each once: not what follows from another key, nor what a tag's group has besides,
    nor that the folder has moved."""
    old = {
        "epochs": "24",
        "seed": "1",
        "model": "!new:a.B {channels: [8, 8], size: 192, name: x}",
        "counter": "!new:a.Counter {limit: 24}",
        "modules": "{net: !new:a.B {channels: [8, 8], size: 192, name: x}}",
        "loss": "!new:a.AM {margin: 0.2}",
        "steps": "[!new:a.C {p: 0.5}]",
        "gone": "{one: 1}",
        "same": "{a: 1, b: x, c: null, d: ['[:', 2]}",
        "text": "1",
        "output_folder": "/one/ham/1",
        "log": "{file: /one/ham/1/log.txt}",
    }
    new = {
        "epochs": "30",
        "seed": "24",
        "model": "!new:a.B {channels: [16, 8], size: 192, name: x}",
        "counter": "!new:a.Counter {limit: 30}",
        "modules": "{net: !new:a.B {size: 192, channels: [16, 8], name: x}}",
        "loss": "!new:a.HAM {margin: 0.2, scale: 30.0}",
        "steps": "[!new:a.C {p: 1.0}]",
        "same": "{b: 'x', a: 1, c: , d: [\"[:\", 2]}",
        "text": "'1'",
        "output_folder": "/other/ham/1",
        "log": "{file: /other/ham/1/log.txt}",
        "more": "",
    }
    (tmp_path / "starts.json").write_text(json.dumps({"settings": old}))
    monkeypatch.setattr(Run, "settings", lambda _: new)
    assert Run("ham", "seed 1", tmp_path, tmp_path / "train.py", ()).changed() == [
        "epochs was 24, is 30",
        "gone was {one: 1}, is absent",
        "loss was !new:a.AM, is !new:a.HAM",
        "loss[scale] was absent, is 30.0",
        "model[channels] was [8, 8], is [16, 8]",
        "more was absent, is ",
        "seed was 1, is 24",
        "steps[0][p] was 0.5, is 1.0",
        "text was 1, is '1'",
    ]


def test_another_choice_is_refused_where_seeds_were_trained(comparison, stand_in):
    stand_in.tell({"ham/search_1": {"dev": 3.0}})
    compare.main([comparison(**with_search(*POINTS[:2]))])
    stand_in.tell({"ham/search_3": {"dev": 2.0}})
    with pytest.raises(ValueError, match=r"out/ham/1 holds a run with other settings"):
        compare.main([comparison(**with_search(*POINTS))])


# ---------------------------------------------------------------- the arithmetic


@pytest.fixture
def two_seeds(comparison, stand_in, out):
    """AM with an EER of 10 and 20 %, HAM with 5 and 12.5 %; 6 minutes each."""
    wrong = {"am/1": 4, "am/2": 8, "ham/1": 2, "ham/2": 5}
    stand_in.tell({name: {"wrong": k} for name, k in wrong.items()})
    compare.main([comparison(seeds=[1, 2])])
    return out


def test_table_by_hand(two_seeds):
    am, ham = rows(two_seeds / "results.csv")
    assert (am["experiment"], am["list"], am["seeds"]) == ("am", "test", "2")
    assert float(am["EER %"]) == 15.0 and float(ham["EER %"]) == 8.75
    assert float(am["EER % deviation"]) == pytest.approx(50**0.5, rel=1e-5)
    assert float(ham["EER % deviation"]) == pytest.approx(28.125**0.5, rel=1e-5)
    assert (am["baseline"], am["change %"], ham["baseline"]) == ("", "", "am")
    assert float(ham["change %"]) == pytest.approx(100 * (8.75 / 15 - 1), rel=1e-5)
    # Every impostor above all targets costs 99 of 40; rejecting all costs 1.
    assert {float(row["minDCF(p=0.01)"]) for row in (am, ham)} == {1.0}
    assert float(am["hours"]) == 0.2
    lines = rows(two_seeds / "runs.csv")
    by_seed = [(line["experiment"], line["seed"], line["EER %"]) for line in lines]
    assert by_seed == [
        ("am", "1", "10"),
        ("am", "2", "20"),
        ("ham", "1", "5"),
        ("ham", "2", "12.5"),
    ]
    report = (two_seeds / "report.md").read_text()
    assert "| ham | test | 2 | 8.75 ± 5.30 | 1.000 ± 0.000 |" in report
    assert "| am | -41.7 |" in report
    curves = [tuple(line.values()) for line in rows(two_seeds / "curves.csv")]
    assert curves[:2] == [("am", "1", "1", "8", "12.5"), ("am", "1", "2", "0.4", "6.25")]
    assert len(curves) == 8


def test_interval_is_of_the_paired_means(two_seeds):
    """Each run by itself, with the same draws; means over seeds; quantiles."""
    enrol, test = zip(
        *((e.split("/")[0], t.split("/")[0]) for e, t, _ in stand_in_train.TRIALS)
    )
    am4, am8, ham2, ham5 = (
        bootstrap_eer(stand_in_train.scores_with(k), stand_in_train.LABELS, enrol, test)
        for k in (4, 8, 2, 5)
    )
    changes = (ham2 + ham5) / (am4 + am8) - 1
    low, high = 100 * np.quantile(changes, [0.025, 0.975])
    row = rows(two_seeds / "results.csv")[1]
    assert float(row["change low %"]) == pytest.approx(low, rel=1e-5)
    assert float(row["change high %"]) == pytest.approx(high, rel=1e-5)
    assert low < float(row["change %"]) < high
    assert f"{low:+.1f} to {high:+.1f}" in (two_seeds / "report.md").read_text()


def test_an_experiment_may_have_seeds_of_its_own(comparison, stand_in, out):
    experiments = {**EXPERIMENTS, "ham": {**EXPERIMENTS["ham"], "seeds": [2, 1, 3]}}
    compare.main([comparison(seeds=[1], experiments=experiments)])
    assert stand_in.names() == ["am/1", "ham/2", "ham/1", "ham/3"]
    am, ham = rows(out / "results.csv")
    assert (am["seeds"], ham["seeds"]) == ("1", "3")
    assert "Missing" not in (out / "report.md").read_text()


def test_change_takes_the_seeds_that_both_have(comparison, stand_in, out):
    stand_in.tell({"am/2": {"status": 1}, "ham/1": {"wrong": 2}, "ham/2": {"wrong": 20}})
    with pytest.raises(ValueError, match="am, seed 2"):
        compare.main([comparison(seeds=[1, 2])])
    am, ham = rows(out / "results.csv")
    assert float(ham["change %"]) == -50.0
    assert float(ham["EER %"]) == 27.5
    assert am["seeds"] == "1" and am["EER % deviation"] == ""


def test_another_list_of_one_name_is_refused(comparison, stand_in, out):
    compare.main([comparison()])
    path = out / "ham" / "1" / "scores_test.txt"
    path.write_text(path.read_text().replace("s0/a/0.wav", "s0/a/9.wav"))
    with pytest.raises(ValueError, match="out/ham/1: scored another list test"):
        compare.main([comparison()])


def test_results_that_cannot_be_read_end_no_other_run(comparison, stand_in, out):
    compare.main([comparison()])
    scores = out / "ham" / "1" / "scores_test.txt"
    scores.write_text(scores.read_text().replace(" ", " and ", 1))
    run = Run("ham", "seed 1", out / "ham" / "1", compare.TRAIN, ())
    told = study.outcome(run, 0)
    assert told.startswith(f"finished, and what it left cannot be read: {scores}:1: must")


def test_lists_that_not_all_have_scored(comparison, stand_in, out):
    compare.main([comparison()])
    scores = out / "ham" / "1" / "scores_test.txt"
    scores.with_name("scores_hard.txt").write_text(scores.read_text())
    compare.main([comparison(), "--processes=0"])
    lines = [(line["experiment"], line["list"]) for line in rows(out / "results.csv")]
    assert sorted(lines) == [("am", "test"), ("ham", "hard"), ("ham", "test")]
    assert "![DET of hard](det_hard.png)" in (out / "report.md").read_text()


def test_no_processes_only_the_table(comparison, stand_in, out, capsys):
    compare.main([comparison(), "--processes=0"])
    assert "Missing: am, seed 1; ham, seed 1." in capsys.readouterr().out
    assert stand_in.calls() == []
    compare.main([comparison()])
    compare.main([comparison(options={"batch_size": 5}), "--processes=0"])
    screen = capsys.readouterr().out
    assert "With other settings:\n\n- am, seed 1 (batch_size was 4, is 5)\n- ham" in screen
    assert "| ham | test | 1 | 10.00 |" in screen


def test_intervals_of_names_that_do_not_begin_with_the_speaker(two_seeds, comparison):
    """As in a Kaldi directory: the runs tell the speakers, and nothing changes."""
    expected = rows(two_seeds / "results.csv")
    for path in two_seeds.glob("*/*/scores_test.txt"):
        names = sorted({name for *pair, _ in stand_in_train.TRIALS for name in pair})
        told = {name.replace("/", "-"): name.partition("/")[0] for name in names}
        path.write_text(path.read_text().replace("/", "-"))
        metrics = json.loads(path.with_name("metrics.json").read_text())
        metrics["told_speakers"] = {"test": told}
        path.with_name("metrics.json").write_text(json.dumps(metrics))
    compare.main([comparison(seeds=[1, 2]), "--processes=0"])
    assert rows(two_seeds / "results.csv") == expected
    assert expected[1]["change low %"]
    for path in two_seeds.glob("*/*/metrics.json"):  # as a run of an earlier version
        path.write_text(path.read_text().replace("told_speakers", "other"))
    compare.main([comparison(seeds=[1, 2]), "--processes=0"])
    found = rows(two_seeds / "results.csv")
    ends = {"change low %": "", "change high %": ""}
    assert found == [expected[0], {**expected[1], **ends}]


def test_runs_of_another_comparison_serve_both(comparison, stand_in, out, tmp_path):
    compare.main([comparison()])
    again = {**EXPERIMENTS["am"], "folder": str(out / "am"), "baseline": "ham"}
    second = {"output_folder": str(tmp_path / "second")}
    changes = {"experiments": {"ham": EXPERIMENTS["am"], "cosine": again}, **second}
    compare.main([comparison(**changes)])
    assert stand_in.names() == ["am/1", "ham/1", "ham/1"]
    first, (_, shared) = (
        rows(folder / "results.csv") for folder in (out, tmp_path / "second")
    )
    assert shared["experiment"] == "cosine" and shared["EER %"] == first[0]["EER %"]

    # They are as safe from other settings as an own folder's.
    again["options"] = {
        **AM,
        "compute_cost": "!new:hamsb.AMSoftmax {margin: 0.2, scale: 7.0}",
    }
    with pytest.raises(ValueError, match="out/am/1 holds a run with other settings"):
        compare.main([comparison(**changes)])


def test_another_style_or_order_of_keys_is_no_other_setting(comparison, stand_in):
    compare.main([comparison()])
    turned = {**AM, "compute_cost": "!new:hamsb.AMSoftmax\n  scale: 30.0\n  margin: 0.2\n"}
    experiments = {**EXPERIMENTS, "am": {"hparams": SMALL, "options": turned}}
    compare.main([comparison(experiments=experiments)])
    assert stand_in.names() == ["am/1", "ham/1"]


def test_losses_are_named_and_changed_by_options(comparison, stand_in, out, tmp_path):
    """Beside the study first; what the options do not change stays."""
    file = tmp_path / "own.yaml"
    file.write_text(
        "am:\n    classifier: !new:hamsb.CosineClassifier {input_size: !ref <lin_neurons>, "
        "out_neurons: !ref <out_n_neurons>}\n"
        "    compute_cost: !new:hamsb.AMSoftmax {margin: 0.2, scale: 30.0}\n"
    )
    experiments = {
        "am": {"hparams": SMALL, "loss": "am", "options": {"compute_cost": {"scale": 9.0}}},
        "other": {"hparams": SMALL},
    }
    given = {"experiments": experiments, "loss_file": "own.yaml"}
    compare.main([comparison(**given)])
    am, other = stand_in.calls()
    assert am["compute_cost"] == "!new:hamsb.AMSoftmax {margin: 0.2, scale: 9.0}"
    assert "CosineClassifier" in am["classifier"] and "<lin_neurons>" in am["classifier"]
    assert "compute_cost" not in other
    report = (out / "report.md").read_text()
    assert "compute_cost: !new:hamsb.AMSoftmax {margin: 0.2, scale: 9.0}" in report
    experiments["am"]["loss"] = "aam"
    with pytest.raises(ValueError, match="loss=aam: must be one of the loss_file's, am"):
        compare.main([comparison(**given)])


def test_yamls_are_looked_for_beside_the_study_first(comparison, stand_in, tmp_path):
    text = (REPOSITORY / "hparams" / SMALL).read_text()
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / SMALL).write_text(text + "beside: 1\n")
    options = {"beside": 2}
    experiments = {"ham": {"hparams": f"own/{SMALL}", "options": options}}
    compare.main([comparison(experiments=experiments)])
    with pytest.raises(ValueError, match="^beside: no such key in .*hparams/small"):
        compare.main(
            [comparison(experiments={"h": {"hparams": SMALL, "options": options}})]
        )


def test_only_some_of_the_experiments(comparison, stand_in, out):
    """Of which one whose baseline is left out is compared with none; and the others later,
    where these are not repeated."""
    path = comparison()
    compare.main([path, "--only=[ham]"])
    assert {name.split("/")[0] for name in stand_in.names()} == {"ham"}
    report = (out / "report.md").read_text()
    assert "| am |" not in report and "Missing" not in report
    assert {line["baseline"] for line in rows(out / "results.csv")} == {""}
    trained = len(stand_in.names())
    compare.main([path])
    assert {name.split("/")[0] for name in stand_in.names()[trained:]} == {"am"}
    assert "am" in {line["baseline"] for line in rows(out / "results.csv")}


# --------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seeds": [1, 1]}, r"seeds=\[1, 1\]"),
        ({"seeds": []}, r"seeds=\[\]"),
        ({"only": ["h"]}, r"only=\['h'\]: must be some of the experiments, which are am"),
        ({"only": []}, r"only=\[\]: must be some of the experiments"),
        ({"only": [["am"]]}, r"only=\[\['am'\]\]: must be some of the experiments"),
        ({"only": "am"}, "only=am: must be a list"),
        (
            {"only": ["am"], "experiments": {"am": {"hparams": SMALL, "baseline": ["x"]}}},
            r"baseline=\['x'\]: one of the other experiments",
        ),
        ({"experiments": {"am": {"hparams": SMALL, "seeds": 3}}}, r"am.: seeds=3: a list"),
        ({"seeds": [True]}, r"seeds=\[True\]: must be a list of numbers"),
        ({"seeds": "1"}, "seeds=1: must be a list of numbers, each experiment is"),
        ({"processes": -1}, "processes=-1"),
        ({"experiments": ["am"]}, r"experiments=\['am'\]: must be a mapping, name: hpar"),
        ({"experiments": {"am": None}}, r"experiments\[am\]=None: must be a mapping"),
        ({"experiments": {"am": SMALL}}, r"\[am\]=small.yaml: must be a mapping"),
        ({"experiments": {1: {"hparams": SMALL}}}, "the name is a folder's, a text of"),
        (
            {"experiments": {"am": {"hparams": SMALL, "options": None}}},
            r"\[am\]: options=None: must be a mapping",
        ),
        (
            {"experiments": {"am": {"hparams": SMALL, "search": {"seed": 1}}}},
            "search={'seed': 1}: must be a list, of options to choose from",
        ),
        (with_search(*POINTS, None), r"\[ham\]: options=None: must be a mapping"),
        (
            {"experiments": {"am": {"hparams": SMALL, "baseline": ["x"]}}},
            r"baseline=\['x'\]: one of the other experiments",
        ),
        (
            {"experiments": {"am": {"hparams": SMALL, "after": [["x"]]}}},
            r"after=\[\['x'\]\]: a list of other experiments",
        ),
        (
            {
                "finalists": 1,
                "experiments": {
                    "am": {"hparams": SMALL, "search": list(POINTS)},
                    "ham": {"hparams": SMALL, "search": list(POINTS), "after": ["am"]},
                },
            },
            r"experiments\[ham\]: search and after: with finalists=1 the seeds it waits",
        ),
        ({"options": {"seed": 3}}, "seed is no option"),
        (
            {"options": {"bach_size": 3}},
            "bach_size: no such key .* did you mean batch_size",
        ),
        ({"experiments": {"am": {"hparams": SMALL, "baseline": "ham"}}}, "baseline=ham"),
        ({"experiments": {"am": {"hparams": SMALL, "baseline": "am"}}}, "baseline=am"),
        (
            {"experiments": {"am": {"hparams": SMALL, "base": "h"}}},
            "am. has hparams, base; it",
        ),
        ({"experiments": {"am": {"hparams": SMALL, "after": ["h"]}}}, r"after=\['h'\]: a"),
        (
            {"experiments": {"am": {"hparams": SMALL, "loss": "am"}}},
            r"\[am\]: loss=am: must be one of the loss_file's, of which there is none",
        ),
        ({"experiments": {"am": {"hparams": SMALL, "after": ["am"]}}}, "am wait for one"),
        (
            {
                "experiments": {
                    "h": {"hparams": SMALL},
                    "am": {"hparams": SMALL, "after": ["h", "ham"]},
                    "ham": {"hparams": SMALL, "after": ["am"]},
                }
            },
            "am, ham wait for one another; see their after",
        ),
        ({"experiments": {"am": {"options": {}}}}, "am. has options; it needs hparams"),
        ({"experiments": {"a/m": {"hparams": SMALL}}}, "the name is a folder's"),
        (
            {"experiments": {"am": {"hparams": SMALL, "options": {"output_folder": "x"}}}},
            "output_folder is no option",
        ),
        (
            {"experiments": {"am": {"hparams": SMALL, "script": "trian.py"}}},
            "script=trian.py: not",
        ),
        (with_search(*POINTS, {"compute_costs": {"scale": 1.0}}), "compute_costs: no such"),
    ],
)
def test_bad_comparisons_train_nothing(comparison, stand_in, changes, message):
    with pytest.raises(ValueError, match=message):
        compare.main([comparison(**changes)])
    assert stand_in.calls() == []


def test_files_that_are_not_there_or_no_comparison(comparison, stand_in):
    experiments = {"am": {"hparams": "smal.yaml"}}
    with pytest.raises(FileNotFoundError, match="mean .*hparams/small.yaml"):
        compare.main([comparison(experiments=experiments)])
    with pytest.raises(ValueError, match="this is a yaml of verify.py, not of compare.py"):
        compare.main(
            [
                str(REPOSITORY / "hparams" / "verify.yaml"),
                "--model=x",
                "--test_data_folder=x",
                "--verification_file=x",
            ]
        )
