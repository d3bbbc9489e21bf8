#!/usr/bin/env python3
"""Train a speaker embedding model, verify it, and export it.

    python recipes/VoxCeleb/train.py hparams/<experiment>.yaml [--key=value ...]

prepare -> train -> choose -> average -> verify -> export. Everything of a run
is in its ``output_folder``: ``train_log.txt`` (a line an epoch), what verify.py
writes too (``report.md``, ``metrics.json``, ``scores_<list>.txt``, ``det.png``,
``scores.png``) and ``export/``, the folder that ``EncoderClassifier.from_hparams``
loads.

The yaml is loaded in two steps, because hyperpyyaml builds every object as it
loads: first the plain keys, on which the data are prepared; then the objects,
with ``out_n_neurons`` set to the number of training speakers and
``steps_per_epoch``, where the yaml has it, to the number of batches.
"""

import ctypes
import fcntl
import shlex
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import speechbrain as sb
import torch
import yaml
from command_line import load_hparams, main_or_exit, parse_arguments
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.dataio import audio_io
from speechbrain.dataio.dataset import (
    DynamicItemDataset,
    add_dynamic_item,
    set_output_keys,
)
from speechbrain.dataio.encoder import CategoricalEncoder
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.checkpoints import average_checkpoints
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.seed import seed_everything
from torch.distributed import get_world_size, is_initialized
from torch.nn.parallel import DistributedDataParallel
from verify import System, make_decision, read_lists, score_lists, write_verification
from voxceleb_prepare import prepare_voxceleb

import hamsb
from hamsb.embeddings import embed_utterances
from hamsb.export import export_model
from hamsb.files import replacing
from hamsb.metrics import eer
from hamsb.scoring import find_utterances, read_trials, score_trials

AVERAGED = ("embedding_model", "classifier")


# ------------------------------------------------------------- loading the yaml


def plain_keys(text):
    """The keys of a resolved yaml whose values hold no tag: nothing is built."""

    def is_plain(node):
        if node.tag.startswith("!"):
            return False
        if isinstance(node, yaml.MappingNode):
            return all(is_plain(value) for _, value in node.value)
        if isinstance(node, yaml.SequenceNode):
            return all(is_plain(value) for value in node.value)
        return True

    root = yaml.compose(text)
    root.value = [(key, value) for key, value in root.value if is_plain(value)]
    return load_hyperpyyaml(yaml.serialize(root))


def resolve(hparams_file, overrides):
    """The yaml's text with overrides applied and references resolved."""
    with open(hparams_file, encoding="utf-8") as file:
        return resolve_references(file, overrides, overrides_must_match=True).getvalue()


def count_overrides(overrides, plain, preparation):
    """The overrides, with what was counted in the data added.

    ``out_n_neurons`` becomes the number of training speakers, times the number
    of ``speeds``, unless the command line gives a larger one; a smaller one is a
    ValueError.
    ``steps_per_epoch`` becomes the number of whole batches of one process.
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
    counted = {"out_n_neurons": speakers, "steps_per_epoch": steps}
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


def dataio_prep(hparams):
    """The training dataset (random crops and speaker indices) and its labels."""
    crop = int(hparams["sentence_len"] * hparams["sample_rate"])
    if "speed_perturb" in hparams:
        crop = hparams["speed_perturb"].read_length(crop)

    @sb.utils.data_pipeline.takes("wav", "start", "stop")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav, start, stop):
        return random_crop(wav, int(start), int(stop), crop)

    labels = CategoricalEncoder()

    @sb.utils.data_pipeline.takes("spk_id")
    @sb.utils.data_pipeline.provides("spk_id", "spk_id_encoded")
    def label_pipeline(spk_id):
        yield spk_id
        yield labels.encode_sequence_torch([spk_id])

    train = DynamicItemDataset.from_csv(csv_path=hparams["train_annotation"])
    add_dynamic_item([train], audio_pipeline)
    add_dynamic_item([train], label_pipeline)
    labels.load_or_create(
        path=Path(hparams["save_folder"]) / "label_encoder.txt",
        from_didatasets=[train],
        output_key="spk_id",
    )
    if "speed_perturb" in hparams:
        label_speeds(labels, hparams["speed_perturb"])
    labels.expect_len(len(labels))
    set_output_keys([train], ["id", "sig", "spk_id_encoded"])
    return train, labels


def label_speeds(labels, speed_perturb):
    """Name the classes that speed perturbation adds: the k-th speed's class of
    speaker i is ``i + k * C``."""
    speakers = dict(labels.ind2lab)
    for k, speed in enumerate(speed_perturb.speeds[1:], start=1):
        for index, speaker in speakers.items():
            name = f"{speaker} at {speed} %"
            labels.enforce_label(name, index + k * speed_perturb.speakers)


def load_pretrained(folder, hparams, labels):
    """Start from the weights of a finished model with the same speakers.

    Arguments
    ---------
    folder : str
        Its export folder.
    """
    folder = Path(folder)
    if not (folder / "label_encoder.ckpt").is_file():
        raise FileNotFoundError(
            f"pretrained_model={folder}: no exported model here (no label_encoder.ckpt)."
        )
    theirs = CategoricalEncoder()
    theirs.load(folder / "label_encoder.ckpt")
    if theirs.lab2ind != labels.lab2ind:
        raise ValueError(
            f"pretrained_model={folder}: was trained with {len(theirs)} speakers that "
            f"are not the {len(labels)} of this training; give the same data."
        )
    for name in AVERAGED:
        hparams[name].load_state_dict(torch.load(folder / f"{name}.ckpt"))


def random_crop(path, start, stop, length):
    """``length`` samples from a random place of a file; a short file is wrapped.

    Only the crop is read; channels are averaged. [length], float32.
    """
    spare = max(stop - start - length, 0)
    offset = start + int(torch.randint(spare + 1, ()))
    frames = min(length, stop - start)
    try:
        audio, _ = audio_io.load(
            path, frame_offset=offset, num_frames=frames, channels_first=False
        )
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path}: cannot be read from sample {offset}: {error}") from error
    if len(audio) < frames:
        raise ValueError(
            f"{path}: ends {frames - len(audio)} samples too early; it was longer "
            "when it was prepared. Restore or remove it, and start again."
        )
    audio = audio.mean(-1)
    return audio.repeat(-(-length // len(audio)))[:length]


# ------------------------------------------------------------------ the training


class SpeakerBrain(sb.Brain):
    """SpeechBrain's speaker embedding training, with the EER of held-out
    development speakers at the end of every epoch.

    Arguments
    ---------
    development : tuple of (Trials, dict of str to Path), optional
        The development trials and their files.
    """

    def __init__(self, *args, development=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.development = development
        # What is learned: for each head among the modules, its loss and weight.
        self.branches = getattr(
            self.hparams,
            "branches",
            {"classifier": {"cost": self.hparams.compute_cost, "weight": 1.0}},
        )
        self.seconds = 0.0  # of training, those before an interruption included

    # the forward pass and the loss

    def compute_forward(self, batch, stage):
        """The predictions of every view of the batch: a list of (predictions of
        each branch, targets, lengths).

        ``wav_augment`` may return several copies of the batch, as the clean one
        and an augmented one; ``separate_views`` passes them through the network
        one after the other, each with batch statistics of its own, instead of
        all at once.
        """
        batch = batch.to(self.device)
        wavs, lengths = batch.sig
        targets, _ = batch.spk_id_encoded
        self.utterances = batch.id
        if hasattr(self.hparams, "speed_perturb"):
            wavs, targets = self.hparams.speed_perturb(wavs, targets)
        if hasattr(self.hparams, "wav_augment"):
            wavs, lengths = self.hparams.wav_augment(wavs, lengths)
            targets = self.hparams.wav_augment.replicate_labels(targets)
        separate = getattr(self.hparams, "separate_views", False)
        size = len(batch) if separate else len(wavs)
        views = zip(wavs.split(size), targets.split(size), lengths.split(size))
        return [self.forward_view(*view) for view in views]

    def forward_view(self, wavs, targets, lengths):
        features = self.modules.compute_features(wavs)
        features = self.modules.mean_var_norm(features, lengths)
        if hasattr(self.hparams, "fea_augment"):
            features, lengths = self.hparams.fea_augment(features, lengths)
            targets = self.hparams.fea_augment.replicate_labels(targets)
        embeddings = self.modules.embedding_model(features)
        self.count_limited(embeddings)
        outputs = {name: self.modules[name](embeddings) for name in self.branches}
        return outputs, targets, lengths

    def compute_objectives(self, predictions, batch, stage):
        """The sum over views and branches of weight * mean loss."""
        return sum(
            branch["weight"] * branch["cost"](outputs[name], targets, lengths)
            for outputs, targets, lengths in predictions
            for name, branch in self.branches.items()
        )

    def check_loss_isfinite(self, loss):
        """As Brain's, but the error names the utterances of the batch."""
        try:
            super().check_loss_isfinite(loss)
        except ValueError as error:
            raise ValueError(
                f"the loss is {loss.item()} in step {self.step}; nothing is saved "
                f"after it. The batch: {', '.join(self.utterances)}"
            ) from error

    def count_limited(self, embeddings):
        """Count the embeddings that the head's ball, if it has one, cuts short."""
        ball = getattr(unwrapped(self.modules.classifier), "ball", None)
        if ball is not None:
            self.limited.append(ball.limited(embeddings.detach()).float().mean())

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
        self.limited = []
        self.started = time.time()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Only training has a stage: development is embedded, not classified."""
        train_stats = {"loss": stage_loss}
        if self.limited:
            train_stats["limited"] = torch.stack(self.limited).mean().item()
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
        for name in AVERAGED:
            weights = average_checkpoints(chosen, name)
            unwrapped(self.modules[name]).load_state_dict(weights)
        return sorted(checkpoint.meta["epoch"] for checkpoint in chosen)


def is_of_whole_epoch(checkpoint):
    """Not one that ``ckpt_interval_minutes`` saved in the middle of an epoch."""
    return "epoch" in checkpoint.meta


def unwrapped(module):
    """The module inside DistributedDataParallel, or itself."""
    return getattr(module, "module", module)


# -------------------------------------------------------------------- the report


def run_table(hparams, brain, epochs):
    """The run in one line: loss, sizes, epochs, time."""

    def millions(module):
        return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"

    header = ["loss", "head", "parameters", "in the head", "epochs", "averaged", "minutes"]
    cells = [
        " ".join(str(hparams["compute_cost"]).split()),
        describe(hparams["classifier"]),
        millions(hparams["embedding_model"]),
        millions(hparams["classifier"]),
        hparams["epoch_counter"].current,
        ", ".join(map(str, epochs)),
        f"{brain.seconds / 60:.1f}",
    ]
    lines = [header, ["---"] * len(header), [str(cell) for cell in cells]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def describe(classifier):
    """A head in a few words."""
    ball = getattr(classifier, "ball", None)
    return f"{type(classifier).__name__}" + (f", {ball}" if ball is not None else "")


def conditions(hparams_file, arguments, preparation, brain, decision):
    """What the numbers were measured under."""
    lines = [
        f"Command: `train.py {shlex.join(arguments)}`",
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
scores, best, index, name = encoder.classify_file("speech.wav")  # training speakers

verification = SpeakerRecognition.from_hparams(source="path/to/this/folder")
score, same = verification.verify_files("one.wav", "other.wav")  # cosine, decision
```

`decision.json`, where there were development speakers, holds the thresholds that
`SpeakerRecognition` decides with. SpeechBrain's own class of that name loads the folder
too, but accepts above a cosine of 0.25. With `hparams_file="embedding.yaml"` embeddings
and decisions of SpeechBrain's classes need SpeechBrain alone; `hyperparams.yaml` needs
hamsb where it names hamsb's classifier.
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


def main(arguments):
    keep_memory()
    hparams_file, run_opts, overrides = parse_arguments(arguments)
    sb.utils.distributed.ddp_init_group(run_opts)
    plain = plain_keys(resolve(hparams_file, overrides))
    output_folder = Path(str(plain["output_folder"]))
    with only_run(output_folder) if if_main_process() else nullcontext():
        sb.create_experiment_directory(output_folder)
        run(arguments, hparams_file, run_opts, overrides, plain, output_folder)


def run(arguments, hparams_file, run_opts, overrides, plain, output_folder):
    """Prepare, train, choose, average, verify, export."""
    if "mini_corpus" in plain:
        from mini_corpus import make_mini_corpus

        run_on_main(make_mini_corpus, kwargs=plain["mini_corpus"])
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
    train_data, labels = dataio_prep(hparams)
    if "pretrained_model" in hparams:
        load_pretrained(hparams["pretrained_model"], hparams, labels)
    development = None
    if preparation.dev_trials is not None:
        trials = read_trials(preparation.dev_trials)
        development = trials, find_utterances(trials, hparams["data_folder"])
    brain = SpeakerBrain(
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
        about={"experiment": experiment, "arguments": arguments, "epochs": epochs},
        progress=not brain.noprogressbar,
    )
    export = export_model(
        output_folder / "export",
        resolved,
        {name: unwrapped(brain.modules[name]) for name in AVERAGED},
        labels,
        CARD.format(
            loss=hparams["compute_cost"],
            version=hamsb.__version__,
            experiment=experiment,
            report=report(results),
            sample_rate=hparams["sample_rate"],
        ),
        decision,
    )
    print(
        f"\n{run_facts}\n{results}\n"
        f"Report: {output_folder / 'report.md'}\nModel: {export}"
    )


if __name__ == "__main__":
    main_or_exit(main)
