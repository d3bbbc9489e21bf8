"""Hyperbolic balls: where embeddings and speaker centers meet.

Two balls stand behind one interface, :class:`Ball`: ``project`` brings a
Euclidean vector into the ball, ``distance`` and ``pairwise_distance`` measure
there, ``limited`` tells which vectors the projection cuts short. A head, a
scorer or a plot is given a ball and never asks which one it is.

:class:`ClippedUnitBall` is the form that Fang & He released and published
numbers with; :class:`PoincareBall` is the ball of curvature ``-c`` as geometry
books have it. The formulas are small functions at the top of this file, the
classes are thin around them.

Distances are computed through arsinh of the directly measured ``|x - y|``: in
float32 that holds a relative error of 1e-5 or better for close pairs, where
arcosh(1 + ...) loses everything near coincidence and the artanh/Moebius form
up to 1e-1 near the rim. Everything runs in float32 or wider, whatever autocast
or TensorFloat-32 setting is in force outside.

Sources
-------
Fang & He, "Hyperbolic Additive Margin Softmax with Hierarchical Information
for Speaker Verification", ICASSP 2026, arXiv 2601.19709. Ganea, Becigneul &
Hofmann, "Hyperbolic Neural Networks", NeurIPS 2018, for the gyrovector
formulas.
"""

import functools
import math
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from hamsb.nnet._closed_forms import blocks, refuse_second_derivative

# The published form's constants.
_RIM = 1e-5  # the clip stays this share inside the radius
_NORM_FLOOR = 1e-5  # vectors shorter than this are never stretched
_CONFORMAL_FLOOR = 1e-5  # floor of (1 - |x|^2)(1 - |y|^2)


# --------------------------------------------------------------- the formulas


def expmap0(v, curvature):
    """Exponential map at the origin: tangent vector to point of the ball.

    ``tanh(sqrt(c) |v|) / (sqrt(c) |v|) * v``, without any limit: in float32,
    vectors beyond ``sqrt(c) |v|`` of about 8 land on the rim.

    Arguments
    ---------
    v : torch.Tensor
        Tangent vectors [..., D].
    curvature : float or torch.Tensor
        c > 0.

    Returns
    -------
    torch.Tensor
        Points [..., D] with ``sqrt(c) |x| <= 1``.

    Example
    -------
    >>> expmap0(torch.tensor([0.0, 0.5]), 1.0)
    tensor([0.0000, 0.4621])
    """
    length = _scaled_norm(v, curvature)
    return v * (torch.tanh(length) / length)


def logmap0(x, curvature):
    """Logarithmic map at the origin, the inverse of :func:`expmap0`.

    ``artanh(sqrt(c) |x|) / (sqrt(c) |x|) * x``; points on or outside the rim
    are taken to lie the dtype's epsilon inside of it.

    Arguments
    ---------
    x : torch.Tensor
        Points [..., D].
    curvature : float or torch.Tensor
        c > 0.

    Returns
    -------
    torch.Tensor
        Tangent vectors [..., D].

    Example
    -------
    >>> logmap0(expmap0(torch.tensor([0.3, -0.4]), 2.0), 2.0)
    tensor([ 0.3000, -0.4000])
    """
    length = _scaled_norm(x, curvature)
    inside = length.clamp_max(1 - torch.finfo(x.dtype).eps)
    return x * (torch.atanh(inside) / length)


def mobius_add(x, y, curvature):
    """Moebius addition ``x (+)_c y``, the ball's translation.

    Arguments
    ---------
    x, y : torch.Tensor
        Points [..., D], broadcast against each other.
    curvature : float or torch.Tensor
        c > 0.

    Returns
    -------
    torch.Tensor
        Points [..., D].

    Example
    -------
    >>> x = torch.tensor([0.3, 0.1])
    >>> mobius_add(x, torch.zeros(2), 1.0)
    tensor([0.3000, 0.1000])
    """
    c = curvature
    xy = (x * y).sum(-1, keepdim=True)
    xx = _squared_norm(x).unsqueeze(-1)
    yy = _squared_norm(y).unsqueeze(-1)
    numerator = (1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y
    denominator = 1 + 2 * c * xy + c * c * xx * yy
    return numerator / denominator.clamp_min(torch.finfo(x.dtype).tiny)


def clip_norm(x, radius, floor=_NORM_FLOOR):
    """Shorten vectors to a radius: ``x * min(1, radius / max(|x|, floor))``.

    A clipped vector has no gradient along its own length.

    Arguments
    ---------
    x : torch.Tensor
        Vectors [..., D].
    radius : float or torch.Tensor
        The longest norm allowed.
    floor : float
        Norms below are taken as this one, so that nothing divides by zero.

    Returns
    -------
    torch.Tensor
        Vectors [..., D].

    Example
    -------
    >>> clip_norm(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(floor)
    return x * (radius / norm).clamp_max(1)


def soften_norm(v, limit):
    """Shorten vectors smoothly: ``v / sqrt(1 + (|v| / limit)^2)``.

    Lengths stay below ``limit``; short vectors are left almost as they are
    (to third order), and the slope along the length is never zero, unlike
    that of :func:`clip_norm`.

    Arguments
    ---------
    v : torch.Tensor
        Vectors [..., D].
    limit : float or torch.Tensor
        The length that is approached and never exceeded.

    Returns
    -------
    torch.Tensor
        Vectors [..., D].

    Example
    -------
    >>> soften_norm(torch.tensor([3.0, 4.0]), 5.0).norm()
    tensor(3.5355)
    """
    ratio = _squared_norm(v).unsqueeze(-1) / limit**2
    return v * torch.rsqrt(1 + ratio)


def arsinh_distance(squared, conformal, curvature):
    """Distance in a ball from squared Euclidean lengths.

    ``(2 / sqrt(c)) arsinh(sqrt(c |x - y|^2 / conformal))``, where conformal is
    ``(1 - c |x|^2)(1 - c |y|^2)``. It equals ``(1 / sqrt(c)) arcosh(1 + 2 c
    |x - y|^2 / conformal)`` without that form's cancellation. Its gradient at
    coincident points is 0.

    Arguments
    ---------
    squared : torch.Tensor
        ``|x - y|^2``, any shape, >= 0.
    conformal : torch.Tensor
        > 0, broadcast against ``squared``.
    curvature : float or torch.Tensor
        c > 0.

    Returns
    -------
    torch.Tensor
        Distances, the broadcast shape.

    Example
    -------
    >>> arsinh_distance(torch.tensor([0.0, 0.25]), torch.tensor(0.75), 1.0)
    tensor([0.0000, 1.0986])
    """
    z = _safe_sqrt(curvature * squared / conformal)
    return (2 / curvature**0.5) * torch.asinh(z)


def pairwise_squared(x, y):
    """``|x_n - y_m|^2`` for all pairs by one matrix product.

    Arguments
    ---------
    x : torch.Tensor
        [N, D].
    y : torch.Tensor
        [M, D].

    Returns
    -------
    torch.Tensor
        [N, M], clamped at 0. No [N, M, D] tensor is made. The product is one of
        full float32, but for torch.compile.

    Example
    -------
    >>> pairwise_squared(torch.eye(2), torch.zeros(1, 2))
    tensor([[1.],
            [1.]])
    """
    with nullcontext() if torch.compiler.is_compiling() else _ieee_matmul():
        product = x @ y.transpose(-1, -2)
    squares = _squared_norm(x).unsqueeze(-1) + _squared_norm(y).unsqueeze(-2)
    return (squares - 2 * product).clamp_min(0)


class _PairwiseDistance(torch.autograd.Function):
    """``sign * d(x_n, y_m)`` for all pairs, in closed form.

    With ``a = max(1 - c |x|^2, floor)``, b the same of y, and ``u = c |x - y|^2 /
    (a b)``, the distance is ``log1p(2 (u + sqrt(u + u^2))) / sqrt(c)``, which is
    :func:`arsinh_distance` in operations that are fast everywhere; one product of
    [N, D + 2] and [D + 2, M] gives ``|x - y|^2``. With ``t = tanh(sqrt(c) d / 2)``

        dd / d|x - y|^2 = sqrt(c) (1/t - t) / (a b)
        dd / da         = -t / (sqrt(c) a)
        dd / dc         = t / c^1.5 - d / (2 c)    at fixed a and b,

    so that the result is the one [N, M] buffer kept for the backward pass, and
    neither pass makes another of that size: they go through blocks of columns.
    The products take x and y as they are, and a and b come from float64: both are
    what keeps the rounding of float32 below that of a direct difference.

    Arguments of ``apply``: x [N, D], y [M, D], c (a float or a 0-dimensional
    tensor), floor, sign (1 or -1), dtype (of the product for ``|x - y|^2``). Returns
    [N, M].
    """

    @staticmethod
    def forward(x, y, c, floor, sign, dtype):
        xx, a, _ = _conformal(x, c, floor, dtype)
        yy, b, _ = _conformal(y, c, floor, dtype)
        left = torch.cat([-2 * x, xx, torch.ones_like(a)], 1)
        largest = torch.finfo(x.dtype).max ** 0.5 / 2  # only points far outside exceed it

        def rooted(part):
            """sqrt(c) d of a block, from v = 2 u."""
            right = torch.cat([y[part], torch.ones_like(b[part]), yy[part]], 1)
            v = _product(left, right.t()).mul_(2 * c / a).div_(b[part].t())
            v = v.clamp_(0, largest).to(x.dtype)
            half = torch.addcmul(v, v, v, value=0.5).sqrt_()
            return v.add_(half, alpha=2**0.5).log1p_()

        parts = blocks(len(y), len(x))
        if len(parts) == 1:
            # Not in place: torch.compile would lose the result's gradient.
            return rooted(parts[0]) * (sign / c**0.5)
        out = x.new_empty(len(x), len(y))
        for part in parts:
            torch.mul(rooted(part), sign / c**0.5, out=out[:, part])
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, c, ctx.floor, ctx.sign, _ = inputs
        learned = isinstance(c, torch.Tensor)
        ctx.fixed = None if learned else c
        ctx.save_for_backward(x, y, output, c if learned else None)

    @staticmethod
    def backward(ctx, grad):
        refuse_second_derivative(
            "the pairwise distance", "plain_pairwise_distance of the ball"
        )
        with torch.autocast(grad.device.type, enabled=False):
            return _PairwiseDistance._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx, grad):
        x, y, out, learned = ctx.saved_tensors
        c = ctx.fixed if learned is None else learned
        root = c**0.5
        xx, a, inside_x = _conformal(x, c, ctx.floor, x.dtype)
        yy, b, inside_y = _conformal(y, c, ctx.floor, y.dtype)
        # Sums over the other side of g t (turn) and g (1/t - t) (pull).
        turn_x, turn_y = torch.zeros_like(a), torch.empty_like(b)
        pull_x, weight_x = torch.zeros_like(x), torch.zeros_like(a)
        grad_y = torch.empty_like(y)
        for part in blocks(len(y), len(x)):
            g = grad[:, part]
            # With e = exp(sqrt(c) d) - 1: t = e / (e + 2), 1/t - t = (4 - 4 / (e + 2)) / e.
            e = out[:, part].mul(ctx.sign * root).expm1_()
            pull = (e + 2).reciprocal_()
            turn = torch.mul(e, pull).mul_(g)
            # At coincident points, where e is 0, there is no pull.
            pull.mul_(-4).add_(4).div_(e).nan_to_num_(math.nan, 0.0, 0.0).mul_(g)
            turn_x += turn.sum(1, keepdim=True)
            turn_y[part] = turn.sum(0).unsqueeze(1)
            pull.div_(b[part].t())
            pull_x += _product(pull, y[part])
            weight_x += pull.sum(1, keepdim=True)
            pull.div_(a)
            weight = pull.sum(0).unsqueeze(1) + turn_y[part] * inside_y[part] / b[part]
            pull_y = _product(pull.t(), x)
            grad_y[part] = torch.addcmul(pull_y, weight, y[part], value=-1)
        weight_x += turn_x * inside_x
        grad_x = torch.addcmul(pull_x, weight_x, x, value=-1).mul_(-2 * ctx.sign * root / a)
        grad_y.mul_(-2 * ctx.sign * root)
        grad_c = None
        if learned is not None:
            through_x = (turn_x * (1 / c + inside_x * xx / a)).sum()
            through_y = (turn_y * inside_y * yy / b).sum()
            grad_c = ctx.sign * (through_x + through_y) / root - (grad * out).sum() / (2 * c)
        return grad_x, grad_y, grad_c, None, None, None


def _conformal(x, curvature, floor, dtype):
    """|x|^2, max(1 - c |x|^2, floor), and whether the floor leaves it: [N, 1],
    computed in the widest dtype, given in ``dtype``."""
    norms = [
        torch.linalg.vector_norm(x[part], dim=-1, keepdim=True, dtype=_widest(x))
        for part in blocks(len(x), x.shape[1])
    ]
    xx = torch.cat(norms).square()
    factor = 1 - curvature * xx
    return xx.to(dtype), factor.clamp_min(floor).to(dtype), factor >= floor


def _widest(x):
    """float64, where the tensor's device has it."""
    return x.dtype if x.device.type == "mps" else torch.float64


def _squared_norm(x):
    return x.square().sum(-1)


def _scaled_norm(v, curvature):
    """sqrt(c) |v| [..., 1], floored where its inverse would overflow."""
    norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return (curvature**0.5 * norm).clamp_min(1e-15)


def _safe_sqrt(z):
    """Square root whose gradient at 0 is 0; a NaN stays a NaN."""
    zero = z == 0
    return torch.where(zero, 1, z).sqrt().masked_fill(zero, 0)


@contextmanager
def _ieee_matmul():
    """Full float32 products: SpeechBrain switches TensorFloat-32 on, whose
    rounding of 1e-3 would swamp the distance of close points. The older of
    torch's two switches sets both, and they must agree."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.allow_tf32 = False
    try:
        yield
    finally:
        matmul.allow_tf32 = before == "tf32"
        matmul.fp32_precision = before


def _product(left, right):
    """``left @ right`` of matrices in full float32, without autograd's help."""
    if torch.compiler.is_compiling():
        return torch.ops.hamsb.ieee_product(left, right)
    with _ieee_matmul():
        return left @ right


@torch.library.custom_op("hamsb::ieee_product", mutates_args=())
def _ieee_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The same for torch.compile, which cannot trace the switch."""
    with _ieee_matmul():
        return left @ right


@_ieee_product.register_fake
def _(left, right):
    return left.new_empty(len(left), right.shape[1])


def _full_precision(method):
    """Run a ball's method outside autocast, on float32 or wider tensors."""

    @functools.wraps(method)
    def widened(self, *tensors):
        tensors = [t if t.dtype == torch.float64 else t.float() for t in tensors]
        with torch.autocast(tensors[0].device.type, enabled=False):
            return method(self, *tensors)

    return widened


# ------------------------------------------------------------------ the balls


class Ball(nn.Module):
    """What every ball offers. Inputs of lower precision are widened: results
    are float32 or wider, on the caller's device.

    A subclass defines ``_project``, ``_limited``, ``metric_curvature`` and ``_floor``
    (the least that ``1 - c |x|^2`` of a point is taken for)."""

    _pair_floor = 0.0  # a floor of the product for two points instead
    _near_rim = False  # whether points may come so near that |x - y|^2 needs float64

    @_full_precision
    def project(self, x):
        """Bring Euclidean vectors [..., D] into the ball, [..., D]."""
        return self._project(x)

    @_full_precision
    def distance(self, x, y):
        """Distance of points x, y [..., D] (broadcast), [...], by direct
        difference: the form to trust, and the reference of the other."""
        gap = x - y
        floor = self._floor(gap.dtype)
        return self._measure(_squared_norm(gap), _squared_norm(x), _squared_norm(y), floor)

    @_full_precision
    def pairwise_distance(self, x, y):
        """Distances of all pairs of points x [N, D] and y [M, D], [N, M].

        One matrix product instead of an [N, M, D] tensor, and gradients in
        closed form that keep nothing but the result; differentiating them
        again is a RuntimeError. In float32 a product costs some 4e-7 in ``|x -
        y|^2``: at coincidence a distance of up to 2e-3 in :class:`ClippedUnitBall`
        at the published c = 3. Near the rim it would be 3e-2 at ``sqrt(c)|v| = 2``
        and 1.5 at 4, so :class:`PoincareBall` takes the product, and nothing else
        of that size, in float64 (not on Apple's GPUs, which have none).
        """
        return self._pairwise(x, y, 1)

    @_full_precision
    def pairwise_similarity(self, x, y):
        """Minus :meth:`pairwise_distance`, [N, M], without a second buffer."""
        return self._pairwise(x, y, -1)

    @_full_precision
    def plain_pairwise_distance(self, x, y):
        """:meth:`pairwise_distance` as it reads, with autograd's gradients: what
        the closed form is compared with, and differentiable twice."""
        dtype, floor = x.dtype, self._floor(x.dtype)
        if self._near_rim:
            x, y = x.to(_widest(x)), y.to(_widest(y))
        xx, yy = _squared_norm(x).unsqueeze(-1), _squared_norm(y).unsqueeze(-2)
        return self._measure(pairwise_squared(x, y), xx, yy, floor).to(dtype)

    def _pairwise(self, x, y, sign):
        if self._pair_floor:
            return sign * self.plain_pairwise_distance(x, y)
        c, floor = self.metric_curvature, self._floor(x.dtype)
        dtype = _widest(x) if self._near_rim else x.dtype
        return _PairwiseDistance.apply(x, y, c, floor, sign, dtype)

    def _measure(self, squared, xx, yy, floor):
        if self._pair_floor:
            conformal = ((1 - xx) * (1 - yy)).clamp_min(self._pair_floor)
        else:
            c = self.metric_curvature
            conformal = (1 - c * xx).clamp_min(floor) * (1 - c * yy).clamp_min(floor)
        return arsinh_distance(squared, conformal, self.metric_curvature)

    @_full_precision
    def limited(self, x):
        """Which of the vectors [..., D] exceed what :meth:`project` keeps as
        it is: bool [...]."""
        return self._limited(x)

    def _project(self, x):
        raise NotImplementedError

    def _limited(self, x):
        raise NotImplementedError

    def _floor(self, dtype):
        raise NotImplementedError

    @property
    def metric_curvature(self):
        """The c of the distance, a float or a 0-dimensional tensor."""
        raise NotImplementedError


class ClippedUnitBall(Ball):
    """The ball of the published numbers: a clip whose radius the curvature
    sets, and the distance of the unit ball.

    ``project``: ``x * min(1, r / max(|x|, 1e-5))`` with ``r = (1 - 1e-5) /
    sqrt(c)``. ``distance``: ``arcosh(1 + 2 |x - y|^2 / max((1 - |x|^2)(1 -
    |y|^2), 1e-5))``, computed through arsinh; no gradient passes the floor,
    which acts for c < 1.0032 only. The curvature sets the radius and nothing
    else (arXiv 2601.19709 and the authors' released settings).

    An embedding longer than r, as a network's nearly always are, lands on the
    sphere of radius r and has no gradient along its length.

    Arguments
    ---------
    curvature : float
        c >= 1; anything else is a ValueError.

    Example
    -------
    >>> ball = ClippedUnitBall(curvature=4.0)
    >>> x = ball.project(torch.tensor([[3.0, 0.0], [0.0, 0.3]]))
    >>> x
    tensor([[0.5000, 0.0000],
            [0.0000, 0.3000]])
    >>> ball.pairwise_distance(x, x).shape
    torch.Size([2, 2])
    """

    def __init__(self, curvature):
        super().__init__()
        if not 1 <= curvature < math.inf:
            raise ValueError(
                f"curvature={curvature}: the clipped unit ball needs a curvature "
                "of at least 1, its radius is 1/sqrt(curvature). For a smaller "
                "one use PoincareBall."
            )
        self.curvature = float(curvature)
        if (1 - self.radius**2) ** 2 < _CONFORMAL_FLOOR:
            self._pair_floor = _CONFORMAL_FLOOR

    @property
    def radius(self):
        """The clip's radius r, a float."""
        return (1 - _RIM) / math.sqrt(self.curvature)

    def _project(self, x):
        return clip_norm(x, self.radius)

    def _limited(self, x):
        return torch.linalg.vector_norm(x, dim=-1) > self.radius

    metric_curvature = 1.0

    def _floor(self, dtype):
        """It acts on points outside of the clip alone."""
        return _CONFORMAL_FLOOR**0.5

    def extra_repr(self):
        return f"curvature={self.curvature:g}"


class PoincareBall(Ball):
    """The Poincare ball of curvature ``-c``.

    ``distance``: ``(2 / sqrt(c)) arsinh(sqrt(c |x - y|^2 / ((1 - c |x|^2)(1 -
    c |y|^2))))``, equal to ``(2 / sqrt(c)) artanh(sqrt(c) |(-x) (+)_c y|)``;
    it tends to ``2 |x - y|`` as c tends to 0. Points on or outside the rim are
    taken to lie just inside of it, so that every distance is finite.

    Arguments
    ---------
    curvature : float
        c > 0.
    projection : {"expmap0", "clip"}
        "expmap0": the vector times the gain, limited in length, through the
        exponential map at the origin. "clip": vectors beyond the radius
        ``max_radius / sqrt(c)`` are shortened to it.
    max_tangent_norm : float
        For "expmap0": the limit of ``sqrt(c) |v|``. In float32 the rim is
        known to a relative 4e-5 at 4, 8e-4 at 6, 6e-2 at 8.
    limit : {"soft", "hard"}
        For "expmap0": "soft" is a smooth radial map with non-zero slope
        (:func:`soften_norm`), "hard" a clip.
    gain : float, optional
        For "expmap0": what vectors are multiplied by first; 1/sqrt(D) by
        default, as network outputs grow with sqrt(D).
    max_radius : float
        For "clip": in (0, 1), in units of the ball's radius.
    learnable : bool or {"curvature", "gain"}
        True learns the curvature and, with "expmap0", the gain; a name learns
        that one alone. Both stay positive by construction, start at the given
        values, and are parameters of the ball: moved, optimized and
        checkpointed with the head that holds it.

    Example
    -------
    >>> ball = PoincareBall(curvature=1.0, gain=1.0)
    >>> x, y = ball.project(torch.tensor([[0.5, 0.0], [0.0, 40.0]]))
    >>> ball.distance(torch.zeros(2), y) < 2 * 4.0
    tensor(True)
    >>> ball.limited(torch.tensor([[0.5, 0.0], [0.0, 40.0]]))
    tensor([False,  True])
    """

    _near_rim = True

    def __init__(
        self,
        curvature,
        projection="expmap0",
        max_tangent_norm=4.0,
        limit="soft",
        gain=None,
        max_radius=0.9,
        learnable=False,
    ):
        super().__init__()
        _check_positive("curvature", curvature)
        _check_positive("max_tangent_norm", max_tangent_norm)
        _check_choice("projection", projection, ("expmap0", "clip"))
        _check_choice("limit", limit, ("soft", "hard"))
        _check_choice("learnable", learnable, (False, True, "curvature", "gain"))
        if gain is not None:
            _check_positive("gain", gain)
        if not 0 < max_radius < 1:
            raise ValueError(f"max_radius={max_radius}: must lie in (0, 1).")
        if learnable == "gain" and projection == "clip":
            raise ValueError("learnable='gain': projection 'clip' has no gain.")
        self.projection = projection
        self.max_tangent_norm = float(max_tangent_norm)
        self.limit = limit
        self.max_radius = float(max_radius)
        self._initial_curvature = float(curvature)
        self._initial_gain = gain
        if learnable in (True, "curvature"):
            self.log_curvature = nn.Parameter(torch.tensor(math.log(curvature)))
        if learnable == "gain" or (learnable is True and projection == "expmap0"):
            self.log_gain = nn.Parameter(torch.zeros(()))

    @property
    def curvature(self):
        """c: a float, or a 0-dimensional tensor where it is learnable."""
        if hasattr(self, "log_curvature"):
            return self.log_curvature.exp()
        return self._initial_curvature

    def gain(self, dimension):
        """What a vector of this dimension is multiplied by before the limit:
        a float, or a 0-dimensional tensor where it is learnable."""
        gain = self._initial_gain or 1 / math.sqrt(dimension)
        if hasattr(self, "log_gain"):
            return gain * self.log_gain.exp()
        return gain

    @_full_precision
    def expmap0(self, v):
        """Tangent vectors at the origin [..., D] -> points [..., D], without
        gain or limit; see :func:`expmap0`."""
        return expmap0(v, self.curvature)

    @_full_precision
    def logmap0(self, x):
        """Points [..., D] -> tangent vectors at the origin [..., D]; see
        :func:`logmap0`."""
        return logmap0(x, self.curvature)

    @_full_precision
    def mobius_add(self, x, y):
        """Moebius addition of points [..., D]; see :func:`mobius_add`."""
        return mobius_add(x, y, self.curvature)

    def _tangent(self, x):
        return x * self.gain(x.shape[-1])

    def _project(self, x):
        if self.projection == "clip":
            return clip_norm(x, self.max_radius / self.curvature**0.5)
        longest = self.max_tangent_norm / self.curvature**0.5
        shorten = soften_norm if self.limit == "soft" else clip_norm
        return expmap0(shorten(self._tangent(x), longest), self.curvature)

    def _limited(self, x):
        if self.projection == "clip":
            longest = self.max_radius
        else:
            longest = self.max_tangent_norm
            x = self._tangent(x)
        return self.curvature**0.5 * torch.linalg.vector_norm(x, dim=-1) > longest

    @property
    def metric_curvature(self):
        return self.curvature

    def _floor(self, dtype):
        return torch.finfo(dtype).eps

    def extra_repr(self):
        curvature = torch.as_tensor(self.curvature).item()
        text = f"curvature={curvature:g}, projection={self.projection}"
        if self.projection == "clip":
            return f"{text}, max_radius={self.max_radius:g}"
        return f"{text}, max_tangent_norm={self.max_tangent_norm:g}, limit={self.limit}"


def _check_positive(name, value):
    if not 0 < value < math.inf:
        raise ValueError(f"{name}={value}: must be positive and finite.")


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name}={value!r}: must be one of {list(choices)}.")
