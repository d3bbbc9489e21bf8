"""The folder of a model, looked at without running anything of it."""

import io
import os
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.error import YAMLError

from hamsb.verification.decision import read_decision
from hamsb.verification.training_data import read_training

HPARAMS = "hyperparams.yaml"

# What a model of SpeechBrain is made of, apart from hamsb's public names.
_PARTS = (
    "hamsb.nnet.",
    "speechbrain.dataio.encoder.",
    "speechbrain.dataio.preprocess.",
    "speechbrain.lobes.",
    "speechbrain.nnet.",
    "speechbrain.processing.",
    "speechbrain.utils.parameter_transfer.",
    "torch.nn.",
)
# Its parts that people ask for, by the yaml's keys.
_PART_KEYS = ("compute_features", "embedding_model", "classifier")
_KINDS = ("!new:", "!name:", "!apply:", "!applyref:", "!module:", "!include:")
_PYTHON = "tag:yaml.org,2002:python/"
_LARGEST_PICKLE = 1 << 26  # bytes; a model's is some 10 kB, its tensors are beside it
# What torch writes of tensors, and reads without running it.
_TENSORS = re.compile(r"collections OrderedDict|torch(\._utils)? \w*(Storage|_rebuild\w+)")


@dataclass(frozen=True)
class Named:
    """A class, function, module or file that a file of a model names.

    Attributes
    ----------
    file : str
        Which file names it.
    line : int
        Where; 0 in a file of weights.
    kind : str
        ``new``, ``name``, ``apply``, ``applyref``, ``module``, ``include``, ``python``
        (a tag of Python's yaml) or ``pickle``. All but ``name`` run something of it, or
        read it, when the folder is loaded; ``pickle`` is refused then.
    name : str
    usual : bool
        A network, feature extractor or reader as models of SpeechBrain and hamsb have
        them. What is not deserves a look before the folder is loaded.
    """

    file: str
    line: int
    kind: str
    name: str
    usual: bool


@dataclass(frozen=True)
class ModelFolder:
    """What `inspect_model` saw.

    Attributes
    ----------
    folder : Path
    files : dict of str to int
        Path below the folder -> bytes.
    names : tuple of Named
        What its yamls and weights name.
    warnings : tuple of str
        What an exported model does not have: files of code, links, damaged files.
    sample_rate : int or None
        Hz, where a yaml says it.
    embedding_size : int or None
        Where a yaml says it.
    parts : dict of str to str
        ``embedding_model``, ``classifier`` and the like -> what the yaml has there.
    card : dict
        The front matter of ``README.md``; empty where it has none.
    speakers : int or None
        Whose speech trained the model, where the folder tells: how many.
    decision, training : dict or None
        ``decision.json`` and ``training.json``, where they are there and whole.
    """

    folder: Path
    files: dict[str, int]
    names: tuple[Named, ...]
    warnings: tuple[str, ...]
    sample_rate: int | None
    embedding_size: int | None
    parts: dict[str, str]
    card: dict
    speakers: int | None
    decision: dict | None
    training: dict | None

    @property
    def unusual(self) -> tuple[Named, ...]:
        """What to look at before the folder is loaded: names that are not usual."""
        return tuple(named for named in self.names if not named.usual)

    @property
    def threshold(self) -> float | None:
        """The cosine from which a pair is accepted, where the model has one."""
        thresholds = (self.decision or {}).get("thresholds")
        return thresholds.get("eer") if isinstance(thresholds, dict) else None

    def _facts(self) -> Iterator[tuple[str, object]]:
        """What a user asks of a model, by name."""
        training, decision = self.training or {}, self.decision or {}
        yield "encoder", self.parts.get("embedding_model")
        yield "features", self.parts.get("compute_features")
        yield "embedding size", self.embedding_size
        yield "sample rate", self.sample_rate and f"{self.sample_rate} Hz"
        yield "head", self.parts.get("classifier")
        yield "loss", training.get("loss")
        held_out = len(training.get("development_speakers", []))
        trained = self.speakers and f"{self.speakers} speakers"
        yield "trained on", trained and trained + f"; {held_out} held out" * bool(held_out)
        if "eer" in decision:
            trials = f"{decision.get('target_trials')} target and "
            trials += f"{decision.get('impostor_trials')} impostor trials"
            yield (
                "development EER",
                f"{100 * decision['eer']:.2f} %, {decision.get('list')}: {trials}",
            )
        yield from _card_metrics(self.card)
        thresholds = decision.get("thresholds") or {}
        numbers = [f"{name} {value:.4f}" for name, value in thresholds.items()]
        none = "none; hamsb threshold finds one on trials of your own"
        yield "thresholds", ", ".join(numbers) or none
        if calibration := decision.get("calibration"):
            scale, offset = calibration["scale"], calibration["offset"]
            yield "likelihood ratio", f"ln LR = {scale:.3f} cosine {offset:+.3f}"
        packages = {each.name.split(".")[0] for each in self.names if each.kind == "new"}
        yield "packages", ", ".join(sorted(packages))

    def __str__(self) -> str:
        said = [f"{self.folder}: {len(self.files)} files, {sum(self.files.values())} bytes"]
        said += [f"{name + ':':<18}{value or 'unknown'}" for name, value in self._facts()]
        said += [f"warning: {warning}" for warning in self.warnings]
        said += [
            f"look at: {each.file}:{each.line}: {each.kind} {each.name}"
            for each in self.unusual
        ]
        if not self.unusual and not self.warnings:
            said.append("nothing unusual is named")
        return "\n".join(map(_printable, said))


def _printable(line: str) -> str:
    """A line without what would act on a terminal or begin another line, which a stranger's
    texts may hold; written as Python does."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def inspect_model(folder: str | os.PathLike) -> ModelFolder:
    """Look at the folder of a model without running, importing or building anything.

    Loading a folder runs what its yaml names, with the arguments that it gives. So of a
    stranger's folder look at this first. It says what is named, not what that does: no
    finding is no proof that a folder is harmless.

    Arguments
    ---------
    folder : str or Path
        On this machine. Links in it are listed, not followed.

    Returns
    -------
    ModelFolder
        ``print`` shows the essentials.

    Raises
    ------
    FileNotFoundError
        No such folder.

    Example
    -------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "hyperparams.yaml").write_text("a: !apply:os.system [reboot]")
    ...     found = inspect_model(folder)
    >>> [(named.line, named.kind, named.name) for named in found.unusual]
    [(1, 'apply', 'os.system')]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={folder}: no such folder.")
    files: dict[str, int] = {}
    names: list[Named] = []
    warnings: list[str] = []
    numbers: dict[str, int] = {}
    parts: dict[str, str] = {}
    for path in _walk(folder):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            warnings.append(f"{name}: a link to {os.readlink(path)}")
            continue
        if not path.is_file():
            warnings.append(f"{name}: neither a file nor a folder")
            continue
        files[name] = path.stat().st_size
        if path.suffix in (".py", ".pyc", ".so", ".pth", ".sh"):
            warnings.append(f"{name}: code")
        try:
            if path.suffix in (".yaml", ".yml"):
                root = _compose(path)
                names += _named_in(root, name)
                numbers = {**_numbers(root), **numbers}
                parts = {**_parts(root), **parts}
            else:
                names += _named_in_pickles(path, name)
        except ValueError as error:
            warnings.append(str(error))
    stored: list[dict | None] = []
    for read in (read_decision, read_training):
        try:
            stored.append(read(folder))
        except ValueError as error:
            warnings.append(str(error))
            stored.append(None)
    decision, training = stored
    return ModelFolder(
        folder,
        files,
        tuple(names),
        tuple(warnings),
        numbers.get("sample_rate"),
        numbers.get("input_size", numbers.get("lin_neurons")),
        parts,
        read_card(folder),
        _speakers(folder),
        decision,
        training,
    )


def _speakers(folder: Path) -> int | None:
    """How many speakers trained a model, by what is beside it."""
    from hamsb.verification.overlaps import model_speakers  # takes seconds

    try:
        found = model_speakers(folder)
    except (ValueError, OSError):
        return None
    return None if found is None else len(found.trained)


def named_in_yaml(text: str, file: str = HPARAMS) -> list[Named]:
    """What a yaml's tags name, by line; ValueError where it cannot be read.

    Arguments
    ---------
    text : str
        Of the yaml.
    file : str
        What it is called.

    Example
    -------
    >>> text = "a: !new:torch.nn.ReLU\\nb: !apply:my.function\\n"
    >>> [(named.name, named.usual) for named in named_in_yaml(text)]
    [('torch.nn.ReLU', True), ('my.function', False)]
    """
    return _named_in(_parse(text, file), file)


def _walk(folder: Path) -> Iterator[Path]:
    """Everything below a folder but folders, sorted; links are not followed."""
    for here, folders, files in os.walk(folder):
        folders.sort()
        links = [name for name in folders if Path(here, name).is_symlink()]
        for name in sorted([*files, *links]):
            yield Path(here, name)


# ----------------------------------------------------------------------------- yamls


def top_keys(path: Path) -> set[str]:
    """The outermost keys of a yaml; ValueError where it cannot be read."""
    return {key for key, _ in _entries(_compose(path))}


def _compose(path: Path) -> Node | None:
    """The tree of a yaml, tags as they stand; nothing is built."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error})") from error
    return _parse(text, path)


def _parse(text: str, path: object) -> Node | None:
    try:
        return YAML(pure=True).compose(text)
    except (YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path}: not yaml ({reason})") from error


def _nodes(root: Node | None) -> Iterator[Node]:
    """Every node below a root once, however often it is referred to."""
    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if isinstance(node, MappingNode):
            waiting += [each for pair in node.value for each in pair]
        elif isinstance(node, SequenceNode):
            waiting += node.value


def _entries(node: Node | None) -> Iterator[tuple[str, Node]]:
    """Keys and values of a mapping."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if isinstance(key, ScalarNode):
                yield key.value, value


def _named_in(root: Node | None, file: str) -> list[Named]:
    """What a yaml's tags name, by line."""
    found = []
    for node in _nodes(root):
        tag, line = str(node.tag), node.start_mark.line + 1
        if tag.startswith(_PYTHON):
            found.append(Named(file, line, "python", tag[len(_PYTHON) :], False))
        for kind in _KINDS:
            if tag.startswith(kind):
                name = tag[len(kind) :]
                usual = kind in ("!new:", "!name:") and _is_part(name)
                found.append(Named(file, line, kind[1:-1], name, usual))
    return sorted(found, key=lambda named: named.line)


def _is_part(name: str) -> bool:
    """Whether a name is of a class in a module of those that models are made of.

    ``speechbrain.nnet.CNN.torch.os.system`` is not: a name may lead anywhere through what
    a module has imported. So all but its end must be folders and files of the package.
    """
    *modules, thing = name.split(".")
    if not (thing[:1].isupper() and all(part.isidentifier() for part in (*modules, thing))):
        return False
    if modules == ["hamsb"]:
        return True
    return name.startswith(_PARTS) and _is_module(modules)


def _is_module(parts: list[str]) -> bool:
    """Whether a dotted name is one of a package's files; looks, and imports nothing."""
    spec = find_spec(parts[0])
    if spec is None or not spec.submodule_search_locations:
        return False
    path = Path(spec.submodule_search_locations[0], *parts[1:])
    return path.is_dir() or path.with_name(f"{path.name}.py").is_file()


def _numbers(root: Node | None) -> dict[str, int]:
    """Sample rate and sizes that a yaml says as whole numbers."""
    top = dict(_entries(root))
    found: dict[str, int] = {}
    for part, key in (
        ("audio_normalizer", "sample_rate"),
        ("classifier", "input_size"),
        ("embedding_model", "lin_neurons"),
    ):
        value = dict(_entries(top.get(part))).get(key)
        if isinstance(value, ScalarNode) and re.fullmatch(r"\d{1,9}", value.value):
            found[key] = int(value.value)
    return found


def _parts(root: Node | None) -> dict[str, str]:
    """What a yaml has for a model's parts, as ``Class(argument=value, ...)``."""
    return {
        key: _described(value)
        for key, value in _entries(root)
        if key in _PART_KEYS and str(value.tag).startswith("!new:")
    }


def _described(node: Node, depth: int = 0) -> str:
    name = str(node.tag).removeprefix("!new:").rpartition(".")[2]
    arguments = []
    for key, value in _entries(node):
        if isinstance(value, ScalarNode) and not str(value.tag).startswith("!"):
            arguments.append(f"{key}={value.value}")
        elif isinstance(value, SequenceNode) and len(value.value) < 10:
            if all(isinstance(each, ScalarNode) for each in value.value):
                listed = ", ".join(each.value for each in value.value)
                arguments.append(f"{key}=[{listed}]")
        elif str(value.tag).startswith("!new:") and depth < 3:
            arguments.append(f"{key}={_described(value, depth + 1)}")
    return f"{name}({', '.join(arguments)})"


# ------------------------------------------------------------------------------ card


def read_card(folder: str | os.PathLike) -> dict:
    """The front matter of a model card, as hubs have it; empty where there is none, or
    none that can be read.

    Arguments
    ---------
    folder : str or Path
        Its ``README.md`` is read.
    """
    path = Path(folder) / "README.md"
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    begin, _, rest = text.partition("---\n")
    if begin.strip() or "\n---" not in rest:
        return {}
    try:
        found = YAML(typ="safe", pure=True).load(rest[: rest.index("\n---")])
    except (YAMLError, RecursionError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _card_metrics(card: dict) -> Iterator[tuple[str, str]]:
    """The numbers of a card's ``model-index``, as ``EER``, ``1.2, veri_test``."""
    try:
        for model in card.get("model-index", []):
            for result in model["results"]:
                for metric in result["metrics"]:
                    name = metric.get("name", metric.get("type"))
                    value, where = metric["value"], result["dataset"]["name"]
                    yield f"{name}", f"{value}, {where}"
    except (AttributeError, KeyError, TypeError):  # another form than hubs ask for
        return


# --------------------------------------------------------------------------- weights


def _named_in_pickles(path: Path, file: str) -> list[Named]:
    """What a file of weights would call if it were unpickled; it is not.

    ValueError where it is a damaged archive, or has members that would leave the folder
    that it is unpacked into.
    """
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = archive.infolist()
                for member in members:
                    if member.filename.endswith(".pkl"):
                        if member.file_size > _LARGEST_PICKLE:
                            raise ValueError("a pickle of unusual size")
                        names |= _globals(archive.read(member))
            outside = [m.filename for m in members if _leaves(m.filename)]
            if outside:
                raise ValueError(f"an archive with the member {outside[0]}")
        else:
            with open(path, "rb") as stream:
                if stream.read(1) == b"\x80":  # torch's older format, or pickle alone
                    stream.seek(0)
                    names |= _globals(stream.read(_LARGEST_PICKLE))
    except (ValueError, OSError, NotImplementedError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: not weights as torch writes them ({error})") from error
    return [
        Named(file, 0, "pickle", name.replace(" ", "."), bool(_TENSORS.fullmatch(name)))
        for name in sorted(names)
    ]


def _leaves(member: str) -> bool:
    parts = member.replace("\\", "/").split("/")
    return ".." in parts or not parts[0] or ":" in parts[0]


def _globals(data: bytes) -> set[str]:
    """``module name`` of everything that the pickles at the start of some bytes refer to;
    torch's older format has five, one after the other."""
    found, texts, stream = set(), ["?", "?"], io.BytesIO(data)
    try:
        while data[stream.tell() : stream.tell() + 1] == b"\x80":
            for code, argument, _ in pickletools.genops(stream):
                if code.name in ("GLOBAL", "INST"):
                    found.add(str(argument))
                elif code.name == "STACK_GLOBAL":
                    found.add(f"{texts[-2]} {texts[-1]} or another, at run time")
                elif isinstance(argument, str):
                    texts.append(argument)
    except Exception as error:  # pickletools raises several kinds, by the damage
        raise ValueError(f"a damaged pickle: {error}") from error
    return found
