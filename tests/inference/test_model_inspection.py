"""A stranger's folder: looked at, and nothing of it runs."""

import io
import os
import pickle
import sys
import zipfile

import pytest
import torch
from speechbrain.inference.classifiers import EncoderClassifier

from hamsb.inference import inspect_model
from hamsb.inference.inspection import named_in_yaml
from hamsb.verification.decision import write_decision
from hamsb.verification.training_data import write_training
from runs import EXPERIMENT, export_untrained


@pytest.fixture
def folder(tmp_path):
    export_untrained(tmp_path / "export", EXPERIMENT)
    return tmp_path / "export"


def test_an_export_has_nothing_unusual(folder):
    training = {"speakers": ["a"], "development_speakers": ["b", "c"], "data": {}}
    training["loss"] = "HAMSoftmax(margin=0.2, scale=30.0)"
    trials = {"list": "veri_dev", "target_trials": 30, "impostor_trials": 90}
    write_decision(folder, {"thresholds": {"eer": 0.25}, "eer": 0.0525, **trials})
    card = (
        "---\nlicense: apache-2.0\nmodel-index:\n- name: x\n  results:\n"
        "  - dataset: {name: veri_test, type: x}\n"
        "    metrics: [{type: eer, name: EER, value: 4.5}]\n---\n# Card\n"
    )
    (folder / "README.md").write_text(card)
    write_training(folder, training)
    found = inspect_model(str(folder))
    assert found.unusual == () and found.warnings == ()
    assert found.files == {p.name: p.stat().st_size for p in folder.iterdir()}
    assert (found.sample_rate, found.embedding_size) == (16000, 16)
    assert found.threshold == 0.25 and found.training == training
    assert "hamsb.ClippedUnitBall" in {named.name for named in found.names}
    assert str(found).endswith("nothing unusual is named")
    assert found.card["license"] == "apache-2.0"
    for line in (
        "embedding size:   16",
        "loss:             HAMSoftmax(margin=0.2, scale=30.0)",
        "trained on:       1 speakers; 2 held out",
        "development EER:  5.25 %, veri_dev: 30 target and 90 impostor trials",
        "EER:              4.5, veri_test",
        "thresholds:       eer 0.2500",
    ):
        assert line in str(found).splitlines(), line
    for text in ("---\na: [\n---\n", "---\n- x\n---\n", "# a\n---\nx: 1\n---\n", "---\n"
                 "model-index: [1]\n---\n"):  # fmt: skip
        (folder / "README.md").write_text(text)
        assert "EER:  " not in str(inspect_model(folder)).replace("development EER", "")
    hidden = {**training, "loss": "HAM\x1b[8m\nlook at: nothing"}
    write_training(folder, hidden)
    text = str(inspect_model(folder))
    assert "loss:             HAM\\x1b[8m\\nlook at: nothing\n" in text
    (folder / "decision.json").unlink()
    (folder / "training.json").unlink()
    assert "trained on:       2 speakers\n" in str(inspect_model(folder))  # by its labels
    (folder / "hyperparams.yaml").unlink()
    assert inspect_model(folder).threshold is None
    assert inspect_model(folder).embedding_size == 16


def marked(path):
    """An object that makes a file where it is unpickled."""

    class Evil:
        def __reduce__(self):
            return (open, (str(path), "w"))

    return Evil()


def test_nothing_of_a_malicious_yaml_runs(tmp_path):
    folder, mark = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    (tmp_path / "stranger.py").write_text(f"open({str(mark)!r}, 'w')\nclass Net: pass\n")
    lines = f"""\
a: !apply:os.system ["touch {mark}"]
b: !!python/object/apply:os.system ["touch {mark}"]
c: !new:subprocess.Popen [[touch, {mark}]]
d: !new:stranger.Net
e: !name:builtins.eval
f: !module:stranger
g: !include:{tmp_path}/other.yaml
h: !applyref:os.system ["touch {mark}"]
? !apply:os.mkdir [x]
: 1
i: !%61pply:os.remove [y]
j: !new:speechbrain.lobes.features.torch.os.Popen
k: !new:torch.nn./tmp/evil.Net
l: !apply:torch.nn.Linear [3, 4]
m: !new:torch.nn.Linear [3, 4]
n: &n [!name:shutil.rmtree , *n]
"""
    (folder / "hyperparams.yaml").write_text(lines)
    sys_path = list(sys.path)
    try:
        sys.path.insert(0, str(tmp_path))
        found = inspect_model(folder)
    finally:
        sys.path[:] = sys_path
    assert "stranger" not in sys.modules and not mark.exists()
    assert [(each.kind, each.name) for each in found.unusual] == [
        ("apply", "os.system"),
        ("python", "object/apply:os.system"),
        ("new", "subprocess.Popen"),
        ("new", "stranger.Net"),
        ("name", "builtins.eval"),
        ("module", "stranger"),
        ("include", f"{tmp_path}/other.yaml"),
        ("applyref", "os.system"),
        ("apply", "os.mkdir"),
        ("apply", "os.remove"),
        ("new", "speechbrain.lobes.features.torch.os.Popen"),
        ("new", "torch.nn./tmp/evil.Net"),
        ("apply", "torch.nn.Linear"),
        ("name", "shutil.rmtree"),
    ]
    assert [each.line for each in found.unusual][:3] == [1, 2, 3]
    assert "look at: hyperparams.yaml:1: apply os.system" in str(found)


def test_yamls_that_cannot_be_read_are_warned_of(tmp_path):
    laughs = "a0: &a0 [x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)
    )
    for number, text in enumerate(["a: [", "[" * 5000, "\t", "- !new:x\n--- \n- 1\n"]):
        (tmp_path / "hyperparams.yaml").write_text(text)
        (warning,) = inspect_model(tmp_path).warnings
        assert f"{tmp_path}/hyperparams.yaml: not yaml" in warning, number
    (tmp_path / "hyperparams.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not a text in UTF-8" in inspect_model(tmp_path).warnings[0]
    (tmp_path / "hyperparams.yaml").write_text(laughs)
    assert inspect_model(tmp_path).warnings == ()
    (tmp_path / "decision.json").write_text("[1]")
    (tmp_path / "training.json").write_text("{")
    warnings = " ".join(inspect_model(tmp_path).warnings)
    assert "decision.json: damaged (no mapping)" in warnings
    assert "training.json: damaged" in warnings


def test_weights_that_would_run_something_are_named_and_refused(folder, tmp_path):
    """By the look from outside, and by what loads them."""
    mark = tmp_path / "ran"
    path = folder / "embedding_model.ckpt"
    plain = path.read_bytes()
    torch.save({"weight": marked(mark)}, path)
    in_archive = path.read_bytes()
    torch.save({"weight": marked(mark)}, path, _use_new_zipfile_serialization=False)
    older = path.read_bytes()
    for content in (in_archive, older, pickle.dumps(marked(mark), protocol=4)):
        path.write_bytes(content)
        (found,) = inspect_model(folder).unusual
        assert found.file == "embedding_model.ckpt" and found.kind == "pickle"
        assert "open" in found.name
        with pytest.raises(Exception, match="weights_only|Weights only"):
            EncoderClassifier.from_hparams(source=str(folder), run_opts={"device": "cpu"})
    assert not mark.exists()
    path.write_bytes(plain)
    assert inspect_model(folder).unusual == ()
    path.write_bytes(plain[: len(plain) // 2])
    inspect_model(folder)  # no archive any more: loading it tells
    path.write_bytes(in_archive[:-100] + bytes(100))
    inspect_model(folder)
    path.write_bytes(b"\x80\x04\x95\xff")
    assert "a damaged pickle" in inspect_model(folder).warnings[0]
    pickle.loads(pickle.dumps(marked(mark)))
    assert mark.exists()  # it would have run


def test_archives_links_and_code_are_warned_of(folder, tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../escaped", "x")
    (folder / "features.ckpt").write_bytes(archive.getvalue())
    (folder / "custom.py").write_text("open('ran', 'w')\n")
    secret = tmp_path / "secret.yaml"
    secret.write_text("a: !new:secret.Thing\n")
    (folder / "link.yaml").symlink_to(secret)
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe.ckpt")
    (folder / "below").mkdir()
    (folder / "below" / "own.yaml").write_text("a: !new:own.Thing\n")
    found = inspect_model(folder)
    said = dict(warning.split(": ", 1) for warning in found.warnings)
    assert "../../escaped" in said.pop(f"{folder}/features.ckpt")
    assert said == {
        "custom.py": "code",
        "link.yaml": f"a link to {secret}",
        "loop": f"a link to {folder}",
        "pipe.ckpt": "neither a file nor a folder",
    }
    assert [(e.file, e.name) for e in found.unusual] == [("below/own.yaml", "own.Thing")]
    assert not list(tmp_path.rglob("escaped"))
    with pytest.raises(FileNotFoundError, match="folder=nowhere: no such folder"):
        inspect_model("nowhere")


def test_names_of_a_yaml_are_usual_where_models_have_them():
    usual = [
        "hamsb.HAMSoftmax",
        "hamsb.nnet.balls.PoincareBall",
        "speechbrain.lobes.models.ResNet.ResNet",
        "torch.nn.Identity",
        "torch.nn.modules.linear.Linear",
    ]
    others = [
        "hamsb.training.run.Path",
        "hamsb.nnet.balls.torch.hub.Load",
        "speechbrain.utils.superpowers.run_shell",
        "torch.hub.load",
        "torch.nn.functional.relu",
        "numpy.memmap",
        "Net",
    ]
    text = "\n".join(f"a{n}: !new:{name}" for n, name in enumerate([*usual, *others]))
    found = {named.name: named.usual for named in named_in_yaml(text)}
    assert found == dict.fromkeys(usual, True) | dict.fromkeys(others, False)
