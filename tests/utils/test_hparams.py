"""Yamls and their trees: what an override changes and replaces, what is built, which key an
error names."""

import pytest
import yaml
from hyperpyyaml import load_hyperpyyaml

import hamsb
from hamsb.utils.command_line import parse_arguments
from hamsb.utils.hparams import load_hparams, plain_keys, read_resolved, resolve
from hamsb.utils.yaml_tree import merged, option_text, read_yaml

YAML = """
seed: 1
size: 8
channels: [1, 2]
bare: !new:hamsb.Softmax
cost: !new:hamsb.HAMSoftmax
    margin: 0.2
    # a comment inside
    scale: 30.0

# a comment between
head: !new:hamsb.HyperbolicClassifier
    input_size: !ref <size>
    out_neurons: 3
    ball: !new:hamsb.ClippedUnitBall
        curvature: 3.0
ball: null # a comment beside
group: {a: {b: 1, c: 2}}
modules: {head: !ref <head>}
"""


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch):
    """The tests run in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.yaml"
    path.write_text(YAML)
    return path


# ---------------------------------------------------------------------- overrides


def test_without_a_tag_or_with_the_same_the_keys_of_a_mapping_change():
    for tag in ("", "!new:hamsb.HAMSoftmax "):
        cost = load_hparams("x.yaml", f"cost: {tag}{{scale: 15.0}}")["cost"]
        assert repr(cost) == "HAMSoftmax(margin=0.2, scale=15)"
    for tag in ("", "!new:hamsb.ClippedUnitBall "):
        head = load_hparams("x.yaml", f"head: {{ball: {tag}{{curvature: 5.0}}}}")["head"]
        assert repr(head.ball) == "ClippedUnitBall(curvature=5)"
        assert head.centers.shape == (3, 8)
    assert load_hparams("x.yaml", "group: {a: {b: 3}, d: 4}")["group"] == {
        "a": {"b": 3, "c": 2}, "d": 4
    }  # fmt: skip


def test_another_tag_takes_the_place_with_all_arguments():
    hparams = load_hparams(
        "x.yaml",
        "head: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier "
        "{input_size: !ref <size>, out_neurons: 4}\n"
        "cost: !new:hamsb.Softmax {scale: !ref <seed>}\n",
    )
    assert type(hparams["head"]).__name__ == "Classifier"  # that takes no ball
    assert hparams["head"].weight.shape == (4, 8)
    assert hparams["modules"]["head"] is hparams["head"]
    assert repr(hparams["cost"]) == "Softmax(scale=1)"  # and that no margin
    nested = "head: {ball: !new:hamsb.PoincareBall {curvature: !ref <size>}}"
    head = load_hparams("x.yaml", nested)["head"]
    assert isinstance(head.ball, hamsb.PoincareBall) and head.ball.curvature == 8
    assert head.centers.shape == (3, 8)  # what is around it stays


def test_a_tag_may_stand_where_no_mapping_was_and_go_where_one_was():
    for value in (
        "!new:hamsb.PoincareBall {curvature: 2.0}",
        "!new:hamsb.PoincareBall [2.0]",
    ):
        assert load_hparams("x.yaml", f"ball: {value}")["ball"].curvature == 2
    assert load_hparams("x.yaml", "bare: {scale: 5.0}")["bare"].scale == 5
    assert type(load_hparams("x.yaml", "cost: !new:hamsb.Softmax")["cost"]) is hamsb.Softmax
    assert load_hparams("x.yaml", "cost: null")["cost"] is None
    assert load_hparams("x.yaml", "group: [1, 2]")["group"] == [1, 2]


def test_a_placeholder_takes_anything(tmp_path):
    path = tmp_path / "y.yaml"
    path.write_text("model: !PLACEHOLDER\n")
    for value in ("one", ["one", "two"], {"ham": ["one", "two"]}):
        assert load_hparams(path, f"model: {value}")["model"] == value


def test_an_object_with_one_argument_may_stand_in_a_list(file):
    change = "[!new:hamsb.Softmax {scale: 3.0}, {b: 1}]"
    with open(file, "a") as more:
        more.write(f"written: {change}\nnested: {{a: {{b: [[{change}]]}}}}\n")
    _, _, overrides = parse_arguments([str(file), f"--channels={change}"])
    for name in ("channels", "written"):
        found = load_hparams("x.yaml", overrides)[name]
        assert repr(found) == "[Softmax(scale=3), {'b': 1}]"
    assert repr(load_hparams("x.yaml")["nested"]["a"]["b"][0][0]) == repr(found)


def test_what_does_not_fit_is_refused():
    for overrides, message in (
        ("cost: 0.3", '^cost, as x.yaml has it, is a group of keys, and 0.3 .* --cost="'),
        ("head: {ball: x}", r"^head\[ball\], .* and 'x' is one value"),
        ("seed: {a: 1}", r"^seed, as x\.yaml has it, is no group of keys, and \{'a': 1\}"),
        ("cost: {margin: {a: 1}}", r"^cost\[margin\], .* is no group of keys"),
        ("modules: {head: {ball: 1}}", r"^modules\[head\], .* is no group of keys"),
        ("cost: !new:hamsb.Softmax {scal: 1}", "^x.yaml: cost: Invalid argument"),
        ("cost: [", "not yaml"),
        ("cost: !new:hamsb.Softmax {scale: !ref <no>}", '^x.yaml: The reference "no"'),
    ):
        with pytest.raises(ValueError, match=message):
            load_hparams("x.yaml", overrides)


def test_every_way_of_reading_has_the_same_overrides(file):
    with file.open("a") as stream:
        stream.write("plain: {k: 1}\n")
    overrides = "head: !new:hamsb.Softmax {scale: !ref <size>}\nplain: {k: 2}\nadded: 3"
    text = resolve(file, overrides)
    assert plain_keys(text)["plain"] == {"k": 2} and plain_keys(text)["added"] == 3
    assert "head" not in plain_keys(text)
    tree, loaded = read_resolved(file, overrides), load_hparams(file, overrides)
    assert tree["head"].tag.value == "!new:hamsb.Softmax" and tree["head"] == {"scale": 8}
    assert (
        repr(loaded["head"]) == repr(load_hyperpyyaml(text)["head"]) == "Softmax(scale=8)"
    )
    assert loaded["added"] == 3


def test_included_files_are_found_beside_the_yaml(file, monkeypatch):
    (file.parent / "other.yaml").write_text("a: 7\n")
    file.write_text("part: !include:other.yaml\n")
    monkeypatch.chdir("/")
    assert load_hparams(file, "seed: 1")["part"] == {"a": 7}


# ---------------------------------------------------------------------- options


def test_options_merge_as_overrides_do():
    cosine = "!new:hamsb.AMSoftmax {margin: 0.2, scale: !ref <s>}"
    for first, second, expected in (
        ({"c": cosine}, {"c": {"margin": 0.3}}, cosine.replace("0.2", "0.3")),
        ({"c": {"scale": 1.0}}, {"c": cosine}, cosine),
        ({"c": cosine}, {"c": "!new:X {k: 1}"}, "!new:X {k: 1}"),
        ({"c": "!new:X"}, {"c": {"k": 1}}, "!new:X {k: 1}"),
        ({"c": {"a": {"b": 1}}}, {"c": {"a": {"d": 2}}}, "{a: {b: 1, d: 2}}"),
        (
            {"c": {"ball": "!new:B {k: 1}"}},
            {"c": {"ball": {"j": 2}}},
            "{ball: !new:B {k: 1, j: 2}}",
        ),
        ({"c": [1, 2]}, {"c": [3]}, "[3]"),
    ):
        kept = str(first)
        assert option_text(merged(first, second)["c"]) == expected
        assert str(first) == kept
    for value in (cosine, {"ball": "!new:X [1]"}):
        tagged = read_resolved_of(f"c: {option_text(merged({'c': value})['c'])}\ns: 1")
        assert option_text(merged({"c": tagged["c"]})["c"]).startswith(
            ("!new", "{ball: !new")
        )


def read_resolved_of(text):
    with open("y.yaml", "w") as file:
        file.write(text)
    return read_resolved("y.yaml")


@pytest.mark.parametrize(
    "value",
    [
        1,
        0.00001,
        1e22,
        float("inf"),
        True,
        False,
        None,
        "/a/b=c",
        "a: b",
        [1, 2.5, "x y"],
        [None, 1],
        {"a": {"b": 1e-7}, "c": ["/d, e", None]},
        "!new:hamsb.Softmax [30.0]",
        {"a": "!new:hamsb.Softmax {scale: 30.0}"},
    ],
)
def test_options_arrive_as_they_are(value, tmp_path):
    path = tmp_path / "a.yaml"
    old = {"a": {"b": 0}, "c": 0} if isinstance(value, dict) else 0
    path.write_text(yaml.safe_dump({"key": old}))
    text = option_text(merged({"key": value})["key"])
    _, _, overrides = parse_arguments([str(path), f"--key={text}"])
    found = load_hparams(path, overrides)["key"]
    if "!new" in str(value):
        found = found["a"] if isinstance(value, dict) else found
        assert repr(found) == "Softmax(scale=30)"
    else:
        assert found == value and type(found) is type(value)


# --------------------------------------------------------------- building objects


def test_errors_of_objects_name_the_key():
    for overrides, message in (
        ("head: {ball: {curvature: 0.5}}", r"^x\.yaml: head\[ball\]: curvature=0\.5: the"),
        ("cost: {margn: 1}",
         "^x.yaml: cost: Invalid argument to class hamsb.HAMSoftmax: .*margn"),
        ("group: {a: !new:hamsb.HyperbolicClassifier {k: !new:hamsb.PoincareBall {b: 1}}}",
         r"^x\.yaml: group\[a\]\[k\]: Invalid argument to class hamsb.PoincareBall: P"),
        ("cost: !new:hamsb.Nope", "^x.yaml: cost: There is no such class as hamsb.Nope"),
        ("cost: !nw:hamsb.Softmax", "^x.yaml: cost: could not determine a constructor"),
        ("channels: [1, !new:hamsb.PoincareBall [-1]]",
         r"^x\.yaml: channels\[1\]: curvature=-1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_hparams("x.yaml", overrides)


def test_objects_are_built_as_hyperpyyaml_builds_them(file):
    ours = load_hparams("x.yaml", "seed: 3")
    with file.open() as stream:
        theirs = load_hyperpyyaml(stream, "seed: 3")
    assert repr(ours) == repr(theirs)


def test_a_yaml_that_moved_into_a_folder_is_found(tmp_path):
    (tmp_path / "mini").mkdir()
    for name in ("mini/ssl.yaml", "mini.yaml", "small.yaml"):
        (tmp_path / name).write_text("seed: 1\n")
    for asked, offered in {
        "mini_ssl": "mini/ssl",
        "ssl": "mini/ssl",
        "smal_ham": "small",
    }.items():
        with pytest.raises(FileNotFoundError) as error:
            read_yaml(tmp_path / f"{asked}.yaml")
        assert f"did you mean {tmp_path}/{offered}.yaml" in str(error.value)


def test_a_changed_file_is_read_again(tmp_path):
    """Though what was resolved is kept; an included file counts, too."""
    path, other = tmp_path / "a.yaml", tmp_path / "b.yaml"
    other.write_text("x: 1\n")
    for text, changed in (
        ("a: 1\nb: !ref <a>\n", lambda: path.write_text("a: 2\nb: !ref <a>\n")),
        ("a: !include:b.yaml\n", lambda: other.write_text("x: 2\n")),
    ):
        path.write_text(text)
        before = resolve(path)
        assert resolve(path, "a: 3") != before == resolve(path)
        changed()
        assert resolve(path) == before.replace("1", "2") != before


def test_a_reference_into_a_group_that_is_null_names_both(file):
    file.write_text("group: {folder: a}\nplace: !ref <group[folder]>/b\n")
    assert read_resolved(file)["place"] == "a/b"
    with pytest.raises(ValueError, match="place refers to a key of group, which is null"):
        read_resolved(file, "group: null")
    read_resolved(file, "group: null\nplace: null")
