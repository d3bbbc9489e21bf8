"""What the training scripts share: a run from the yaml to the exported model.

    prepare -> train -> choose -> average -> verify -> export

A script holds a subclass of :class:`EmbeddingBrain`, which tells the training data,
the forward pass and the loss, and gives it to :func:`main`. Everything of a run is
in its ``output_folder``: ``train_log.txt`` (a line an epoch), what verify.py writes
too (``report.md``, ``metrics.json``, ``scores_<list>.txt``, ``det.png``,
``scores.png``) and ``export/``, the folder that ``EncoderClassifier.from_hparams``
loads.

The yaml is loaded in two steps, because hyperpyyaml builds every object as it
loads: first the plain keys, on which the data are prepared; then the objects, with
what was counted in the data in the place of the yaml's keys (``count_overrides``).
"""

import ctypes
import fcntl
import shlex
import time
from collections import defaultdict
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.seed import seed_everything
from torch.distributed import get_world_size, is_initialized
from torch.nn.parallel import DistributedDataParallel
from voxceleb_prepare import prepare_voxceleb

import hamsb
from hamsb.augment.simulation import make_distortions
from hamsb.training.export import export_model
from hamsb.utils.command_line import parse_arguments
from hamsb.utils.hparams import load_hparams, plain_keys, resolve
from hamsb.utils.conditions import versions
from hamsb.utils.files import replacing
from hamsb.verification.decision import make_decision
from hamsb.verification.embeddings import embed_utterances
from hamsb.verification.metrics import eer
from hamsb.verification.results import System, write_verification
from hamsb.verification.scoring import score_lists, score_trials
from hamsb.verification.trials import find_utterances, read_lists, read_trials

# ------------------------------------------------------------- loading the yaml


def count_overrides(overrides, plain, preparation):
    """The overrides, with what was counted added.

    ``out_n_neurons`` becomes the number of training speakers, times the number
    of ``speeds``, unless the command line gives a larger one; a smaller one is a
    ValueError.
    ``steps_per_epoch`` becomes the number of whole batches of one process, and
    ``processes`` the number of these.
    """
    given = plain_keys(overrides) if overrides else {}
    speakers = preparation.speakers * len(plain.get("speeds", [100]))
    if given.get("out_n_neurons", speakers) < speakers:
        raise ValueError(
            f"out_n_neurons={given['out_n_neurons']}, but the training data have "
            f"{speakers} speakers; leave it out to have it counted."
        )
    processes = get_world_size() if is_initialized() else 1
    steps = preparation.utterances // (plain["batch_size"] * processes)
    if steps == 0:
        raise ValueError(
            f"batch_size={plain['batch_size']} in {processes} process(es), but the "
            f"training data have only {preparation.utterances} utterances."
        )
    counted = {
        "out_n_neurons": speakers,
        "steps_per_epoch": steps,
        "processes": processes,
    }
    added = [
        f"{name}: {count}"
        for name, count in counted.items()
        if name in plain and name not in given
    ]
    return "\n".join([overrides, *added] if overrides else added)


# ---------------------------------------------------------------------- the data


def prepare(plain):
    """Write the csv files."""
    return run_on_main(
        prepare_voxceleb,
        kwargs={
            name: plain[name]
            for name in (
                "data_folder",
                "save_folder",
                "verification_file",
                "dev_speakers",
                "dev_trials",
                "min_duration",
                "sample_rate",
            )
        },
    )


# ------------------------------------------------------------------ the training


class EmbeddingBrain(sb.Brain):
    """Training of an ``embedding_model``, with the EER of held-out development
    speakers at the end of every epoch.

    A subclass holds ``training_data``, ``compute_forward`` and
    ``compute_objectives``, which SpeechBrain's Brain explains, and what differs in
    the report and the model card.

    Arguments
    ---------
    development : tuple of (Trials, dict of str to Path), optional
        The development trials and their files.

    Attributes
    ----------
    script : str
        The file's name.
    averaged : sequence of str
        The modules whose weights are averaged and exported.
    card : dict of str to str
        The model card's ``classify``, lines of Python, and ``needs``, sentences.
    utterances : list of str
        The ids of the present batch, for messages; ``compute_forward`` sets it.
    """

    script = ""
    averaged = ("embedding_model",)
    card = {
        "classify": "",
        "needs": "Embeddings and\ndecisions of SpeechBrain's classes need SpeechBrain "
        "alone.",
    }

    def __init__(self, *args, development=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.development = development
        self.seconds = 0.0  # of training, those before an interruption included
        self.watched = defaultdict(list)

    @staticmethod
    def training_data(hparams):
        """What a script trains on; called before the Brain is made.

        Returns
        -------
        DynamicItemDataset
        CategoricalEncoder or None
            Speaker <-> class, where the model has classes.
        """
        raise NotImplementedError

    @staticmethod
    def facts(hparams):
        """The first columns of the run's table: header -> cell."""
        return {
            "loss": one_line(hparams["compute_cost"]),
            "parameters": millions(hparams["embedding_model"]),
        }

    # steps

    def watch(self, **values):
        """Note values of this step, 0-dimensional tensors; the log has their means
        over the epoch."""
        for name, value in values.items():
            self.watched[name].append(value.detach().float())

    def check_loss_isfinite(self, loss):
        """As Brain's, but the error names the utterances of the batch."""
        try:
            super().check_loss_isfinite(loss)
        except ValueError as error:
            raise ValueError(
                f"the loss is {loss.item()} in step {self.step}; nothing is saved "
                f"after it. The batch: {', '.join(self.utterances)}"
            ) from error

    def on_fit_batch_start(self, batch, should_step):
        if hasattr(self.hparams, "margin_schedule"):
            self.hparams.margin_schedule.apply(self.hparams.compute_cost)

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        annealing = self.hparams.lr_annealing
        if should_step and hasattr(annealing, "on_batch_end"):
            annealing.on_batch_end(self.optimizer)
        if should_step and hasattr(self.hparams, "margin_schedule"):
            self.hparams.margin_schedule.step(self.hparams.compute_cost)

    # the course of training

    def init_optimizers(self):
        """As Brain's, but the parameters of the modules that the yaml names in
        ``no_weight_decay`` have none."""
        names = getattr(self.hparams, "no_weight_decay", [])
        free = {id(p) for name in names for p in self.modules[name].parameters()}
        make = self.opt_class
        if free:
            self.opt_class = lambda parameters: make(decay_groups(parameters, free))
        super().init_optimizers()
        self.opt_class = make

    def _wrap_distributed(self):
        """As Brain's; on a CPU without synchronised batch normalisation, which
        torch has for accelerators alone: each process normalises its share."""
        if not (self.distributed_launch and self.device_type == "cpu"):
            return super()._wrap_distributed()
        for name, module in self.modules.items():
            if any(parameter.requires_grad for parameter in module.parameters()):
                self.modules[name] = DistributedDataParallel(
                    module, find_unused_parameters=self.find_unused_parameters
                )

    def on_fit_start(self):
        by = self.hparams.average_by
        if by != "last" and (by != "best" or self.development is None):
            raise ValueError(
                f"average_by={by!r}: 'last', or 'best' with development speakers."
            )
        super().on_fit_start()
        latest = self.checkpointer.find_checkpoint()
        if latest is not None:
            self.seconds = latest.meta.get("seconds", 0.0)

    def on_stage_start(self, stage, epoch=None):
        """Every epoch draws from (seed, epoch), so that a run that was
        interrupted draws what an uninterrupted one would have drawn."""
        sequence = np.random.SeedSequence(self.hparams.seed, spawn_key=(epoch,))
        seed_everything(int(sequence.generate_state(1)[0]), verbose=False)
        self.watched.clear()
        self.started = time.time()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Only training has a stage: development is embedded, not classified."""
        train_stats = {"loss": stage_loss}
        for name, values in self.watched.items():
            train_stats[name] = torch.stack(values).mean().item()
        meta = {"epoch": epoch}
        valid_stats = None
        if self.development is not None:
            meta["EER"] = run_on_main(self.development_eer)
            valid_stats = {"EER": 100 * meta["EER"]}
        old_rate, new_rate = self.hparams.lr_annealing(epoch)
        update_learning_rate(self.optimizer, new_rate)
        self.hparams.train_logger.log_stats(
            {"epoch": epoch, "lr": old_rate}, train_stats, valid_stats
        )
        self.seconds += time.time() - self.started
        # Brain saves its step and running loss, and clears them only later.
        self.step, self.avg_train_loss = 0, 0.0
        self.checkpointer.save_and_keep_only(
            meta={**meta, "seconds": self.seconds},
            num_to_keep=self.hparams.avg_checkpoints,
            min_keys=["EER"] if self.development is not None else [],
            ckpt_predicate=is_of_whole_epoch,
        )

    # the model that comes out

    def encode(self, wavs):
        """Audio [1, T] -> embedding [1, 1, D], computed as EncoderClassifier does."""
        self.modules.eval()
        wavs = wavs.to(self.device)
        lengths = torch.ones(len(wavs), device=self.device)
        with torch.no_grad(), self.evaluation_ctx:
            features = self.modules.compute_features(wavs)
            features = self.modules.mean_var_norm(features, lengths)
            return unwrapped(self.modules.embedding_model)(features, lengths)

    def mean_features(self, wavs):
        """Audio [1, T] -> the mean over time of its features [1, n_mels]: a
        verification system without any training, to compare with."""
        with torch.no_grad():
            return self.modules.compute_features(wavs.to(self.device)).mean(1)

    def development_scores(self):
        """Cosines of the development trials, [N]."""
        trials, files = self.development
        embeddings = embed_utterances(
            files, self.encode, self.hparams.sample_rate, progress=not self.noprogressbar
        )
        return score_trials(embeddings, trials)

    def development_eer(self):
        """EER of the development trials, a fraction."""
        return eer(self.development_scores(), self.development[0].labels)[0]

    def choose_and_average(self):
        """Load the mean of the chosen checkpoints' weights; returns their epochs.

        ``average_by`` "last" takes the last ``avg_checkpoints`` epochs, "best"
        those with the lowest development EER.
        """
        chosen = self.checkpointer.find_checkpoints(
            min_key={"last": None, "best": "EER"}[self.hparams.average_by],
            ckpt_predicate=is_of_whole_epoch,
            max_num_checkpoints=self.hparams.avg_checkpoints,
        )
        if not chosen:
            raise FileNotFoundError(
                f"{self.checkpointer.checkpoints_dir}: no checkpoint; train first."
            )
        for name in self.averaged:
            weights = average_checkpoints(chosen, name)
            unwrapped(self.modules[name]).load_state_dict(weights)
        return sorted(checkpoint.meta["epoch"] for checkpoint in chosen)


def decay_groups(parameters, free):
    """An optimizer's groups: those with its weight decay, and those, by id, without."""
    parameters = list(parameters)
    return [
        {"params": [p for p in parameters if id(p) not in free]},
        {"params": [p for p in parameters if id(p) in free], "weight_decay": 0.0},
    ]


def is_of_whole_epoch(checkpoint):
    """Not one that ``ckpt_interval_minutes`` saved in the middle of an epoch."""
    return "epoch" in checkpoint.meta


def unwrapped(module):
    """The module inside DistributedDataParallel and torch.compile, or itself."""
    if isinstance(module, DistributedDataParallel):
        module = module.module
    return getattr(module, "_orig_mod", module)


# -------------------------------------------------------------------- the report


def run_table(hparams, brain, epochs):
    """The run in one line: loss, sizes, epochs, time."""
    cells = {
        **brain.facts(hparams),
        "epochs": hparams["epoch_counter"].current,
        "averaged": ", ".join(map(str, epochs)),
        "minutes": f"{brain.seconds / 60:.1f}",
    }
    lines = [cells, ["---"] * len(cells), [str(cell) for cell in cells.values()]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def one_line(thing):
    """An object in a line of text."""
    return " ".join(str(thing).split())


def millions(module):
    """How many parameters a module has."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"


def conditions(hparams_file, arguments, preparation, brain, decision):
    """What the numbers were measured under."""
    lines = [
        f"Command: `{brain.script} {shlex.join(arguments)}`",
        f"Training: {preparation.speakers} speakers, {preparation.utterances} "
        f"utterances, {preparation.hours:.2f} hours, seed {brain.hparams.seed}",
        "Scoring: cosine, one embedding an utterance, no padding, no normalisation; "
        "95 % intervals by bootstrap over speakers",
        f"Software: hamsb {hamsb.__version__}, speechbrain {sb.__version__}, "
        f"torch {torch.__version__}, on {brain.device}, {torch.get_num_threads()} threads",
    ]
    if decision is not None:
        lines.insert(
            2,
            f"Development EER: {100 * decision['eer']:.2f} %; there the threshold "
            f"of the cosine is {decision['thresholds']['eer']:.3f}",
        )
    return "\n".join(f"- {line}" for line in lines)


REPORT = """# {experiment}

{report}
![DET](det.png)

Scores of the trained network:

![Scores](scores.png)
"""


CARD = """# Speaker embeddings trained with {loss}

Made by [hamsb](https://arxiv.org/abs/2601.19709 "H- and HAM-Softmax") {version}, experiment `{experiment}`.

{report}
## How to use it

The folder may be moved; nothing is downloaded. Audio: {sample_rate} Hz, mono.

```python
from speechbrain.inference.speaker import EncoderClassifier

from hamsb.inference import SpeakerRecognition

encoder = EncoderClassifier.from_hparams(source="path/to/this/folder")
embedding = encoder.encode_batch(encoder.load_audio("speech.wav").unsqueeze(0))  # [1, 1, D]
{classify}
verification = SpeakerRecognition.from_hparams(source="path/to/this/folder")
score, same = verification.verify_files("one.wav", "other.wav")  # cosine, decision
```

`decision.json`, where there were development speakers, holds the thresholds that
`SpeakerRecognition` decides with. SpeechBrain's own class of that name loads the folder
too, but accepts above a cosine of 0.25. {needs}
"""


# ------------------------------------------------------------------------- main


@contextmanager
def only_run(folder):
    """Hold a folder for one run; a ValueError where another one holds it.

    The system frees it when the process ends, however it does. (A lock of
    ``flock`` would live on in the workers of a killed run's data loader.)
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise ValueError(
                f"output_folder={folder}: another run is at work there. Wait for it, "
                "or give another output_folder or seed."
            ) from None
        yield


def keep_memory():
    """Have the C library (glibc; others are left alone) keep freed memory for the
    next step instead of giving it back to the system, which would have to clear
    every page of it anew: that is a third of a step's time on a CPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            mallopt(parameter, 2**31 - 1)


def main(arguments, brain_class):
    """A whole run, as the command line asks for it.

    Arguments
    ---------
    arguments : list of str
        Those that follow the script's name.
    brain_class : type
        A subclass of :class:`EmbeddingBrain`.
    """
    keep_memory()
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    plain = plain_keys(resolve(hparams_file, overrides))
    output_folder = Path(str(plain["output_folder"]))
    with only_run(output_folder) if if_main_process() else nullcontext():
        sb.create_experiment_directory(output_folder)
        options = arguments, hparams_file, run_opts, overrides
        run(brain_class, options, plain, output_folder)


def run(brain_class, options, plain, output_folder):
    """Prepare, train, choose, average, verify, export."""
    arguments, hparams_file, run_opts, overrides = options
    if "mini_corpus" in plain:
        from mini.mini_corpus import make_mini_corpus

        run_on_main(make_mini_corpus, kwargs=plain["mini_corpus"])
    if "distortions" in plain:
        run_on_main(make_distortions, kwargs=plain["distortions"])
    # First: lists that are wrong leave an earlier preparation as it is.
    lists, utterances = read_lists(plain["verification_file"], plain["test_data_folder"])
    preparation = prepare(plain)

    # The objects.
    overrides = count_overrides(overrides, plain, preparation)
    resolved = resolve(hparams_file, overrides)
    hparams = load_hparams(hparams_file, overrides)
    for name in ("prepare_noise_data", "prepare_rir_data"):
        if name in hparams:
            run_on_main(hparams[name])
    train_data, labels = brain_class.training_data(hparams)
    development = None
    if preparation.dev_trials is not None:
        trials = read_trials(preparation.dev_trials)
        development = trials, find_utterances(trials, hparams["data_folder"])
    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
        development=development,
    )

    def score(encode):
        return score_lists(
            encode,
            lists,
            utterances,
            hparams["sample_rate"],
            progress=not brain.noprogressbar,
        )

    untrained = {}
    if hparams["baselines"] and if_main_process():
        untrained["untrained network"] = score(brain.encode)
        untrained["mean log-mel vector"] = score(brain.mean_features)

    if if_main_process():  # that of an earlier run stays until this one trains
        with replacing(output_folder / "hyperparams.yaml") as partial:
            partial.write_text(resolved, encoding="utf-8")
    brain.fit(
        brain.hparams.epoch_counter,
        train_data,
        train_loader_kwargs=hparams["dataloader_options"],
    )
    if not if_main_process():
        return

    # The model that comes out.
    epochs = brain.choose_and_average()
    decision = None
    if development:
        decision = make_decision(development[0], brain.development_scores())
    systems = [
        System("trained", score(brain.encode)),
        *(System(name, scores) for name, scores in untrained.items()),
    ]
    experiment = Path(hparams_file).stem
    run_facts = run_table(hparams, brain, epochs)
    facts = conditions(hparams_file, arguments, preparation, brain, decision)

    def report(results):
        return f"{run_facts}\n{results}\n{facts}\n"

    results = write_verification(
        output_folder,
        lists,
        systems,
        lambda results, _: REPORT.format(experiment=experiment, report=report(results)),
        about={
            "experiment": experiment,
            "arguments": arguments,
            "epochs": epochs,
            "versions": versions(brain.device),
        },
        progress=not brain.noprogressbar,
    )
    export = export_model(
        output_folder / "export",
        resolved,
        {name: unwrapped(brain.modules[name]) for name in brain.averaged},
        labels,
        CARD.format(
            loss=one_line(hparams["compute_cost"]),
            version=hamsb.__version__,
            experiment=experiment,
            report=report(results),
            sample_rate=hparams["sample_rate"],
            **brain.card,
        ),
        decision,
    )
    print(
        f"\n{run_facts}\n{results}\n"
        f"Report: {output_folder / 'report.md'}\nModel: {export}"
    )
