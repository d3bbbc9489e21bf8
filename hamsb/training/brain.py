"""The Brain of every training script: epochs, development speakers, checkpoints."""

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.nnet.schedulers import update_learning_rate
from speechbrain.utils.checkpoints import (
    DEFAULT_LOAD_HOOKS,
    Checkpoint,
    average_checkpoints,
    get_default_hook,
)
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.seed import seed_everything
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from hamsb.dataio.draws import place
from hamsb.dataio.packing import PackedBatch
from hamsb.training.branches import loss_text
from hamsb.training.export import ENCODER, FEATURES
from hamsb.training.kept import (
    check_kept,
    check_unchanged,
    fingerprint,
    has_hooks,
    running_statistics,
    unsaved,
)
from hamsb.training.position import Feed, Position, own_share
from hamsb.training.processes import average_statistics, means, synchronizes, wrap
from hamsb.training.progress import Progress
from hamsb.training.report import millions
from hamsb.training.schedules import next_rate
from hamsb.training.shards import (
    check_optimizer,
    check_shards,
    keep_shards,
    parted,
    parted_parameters,
    read_module,
)
from hamsb.training.step import (
    fit_by_view,
    fused_on_cuda,
    optimizers_step,
    split_groups,
)
from hamsb.training.stopping import Stopping
from hamsb.utils.command_line import Terminated
from hamsb.utils.files import read_json, replacing
from hamsb.utils.lean import make_lean
from hamsb.utils.sharing import gathered, share
from hamsb.utils.workers import outlive_sigterm, start_server
from hamsb.verification.lookup import Enrolment
from hamsb.verification.metrics import eer
from hamsb.verification.scoring import score_lists
from hamsb.verification.trials import Trials

EPOCHS = "epochs.json"
HEAD_ALONE = "head_alone"  # in a checkpoint's meta: the encoder did not learn


class EmbeddingBrain(sb.Brain):
    """Training of an ``embedding_model``, with the EER of held-out development
    speakers at the end of every epoch.

    A subclass holds ``training_data``, ``compute_forward`` and
    ``compute_objectives``, which SpeechBrain's Brain explains, and what differs in
    the report and the model card. An optional key of the yaml that is null is as
    good as missing.

    Each epoch leaves a line in ``train_log.txt``, an entry in ``epochs.json`` and a
    checkpoint. The entries of ``epochs.json`` are mappings: ``epoch``, ``loss`` and
    other means over the epoch, ``EER``, a fraction, where there are development
    speakers, and of the loader `hamsb.training.position.Feed.facts`.

    Arguments
    ---------
    development : tuple of (Trials, dict of str to Path or Utterance), optional
        The development trials and their files.

    Attributes
    ----------
    script : str
        The file's name.
    averaged : sequence of str
        The modules whose weights are averaged and exported; so are features and
        normalization where training changes them, see `exported`.
    training_only : sequence of str
        Modules that learn and that the exported model does without.
    card : dict of str to str
        The model card's ``classify``, lines of Python.
    by_view : bool
        Whether a step takes its backward pass after each of the batch's ``views``, see
        `hamsb.training.step.fit_by_view`, and not once after ``compute_forward``.
    utterances : list of str
        The ids of the present batch, for messages; ``compute_forward`` or ``views`` sets
        it.
    """

    opt_class: Callable  # Brain's
    step: int  # and these
    compile_module_keys: list[str] | None
    script = ""
    by_view = False
    averaged = ("embedding_model",)
    training_only = ("compute_cost", "momentum_encoder")
    card = {"classify": ""}

    def __init__(
        self,
        *args: Any,
        development: tuple[Trials, Mapping[str, Enrolment]] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        make_lean(self.modules, self.device)
        if self.debug and self.checkpointer is not None:  # a new folder of each process
            folders = gathered(lambda: self.checkpointer.checkpoints_dir)
            self.checkpointer.checkpoints_dir = folders[0]
        self.development = development
        self.rate = 0.0  # of the last optimizer step
        self.progress = Progress(epochs=0, batches=0, shown=False)  # until it starts
        self.seconds = 0.0  # of training, those before an interruption included
        self.watched: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.margin_schedule = getattr(self.hparams, "margin_schedule", None)
        if self.margin_schedule is not None:  # it may come from an option
            self.also_save("margin_schedule", self.margin_schedule)
        self.stopping = Stopping(self.device)
        self.position = Position()
        self.feed = Feed(())
        self.loader: DataLoader | None = None  # of the training
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("position", self.position, optional_load=True)
        self.fresh: dict[str, str] = {}
        self.unsaved: dict[str, torch.nn.Module] = {}
        self.unsaved_before: dict[str, str] = {}
        self.parted = parted_parameters(self.modules)  # of heads that processes share out
        check_shards(self.modules)
        self.begun_from: dict | None = None  # of fine-tuning: what run.json says of it
        self.head_alone = False  # is this an epoch in which the head alone learns?

    def also_save(self, name: str, value: Any) -> None:
        """Add an object to the checkpoints, unless the yaml has done so."""
        if self.checkpointer is None:
            return
        kept = self.checkpointer.recoverables.values()
        if not any(value is other for other in kept):
            self.checkpointer.add_recoverable(name, value)

    def check_kept(self, hparams: dict) -> None:
        """ValueError where a checkpoint or an export would lack what is trained;
        called before training."""
        exported = (*FEATURES, *self.averaged)
        kept = self.checkpointer.recoverables
        check_kept(hparams, self.modules, kept, exported, self.training_only)
        self.fresh = {name: fingerprint(self.modules[name]) for name in FEATURES}
        self.unsaved = unsaved(self.modules, kept)
        self.unsaved_before = {
            name: fingerprint(module) for name, module in self.unsaved.items()
        }

    @staticmethod
    def training_data(hparams: dict) -> tuple:
        """What a script trains on; called before the Brain is made.

        Returns
        -------
        DynamicItemDataset
        CategoricalEncoder or None
            Speaker <-> class, where the model has classes.
        """
        raise NotImplementedError

    @staticmethod
    def facts(hparams: dict) -> dict[str, str]:
        """The first columns of the run's table: header -> cell."""
        return {
            "loss": loss_text(hparams),
            "parameters": millions(hparams["embedding_model"]),
        }

    # steps

    def fit_batch(self, batch: PackedBatch) -> torch.Tensor:
        """As Brain's, or view by view."""
        return fit_by_view(self, batch) if self.by_view else super().fit_batch(batch)

    def views(self, batch: PackedBatch) -> list[tuple]:
        """The views of a batch, each the arguments of ``forward_view``. A subclass has
        both where its steps are taken ``by_view``."""
        raise NotImplementedError

    def forward_view(self, *view: Any) -> Any:
        """What ``compute_objectives`` is given, in a list, of one view."""
        raise NotImplementedError

    def optimizers_step(self) -> None:
        """As Brain's, but ``max_grad_norm`` is about all of an optimizer's parameters."""
        optimizers_step(self, self.freeze_optimizers(self.optimizers_dict).values())

    def watch(self, **values: torch.Tensor) -> None:
        """Note values of this step, 0-dimensional tensors; the log has their means
        over the epoch."""
        for name, value in values.items():
            self.watched[name].append(value.detach().float())

    def check_loss_isfinite(self, loss: torch.Tensor) -> None:
        """As Brain's, but the error names the utterances of the batch."""
        try:
            super().check_loss_isfinite(loss)
        except ValueError as error:
            raise ValueError(
                f"the loss is {loss.item()} in step {self.step}; nothing is saved "
                f"after it. The batch: {', '.join(self.utterances)}"
            ) from error

    def on_fit_batch_start(self, batch: PackedBatch, should_step: bool) -> None:
        """The margin of this step."""
        self.apply_margin()

    def apply_margin(self) -> None:
        """Give the loss the margin of the next step, where a schedule moves it."""
        if self.margin_schedule is not None:
            self.margin_schedule.apply(self.hparams.compute_cost)

    def on_fit_batch_end(
        self, batch: PackedBatch, outputs: Any, loss: torch.Tensor, should_step: bool
    ) -> None:
        """The learning rate and the margin of the next step."""
        self.progress.step(self.avg_train_loss)
        if not should_step:
            return
        self.rate = self.optimizer.param_groups[0]["lr"]
        if self.anneals_by_step():
            self.hparams.lr_annealing.on_batch_end(self.optimizer)
        if self.margin_schedule is not None:
            self.margin_schedule.step(self.hparams.compute_cost)

    def anneals_by_step(self) -> bool:
        """Whether the learning rate is a function of optimizer steps, not of epochs."""
        return hasattr(self.hparams.lr_annealing, "on_batch_end")

    # the course of training

    def init_optimizers(self) -> None:
        """As Brain's, but the parameters of the modules that the yaml names in
        ``no_weight_decay`` have none, the encoder's rate is the schedule's times
        ``encoder_lr_factor``, and Adam is fused on CUDA."""

        def parameters_of(names: Iterable[str]) -> set[int]:
            return {id(p) for name in names for p in self.modules[name].parameters()}

        free = parameters_of(getattr(self.hparams, "no_weight_decay", None) or [])
        factor = getattr(self.hparams, "encoder_lr_factor", None)
        given: Callable = self.opt_class
        make = fused_on_cuda(given, self.device_type)

        def grouped(parameters: Iterable) -> torch.optim.Optimizer:
            if free:
                parameters = split_groups(parameters, free, weight_decay=0.0)
            if factor not in (None, 1):
                encoder = parameters_of(ENCODER)
                parameters = split_groups(parameters, encoder, lr_factor=factor)
            return make(parameters)

        self.opt_class = grouped
        super().init_optimizers()
        self.opt_class = given
        if self.parted:
            check_optimizer(self.optimizer)
        if self.checkpointer is not None:
            keep_shards(self.checkpointer)

    def make_dataloader(
        self, dataset: Any, stage: sb.Stage, *args: Any, **kwargs: Any
    ) -> DataLoader:
        """As Brain's, with batches in pinned memory on an accelerator, workers that stay
        for the next epoch, and each utterance with its place in the training
        (`hamsb.dataio.draws`); ValueError where the schedules count other steps than the
        loader makes, or end after the training."""
        kwargs.setdefault("pin_memory", self.device_type not in ("cpu", "mps"))
        kwargs.setdefault("worker_init_fn", outlive_sigterm)
        if kwargs.get("num_workers"):
            start_server(kwargs.get("multiprocessing_context"))
        if stage == sb.Stage.TRAIN:
            kwargs.setdefault("persistent_workers", kwargs.get("num_workers", 0) > 0)
            # Workers are seeded from it: torch's own goes on alike with and without them.
            kwargs.setdefault("generator", torch.Generator().manual_seed(self.hparams.seed))
            if isinstance(dataset, DynamicItemDataset):
                kwargs.setdefault("collate_fn", PackedBatch)
        loader = super().make_dataloader(dataset, stage, *args, **kwargs)
        if stage != sb.Stage.TRAIN:
            return loader
        if self.parted and not (kwargs.get("drop_last") or kwargs.get("batch_sampler")):
            raise ValueError(
                "dataloader_options: a head with sharded: True takes batches of one size; "
                "give drop_last: True."
            )
        self.loader = loader
        self.batches = min(len(loader), self.debug_batches) if self.debug else len(loader)
        counted = getattr(self.hparams, "steps_per_epoch", None)
        steps = len(loader) // self.grad_accumulation_factor
        if counted not in (None, steps):
            raise ValueError(
                f"steps_per_epoch={counted}: what the schedules count, but an epoch of "
                f"these dataloader_options has {len(loader)} batches, {steps} optimizer "
                "steps. Leave steps_per_epoch out of the command line to have it counted."
            )
        schedule = self.margin_schedule
        last = 0 if schedule is None else schedule.delay_steps + schedule.warmup_steps
        if last > steps * self.hparams.epoch_counter.limit:
            raise ValueError(
                f"margin_schedule: reaches its margin after {last:g} optimizer steps, and "
                f"the training has {steps * self.hparams.epoch_counter.limit}; give fewer "
                "warmup_steps, or train longer."
            )
        return loader

    def _train_loader_specifics(self, dataset: Any, loader_kwargs: dict) -> dict:
        """As Brain's, but what the loader asks the dataset for is `Draw`, in an order
        that is a function of (seed, epoch) for any number of processes."""
        self.train_sampler, options = place(
            len(dataset), loader_kwargs, self.hparams.seed, *share()
        )
        return options

    def _compile(self) -> None:
        """As Brain's, but for heads that the processes share out: between the parts of
        their work they wait for each other."""
        if self.compile and self.parted:
            names = self.compile_module_keys or self.modules
            self.compile_module_keys = [
                name
                for name in names
                if name not in self.modules or not parted(self.modules[name])
            ]
        super()._compile()

    def _wrap_distributed(self) -> None:
        """As Brain's, but buffers stay where they are, and the yaml's
        ``sync_batch_norm`` chooses how batches are normalized."""
        if not self.distributed_launch:
            return super()._wrap_distributed()
        sync = synchronizes(
            getattr(self.hparams, "sync_batch_norm", None), self.device_type
        )
        for name, module in self.modules.items():
            if any(parameter.requires_grad for parameter in module.parameters()):
                self.modules[name] = wrap(module, sync, self.find_unused_parameters)

    def on_fit_start(self) -> None:
        """As Brain's, which loads the last checkpoint; of it also the time so far."""
        by = self.hparams.average_by
        if by != "last" and (by != "best" or self.development is None):
            raise ValueError(
                f"average_by={by!r}: 'last', or 'best' with development speakers."
            )
        read_epochs(Path(self.hparams.output_folder) / EPOCHS)  # damage is told at once
        super().on_fit_start()
        self.apply_margin()  # reports tell of it where nothing is left to train, too
        latest = self.checkpointer.find_checkpoint()
        if latest is not None:
            within = self.position.state.get("seconds", 0.0)
            self.seconds = latest.meta.get("seconds", within)
        counter = self.hparams.epoch_counter
        epochs = counter.limit
        if self.debug and self.debug_epochs > 0:
            epochs = min(epochs, self.debug_epochs)
        self.progress = Progress(
            epochs,
            self.batches,
            done=counter.current * self.batches + self.step,
            shown=not self.noprogressbar and if_main_process(),
            color=self.tqdm_barcolor["train"],
        )

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """As Brain's, with one bar for all epochs in the place of one for each.
        SIGTERM ends it with a checkpoint and `Terminated`."""
        try:
            with self.stopping if self.checkpointer is not None else nullcontext():
                super().fit(*args, **{**kwargs, "progressbar": False})
        finally:
            self.progress.close()
            if self.loader is not None:  # checkpoints keep it, and it its workers
                self.loader._iterator = self.loader._speechbrain_iterator = None

    def _fit_train(self, train_set: Any, epoch: int, enable: bool) -> None:
        """As Brain's; the time in which it waits for batches is measured."""
        self.feed = Feed(train_set, self.begin_batches)
        super()._fit_train(self.feed, epoch, enable)
        if self.stopping.agreed():
            raise Terminated

    def begin_batches(self) -> None:
        """After Brain has set all modules to training mode: what comes before the head is
        frozen while the head learns alone; then go on within the epoch."""
        if self.head_alone:
            for name in ENCODER:
                self.modules[name].eval()
        self.go_on_within_epoch()

    def encoding(self) -> AbstractContextManager:
        """A block in which what comes before the head is computed: without gradients
        while the head learns alone."""
        return torch.no_grad() if self.head_alone else nullcontext()

    def go_on_within_epoch(self) -> None:
        """Where a checkpoint within the epoch was loaded: draw what would have been drawn
        next, and add to what was noted."""
        noted = self.position.take()
        if noted:
            own = own_share(noted["processes"])
            for each, value in zip(running_statistics(self.modules), own["statistics"]):
                each.copy_(value)
            self.avg_train_loss = own["loss"]
            for name, values in own["watched"].items():
                self.watched[name] = list(values.to(self.device))
        self.rate = noted.get("rate", self.rate)
        self.feed.go_on(*noted.get("feed", (0.0, 0.0, 0)))

    def _should_save_intra_epoch_ckpt(self, *since: Any) -> bool:
        """As Brain's, or on SIGTERM; only after a step of the optimizer, since no
        checkpoint holds gradients that accumulate."""
        if self.checkpointer is None or self.step % self.grad_accumulation_factor:
            return False
        return self.stopping.agreed() or super()._should_save_intra_epoch_ckpt(*since)

    def _save_intra_epoch_ckpt(self) -> None:
        """As Brain's, with what an exact resumption takes."""
        own = {
            "statistics": [each.cpu() for each in running_statistics(self.modules)],
            "loss": self.avg_train_loss,
            "watched": {name: torch.stack(v).cpu() for name, v in self.watched.items()},
        }
        self.position.note(
            processes=gathered(lambda: own),
            rate=self.rate,
            seconds=self.seconds + time.time() - self.started,
            feed=(self.feed.waited, self.feed.seconds, self.feed.largest),
        )
        super()._save_intra_epoch_ckpt()
        self.position.state = {}
        if self.stopping.decided:
            raise Terminated

    def on_stage_start(self, stage: sb.Stage, epoch: int | None = None) -> None:
        """What is drawn on the device, masks and what else SpeechBrain's augmenters
        draw for a batch, is drawn from (seed, epoch), so that a run that was interrupted
        draws what an uninterrupted one would have drawn; and in each further process
        from (seed, epoch, its number), so that no two draw the same."""
        key = (epoch or 0,) if if_main_process() else (epoch or 0, share()[0])
        sequence = np.random.SeedSequence(self.hparams.seed, spawn_key=key)
        seed_everything(int(sequence.generate_state(1)[0]), verbose=False)
        self.watched.clear()
        head_epochs = getattr(self.hparams, "head_epochs", None) or 0
        self.head_alone = 0 < (epoch or 0) <= head_epochs
        self.progress.start_epoch(epoch or 0)
        self.started = time.time()

    def on_stage_end(
        self, stage: sb.Stage, stage_loss: float, epoch: int | None = None
    ) -> None:
        """Only training has a stage: development is embedded, not classified."""
        check_unchanged(self.unsaved, self.unsaved_before)
        fed = self.feed.facts(share()[1] * self.grad_accumulation_factor)
        average_statistics(self.modules)
        train_stats = {"loss": stage_loss}
        for name, values in self.watched.items():
            train_stats[name] = torch.stack(values).mean().item()
        train_stats = means(train_stats)
        meta: dict[str, Any] = {"epoch": epoch}
        valid_stats = None
        if self.development is not None:
            meta["EER"] = self.development_eer()
            valid_stats = {"EER": 100 * meta["EER"]}
        self.progress.end_epoch(meta.get("EER"))
        waited = f"{fed['loader_wait']:.1f} s ({fed['loader_wait_share']:.0%})"
        self.hparams.train_logger.log_stats(
            {
                "epoch": epoch,
                "lr": self.rate,
                "batch": fed["global_batch"],
                "waited": waited,
            },
            train_stats,
            valid_stats,
        )
        if not self.anneals_by_step():
            rate = next_rate(
                self.hparams.lr_annealing, epoch or 0, meta.get("EER", stage_loss)
            )
            update_learning_rate(self.optimizer, rate)
        if if_main_process():  # before the checkpoint: an epoch repeated is replaced
            self.write_epoch({"epoch": epoch, **train_stats, **meta, **fed})
        if self.head_alone:  # nothing to choose: the encoder is the one that was taken
            meta = {"epoch": epoch, HEAD_ALONE: True}
        self.seconds += time.time() - self.started
        # Brain saves its step and running loss, and clears them only later.
        self.step, self.avg_train_loss = 0, 0.0
        self.checkpointer.save_and_keep_only(
            meta={**meta, "seconds": self.seconds},
            num_to_keep=self.hparams.avg_checkpoints,
            min_keys=["EER"] if self.development is not None else [],
            ckpt_predicate=is_of_whole_epoch,
        )

    def write_epoch(self, entry: dict) -> None:
        """Add an entry to ``epochs.json``, in the place of those from its epoch on."""
        path = Path(self.hparams.output_folder) / EPOCHS
        entries = [each for each in read_epochs(path) if each["epoch"] < entry["epoch"]]
        lines = ",\n".join(map(json.dumps, [*entries, entry]))
        with replacing(path) as partial:
            partial.write_text(f"[\n{lines}\n]\n", encoding="utf-8")

    # the model that comes out

    def encode(self, wavs: torch.Tensor) -> torch.Tensor:
        """Audio [B, T] -> embeddings [B, 1, D], computed as EncoderClassifier does."""
        self.modules.eval()
        wavs = wavs.to(self.device)
        lengths = torch.ones(len(wavs), device=self.device)
        with torch.no_grad(), self.evaluation_ctx:
            features = self.modules.compute_features(wavs)
            features = self.modules.mean_var_norm(features, lengths)
            return unwrapped(self.modules.embedding_model)(features, lengths)

    @property
    def embedding_options(self) -> dict[str, Any]:
        """How `embed_utterances` is to embed files: where, with as many workers as read
        the training data, and shared by the processes, which must all call it."""
        loader = self.hparams.dataloader_options
        names = ("num_workers", "multiprocessing_context")
        options = {n: loader[n] for n in names if n in loader}
        return {"device": self.device, "shared": True, **options}

    def mean_features(self, wavs: torch.Tensor) -> torch.Tensor:
        """Audio [B, T] -> the mean over time of its features [B, n_mels]: a
        verification system without any training, to compare with."""
        with torch.no_grad():
            return self.modules.compute_features(wavs.to(self.device)).mean(1)

    def development_scores(self) -> np.ndarray:
        """Cosines of the development trials, [N]. The processes share the work: all
        must call it, and `development_eer`."""
        trials, files = self._development()
        scores = score_lists(
            self.encode,
            [trials],
            files,
            self.hparams.sample_rate,
            progress=not self.noprogressbar,
            **self.embedding_options,
        )
        return scores[trials.name]

    def development_eer(self) -> float:
        """EER of the development trials, a fraction."""
        return eer(self.development_scores(), self._development()[0].labels)[0]

    def _development(self) -> tuple[Trials, Mapping[str, Enrolment]]:
        if self.development is None:
            raise ValueError("dev_speakers=0: there are no development trials.")
        return self.development

    def exported(self) -> list[str]:
        """The modules of the exported model that hold something: those that are averaged,
        and features and normalization if they have parameters or training has changed
        them."""
        modules = {name: unwrapped(self.modules[name]) for name in self.fresh}
        holding = [
            name
            for name, module in modules.items()
            if any(True for _ in module.parameters())
            or fingerprint(module) != self.fresh[name]
        ]
        return [*holding, *self.averaged]

    def choose_and_average(self) -> list[int]:
        """Load the mean of the chosen checkpoints' weights; returns their epochs.

        ``average_by`` "last" takes the last ``avg_checkpoints`` epochs, "best"
        those with the lowest development EER; none is of an epoch in which the head
        learned alone. Statistics that have a way of their own
        to be saved, as a global normalization's, are those of the last of these epochs.
        """
        chosen = self.checkpointer.find_checkpoints(
            min_key={"last": None, "best": "EER"}[self.hparams.average_by],
            ckpt_predicate=is_of_encoder,
            max_num_checkpoints=self.hparams.avg_checkpoints,
        )
        if not chosen:  # --debug may end before the encoder's first epoch
            chosen = self.checkpointer.find_checkpoints(
                ckpt_predicate=is_of_whole_epoch, max_num_checkpoints=1
            )
        if not chosen:
            raise FileNotFoundError(
                f"{self.checkpointer.checkpoints_dir}: no checkpoint; train first."
            )
        latest = max(chosen, key=lambda checkpoint: checkpoint.meta["epoch"])
        kept = self.checkpointer.recoverables.items()
        for name in self.exported():
            module = unwrapped(self.modules[name])
            saved = next(each for each, value in kept if value is module)
            if has_hooks(module):
                load = get_default_hook(module, DEFAULT_LOAD_HOOKS)
                load(module, latest.paramfiles[saved], True)
            else:
                reader = partial(read_module, module)
                module.load_state_dict(average_checkpoints(chosen, saved, reader))
        return sorted(checkpoint.meta["epoch"] for checkpoint in chosen)


def read_epochs(path: Path) -> list[dict]:
    """The entries of an ``epochs.json``; none where there is none yet, a ValueError where
    it is damaged."""
    if not path.is_file():
        return []
    try:
        entries = read_json(path)
        whole = all(isinstance(each["epoch"], int) for each in entries)
    except (ValueError, LookupError, TypeError):
        whole = False
    if not whole:
        raise ValueError(
            f"{path}: damaged. Restore it; or remove it, and it begins with the next epoch."
        )
    return entries


def is_of_whole_epoch(checkpoint: Checkpoint) -> bool:
    """Not one that ``ckpt_interval_minutes`` saved in the middle of an epoch."""
    return "epoch" in checkpoint.meta


def is_of_encoder(checkpoint: Checkpoint) -> bool:
    """Whether one is of a whole epoch in which the encoder learned, too."""
    return is_of_whole_epoch(checkpoint) and HEAD_ALONE not in checkpoint.meta


def unwrapped(module: torch.nn.Module) -> torch.nn.Module:
    """The module inside DistributedDataParallel and torch.compile, or itself."""
    if isinstance(module, DistributedDataParallel):
        module = module.module
    return getattr(module, "_orig_mod", module)
