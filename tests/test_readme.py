"""The README is true: its commands, files and yaml."""

import configparser
import re

import pytest
from hyperpyyaml import load_hyperpyyaml

import hamsb
from runs import code_blocks

DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "hparams/README.md",
    "recipes/VoxCeleb/README.md",
    "recipes/VoxCeleb/RESULTS.md",
)


def prose(text):
    """A document without its code between fences, line by line."""
    fence = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
    return fence.sub(lambda block: "\n" * block[0].count("\n"), text)


def anchors(text):
    """What GitHub calls the headings of a document."""
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text(encoding="utf-8")


def test_exactly_two_set_up_commands(readme):
    commands = [
        line
        for block in code_blocks(readme, "bash")
        for line in block.splitlines()
        if "pip install" in line
    ]
    mini = "python recipes/VoxCeleb/train.py hparams/mini.yaml"
    assert commands == [
        f'python -m pip install ".[mini]" && {mini}',
        'python -m pip install ".[test]" && python -m pytest',
    ]


def test_every_file_that_is_named_exists(repository):
    path = r"\b((?:hparams|recipes|hamsb|tests)/[\w./]+\.(?:py|yaml|md))"
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (repository / document).read_text(encoding="utf-8")
        named = re.findall(path, text)
        assert len(set(named)) >= 5, document
        for name in set(named):
            assert (repository / name).is_file(), f"{document}: {name}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_to_a_file_and_a_heading(repository, name):
    document = repository / name
    text = prose(document.read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    for link in links:
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        place = document.parent / file if file else document
        assert place.exists(), link
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("name", DOCUMENTS[:-1])
def test_prose_is_wrapped_at_100_columns(repository, name):
    """Tables, pictures and commands cannot be."""
    text = prose((repository / name).read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if not line.startswith(("|", "<", "    "))]
    assert [line for line in lines if len(line) > 100] == []


def test_the_readme_names_every_extra(repository, readme):
    setup = configparser.ConfigParser()
    setup.read(repository / "setup.cfg", encoding="utf-8")
    extras = set(setup["options.extras_require"]) - {"dev"}
    install = readme.split("## Install")[1].split("## ")[0]
    assert set(re.findall(r"\[(\w+)\]", install)) == extras


def test_yaml_diff_builds_the_head_and_loss_it_promises(readme):
    (diff,) = code_blocks(readme, "diff")
    new = "\n".join(line[1:] for line in diff.splitlines() if line[:1] in "+ ")
    hparams = load_hyperpyyaml(f"out_n_neurons: 7\n{new}")
    assert isinstance(hparams["classifier"], hamsb.HyperbolicClassifier)
    assert hparams["classifier"].centers.shape == (7, 192)
    assert isinstance(hparams["compute_cost"], hamsb.HAMSoftmax)


def test_plain_pytorch_runs_and_learns(readme):
    (code,) = (
        block for block in code_blocks(readme, "python") if "optimizer.step()" in block
    )
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    names = {}
    exec(code, names)
    assert names["loss"].isfinite() and names["head"].centers.grad.abs().sum() > 0


def test_every_yaml_of_the_documents_exists(repository):
    """Commands name a yaml by its path below hparams/, the index by its name there."""
    index = (repository / "hparams" / "README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w./]+\.yaml)` \|", index, re.M))
    found = {path.relative_to(repository / "hparams").as_posix()
             for path in (repository / "hparams").rglob("*.yaml")}  # fmt: skip
    assert listed == found
    for name in ("README.md", "RESULTS.md"):
        text = (repository / "recipes" / "VoxCeleb" / name).read_text(encoding="utf-8")
        named = set(re.findall(r"\bhparams/([\w./]+\.yaml)", text))
        assert named and named <= found, f"{name}: {named - found}"
