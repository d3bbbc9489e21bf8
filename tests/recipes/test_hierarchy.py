"""hierarchy.py on tones: lists and metadata to measures and plots, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure

import hierarchy
from hamsb.utils.run_folder import write_run
from runs import EXPERIMENT, call, export_untrained, write_list, write_speakers

PLOTS = ["disk.png", "levels.png", "tree.png"]
FILES = sorted([".lock", *PLOTS, "metrics.json", "report.md", "run.json"])
# The format of VoxCeleb's own file.
META = "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n" + "".join(
    f"id{k:02d}\tName_{k}\t{'mf'[k % 2]}\t{country}\tdev\n"
    for k, country in enumerate(["Ireland", "India", "USA", "India", "USA"])
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """test/ of 6 speakers, whose last is not in vox1_meta.csv, a list, and models: a, b
    and, without a ball, plain."""
    root = tmp_path_factory.mktemp("hierarchy")
    write_speakers(root / "test", 6, 0)
    write_list(root / "test", root / "O.txt", [f"id{k:02d}" for k in range(6)])
    (root / "vox1_meta.csv").write_text(META)
    export_untrained(root / "a" / "export", EXPERIMENT)
    shutil.copytree(root / "a", root / "b")
    shutil.copytree(root / "a", root / "plain")
    plain = root / "plain" / "export"
    shutil.copy(plain / "embedding.yaml", plain / "hyperparams.yaml")
    return root


@pytest.fixture
def run(request, corpus, repository, tmp_path, monkeypatch):
    """A function that measures and returns the output folder; plots are empty files, and
    the disk takes no time, but in the test of the whole path."""
    monkeypatch.chdir(repository)
    if request.node.name != "test_whole_path":
        empty = lambda figure, path, **options: Path(path).touch()  # noqa: E731
        monkeypatch.setattr(Figure, "savefig", empty)
        points = np.linspace([-0.5, 0], [0.5, 0], 6)
        monkeypatch.setattr(hierarchy, "embed_in_disk", lambda distances: (points, 0.1))

    def run(**changes):
        values = {
            "model": corpus / "a" / "export",
            "test_data_folder": corpus / "test",
            "verification_file": corpus / "O.txt",
            "metadata": corpus / "vox1_meta.csv",
            "levels": "[gender, nationality, speaker]",
            "output_folder": tmp_path / "out",
            "bootstrap_draws": 20,
            "nearest": 2,
            "device": "cpu",
            **changes,
        }
        return call(hierarchy.main, "hparams/hierarchy.yaml", values)

    return run


def numbers(folder):
    return json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_whole_path(run, capsys):
    out = run()
    assert sorted(path.name for path in out.iterdir()) == FILES
    for name in PLOTS:
        assert (out / name).read_bytes()[1:4] == b"PNG"
    found, report = numbers(out), (out / "report.md").read_text()
    assert [
        (line["name"], line["groups"], line["missing"]) for line in found["levels"]
    ] == [
        ("gender", 2, 1),
        ("nationality", 3, 1),
        ("speaker", 5, 1),
    ]
    names = {(line["name"], line["level"]): line for line in found["measures"]}
    for level in range(3):
        for measure in ("purity", "retrieval", "recall"):
            (system,) = names[measure, level]["systems"].values()
            assert (system["value"] is None) == (level == 2)
    for text in (
        "| gender | 2 | 1 |",
        "| retrieval, nationality | ",
        "Utterances: 24 of 6 speakers",
        "each speaker a point",
        "0 of 6 in O",
        "20 draws",
        "(tree.png)",
        "(disk.png)",
        "(levels.png)",
    ):
        assert text in report
    assert "| relative delta | 0." in capsys.readouterr().out
    assert "difference" not in report.lower()


def test_seeds_and_systems_stand_in_one_table(run, corpus, tmp_path, request):
    older = tmp_path / "out" / "tree.png"
    older.parent.mkdir()
    older.touch()
    a, b, plain = (corpus / name / "export" for name in ("a", "b", "plain"))
    out = run(
        model=f"{{ham: [{a}, {b}], none/2: {plain}}}",
        levels="[gender, speaker, session]",
        ball="model",
        cache_folder=tmp_path / "cache",
        utterances=3,
    )
    plots = [
        f"{kind}_{name}.png" for kind in ("disk", "tree") for name in ("ham", "none_2")
    ]
    found = {path.name for path in out.iterdir()}
    assert found == {*FILES, *plots} - {"tree.png", "disk.png"}
    found, report = numbers(out), (out / "report.md").read_text()
    assert found["utterances"] == 18
    assert found["models"] == {"ham": [str(a), str(b)], "none/2": [str(plain)]}
    assert found["distances"]["none/2"] == "angle" and "Ball" in found["distances"]["ham"]
    (line,) = [line for line in found["measures"] if line["name"] == "agreement"]
    ham, none = line["systems"].values()
    assert ham["std"] == 0 and len({*ham["values"]}) == 1  # copies of one model
    assert none["difference"] == pytest.approx(none["value"] - ham["value"])
    assert "Difference from ham" in report and "| measure | ham | none/2 |" in report
    # Without a ball the same draws of the same models differ by nothing. With the reports
    # of their trainings beside them their error rates are in the table and drawn.
    result = {"list": "O", "system": "trained", "calibrated": False}
    for model, eer in ((a, 0.05), (b, 0.06)):
        made = model.parent / "metrics.json"
        made.write_text(json.dumps({"results": [{**result, "eer": eer}]}))
        request.addfinalizer(made.unlink)
    out = run(model=f"[{a}, {b}]", levels="[gender, speaker]")
    assert "| EER %, O, of the training | 5.00 | 6.00 |" in (out / "report.md").read_text()
    assert "(rates.png)" in (out / "report.md").read_text()
    assert (out / "rates.png").exists() and not (out / "tree_ham.png").exists()
    same = numbers(out)
    run(model=a, levels="[gender, speaker]")
    assert not (out / "rates.png").exists()
    for line in same["measures"]:
        _, other = line["systems"].values()
        assert other.get("difference") in (0, None)
        assert other.get("difference_low") in (0, None)


def test_paths_alone_tell_speakers_and_sessions(run):
    out = run(metadata="null", levels="[speaker, session, utterance]", bootstrap_draws=0)
    assert not (out / "tree.png").exists() and (out / "levels.png").exists()
    found = numbers(out)
    assert [line["groups"] for line in found["levels"]] == [6, 12, 24]
    assert all(
        each["low"] is None
        for line in found["measures"]
        for each in line["systems"].values()
        if line["name"] not in ("delta", "gaussian", "same_radii", "place")
    )


def test_wrong_options_are_refused_before_anything_is_embedded(
    run, corpus, tmp_path, monkeypatch
):
    monkeypatch.setattr(hierarchy, "embed_sets", lambda *_, **__: pytest.fail("embedded"))
    other = tmp_path / "other"
    write_run(other, {"script": "verify.py"})
    for changes, message in (
        ({"levels": "gender"}, "levels=gender: must be a list of names"),
        ({"levels": "[]"}, "levels=.*must be a list of names"),
        ({"levels": "[sex, speaker]"}, r"vox1_meta.csv:1: no column 'sex'; the columns"),
        ({"noise": "set"}, "must be a column of numbers, but .* has 'dev' for id00"),
        ({"points": 3}, "points=3: must be a whole number, at least 4"),
        ({"nearest": 0}, "nearest=0: must be"),
        ({"utterances": 0}, "utterances=0: must be"),
        ({"ball": "model", "model": corpus / "plain/export"}, "ball=model: needs a model"),
        ({"model": f"[{corpus / 'a/export'}, {corpus / 'a/export'}]"}, "each folder once"),
        ({"output_folder": other}, "holds a run of verify.py"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**changes)
    with pytest.raises(FileNotFoundError, match="no exported model here"):
        run(model=f"{{x: [{corpus / 'a/export'}, {corpus / 'c'}]}}")
    with pytest.raises(FileNotFoundError, match="no such metadata file"):
        run(metadata=corpus / "meta.csv")


def test_speakers_and_sessions_are_those_that_a_table_tells(run, corpus, tmp_path):
    """Also where utterances are called otherwise, in the list and in the metadata."""
    table, meta, names = ["ID,wav,spk_id,session"], ["utterance,mic"], {}
    for wav in sorted((corpus / "test" / "wav").glob("*/*/*.wav")):
        speaker, session, file = wav.parts[-3:]
        name = f"u-{speaker}-{session}-{file}"
        names[f"{speaker}/{session}/{file}"] = name
        table.append(f"{name},{wav},{speaker},{session}")
        meta.append(f"{name},{'ab'[len(names) % 2]}")
    (tmp_path / "data.csv").write_text("\n".join(table) + "\n")
    (tmp_path / "meta.csv").write_text("\n".join(meta) + "\n")
    text = (corpus / "O.txt").read_text()
    for path, name in names.items():
        text = text.replace(path, name)
    (tmp_path / "O.txt").write_text(text)
    common = {"levels": "[speaker, session]", "metadata": "null"}
    out = run(**common)
    expected = numbers(out)
    given = {
        "test_data_folder": tmp_path / "data.csv",
        "verification_file": tmp_path / "O.txt",
    }
    found = numbers(run(**common, **given))
    assert found["levels"] == expected["levels"]
    found = numbers(run(**given, levels="[speaker, mic]", metadata=tmp_path / "meta.csv"))
    assert [level["groups"] for level in found["levels"]][0] == 6
    assert found["levels"][1]["missing"] == 0
    given["metadata"] = tmp_path / "meta.csv"  # errors find the line of the list
    message = r"more than one mic, \['a', 'b'\], of id00/x/u-\S+ \(\S+O.txt:\d+\) and "
    with pytest.raises(ValueError, match=message):
        run(**given, levels="[mic, speaker]")
    with pytest.raises(ValueError, match=r"'[ab]' for id00/x/u-\S+ \(\S+/O.txt:1\)."):
        run(**given, levels="[speaker]", noise="mic")
    first, line = text.split()[1], "O.txt:1: "
    wav = next(wav for wav, name in names.items() if name == first)
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(16000), 16000)
    broken = "\n".join(table).replace(str(corpus / "test" / "wav" / wav), str(silent))
    (tmp_path / "data.csv").write_text(broken)
    with pytest.raises(ValueError, match=f"{line}{silent}: silent"):
        run(**given, levels="[speaker]")
