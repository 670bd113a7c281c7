"""Ways to continue what was seen of a surface over what was not.

No single way is right for every object: bands go around, a chequered solid shows through, a plain
body goes on smoothly. All of them are offered, each with what speaks for it, so that a method that
has learned to weigh them can choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from seqtex_core.errors import UsageError

from .pattern_coordinates import COORDINATES, Array, PatternPoints, pattern_features
from .pattern_metric import PatternMetric, learn_metric, regress

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
    part: Tensor | None = None,
    seed: int = 0,
) -> Continuations:
    """Colours for the unknown points of a surface.

    Args:
        position: points on the surface, z up, ``[N, 3]``.
        normal: of any length, ``[N, 3]``.
        color: ``[N, 3]``: what was seen and, in the other rows, the smooth fill.
        known: True where the colour was seen, ``[N]``; some rows must be, and some must not.
        wanted: True for the rows to continue to, ``[N]``; by default those that are not known.
        part: number of the part of the object that a point belongs to, ``[N]`` int64: it takes from
            the known points of that part alone, if there are any. Points with a number below 0 take
            from all, as all do by default; see :func:`~.parts.shown_parts`.
        seed: of the choice of points that stand for all that are known, evenly over the surface
            however the texels are spread.

    Returns:
        For the wanted rows, in order, on the CPU.

    Raises:
        UsageError: nothing is known, or everything; wanted rows that are known, or none; parts that
            are no numbers of the points.
    """
    wanted = ~known if wanted is None else wanted
    _check(known, wanted)
    number = _numbers(part, len(known))
    seen, chosen = known.cpu().numpy(), wanted.cpu().numpy()
    points = PatternPoints.of(_array(position), _array(normal), seen)
    rng = np.random.default_rng(seed)
    share = area_shares(points.position)
    rows = _drawn(np.flatnonzero(seen), share[seen], rng)
    few = rng.choice(len(rows), min(_LEARNED_FROM, len(rows)), replace=False)
    asked = np.flatnonzero(chosen)
    sources, targets = points[rows], points[asked]
    colors = _array(color)
    values = colors[rows]
    metrics = _learned(sources, values, few)
    depth, toward = targets.depth, targets.toward
    deviation = np.log(values.std(0).mean() + 1e-3)
    alike = (deviation, share[seen].sum() / share.sum())
    beside = [depth, toward, np.abs(depth), np.abs(toward)]
    beside += [np.full(len(depth), value, np.float32) for value in alike]
    ways = np.empty((len(asked), len(WAYS), 3), np.float32)
    evidence = np.empty((len(asked), EVIDENCE), np.float32)
    ways[:, 0] = colors[chosen]
    evidence[:, EVIDENCE - len(beside) :] = np.stack(beside, axis=1)
    for of, to in _takers(number[rows], number[asked]):
        made, speaking = _continued(sources[of], values[of], targets[to], metrics)
        ways[to, 1:], evidence[to, : speaking.shape[1]] = made, speaking
    return Continuations(colors=torch.from_numpy(ways), evidence=torch.from_numpy(evidence))


def averaged(
    values: Tensor,
    position: Tensor,
    normal: Tensor,
    *,
    part: Tensor | None = None,
    neighbors: int = 16,
) -> Tensor:
    """Each point's mean with its neighbours on the same side of the surface.

    Args:
        values: ``[N, C]``.
        position: points on a surface, ``[N, 3]``.
        normal: of any length, ``[N, 3]``.
        part: number of the part of the object, ``[N]`` int64; means do not mix parts. By default
            all points are of one.
        neighbors: points in a mean, the point itself included.

    Returns:
        ``[N, C]``, on the device of ``values``.
    """
    extent = float((position.amax(0) - position.amin(0)).max())
    facing = torch.nn.functional.normalize(normal, dim=-1)
    place = _array(torch.cat([position, _SIDE * extent * facing], dim=1))
    number = _numbers(part, len(place))
    result = torch.empty_like(values)
    for one in np.unique(number):
        own = np.flatnonzero(number == one)
        count = min(neighbors, len(own))
        _, index = cKDTree(place[own]).query(place[own], k=count)
        rows = torch.from_numpy(own[index.reshape(len(own), count)]).to(values.device)
        result[torch.from_numpy(own).to(values.device)] = values[rows].mean(dim=1)
    return result


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


def _takers(source: Index, target: Index) -> Iterator[tuple[Index, Index]]:
    """Sources and the targets that take from them, as rows of both.

    Args:
        source: number of the part of every source.
        target: likewise; see :func:`continue_colors`.
    """
    own = np.where((target >= 0) & np.isin(target, source), target, -1)
    for number in np.unique(own):
        of = source == number if number >= 0 else np.full(len(source), True)
        yield np.flatnonzero(of), np.flatnonzero(own == number)


def _continued(
    sources: PatternPoints, values: Array, targets: PatternPoints, metrics: Sequence[PatternMetric]
) -> tuple[Array, Array]:
    """Colours in all ways but the first, ``[M, K - 1, 3]``, and what speaks for these."""
    ways: list[Array] = []
    evidence: list[Array] = []
    for coordinates in COORDINATES.values():
        made, distance, spread = _nearest(coordinates(sources), values, coordinates(targets))
        ways.append(made)
        evidence += [np.log(distance + 1e-3), spread]
    known, wanted = (torch.from_numpy(pattern_features(p)) for p in (sources, targets))
    for metric in metrics:
        found, mass = regress(metric, known, torch.from_numpy(values), wanted)
        ways.append(found.numpy())
        error = np.log(np.clip(metric.error, 1e-3, 4.0))
        evidence += [mass.numpy(), np.full(len(mass), error, np.float32)]
    ways.append(np.broadcast_to(values.mean(0), ways[0].shape))
    return np.stack(ways, axis=1), np.stack(evidence, axis=1)


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


def _learned(sources: PatternPoints, values: Array, few: Index) -> list[PatternMetric]:
    """The metrics, in the order of :data:`METRICS`."""
    known, colors = torch.from_numpy(pattern_features(sources)), torch.from_numpy(values)
    position = torch.from_numpy(sources.position)
    return [
        learn_metric(known[few], colors[few], position[few], full=name == "mapped")
        for name in METRICS
    ]


def _numbers(part: Tensor | None, count: int) -> Index:
    """The part of each point; -1 for all of them if nobody knows."""
    if part is None:
        return np.full(count, -1)
    if part.shape != (count,) or part.dtype != torch.int64:
        got = f"{part.dtype} {list(part.shape)}"
        raise UsageError("part", expected=f"torch.int64 [{count}]", got=got)
    numbers: Index = part.cpu().numpy()
    return numbers


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
