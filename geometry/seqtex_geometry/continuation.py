"""Ways to continue what was seen of a surface over what was not.

No single way is right for every object: bands go around, a chequered solid shows through, a plain
body goes on smoothly. All of them are offered, each with what speaks for it, so that a method that
has learned to weigh them can choose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from seqtex_core.errors import UsageError

from .pattern_coordinates import COORDINATES, Array, PatternPoints, pattern_features
from .pattern_metric import learn_metric, regress

Index = npt.NDArray[np.int64]

METRICS = ("weighed", "mapped")
WAYS = ("smooth", *COORDINATES, *METRICS, "mean")
"""Names of the ways: the smooth fill, the coordinates that a pattern may repeat in, two metrics
learned from what was seen (:mod:`.pattern_metric`), and the mean colour."""

EVIDENCE = 2 * len(COORDINATES) + 2 * len(METRICS) + 6
"""Numbers per point that speak for or against the ways; see :class:`Continuations`."""

_CROWD = 5  # nearest points by which a point's share of the surface is told
_SHARES = (1e-3, 1e3)  # least and largest share, relative to the median
_NO_AREA = 1e-20  # points at one place have equal shares
_SOURCES = 3000  # seen points that colours are taken from
_LEARNED_FROM = 400  # seen points that a metric is learned from
_NEIGHBORS = 16
_CHUNK = 2048
_SIDE = 0.1  # of the extent: how far apart normals at a right angle put points, over sqrt(2)


@dataclass(frozen=True, kw_only=True, eq=False)
class Continuations:
    """Colours of the points that were not seen, in several ways.

    Args:
        colors: ``[M, K, 3]``, the ways in the order of :data:`WAYS`.
        evidence: ``[M, E]``: for each coordinate system the logarithm of the distance to the
            nearest seen point and the spread of the colours there; for each learned metric how much
            is known about the point and, the same for all points, the logarithm of its error; then
            depth and cosine along the line of sight, and the absolute values of both; and, the same
            for all points, the logarithm of the seen colours' deviation, and the seen share.
    """

    colors: Tensor
    evidence: Tensor


def continue_colors(
    position: Tensor,
    normal: Tensor,
    color: Tensor,
    known: Tensor,
    *,
    wanted: Tensor | None = None,
    seed: int = 0,
) -> Continuations:
    """Colours for the unknown points of a surface.

    Args:
        position: points on the surface, z up, ``[N, 3]``.
        normal: of any length, ``[N, 3]``.
        color: ``[N, 3]``: what was seen and, in the other rows, the smooth fill.
        known: True where the colour was seen, ``[N]``; some rows must be, and some must not.
        wanted: True for the rows to continue to, ``[N]``; by default those that are not known.
        seed: of the choice of points that stand for all that are known, evenly over the surface
            however the texels are spread.

    Returns:
        For the wanted rows, in order, on the CPU.

    Raises:
        UsageError: nothing is known, or everything; wanted rows that are known, or none.
    """
    wanted = ~known if wanted is None else wanted
    _check(known, wanted)
    seen, chosen = known.cpu().numpy(), wanted.cpu().numpy()
    points = PatternPoints.of(_array(position), _array(normal), seen)
    rng = np.random.default_rng(seed)
    share = area_shares(points.position)
    rows = _drawn(np.flatnonzero(seen), share[seen], rng)
    few = rng.choice(len(rows), min(_LEARNED_FROM, len(rows)), replace=False)
    sources, targets = points[rows], points[np.flatnonzero(chosen)]
    colors = _array(color)
    values = colors[rows]
    ways: list[Array] = [colors[chosen]]
    evidence: list[Array] = []
    for coordinates in COORDINATES.values():
        made, distance, spread = _nearest(coordinates(sources), values, coordinates(targets))
        ways.append(made)
        evidence += [np.log(distance + 1e-3), spread]
    for made, mass, error in _by_metrics(sources, values, targets, few):
        ways.append(made)
        evidence += [mass, np.full(len(made), np.log(np.clip(error, 1e-3, 4.0)), np.float32)]
    ways.append(np.broadcast_to(values.mean(0), ways[0].shape))
    depth, toward = targets.depth, targets.toward
    deviation = np.log(values.std(0).mean() + 1e-3)
    evidence += [depth, toward, np.abs(depth), np.abs(toward)]
    evidence += [
        np.full(len(depth), value, np.float32)
        for value in (deviation, share[seen].sum() / share.sum())
    ]
    return Continuations(
        colors=torch.from_numpy(np.stack(ways, axis=1)).float(),
        evidence=torch.from_numpy(np.stack(evidence, axis=1)).float(),
    )


def averaged(values: Tensor, position: Tensor, normal: Tensor, *, neighbors: int = 16) -> Tensor:
    """Each point's mean with its neighbours on the same side of the surface.

    Args:
        values: ``[N, C]``.
        position: points on a surface, ``[N, 3]``.
        normal: of any length, ``[N, 3]``.
        neighbors: points in a mean, the point itself included.

    Returns:
        ``[N, C]``, on the device of ``values``.
    """
    extent = float((position.amax(0) - position.amin(0)).max())
    facing = torch.nn.functional.normalize(normal, dim=-1)
    place = _array(torch.cat([position, _SIDE * extent * facing], dim=1))
    count = min(neighbors, len(place))
    _, index = cKDTree(place).query(place, k=count)
    rows = torch.from_numpy(index.reshape(len(place), count)).to(values.device)
    return values[rows].mean(dim=1)


def area_shares(position: Array) -> Array:
    """How much of the surface each point stands for, relative to the median, ``[N]``.

    Texels are not spread evenly: an eye may have more than all the rest of an animal. The area is
    the squared distance to the fifth nearest point, within limits.

    Args:
        position: ``[N, 3]``.
    """
    count = min(_CROWD + 1, len(position))
    distance, _ = cKDTree(position).query(position, k=count)
    area = distance.reshape(len(position), count)[:, -1].astype(np.float64) ** 2
    share: Array = np.clip((area + _NO_AREA) / (np.median(area) + _NO_AREA), *_SHARES)
    return share


def _drawn(rows: Index, share: Array, rng: np.random.Generator) -> Index:
    """Rows that stand for all, each as often as its share asks for; all once if shares are equal.

    Source:
        Systematic resampling (Kitagawa, Journal of Computational and Graphical Statistics, 1996).
    """
    count = min(_SOURCES, len(rows))
    order = rng.permutation(len(rows))
    upto = np.cumsum(share[order])
    steps = (np.arange(count) + 0.5) * upto[-1] / count
    drawn: Index = rows[np.sort(order[np.searchsorted(upto, steps).clip(max=len(rows) - 1)])]
    return drawn


def _nearest(source: Array, values: Array, wanted: Array) -> tuple[Array, Array, Array]:
    """Typical colour of the nearest sources, distance of the first, deviation of their colours.

    The typical colour is the one with the least weighted distance to the others. Unlike a mean, it
    is a colour that was seen, and a few that differ do not stain it.
    """
    count = min(_NEIGHBORS, len(source))
    distance, index = cKDTree(source).query(wanted, k=count)
    distance, index = distance.reshape(-1, count), index.reshape(-1, count)
    weight = 1.0 / (distance**2 + 0.01 * distance[:, -1:] ** 2 + 1e-9)
    weight = (weight / weight.sum(1, keepdims=True)).astype(np.float32)
    typical = np.empty((len(wanted), values.shape[1]), dtype=np.float32)
    spread = np.empty(len(wanted), dtype=np.float32)
    for start in range(0, len(wanted), _CHUNK):
        rows = slice(start, start + _CHUNK)
        colors, share = values[index[rows]], weight[rows]
        apart = np.abs(colors[:, :, None] - colors[:, None]).sum(-1)
        best = np.einsum("nij,nj->ni", apart, share).argmin(1)
        typical[rows] = colors[np.arange(len(best)), best]
        mean = np.einsum("nk,nkc->nc", share, colors)
        variance = np.einsum("nk,nkc->nc", share, (colors - mean[:, None]) ** 2)
        spread[rows] = np.sqrt(variance.mean(1))
    return typical, distance[:, 0].astype(np.float32), spread


def _by_metrics(
    sources: PatternPoints, values: Array, wanted: PatternPoints, few: npt.NDArray[np.int64]
) -> list[tuple[Array, Array, float]]:
    """Colours, how much is known about each, and the metric's error, for each of the metrics."""
    known, colors = torch.from_numpy(pattern_features(sources)), torch.from_numpy(values)
    position = torch.from_numpy(sources.position)
    made = []
    for name in METRICS:
        metric = learn_metric(known[few], colors[few], position[few], full=name == "mapped")
        found, mass = regress(metric, known, colors, torch.from_numpy(pattern_features(wanted)))
        made.append((found.numpy(), mass.numpy(), metric.error))
    return made


def _check(known: Tensor, wanted: Tensor) -> None:
    if bool(known.all()) or not bool(known.any()):
        raise UsageError(
            "known",
            expected="some points with a colour, and some without",
            got=f"{int(known.sum())} of {len(known)} with a colour",
        )
    if bool((wanted & known).any()) or not bool(wanted.any()):
        raise UsageError(
            "wanted",
            expected="at least one point, none of them known",
            got=f"{int(wanted.sum())} points, {int((wanted & known).sum())} of them known",
        )


def _array(values: Tensor) -> Array:
    array: Array = values.detach().float().cpu().numpy()
    return array
