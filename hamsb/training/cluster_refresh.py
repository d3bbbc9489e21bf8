"""New clusters of the training speakers, in the course of a training."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger
from torch import Tensor

from hamsb.analysis.clustering import (
    check_k,
    cluster_speakers,
    crop_length,
    embed_speakers,
)
from hamsb.dataio.clusters import read_clusters, write_clusters
from hamsb.dataio.sampling import SpeakerBatchSampler
from hamsb.nnet.balls import check_ball
from hamsb.utils.checks import check_whole, is_number
from hamsb.verification.batches import check_numbers

logger = get_logger(__name__)

_NEEDED = {"every", "hard_ratio", "k", "utterances", "seconds"}
_OPTIONAL = {"batch_size", "ball"}


def _check(options, speakers, sample_rate, epochs):
    """ValueError where options are out of range; what is found only when clusters are
    due stops a training that has run for long."""
    every, hard_ratio = options["every"], options["hard_ratio"]
    check_whole("every", every, least=1)
    if every >= epochs:
        raise ValueError(
            f"every={every}: in {epochs} epochs there would never be clusters; give a "
            "smaller number."
        )
    if not (is_number(hard_ratio) and 0 <= hard_ratio <= 1):
        raise ValueError(f"hard_ratio={hard_ratio}: must lie in [0, 1].")
    crop_length(options["utterances"], options["seconds"], sample_rate)
    check_numbers(options.get("batch_size"), None)
    check_k(options["k"], speakers)
    if options.get("ball") is not None:
        check_ball(options["ball"])


class ClusterRefresh:
    """Gives a batch sampler clusters of the training speakers, made anew after every so
    many epochs from the present embeddings.

    They are in ``<folder>/clusters_after_epoch_<epoch>.csv``, so that a run that was
    interrupted goes on with its own.

    Arguments
    ---------
    options : mapping
        The yaml's group ``cluster_refresh``:

        every : int
            Epochs from one time to the next; there are no clusters before the first.
        hard_ratio : float
            The sampler's, from then on.
        k : int
            The number of clusters.
        utterances, seconds : int, float
            Crops of each speaker at most, and their length.
        batch_size : int, optional
            Crops embedded at a time; by default 1 on a CPU, and many on an accelerator.
        ball : hamsb.nnet.balls.Ball, optional
            Cluster in it instead of by cosine.
    sampler : SpeakerBatchSampler
    folder : str or Path
        The run's ``save_folder``.
    annotation : str or Path
        The csv file of the training utterances.
    sample_rate : int
        Hz.
    seed : int
    epochs : int
        Of the training.

    Raises
    ------
    ValueError
        The options lack something, have too much, or are out of range; no sampler; the
        training is over before the first clusters.
    """

    def __init__(
        self,
        options: Mapping,
        sampler: SpeakerBatchSampler | None,
        folder: str | Path,
        annotation: str | Path,
        sample_rate: int,
        seed: int,
        epochs: int,
    ):
        wrong = _NEEDED - options.keys() or options.keys() - _NEEDED - _OPTIONAL
        if wrong:
            raise ValueError(
                f"cluster_refresh: {', '.join(sorted(wrong))}; its keys are "
                f"{', '.join(sorted(_NEEDED))}, and batch_size and ball may be given."
            )
        if sampler is None:
            raise ValueError(
                "cluster_refresh needs a batch_sampler, to be given the clusters."
            )
        try:
            _check(options, len(sampler.speakers), sample_rate, epochs)
        except ValueError as error:
            raise ValueError(f"cluster_refresh: {error}") from None
        self.options = dict(options)
        self.sampler = sampler
        self.folder = Path(folder)
        self.annotation = annotation
        self.sample_rate = sample_rate
        self.seed = seed

    def file(self, passed: int) -> Path:
        """Where the clusters made after so many epochs are."""
        return self.folder / f"clusters_after_epoch_{passed}.csv"

    def remove_files(self) -> None:
        """Forget clusters of an earlier run in the same folder."""
        run_on_main(self._remove_files)

    def _remove_files(self):
        for path in self.folder.glob("clusters_after_epoch_*.csv"):
            path.unlink()

    def before_epoch(
        self, epoch: int, encode: Callable[[Tensor], Tensor], **options: Any
    ) -> None:
        """Give the sampler the clusters that are due when an epoch begins. The processes
        share the work: all must call it.

        Arguments
        ---------
        epoch : int
            The one that begins; the first is 1.
        encode : callable
            Audio [B, T] -> embeddings [B, 1, D], without gradients.
        **options
            Of `hamsb.analysis.clustering.embed_speakers`.
        """
        passed = (epoch - 1) // self.options["every"] * self.options["every"]
        if passed == 0:
            return
        path = self.file(passed)
        if not run_on_main(path.is_file):
            found = self._embed(encode, **options)
            run_on_main(self._cluster, (path, *found))
            if if_main_process():
                number, k = len(found[0]), self.options["k"]
                told = "epoch %d begins with %d new clusters of %d speakers, hard_ratio=%g"
                logger.info(told, epoch, k, number, self.options["hard_ratio"])
        self.sampler.set_clusters(read_clusters(path))
        self.sampler.hard_ratio = self.options["hard_ratio"]

    def _embed(self, encode, **options):
        """The training speakers and their means, by all processes."""
        return embed_speakers(
            encode,
            self.annotation,
            self.sample_rate,
            utterances=self.options["utterances"],
            seconds=self.options["seconds"],
            batch_size=self.options.get("batch_size"),
            seed=self.seed,
            **options,
        )

    def _cluster(self, path, names, means):
        ball = self.options.get("ball")
        clusters = cluster_speakers(names, means, self.options["k"], ball, self.seed)
        write_clusters(clusters, path)
