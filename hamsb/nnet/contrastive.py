"""Contrastive losses, self-supervised and supervised, and what MoCo needs.

Self-supervised (Lepage & Dehak, arXiv 2306.03664 and 2404.14913): an utterance
is told from others by two views of it. :class:`NTXent` contrasts views within
the batch, :class:`MoCo` with queues of earlier embeddings from a
:class:`MomentumEncoder`. Both lay out similarities, the positive's in front,

    z = (sim(a, p), sim(a, n_1), ..., sim(a, n_K)),   target 0,

and hand them to a loss of ``hamsb.nnet.losses``, which holds the scale (s = 1 /
temperature) and the margin: ``Softmax`` makes it NT-Xent, ``AMSoftmax``
NT-Xent-AM, ``AAMSoftmax`` NT-Xent-AAM. A candidate that is no negative of an
anchor has the similarity ``-inf``. An anchor without negatives has loss 0.

Supervised (Masztalski et al., arXiv 2507.17540): :class:`SupCon` and
:class:`HSCL` contrast utterances of a speaker with those of others.

The similarity is an object: cosine, or minus the distance in a given ball.
Positives are measured directly, the rest by one matrix product; no [N, N, D]
tensor is made, everything is float32 or wider, and no value is brought to the
host. :func:`diagnostics` tells of collapse.

Several processes: candidates are gathered with gradient, and each process
returns the loss of its own anchors. The mean over the processes is the loss of
the joined batch, and with DistributedDataParallel, which averages gradients, so
are the gradients. Every process needs the same number of utterances.
"""

import copy
import math

import torch
from torch import distributed, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.functional import logsigmoid, normalize

from hamsb.nnet.losses import AAMSoftmax, RAMSoftmax
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity

# -------------------------------------------------------------- self-supervised


class _Contrast(nn.Module):
    """An anchor's positive against its negatives, under a margin loss."""

    def __init__(self, loss, similarity=None):
        super().__init__()
        self.loss = loss
        self.similarity = CosineSimilarity() if similarity is None else similarity
        if isinstance(loss, RAMSoftmax):
            raise ValueError(
                f"loss={loss}: would count masked candidates; use Softmax, AMSoftmax or "
                "AAMSoftmax."
            )
        if isinstance(loss, AAMSoftmax) and isinstance(similarity, HyperbolicSimilarity):
            raise ValueError(
                f"loss={loss}: turns angles, and a distance is none; use AMSoftmax."
            )

    @property
    def margin(self):
        """The loss's margin, which a schedule may set (no attribute, where the
        loss has none)."""
        return self.loss.margin

    @margin.setter
    def margin(self, value):
        self.loss.margin = value

    def contrast(self, anchors, positives, candidates, absent):
        """The mean loss of anchors, all arguments projected.

        Arguments
        ---------
        anchors, positives : torch.Tensor
            [N, D], row by row.
        candidates : torch.Tensor
            [M, D], what every anchor is contrasted with.
        absent : torch.Tensor
            Bool, [N, M] or [M]: which candidates are no negatives.
        """
        positive = self.similarity.paired(anchors, positives).unsqueeze(1)
        negative = self.similarity.pairwise(anchors, candidates)
        negative = negative.masked_fill(absent, -math.inf)
        predictions = torch.cat([positive, negative], 1).unsqueeze(1)
        first = torch.zeros(len(anchors), 1, dtype=torch.long, device=anchors.device)
        return self.loss(predictions, first)


class NTXent(_Contrast):
    """NT-Xent between two views of each utterance of a batch, with or without
    margin (arXiv 2404.14913; SimCLR, Chen et al., arXiv 2002.05709).

    Asymmetric: anchors are the first views, candidates the second, N - 1
    negatives each. Symmetric (SNT-Xent): 2N anchors, with all other views but
    their positive as negatives, 2N - 2 each.

    Arguments
    ---------
    loss : nn.Module
        ``Softmax``, ``AMSoftmax`` or, on cosines, ``AAMSoftmax``, with ``scale
        = 1 / temperature``. A loss that does not fit is a ValueError.
    symmetric : bool
        Which of the two.
    similarity : nn.Module, optional
        :class:`CosineSimilarity` by default, or :class:`HyperbolicSimilarity`.

    Example
    -------
    >>> from hamsb import AMSoftmax
    >>> cost = NTXent(AMSoftmax(margin=0.1, scale=30.0), symmetric=True)
    >>> cost(torch.eye(4), torch.eye(4)) < 1e-5
    tensor(True)
    """

    def __init__(self, loss, symmetric=False, similarity=None):
        super().__init__(loss, similarity)
        self.symmetric = symmetric

    def forward(self, first, second, labels=None):
        """The mean loss over the anchors.

        Arguments
        ---------
        first, second : torch.Tensor
            Embeddings [N, D] or [N, 1, D] of two views, any floating dtype; row
            i of both is one utterance.
        labels : torch.Tensor, optional
            Speaker indices [N] or [N, 1]. With them a speaker's other
            utterances are no negatives; without, every other utterance is one.

        Returns
        -------
        torch.Tensor
            A scalar, float32 or wider. A ValueError tells of shapes or dtypes
            that do not fit.
        """
        first, second = _two_views(first, second)
        rank, _ = _processes()
        if labels is None:
            ids = torch.arange(len(first), device=first.device) + rank * len(first)
        else:
            ids = _labels(labels, first)
        with _full_precision(first):
            first = self.similarity.project(first)
            second = self.similarity.project(second)
            if self.symmetric:
                first, second = torch.cat([first, second]), torch.cat([second, first])
                ids = ids.repeat(2)
            absent = ids.unsqueeze(1) == _gathered(ids)
            return self.contrast(first, second, _gathered(second), absent)

    def extra_repr(self):
        return f"symmetric={self.symmetric}"


class MomentumQueue(nn.Module):
    """The last K embeddings, a ring that overwrites its oldest.

    Buffers: ``keys`` [K, D], ``labels`` [K] (-1 where unknown), ``enqueued``,
    the number of keys it ever took. An empty slot is no negative of anything.
    K need not be a multiple of the batch; of a batch larger than K the last K
    stay.

    Arguments
    ---------
    size : int
        K >= 1. From an epoch's number of utterances on, an utterance always meets
        itself among its negatives.
    dimension : int
        D >= 1.

    Example
    -------
    >>> queue = MomentumQueue(size=3, dimension=1)
    >>> queue.enqueue(torch.tensor([[1.0], [2.0]]))
    >>> queue.enqueue(torch.tensor([[3.0], [4.0]]))
    >>> queue.keys.flatten(), queue.pointer
    (tensor([4., 2., 3.]), tensor(1))
    """

    def __init__(self, size, dimension):
        super().__init__()
        for name, value in (("size", size), ("dimension", dimension)):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1.")
        self.register_buffer("keys", torch.zeros(size, dimension))
        self.register_buffer("labels", torch.full((size,), -1))
        self.register_buffer("enqueued", torch.tensor(0))

    @property
    def pointer(self):
        """The slot that is written next, a 0-dimensional tensor."""
        return self.enqueued % len(self.keys)

    @property
    def empty(self):
        """Which slots were never written, bool [K]."""
        slots = torch.arange(len(self.keys), device=self.keys.device)
        return slots >= self.enqueued

    @torch.no_grad()
    def enqueue(self, keys, labels=None):
        """Take a batch, of all processes in the order of their ranks.

        Arguments
        ---------
        keys : torch.Tensor
            Embeddings [N, D] or [N, 1, D], as they come from the encoder.
        labels : torch.Tensor, optional
            Their speaker indices [N] or [N, 1], >= 0, for a study with masked
            collisions.
        """
        keys = _vectors("keys", keys)
        if keys.shape[1] != self.keys.shape[1]:
            raise ValueError(
                f"keys of dimension {keys.shape[1]} for a queue of dimension "
                f"{self.keys.shape[1]}."
            )
        if labels is None:
            labels = self.labels.new_full((len(keys),), -1)
        keys, labels = _gathered(keys), _gathered(_labels(labels, keys))
        total, size = len(keys), len(self.keys)
        stay = torch.arange(max(total - size, 0), total, device=keys.device)
        slots = (self.enqueued + stay) % size
        self.keys[slots] = keys[stay].to(self.keys)
        self.labels[slots] = labels[stay]
        self.enqueued += total

    def extra_repr(self):
        size, dimension = self.keys.shape
        return f"size={size}, dimension={dimension}"


class MoCo(_Contrast):
    """MoCo's loss: queries against their keys and queues of earlier keys (He et
    al., arXiv 1911.05722; with margins, arXiv 2404.14913).

    One queue: (q1, k2), negatives from the queue of k2. Symmetric, two: (q1, k2)
    and (q2, k1), each against the queue of its keys, the losses averaged.

    The queues are buffers of this module: checkpoint it. After each optimizer
    step, :meth:`update` takes the keys of the step. Embeddings are queued as
    they are and projected when used, so a ball may learn.

    Arguments
    ---------
    loss, similarity : nn.Module
        As in :class:`NTXent`.
    size, dimension : int
        As in :class:`MomentumQueue`.
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

    def __init__(self, loss, size, dimension, symmetric=False, similarity=None):
        super().__init__(loss, similarity)
        self.queues = nn.ModuleList(
            MomentumQueue(size, dimension) for _ in range(2 if symmetric else 1)
        )

    def forward(self, queries, keys, labels=None):
        """The mean loss over queues and queries.

        Arguments
        ---------
        queries : sequence of torch.Tensor
            For each queue, embeddings [N, D] or [N, 1, D]: ``[q1]``, or ``[q1,
            q2]``.
        keys : sequence of torch.Tensor
            Their positives from the momentum encoder, which get no gradient:
            ``[k2]``, or ``[k2, k1]``.
        labels : torch.Tensor, optional
            Speaker indices [N] or [N, 1]. With them the queued keys of the same
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
            self._against(queue, query, key.detach(), labels)
            for queue, query, key in zip(self.queues, queries, keys)
        ]
        return torch.stack(losses).mean()

    def update(self, keys, labels=None):
        """Queue the keys (and labels) that :meth:`forward` was given."""
        self._check_number("keys", keys)
        for queue, key in zip(self.queues, keys):
            queue.enqueue(key, labels)

    def _against(self, queue, queries, keys, labels):
        queries, keys = _two_views(queries, keys)
        absent = queue.empty
        if labels is not None:
            absent = absent | (_labels(labels, queries).unsqueeze(1) == queue.labels)
        with _full_precision(queries):
            queries, keys, queued = (
                self.similarity.project(x) for x in (queries, keys, queue.keys.to(queries))
            )
            return self.contrast(queries, keys, queued, absent)

    def _check_number(self, name, views):
        if len(views) != len(self.queues):
            raise ValueError(
                f"{len(views)} {name} for {len(self.queues)} queue(s): a list with one "
                "tensor a queue is needed."
            )


class MomentumEncoder(nn.Module):
    """A copy of an encoder whose parameters follow it slowly.

    ``k <- m k + (1 - m) q`` for every parameter (arXiv 1911.05722), without
    gradients. Buffers are neither copied nor averaged: as in MoCo it runs in
    training mode on batches of its own, and keeps its own running statistics.

    Under several processes the utterances of all are shuffled among them before
    the forward pass and brought back after it (training mode only), so that no
    batch normalisation can tell which keys and queries belong together.

    Arguments
    ---------
    encoder : nn.Module
        What is copied; it does not become part of this module.
    momentum : float
        m in [0, 1).

    Example
    -------
    >>> encoder = nn.Linear(3, 2)
    >>> momentum_encoder = MomentumEncoder(encoder, momentum=0.9)
    >>> with torch.no_grad():
    ...     _ = encoder.bias.add_(1.0)
    >>> momentum_encoder.update(encoder)
    >>> (encoder.bias - momentum_encoder.encoder.bias).detach()
    tensor([0.9000, 0.9000])
    """

    def __init__(self, encoder, momentum=0.999):
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must lie in [0, 1).")
        self.momentum = momentum
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)

    @torch.no_grad()
    def update(self, encoder):
        """Follow the encoder, after its optimizer step.

        Arguments
        ---------
        encoder : nn.Module
            The one that was copied (inside DistributedDataParallel, or not); one
            with other parameters is a ValueError.
        """
        ours, theirs = list(self.encoder.parameters()), list(encoder.parameters())
        if [p.shape for p in ours] != [p.shape for p in theirs]:
            raise ValueError(
                f"the encoder's {len(theirs)} parameters do not have the shapes of the "
                f"{len(ours)} that were copied: give the encoder that was copied."
            )
        for slow, fast in zip(ours, theirs):
            slow.lerp_(fast, 1 - self.momentum)

    @torch.no_grad()
    def forward(self, *inputs):
        """What the encoder returns for the inputs (tensors [N, ...]), without
        gradient. Every process needs the same shapes."""
        rank, processes = _processes()
        if processes == 1 or not self.training:
            return self.encoder(*inputs)
        share = len(inputs[0])
        own = slice(rank * share, (rank + 1) * share)
        order = torch.randperm(processes * share, device=inputs[0].device)
        distributed.broadcast(order, 0)
        shuffled = self.encoder(*(_gathered(x)[order[own]] for x in inputs))
        return _gathered(shuffled)[order.argsort()[own]]

    def extra_repr(self):
        return f"momentum={self.momentum:g}"


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
        As in :class:`NTXent`.

    Example
    -------
    >>> cost = SupCon(temperature=0.1)
    >>> speakers = torch.tensor([[0], [0], [1], [1]])
    >>> cost(torch.eye(2).repeat_interleave(2, 0), speakers) < 1e-3
    tensor(True)
    """

    def __init__(self, temperature=0.1, learnable=True, similarity=None):
        super().__init__()
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature}: must be positive and finite.")
        self._initial_temperature = float(temperature)
        if learnable:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(temperature)))
        self.similarity = CosineSimilarity() if similarity is None else similarity

    @property
    def temperature(self):
        """tau: a float, or a 0-dimensional tensor where it is learnable."""
        if hasattr(self, "log_temperature"):
            return self.log_temperature.exp()
        return self._initial_temperature

    def forward(self, embeddings, labels, length=None):
        """The mean loss over the anchors.

        Arguments
        ---------
        embeddings : torch.Tensor
            [n, D] or [n, 1, D], any floating dtype.
        labels : torch.Tensor
            Speaker indices [n] or [n, 1].
        length : torch.Tensor, optional
            Taken for SpeechBrain's sake, and not read.

        Returns
        -------
        torch.Tensor
            A scalar, float32 or wider. A ValueError tells of shapes or dtypes
            that do not fit.
        """
        embeddings = _vectors("embeddings", embeddings)
        rank, processes = _processes()
        speakers = _gathered(_labels(labels, embeddings))
        utterances = torch.arange(len(speakers), device=speakers.device)
        own = slice(rank * len(embeddings), (rank + 1) * len(embeddings))
        same = speakers.unsqueeze(1) == speakers
        anchors = (same.sum(1) > 1).sum()  # of all processes
        same = same[own]
        others = utterances[own].unsqueeze(1) != utterances
        with _full_precision(embeddings):
            points = self.similarity.project(embeddings)
            logits = self.similarity.pairwise(points, _gathered(points)) / self.temperature
            losses = self.pair_losses(logits, others, ~same)
            positive = same & others
            losses = losses.masked_fill(~positive, 0).sum(1)
            losses = losses / positive.sum(1).clamp_min(1)
            return losses.sum() * processes / anchors.clamp_min(1)

    def pair_losses(self, logits, others, negative):
        """The loss of each anchor with each candidate as its positive, [N, n].

        Arguments
        ---------
        logits : torch.Tensor
            Similarities over tau [N, n].
        others, negative : torch.Tensor
            Bool [N, n]: which candidates are not the anchor itself, and which
            are other speakers'.
        """
        return _logsumexp(logits, others) - logits

    def extra_repr(self):
        learnable = hasattr(self, "log_temperature")
        temperature = torch.as_tensor(self.temperature).item()
        return f"temperature={temperature:g}, learnable={learnable}"


class HSCL(SupCon):
    """H-SCL: supervised contrastive loss with reweighted negatives (Jiang et al.,
    arXiv 2209.00078; for speakers arXiv 2507.17540).

    With ``c_ij = exp(2 similarity_ij / tau)`` and, over the utterances of other
    speakers, weights ``w_ij = c_ij^beta`` without gradient and ``N_i = sum(w c)
    / sum(w)``, the loss of anchor i and positive p is ``-log(c_ip / (c_ip + M_i
    N_i))``. M_i is the number of negatives, n - 2 where every speaker has two
    utterances; of several positives the mean is taken. All in log space. With
    beta = 0 and two utterances a speaker it is :class:`SupCon` at tau / 2.

    Arguments
    ---------
    beta : float
        >= 0. How much hard negatives count; 0 is the plain mean.
    temperature, learnable, similarity :
        As in :class:`SupCon`.

    Example
    -------
    >>> cost = HSCL(beta=0.1)
    >>> speakers = torch.tensor([[0], [0], [1], [1]])
    >>> cost(torch.eye(2).repeat_interleave(2, 0), speakers) < 1e-3
    tensor(True)
    """

    def __init__(self, beta=0.1, temperature=0.1, learnable=True, similarity=None):
        super().__init__(temperature, learnable, similarity)
        if not 0 <= beta < math.inf:
            raise ValueError(f"beta={beta}: must be finite and not negative.")
        self.beta = beta

    def pair_losses(self, logits, others, negative):
        logits = 2 * logits
        weights = (self.beta * logits).detach()
        weights = weights - _logsumexp(weights, negative)
        number = negative.sum(1, keepdim=True).to(logits)
        harm = _logsumexp(logits + weights + number.log(), negative)
        return -logsigmoid(logits - harm)

    def extra_repr(self):
        return f"beta={self.beta:g}, {super().extra_repr()}"


def _logsumexp(logits, among):
    """log sum exp of each row over the entries of a mask, [N, 1]; over none, the
    dtype's lowest number, since -inf would have the gradient NaN."""
    lowest = torch.finfo(logits.dtype).min
    return logits.masked_fill(~among, lowest).logsumexp(1, keepdim=True)


# ------------------------------------------------------------------ diagnostics


def alignment(first, second):
    """Mean squared distance of the normalised views of an utterance.

    ``E |x - y|^2`` (Wang & Isola, arXiv 2005.10242, alpha = 2): 0 where the
    views agree, 2 for unrelated ones.

    Arguments
    ---------
    first, second : torch.Tensor
        Embeddings [N, D] or [N, 1, D] of two views.

    Returns
    -------
    torch.Tensor
        A scalar in [0, 4], float32 or wider.

    Example
    -------
    >>> alignment(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
    tensor(2.)
    """
    first, second = (normalize(x, dim=-1) for x in _two_views(first, second))
    return (first - second).square().sum(-1).mean()


def uniformity(embeddings):
    """How evenly normalised embeddings cover the sphere.

    ``log E exp(-2 |x - y|^2)`` over pairs of different utterances (Wang & Isola,
    arXiv 2005.10242, t = 2): 0 where all have collapsed into one direction, near
    -4 + 8/D where they are spread evenly in D dimensions.

    Arguments
    ---------
    embeddings : torch.Tensor
        [N, D] or [N, 1, D], N >= 2 (else a ValueError).

    Returns
    -------
    torch.Tensor
        A scalar in [-8, 0], float32 or wider.

    Example
    -------
    >>> uniformity(torch.eye(3))
    tensor(-4.)
    """
    x = normalize(_vectors("embeddings", embeddings), dim=-1)
    pairs = _different(x)
    with _full_precision(x):
        squared = (2 - 2 * x @ x.T).clamp_min(0)
        exponents = (-2 * squared).masked_fill(~pairs, -math.inf)
    return exponents.flatten().logsumexp(0) - math.log(len(x) * (len(x) - 1))


@torch.no_grad()
def diagnostics(first, second, similarity=None):
    """What tells of collapse, for the log; of this process's batch alone.

    Arguments
    ---------
    first, second : torch.Tensor
        Embeddings [N, D] or [N, 1, D] of two views, N >= 2 (else a ValueError).
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
    first, second = _two_views(first, second)
    found = {
        "alignment": alignment(first, second),
        "uniformity": (uniformity(first) + uniformity(second)) / 2,
    }
    with _full_precision(first):
        first, second = similarity.project(first), similarity.project(second)
        pairs = similarity.pairwise(first, second).masked_fill(~_different(first), 0)
        found["positive"] = similarity.paired(first, second).mean()
        found["negative"] = pairs.sum() / (len(first) * (len(first) - 1))
    return found


def _different(x):
    """Which pairs of rows are two utterances, bool [N, N]."""
    if len(x) < 2:
        raise ValueError(f"{len(x)} utterance(s): two are needed to compare.")
    return ~torch.eye(len(x), dtype=torch.bool, device=x.device)


# --------------------------------------------------------- processes and inputs


def _processes():
    """The rank of this process and how many there are."""
    if distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def _gathered(x):
    """x [N, ...] of all processes in the order of their ranks, with gradient:
    what the losses of the other processes owe to x comes back to it."""
    return torch.cat(all_gather(x)) if _processes()[1] > 1 else x


def _full_precision(x):
    """A block without autocast on the tensor's device."""
    return torch.autocast(x.device.type, enabled=False)


def _widened(x):
    return x if x.dtype == torch.float64 else x.float()


def _vectors(name, x):
    """Embeddings [N, 1, D] or [N, D] -> [N, D], float32 or wider."""
    if x.dim() not in (2, 3) or x.shape[1:-1].numel() != 1:
        raise ValueError(
            f"{name} of shape {list(x.shape)}: expected [N, 1, D] or [N, D]."
        )
    return _widened(x.reshape(len(x), x.shape[-1]))


def _two_views(first, second):
    """Two views of the same utterances, [N, D] each, float32 or wider."""
    first, second = _vectors("first views", first), _vectors("second views", second)
    if first.shape != second.shape:
        raise ValueError(
            f"views of shapes {list(first.shape)} and {list(second.shape)}: the two "
            "views of the same utterances are needed."
        )
    return first, second


def _labels(labels, embeddings):
    """Speaker indices [N] of embeddings [N, D]."""
    number = len(embeddings)
    if labels.numel() != number or labels.dim() not in (1, 2):
        raise ValueError(
            f"labels of shape {list(labels.shape)} for embeddings of shape "
            f"{list(embeddings.shape)}: expected [{number}]."
        )
    if labels.is_floating_point() or labels.is_complex():
        raise ValueError(f"labels are {labels.dtype}: speaker indices are needed.")
    return labels.reshape(number).long()
