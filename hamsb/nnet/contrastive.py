"""Contrastive losses, self-supervised and supervised.

Self-supervised (Lepage & Dehak, arXiv 2306.03664 and 2404.14913): an utterance
is told from others by two views of it. `NTXent` contrasts views within
the batch, `MoCo` with queues of earlier embeddings from a momentum encoder
(``hamsb.nnet.momentum``). Both lay out similarities, the positive's in front,

    z = (sim(a, p), sim(a, n_1), ..., sim(a, n_K)),   target 0,

and hand them to a loss of ``hamsb.nnet.losses``, which holds the scale (s = 1 /
temperature) and the margin: ``Softmax`` makes it NT-Xent, ``AMSoftmax``
NT-Xent-AM, ``AAMSoftmax`` NT-Xent-AAM. A candidate that is no negative of an
anchor has the similarity ``-inf``. An anchor without negatives has loss 0.

Supervised (Masztalski et al., arXiv 2507.17540): `SupCon` and
`HSCL` contrast utterances of a speaker with those of others.

The similarity is an object: cosine, or minus the distance in a given ball.
Positives are measured directly, the rest by one matrix product; no [B, B, D]
tensor is made, everything is float32 or wider, and no value is brought to the
host. `diagnostics` tells of collapse.

Several processes: candidates are gathered with gradient, and each process
returns the loss of its own anchors. The mean over the processes is the loss of
the joined batch, and with DistributedDataParallel, which averages gradients, so
are the gradients. Every process needs the same number of utterances.
"""

import math
from collections.abc import Collection, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, normalize

from hamsb.nnet._batches import gathered, processes, speaker_indices, two_views, vectors
from hamsb.nnet.kinds import in_words
from hamsb.nnet.losses import AMSoftmax, Softmax
from hamsb.nnet.momentum import MomentumQueue
from hamsb.nnet.precision import no_autocast, product
from hamsb.nnet.similarities import CosineSimilarity, Similarity
from hamsb.utils.checks import check_flag, check_not_negative, check_positive

# -------------------------------------------------------------- self-supervised


class _Contrast(nn.Module):
    """An anchor's positive against its negatives, under a margin loss."""

    expects: Collection[str] = ("views",)

    def __init__(self, loss: Softmax, similarity: Similarity | None = None):
        super().__init__()
        if not isinstance(loss, Softmax):
            raise ValueError(
                f"loss={loss!r}: must be a loss, such as hamsb.AMSoftmax(margin=0.1)."
            )
        self.loss = loss
        self.similarity = _checked(similarity)
        if loss.zero_below_target:
            raise ValueError(
                f"loss={loss}: would count masked candidates; use Softmax, AMSoftmax or "
                "AAMSoftmax."
            )
        gives = self.similarity.gives
        if gives and gives not in loss.expects:
            raise ValueError(
                f"loss={loss}: expects {in_words(loss.expects)}, but the similarity gives "
                f"{in_words([gives])}; use AMSoftmax."
            )

    @property
    def margin(self) -> float:
        """The loss's margin, which a schedule may set (no attribute, where the
        loss has none)."""
        return cast(AMSoftmax, self.loss).margin

    @margin.setter
    def margin(self, value: float) -> None:
        cast(AMSoftmax, self.loss).margin = value

    def contrast(
        self, anchors: Tensor, positives: Tensor, candidates: Tensor, mask: Tensor
    ) -> Tensor:
        """The mean loss of anchors, all arguments projected.

        Arguments
        ---------
        anchors, positives : torch.Tensor
            [B, D], row by row.
        candidates : torch.Tensor
            [M, D], what every anchor is contrasted with.
        mask : torch.Tensor
            Bool, [B, M] or [M]: True masks a candidate out, as no negative.
        """
        positive = self.similarity.paired(anchors, positives).unsqueeze(1)
        negative = self.similarity.pairwise(anchors, candidates)
        negative = negative.masked_fill(mask, -math.inf)
        predictions = torch.cat([positive, negative], 1).unsqueeze(1)
        first = torch.zeros(len(anchors), 1, dtype=torch.long, device=anchors.device)
        return self.loss(predictions, first)


class NTXent(_Contrast):
    """NT-Xent between two views of each utterance of a batch, with or without
    margin (arXiv 2404.14913; SimCLR, Chen et al., arXiv 2002.05709).

    Asymmetric: anchors are the first views, candidates the second, B - 1
    negatives each. Symmetric (SNT-Xent): 2B anchors, with all other views but
    their positive as negatives, 2B - 2 each.

    Arguments
    ---------
    loss : nn.Module
        ``Softmax``, ``AMSoftmax`` or, on cosines, ``AAMSoftmax``, with ``scale
        = 1 / temperature``. A loss that does not fit is a ValueError.
    symmetric : bool
        Which of the two.
    similarity : nn.Module, optional
        `CosineSimilarity` by default, or `HyperbolicSimilarity`.

    Example
    -------
    >>> from hamsb import AMSoftmax
    >>> cost = NTXent(AMSoftmax(margin=0.1, scale=30.0), symmetric=True)
    >>> cost(torch.eye(4), torch.eye(4)) < 1e-5
    tensor(True)
    """

    def __init__(
        self,
        loss: Softmax,
        symmetric: bool = False,
        similarity: Similarity | None = None,
    ):
        super().__init__(loss, similarity)
        check_flag("symmetric", symmetric)
        self.symmetric = symmetric

    def forward(
        self, first: Tensor, second: Tensor, labels: Tensor | None = None
    ) -> Tensor:
        """The mean loss over the anchors.

        Arguments
        ---------
        first, second : torch.Tensor
            Embeddings [B, 1, D] or [B, D] of two views, any floating dtype; row
            i of both is one utterance.
        labels : torch.Tensor, optional
            Speaker indices [B] or [B, 1]. With them a speaker's other
            utterances are no negatives; without, every other utterance is one.

        Returns
        -------
        torch.Tensor
            A scalar, float32 or wider. A ValueError tells of shapes or dtypes
            that do not fit.
        """
        first, second = two_views(first, second)
        rank, _ = processes()
        if labels is None:
            ids = torch.arange(len(first), device=first.device) + rank * len(first)
        else:
            ids = speaker_indices("labels", labels, first)
        with no_autocast(first):
            first = self.similarity.project(first)
            second = self.similarity.project(second)
            if self.symmetric:
                first, second = torch.cat([first, second]), torch.cat([second, first])
                ids = ids.repeat(2)
            mask = ids.unsqueeze(1) == gathered(ids)
            return self.contrast(first, second, gathered(second), mask)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"symmetric={self.symmetric}"


class MoCo(_Contrast):
    """MoCo's loss: queries against their keys and queues of earlier keys (He et
    al., arXiv 1911.05722; with margins, arXiv 2404.14913).

    One queue: (q1, k2), negatives from the queue of k2. Symmetric, two: (q1, k2)
    and (q2, k1), each against the queue of its keys, the losses averaged.

    The queues are buffers of this module: checkpoint it. After each optimizer
    step, `update` takes the keys of the step. Embeddings are queued as
    they are and projected when used, so a ball may learn.

    Arguments
    ---------
    loss, similarity : nn.Module
        As in `NTXent`.
    size, dimension : int
        As in `hamsb.nnet.momentum.MomentumQueue`.
    symmetric : bool
        Two queues instead of one.

    Example
    -------
    >>> from hamsb import AMSoftmax
    >>> cost = MoCo(AMSoftmax(margin=0.1, scale=30.0), size=64, dimension=8)
    >>> q1, k2 = torch.randn(2, 4, 8)
    >>> cost([q1], [k2])  # the queue is empty yet
    tensor(0.)
    >>> cost.update([k2])
    >>> cost([q1], [k2]) > 0
    tensor(True)
    """

    def __init__(
        self,
        loss: Softmax,
        size: int,
        dimension: int,
        symmetric: bool = False,
        similarity: Similarity | None = None,
    ):
        super().__init__(loss, similarity)
        check_flag("symmetric", symmetric)
        self.queues = nn.ModuleList(
            MomentumQueue(size, dimension) for _ in range(2 if symmetric else 1)
        )

    def forward(
        self,
        queries: Sequence[Tensor],
        keys: Sequence[Tensor],
        labels: Tensor | None = None,
    ) -> Tensor:
        """The mean loss over queues and queries.

        Arguments
        ---------
        queries : sequence of torch.Tensor
            For each queue, embeddings [B, 1, D] or [B, D]: ``[q1]``, or ``[q1,
            q2]``.
        keys : sequence of torch.Tensor
            Their positives from the momentum encoder, which get no gradient:
            ``[k2]``, or ``[k2, k1]``.
        labels : torch.Tensor, optional
            Speaker indices [B] or [B, 1]. With them the queued keys of the same
            speaker are no negatives, as far as their labels were queued.

        Returns
        -------
        torch.Tensor
            A scalar, float32 or wider. A ValueError tells of shapes, dtypes or
            numbers of views that do not fit.
        """
        self._check_number("queries", queries)
        self._check_number("keys", keys)
        losses = [
            self._against(cast(MomentumQueue, queue), query, key.detach(), labels)
            for queue, query, key in zip(self.queues, queries, keys, strict=True)
        ]
        return torch.stack(losses).mean()

    def update(self, keys: Sequence[Tensor], labels: Tensor | None = None) -> None:
        """Queue the keys (and labels) that `forward` was given."""
        self._check_number("keys", keys)
        for queue, key in zip(self.queues, keys, strict=True):
            cast(MomentumQueue, queue).enqueue(key, labels)

    def _against(
        self, queue: MomentumQueue, queries: Tensor, keys: Tensor, labels: Tensor | None
    ) -> Tensor:
        queries = vectors("queries", queries, queue.keys.shape[1])
        queries, keys = two_views(queries, keys)
        mask = queue.empty
        if labels is not None:
            speakers = speaker_indices("labels", labels, queries)
            mask = mask | (speakers.unsqueeze(1) == queue.labels)
        with no_autocast(queries):
            queries, keys, queued = (
                self.similarity.project(x) for x in (queries, keys, queue.keys.to(queries))
            )
            return self.contrast(queries, keys, queued, mask)

    def _check_number(self, name: str, views: Sequence[Tensor]) -> None:
        if len(views) != len(self.queues):
            raise ValueError(
                f"{len(views)} {name} for {len(self.queues)} queue(s): a list with one "
                "tensor a queue is needed."
            )


# ------------------------------------------------------------------- supervised


class SupCon(nn.Module):
    """Supervised contrastive loss (Khosla et al., arXiv 2004.11362; for speakers
    arXiv 2507.17540).

    The mean over anchors i of ``-(1/|P|) sum_{p in P} log(exp(z_ip) / sum_{k !=
    i} exp(z_ik))``, ``z = similarity / tau``, P the other utterances of the
    speaker. An anchor without positives is left out of the mean; where none
    has any the loss is 0.

    Arguments
    ---------
    temperature : float
        tau > 0, or where it starts.
    learnable : bool
        Learn tau, as exp of a parameter: the loss must then be among the
        optimized modules, and be called there.
    similarity : nn.Module, optional
        As in `NTXent`.

    Example
    -------
    >>> cost = SupCon(temperature=0.1)
    >>> speakers = torch.tensor([[0], [0], [1], [1]])
    >>> cost(torch.eye(2).repeat_interleave(2, 0), speakers) < 1e-3
    tensor(True)
    """

    expects: Collection[str] = ("embedding",)
    log_temperature: nn.Parameter  # where it is learned alone

    def __init__(
        self,
        temperature: float = 0.1,
        learnable: bool = True,
        similarity: Similarity | None = None,
    ):
        super().__init__()
        check_positive("temperature", temperature)
        check_flag("learnable", learnable)
        self._initial_temperature = float(temperature)
        if learnable:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.similarity = _checked(similarity)

    @property
    def temperature(self) -> float | Tensor:
        """tau: a float, or a 0-dimensional tensor where it is learnable."""
        if hasattr(self, "log_temperature"):
            return self.log_temperature.exp()
        return self._initial_temperature

    def forward(
        self, embeddings: Tensor, labels: Tensor, length: Tensor | None = None
    ) -> Tensor:
        """The mean loss over the anchors.

        Arguments
        ---------
        embeddings : torch.Tensor
            [B, 1, D] or [B, D], any floating dtype.
        labels : torch.Tensor
            Speaker indices [B] or [B, 1].
        length : torch.Tensor, optional
            Taken for SpeechBrain's sake, and not read.

        Returns
        -------
        torch.Tensor
            A scalar, float32 or wider. A ValueError tells of shapes or dtypes
            that do not fit.
        """
        embeddings = vectors("embeddings", embeddings)
        rank, number = processes()
        speakers = gathered(speaker_indices("labels", labels, embeddings))
        utterances = torch.arange(len(speakers), device=speakers.device)
        own = slice(rank * len(embeddings), (rank + 1) * len(embeddings))
        same = speakers.unsqueeze(1) == speakers
        anchors = (same.sum(1) > 1).sum()  # of all processes
        same = same[own]
        others = utterances[own].unsqueeze(1) != utterances
        with no_autocast(embeddings):
            points = self.similarity.project(embeddings)
            logits = self.similarity.pairwise(points, gathered(points)) / self.temperature
            losses = self.pair_losses(logits, others, ~same)
            positive = same & others
            losses = losses.masked_fill(~positive, 0).sum(1)
            losses = losses / positive.sum(1).clamp_min(1)
            return losses.sum() * number / anchors.clamp_min(1)

    def pair_losses(self, logits: Tensor, others: Tensor, negative: Tensor) -> Tensor:
        """The loss of each anchor with each candidate as its positive, [B, M].

        Arguments
        ---------
        logits : torch.Tensor
            Similarities over tau [B, M].
        others, negative : torch.Tensor
            Bool [B, M]: which candidates are not the anchor itself, and which
            are other speakers'.
        """
        return _logsumexp(logits, others) - logits

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        learnable = hasattr(self, "log_temperature")
        temperature = torch.as_tensor(self.temperature).item()
        return f"temperature={temperature:g}, learnable={learnable}"


class HSCL(SupCon):
    """H-SCL: supervised contrastive loss with reweighted negatives (Jiang et al.,
    arXiv 2209.00078; for speakers arXiv 2507.17540).

    With ``c_ij = exp(2 similarity_ij / tau)`` and, over the utterances of other
    speakers, weights ``w_ij = c_ij^beta`` without gradient and ``N_i = sum(w c)
    / sum(w)``, the loss of anchor i and positive p is ``-log(c_ip / (c_ip + M_i
    N_i))``. M_i is the number of negatives, B - 2 where every speaker has two
    utterances; of several positives the mean is taken. All in log space. With
    beta = 0 and two utterances a speaker it is `SupCon` at tau / 2.

    Arguments
    ---------
    beta : float
        >= 0. How much hard negatives count; 0 is the plain mean.
    temperature, learnable, similarity :
        As in `SupCon`.

    Example
    -------
    >>> cost = HSCL(beta=0.1)
    >>> speakers = torch.tensor([[0], [0], [1], [1]])
    >>> cost(torch.eye(2).repeat_interleave(2, 0), speakers) < 1e-3
    tensor(True)
    """

    def __init__(
        self,
        beta: float = 0.1,
        temperature: float = 0.1,
        learnable: bool = True,
        similarity: Similarity | None = None,
    ):
        super().__init__(temperature, learnable, similarity)
        check_not_negative("beta", beta)
        self.beta = beta

    def pair_losses(self, logits: Tensor, others: Tensor, negative: Tensor) -> Tensor:
        """As of `SupCon`, with reweighted negatives."""
        logits = 2 * logits
        weights = (self.beta * logits).detach()
        weights = weights - _logsumexp(weights, negative)
        number = negative.sum(1, keepdim=True).to(logits)
        harm = _logsumexp(logits + weights + number.log(), negative)
        return -logsigmoid(logits - harm)

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        return f"beta={self.beta:g}, {super().extra_repr()}"


def _logsumexp(logits: Tensor, among: Tensor) -> Tensor:
    """log sum exp of each row over the entries of a mask, [B, 1]; over none, the
    dtype's lowest number, since -inf would have the gradient NaN."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~among, lowest).logsumexp(1, keepdim=True)


def _checked(similarity: Similarity | None) -> Similarity:
    """The similarity that is given, or the cosine; ValueError where it is none."""
    if similarity is None:
        return CosineSimilarity()
    if not isinstance(similarity, Similarity):
        raise ValueError(
            f"similarity={similarity!r}: must be a similarity, such as "
            "hamsb.CosineSimilarity()."
        )
    return similarity


# ------------------------------------------------------------------ diagnostics


def alignment(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared distance of the normalized views of an utterance.

    ``E |x - y|^2`` (Wang & Isola, arXiv 2005.10242, alpha = 2): 0 where the
    views agree, 2 for unrelated ones.

    Arguments
    ---------
    first, second : torch.Tensor
        Embeddings [B, 1, D] or [B, D] of two views.

    Returns
    -------
    torch.Tensor
        A scalar in [0, 4], float32 or wider.

    Example
    -------
    >>> alignment(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(2.)
    """
    first, second = (normalize(x, dim=-1) for x in two_views(first, second))
    return (first - second).square().sum(-1).mean()


def uniformity(embeddings: Tensor) -> Tensor:
    """How evenly normalized embeddings cover the sphere.

    ``log E exp(-2 |x - y|^2)`` over pairs of different utterances (Wang & Isola,
    arXiv 2005.10242, t = 2): 0 where all have collapsed into one direction, near
    -4 + 8/D where they are spread evenly in D dimensions.

    Arguments
    ---------
    embeddings : torch.Tensor
        [B, 1, D] or [B, D], B >= 2 (else a ValueError).

    Returns
    -------
    torch.Tensor
        A scalar in [-8, 0], float32 or wider.

    Example
    -------
    >>> uniformity(torch.eye(3))
    tensor(-4.)
    """
    x = normalize(vectors("embeddings", embeddings), dim=-1)
    pairs = _different(x)
    with no_autocast(x):
        squared = (2 - 2 * product(x, x.t())).clamp_min(0)
        exponents = (-2 * squared).masked_fill(~pairs, -math.inf)
    return exponents.flatten().logsumexp(0) - math.log(len(x) * (len(x) - 1))


@torch.no_grad()
def diagnostics(
    first: Tensor, second: Tensor, similarity: Similarity | None = None
) -> dict[str, Tensor]:
    """What tells of collapse, for the log; of this process's batch alone.

    Arguments
    ---------
    first, second : torch.Tensor
        Embeddings [B, 1, D] or [B, D] of two views, B >= 2 (else a ValueError).
    similarity : nn.Module, optional
        The loss's; cosine by default.

    Returns
    -------
    dict of str to torch.Tensor
        Scalars without gradient, on the embeddings' device: "alignment",
        "uniformity" (of the two views, averaged), and the mean similarity of
        the "positive" pairs and of the "negative" ones, first views with the
        second views of other utterances. Average them over an epoch's batches.

    Example
    -------
    >>> sorted(diagnostics(torch.eye(3), torch.eye(3)))
    ['alignment', 'negative', 'positive', 'uniformity']
    """
    similarity = CosineSimilarity() if similarity is None else similarity
    first, second = two_views(first, second)
    found = {
        "alignment": alignment(first, second),
        "uniformity": (uniformity(first) + uniformity(second)) / 2,
    }
    with no_autocast(first):
        first, second = similarity.project(first), similarity.project(second)
        pairs = similarity.pairwise(first, second).masked_fill(~_different(first), 0)
        found["positive"] = similarity.paired(first, second).mean()
        found["negative"] = pairs.sum() / (len(first) * (len(first) - 1))
    return found


def _different(x: Tensor) -> Tensor:
    """Which pairs of rows are two utterances, bool [B, B]."""
    if len(x) < 2:
        raise ValueError(f"{len(x)} utterance(s): two are needed to compare.")
    return ~torch.eye(len(x), dtype=torch.bool, device=x.device)
