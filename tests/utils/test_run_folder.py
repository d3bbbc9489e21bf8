"""A folder that knows what it began as."""

import pytest

from hamsb.utils.run_folder import RUN, check_script, read_run, write_run


def test_note_and_read(tmp_path):
    run = {"script": "train.py", "data": {"train.csv": "0f"}}
    assert read_run(tmp_path / "new") is None
    write_run(tmp_path / "new", run)
    assert read_run(tmp_path / "new") == run
    write_run(tmp_path / "new", {**run, "data": {}})
    assert read_run(tmp_path / "new")["data"] == {}
    assert [path.name for path in (tmp_path / "new").iterdir()] == [RUN]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"script": 3}', "\x00"])
def test_other_contents(tmp_path, text):
    (tmp_path / RUN).write_text(text)
    with pytest.raises(ValueError, match=r"run\.json: does not say what the run"):
        read_run(tmp_path)


def test_another_script(tmp_path):
    check_script(tmp_path / "missing", "verify.py")
    check_script(tmp_path, "verify.py")
    write_run(tmp_path, {"script": "train.py"})
    check_script(tmp_path, "train.py")
    with pytest.raises(ValueError, match="a run of train.py, whose results verify.py"):
        check_script(tmp_path, "verify.py")
