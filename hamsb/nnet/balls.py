"""Hyperbolic balls: where embeddings and speaker centers meet.

Two balls stand behind one interface, `Ball`: ``project`` brings a
Euclidean vector into the ball, ``distance`` and ``pairwise_distance`` measure
there, ``clipped`` tells which vectors the projection cuts short. A head, a
scorer or a plot is given a ball and never asks which one it is.

`ClippedUnitBall` is the form that Fang & He released and published
numbers with; `PoincareBall` is the ball of curvature ``-c`` as geometry
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
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from hamsb.nnet._closed_forms import Distances, PairwiseDistance
from hamsb.nnet._fused import ByAutograd, LazySimilarities
from hamsb.nnet.precision import no_autocast, product, widened, widest
from hamsb.utils.checks import check_choice, check_positive, is_number

# The published form's constants.
_RIM = 1e-5  # the clip stays this share inside the radius
_NORM_FLOOR = 1e-5  # vectors shorter than this are never stretched
_CONFORMAL_FLOOR = 1e-5  # floor of (1 - |x|^2)(1 - |y|^2)


# --------------------------------------------------------------- the formulas


def expmap0(v: Tensor, curvature: float | Tensor) -> Tensor:
    """Exponential map at the origin: tangent vectors to points, both [..., D].

    ``tanh(sqrt(c) |v|) / (sqrt(c) |v|) * v``, without any limit: in float32,
    vectors beyond ``sqrt(c) |v|`` of about 8 land on the rim.

    Example
    -------
    >>> expmap0(torch.tensor([0.0, 0.5]), 1.0)
    tensor([0.0000, 0.4621])
    """
    length = _scaled_norm(v, curvature)
    return v * (torch.tanh(length) / length)


def logmap0(x: Tensor, curvature: float | Tensor) -> Tensor:
    """Logarithmic map at the origin, the inverse of `expmap0`.

    ``artanh(sqrt(c) |x|) / (sqrt(c) |x|) * x``; points on or outside the rim
    are taken to lie the dtype's epsilon inside of it.

    Example
    -------
    >>> logmap0(expmap0(torch.tensor([0.3, -0.4]), 2.0), 2.0)
    tensor([ 0.3000, -0.4000])
    """
    length = _scaled_norm(x, curvature)
    inside = length.clamp_max(1 - torch.finfo(x.dtype).eps)
    return x * (torch.atanh(inside) / length)


def mobius_add(x: Tensor, y: Tensor, curvature: float | Tensor) -> Tensor:
    """Moebius addition ``x (+)_c y``, the ball's translation, of points [..., D],
    broadcast against each other.

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


def clip_norm(x: Tensor, radius: float | Tensor, floor: float = _NORM_FLOOR) -> Tensor:
    """Shorten vectors [..., D] to a radius: ``x * min(1, radius / max(|x|, floor))``.

    A clipped vector has no gradient along its own length. The floor is there so that
    nothing divides by zero.

    Example
    -------
    >>> clip_norm(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), 1.0)
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(floor)
    return x * (radius / norm).clamp_max(1)


def soften_norm(v: Tensor, limit: float | Tensor) -> Tensor:
    """Shorten vectors [..., D] smoothly: ``v / sqrt(1 + (|v| / limit)^2)``.

    Lengths stay below ``limit``; short vectors are left almost as they are
    (to third order), and the slope along the length is never zero, unlike
    that of `clip_norm`.

    Example
    -------
    >>> soften_norm(torch.tensor([3.0, 4.0]), 5.0).norm()
    tensor(3.5355)
    """
    ratio = _squared_norm(v).unsqueeze(-1) / limit**2
    return v * torch.rsqrt(1 + ratio)


def arsinh_distance(
    squared: Tensor, conformal: Tensor, curvature: float | Tensor
) -> Tensor:
    """Distance in a ball from squared Euclidean lengths.

    ``(2 / sqrt(c)) arsinh(sqrt(c |x - y|^2 / conformal))``. It equals ``(1 / sqrt(c))
    arcosh(1 + 2 c |x - y|^2 / conformal)`` without that form's cancellation. Its
    gradient at coincident points is 0.

    Arguments
    ---------
    squared : torch.Tensor
        ``|x - y|^2``, any shape, >= 0.
    conformal : torch.Tensor
        ``(1 - c |x|^2)(1 - c |y|^2)`` > 0, broadcast against ``squared``.
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


def pairwise_squared(x: Tensor, y: Tensor) -> Tensor:
    """``|x_n - y_m|^2`` >= 0 for all pairs of x [N, D] and y [M, D] by one matrix
    product: [N, M]. The product, and those of its gradients, are of full float32.

    Example
    -------
    >>> pairwise_squared(torch.eye(2), torch.zeros(1, 2))
    tensor([[1.],
            [1.]])
    """
    squares = _squared_norm(x).unsqueeze(-1) + _squared_norm(y).unsqueeze(-2)
    return (squares - 2 * product(x, y.t())).clamp_min(0)


def _squared_norm(x: Tensor) -> Tensor:
    return x.square().sum(-1)


def _scaled_norm(v: Tensor, curvature: float | Tensor) -> Tensor:
    """sqrt(c) |v| [..., 1], floored where its inverse would overflow."""
    norm = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
    return (curvature**0.5 * norm).clamp_min(1e-15)


def _safe_sqrt(z: Tensor) -> Tensor:
    """Square root whose gradient at 0 is 0; a NaN stays a NaN."""
    zero = z == 0
    return torch.where(zero, 1, z).sqrt().masked_fill(zero, 0)


# ------------------------------------------------------------------ the balls

_Method = TypeVar("_Method", bound=Callable[..., Tensor])


def _full_precision(method: _Method) -> _Method:
    """Run a ball's method outside autocast, on float32 or wider tensors."""

    @functools.wraps(method)
    def in_full(self, *tensors):
        with no_autocast(tensors[0]):
            return method(self, *map(widened, tensors))

    return cast(_Method, in_full)


class Ball(nn.Module):
    """What every ball offers. Inputs of lower precision are widened: results
    are float32 or wider, on the caller's device.

    A subclass defines ``_project``, ``_clipped``, ``metric_curvature`` and ``_floor``
    (the least that ``1 - c |x|^2`` of a point is taken for)."""

    _pair_floor = 0.0  # a floor of the product for two points instead
    _near_rim = False  # whether points may come so near that |x - y|^2 needs float64

    @_full_precision
    def project(self, x: Tensor) -> Tensor:
        """Bring Euclidean vectors [..., D] into the ball, [..., D]."""
        return self._project(x)

    @_full_precision
    def distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Distance of points x, y [..., D] (broadcast), [...], by direct
        difference: the form to trust, and the reference of the other."""
        gap = x - y
        floor = self._floor(gap.dtype)
        return self._measure(_squared_norm(gap), _squared_norm(x), _squared_norm(y), floor)

    @_full_precision
    def pairwise_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances of all pairs of points x [N, D] and y [M, D], [N, M].

        One matrix product instead of an [N, M, D] tensor, and gradients in
        closed form that keep nothing but the result; differentiating them
        again is a RuntimeError. In float32 a product costs some 4e-7 in ``|x -
        y|^2``: at coincidence a distance of up to 2e-3 in `ClippedUnitBall`
        at the published c = 3. Near the rim it would be 3e-2 at ``sqrt(c)|v| = 2``
        and 1.5 at 4, so `PoincareBall` takes the product, and nothing else
        of that size, in float64 (not on Apple's GPUs, which have none).
        """
        return self._pairwise(x, y, 1)

    @_full_precision
    def pairwise_similarity(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus `pairwise_distance`, [N, M], without a second buffer."""
        return self._pairwise(x, y, -1)

    @_full_precision
    def reference_pairwise_distance(self, x: Tensor, y: Tensor) -> Tensor:
        """`pairwise_distance` as it reads, with autograd's gradients: what
        the closed form is compared with, and differentiable twice."""
        dtype, floor = x.dtype, self._floor(x.dtype)
        if self._near_rim:
            x, y = x.to(widest(x)), y.to(widest(y))
        xx, yy = _squared_norm(x).unsqueeze(-1), _squared_norm(y).unsqueeze(-2)
        return self._measure(pairwise_squared(x, y), xx, yy, floor).to(dtype)

    @_full_precision
    def clipped(self, x: Tensor) -> Tensor:
        """Which of the vectors [..., D] exceed what `project` keeps as
        it is: bool [...]."""
        return self._clipped(x)

    @property
    def metric_curvature(self) -> float | Tensor:
        """The c of the distance, a float or a 0-dimensional tensor."""
        raise NotImplementedError

    def lazy_similarity(
        self, x: Tensor, centers: Tensor, project: Callable[[Tensor], Tensor]
    ) -> LazySimilarities:
        """`pairwise_similarity` of points x [N, D] and what ``project`` makes of centers
        [M, D], as [N, 1, M], computed block by block by the loss that takes it."""
        x, centers = widened(x), widened(centers)
        c, floor, dtype = self._settings(x)
        pairs: Callable = functools.partial(Distances, floor=floor, sign=-1, dtype=dtype)
        if self._pair_floor:  # whose distance has another form
            pairs = functools.partial(
                ByAutograd,
                of_all=lambda x, y: -self.reference_pairwise_distance(x, y),
                of_each=lambda x, y: -self.distance(x, y),
            )
        return LazySimilarities(
            x=x,
            centers=centers,
            project=project,
            learned=tuple(self.parameters()),
            whole=self.pairwise_similarity,
            c=c,
            pairs=pairs,
        )

    def _pairwise(self, x: Tensor, y: Tensor, sign: int) -> Tensor:
        if self._pair_floor:
            return sign * self.reference_pairwise_distance(x, y)
        c, floor, dtype = self._settings(x)
        return PairwiseDistance.apply(x, y, c, floor, sign, dtype)

    def _settings(self, x: Tensor) -> tuple[float | Tensor, float, torch.dtype]:
        """Curvature, floor and the product's dtype for pairs of points."""
        dtype = widest(x) if self._near_rim else x.dtype
        return self.metric_curvature, self._floor(x.dtype), dtype

    def _measure(self, squared: Tensor, xx: Tensor, yy: Tensor, floor: float) -> Tensor:
        if self._pair_floor:
            conformal = ((1 - xx) * (1 - yy)).clamp_min(self._pair_floor)
        else:
            c = self.metric_curvature
            conformal = (1 - c * xx).clamp_min(floor) * (1 - c * yy).clamp_min(floor)
        return arsinh_distance(squared, conformal, self.metric_curvature)

    def _project(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _clipped(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _floor(self, dtype: torch.dtype) -> float:
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

    def __init__(self, curvature: float):
        super().__init__()
        check_positive("curvature", curvature)
        if curvature < 1:
            raise ValueError(
                f"curvature={curvature}: the clipped unit ball needs a curvature "
                "of at least 1, its radius is 1/sqrt(curvature). For a smaller "
                "one use PoincareBall."
            )
        self.curvature = float(curvature)
        if (1 - self.radius**2) ** 2 < _CONFORMAL_FLOOR:
            self._pair_floor = _CONFORMAL_FLOOR

    @property
    def radius(self) -> float:
        """The clip's radius r."""
        return (1 - _RIM) / math.sqrt(self.curvature)

    metric_curvature = 1.0

    def _project(self, x: Tensor) -> Tensor:
        return clip_norm(x, self.radius)

    def _clipped(self, x: Tensor) -> Tensor:
        return torch.linalg.vector_norm(x, dim=-1) > self.radius

    def _floor(self, dtype: torch.dtype) -> float:
        """It acts on points outside of the clip alone."""
        return _CONFORMAL_FLOOR**0.5

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
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
        (`soften_norm`), "hard" a clip.
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
    >>> ball.clipped(torch.tensor([[0.5, 0.0], [0.0, 40.0]]))
    tensor([False,  True])
    """

    _near_rim = True
    log_curvature: nn.Parameter  # of what is learned alone
    log_gain: nn.Parameter

    def __init__(
        self,
        curvature: float,
        projection: str = "expmap0",
        max_tangent_norm: float = 4.0,
        limit: str = "soft",
        gain: float | None = None,
        max_radius: float = 0.9,
        learnable: bool | str = False,
    ):
        super().__init__()
        check_positive("curvature", curvature)
        check_positive("max_tangent_norm", max_tangent_norm)
        check_choice("projection", projection, ("expmap0", "clip"))
        check_choice("limit", limit, ("soft", "hard"))
        check_choice("learnable", learnable, (False, True, "curvature", "gain"))
        if gain is not None:
            check_positive("gain", gain)
        if not is_number(max_radius) or not 0 < max_radius < 1:
            raise ValueError(f"max_radius={max_radius!r}: must lie in (0, 1).")
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
    def curvature(self) -> float | Tensor:
        """c: a float, or a 0-dimensional tensor where it is learnable."""
        if hasattr(self, "log_curvature"):
            return self.log_curvature.exp()
        return self._initial_curvature

    @property
    def metric_curvature(self) -> float | Tensor:
        """c, the one of the ball: :attr:`curvature`."""
        return self.curvature

    def gain(self, dimension: int) -> float | Tensor:
        """What a vector of this dimension is multiplied by before the limit:
        a float, or a 0-dimensional tensor where it is learnable."""
        gain = self._initial_gain or 1 / math.sqrt(dimension)
        if hasattr(self, "log_gain"):
            return gain * self.log_gain.exp()
        return gain

    @_full_precision
    def expmap0(self, v: Tensor) -> Tensor:
        """`expmap0` at the ball's curvature, without gain or limit."""
        return expmap0(v, self.curvature)

    @_full_precision
    def logmap0(self, x: Tensor) -> Tensor:
        """`logmap0` at the ball's curvature."""
        return logmap0(x, self.curvature)

    @_full_precision
    def mobius_add(self, x: Tensor, y: Tensor) -> Tensor:
        """`mobius_add` at the ball's curvature."""
        return mobius_add(x, y, self.curvature)

    def _tangent(self, x: Tensor) -> Tensor:
        return x * self.gain(x.shape[-1])

    def _project(self, x: Tensor) -> Tensor:
        if self.projection == "clip":
            return clip_norm(x, self.max_radius / self.curvature**0.5)
        longest = self.max_tangent_norm / self.curvature**0.5
        shorten = soften_norm if self.limit == "soft" else clip_norm
        return expmap0(shorten(self._tangent(x), longest), self.curvature)

    def _clipped(self, x: Tensor) -> Tensor:
        if self.projection == "clip":
            longest = self.max_radius
        else:
            longest = self.max_tangent_norm
            x = self._tangent(x)
        return self.curvature**0.5 * torch.linalg.vector_norm(x, dim=-1) > longest

    def _floor(self, dtype: torch.dtype) -> float:
        return torch.finfo(dtype).eps

    def extra_repr(self) -> str:
        """The settings, for ``repr``."""
        curvature = torch.as_tensor(self.curvature).item()
        text = f"curvature={curvature:g}, projection={self.projection}"
        if self.projection == "clip":
            return f"{text}, max_radius={self.max_radius:g}"
        return f"{text}, max_tangent_norm={self.max_tangent_norm:g}, limit={self.limit}"


def check_ball(ball: object) -> None:
    """ValueError where something is no ball."""
    if not isinstance(ball, Ball):
        raise ValueError(
            f"ball={ball!r}: must be a ball, such as hamsb.ClippedUnitBall(curvature=3.0), "
            "in a yaml !new:hamsb.ClippedUnitBall with curvature: 3.0 below it."
        )
