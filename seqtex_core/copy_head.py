"""A head that copies: attention over a surface whose values are what is known of it.

Where on a surface a colour can be found again is learned much sooner than making the colour. Every
attention head measures distance on the surface in its own way (along the height, around an axis,
through a mirror plane, anything between), stretched by what the transformer makes of the object; a
gate weighs what the heads found, by the rows of the transformer and by evidence: how far away it
was found, how much it varies there, and how well the same head predicts known points from others
that are not near.

Source:
    Pointer networks (Vinyals, Fortunato and Jaitly, NeurIPS 2015) copy by attention; kernel
    regression with a learned metric: Weinberger and Tesauro, AISTATS 2007. That a diffusion
    transformer's rows drive both, and that near points are left out to judge, is our own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .checks import check_shape
from .errors import UsageError
from .kernels.choose import without_autocast

PATTERN = 9
"""Coordinates of a surface point that heads measure distance in; see :func:`pattern`."""

_EVIDENCE = 5  # numbers per head beside the copied values
_NEAR = 0.3  # of half the object: points this near say nothing about how well a head predicts
_CROWD = 5  # nearest points by which a point's share of the surface is told
_SHARES = (1e-3, 1e3)  # least and largest share, relative to the median
_NO_AREA = 1e-20  # points at one place have equal shares
_JUDGED = 64  # known points that a head is judged on
_CHUNK = 1024  # rows at once; with gradients, what a chunk makes is made again in the backward pass
_LOWEST, _HIGHEST = -5.0, 4.0  # logarithm of a scale
_START = 2.0  # first logit of keeping the base


@dataclass(frozen=True, kw_only=True)
class CopyConfig:
    """What is copied where.

    Args:
        source: frame group whose tokens are known, where they are present and have a normal.
        target: frame group whose clean latents the copies make up, in place of the transformer's
            own; they are measured from the source's at the same place, on the same grid.
        heads: ways to measure distance.
        content: width of the part of queries and keys that the transformer's rows make.

    Raises:
        UsageError: less than one head, no width, or one group twice.
    """

    source: str = "projection"
    target: str = "texture"
    heads: int = 12
    content: int = 8

    def __post_init__(self) -> None:
        if self.source == self.target:
            raise UsageError("copy", expected="two groups", got=f"from and to {self.source!r}")
        for name in ("heads", "content"):
            if getattr(self, name) < 1:
                raise UsageError(f"copy {name}", expected="1 or more", got=str(getattr(self, name)))


class CopyRows(NamedTuple):
    """Tokens of one sample.

    Attributes:
        hidden: the transformer's rows, ``[L, D]``.
        points: position and unit normal on the surface, ``[L, 6]``; see :func:`boxed`.
        latents: what is known at the place, ``[L, C]``.
    """

    hidden: Tensor
    points: Tensor
    latents: Tensor


class CopyHead(nn.Module):
    """Change of the clean latents of unknown tokens, out of those of known ones.

    Args:
        dim: width of the transformer's rows.
        channels: of the latents.
        config: heads and their width.
    """

    def __init__(self, dim: int, channels: int, config: CopyConfig) -> None:
        super().__init__()
        self.dim, self.channels = dim, channels
        self.heads, self.content = config.heads, config.content
        self.norm = nn.LayerNorm(dim)
        self.log_scale = nn.Parameter(first_scales(config.heads))
        self.rescale = nn.Linear(2 * dim, config.heads * PATTERN)
        self.query = nn.Linear(dim, config.heads * config.content)
        self.key = nn.Linear(dim, config.heads * config.content)
        features = dim + channels + PATTERN + config.heads * (channels + _EVIDENCE)
        self.gate = nn.Sequential(
            nn.Linear(features, dim), nn.GELU(), nn.Linear(dim, config.heads + 1)
        )
        for layer in (self.rescale, self.query, self.gate[2]):
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
            if layer is self.gate[2]:
                nn.init.constant_(layer.bias[-1:], _START)

    def forward(self, target: CopyRows, source: CopyRows, *, share: Tensor | None = None) -> Tensor:
        """What to add to ``target.latents``, ``[L, C]`` in fp32; zero if nothing is known.

        Args:
            target: tokens to find; their latents are the base that copies are measured from.
            source: known tokens.
            share: how much each of these stands for, above 0, ``[L]``; see :func:`area_shares`. By
                default as much as every other.

        Raises:
            UsageError: rows of other widths or lengths.
        """
        self._check("target", target)
        self._check("source", source)
        if share is not None:
            check_shape("share", share, (len(source.hidden),), "L")
        if not len(target.hidden) or not len(source.hidden):
            nothing = torch.stack([p.float().sum() for p in self.parameters()]).sum() * 0.0
            return torch.zeros_like(target.latents, dtype=torch.float32) + nothing
        with without_autocast(target.hidden.device):
            asked, known = self._rows(target), self._rows(source)
            share = known.points.new_ones(len(known.points)) if share is None else share.float()
            scale = self._scale(known.hidden, share)
            keys = self._keys(known, scale, share)
            error = self._error(known, keys, scale, share)
            parts = [*zip(*(rows.split(_CHUNK) for rows in asked), strict=True)]
            again = len(parts) > 1 and torch.is_grad_enabled()
            change = self._change_again if again else self._change
            return torch.cat([change(CopyRows(*p), known, keys, scale, error) for p in parts])

    def _rows(self, rows: CopyRows) -> CopyRows:
        """Normalised, in fp32 whatever the weights are kept in."""
        weight, bias = self.norm.weight.float(), self.norm.bias.float()
        hidden = torch.nn.functional.layer_norm(rows.hidden.float(), weight.shape, weight, bias)
        return CopyRows(hidden, pattern(rows.points.float()), rows.latents.float())

    def _check(self, name: str, rows: CopyRows) -> None:
        count = len(rows.hidden)
        check_shape(f"{name}.hidden", rows.hidden, (None, self.dim), "L D")
        check_shape(f"{name}.points", rows.points, (count, 6), "L 6")
        check_shape(f"{name}.latents", rows.latents, (count, self.channels), "L C")

    def _scale(self, known: Tensor, share: Tensor) -> Tensor:
        """Of every coordinate in every head for this object, ``[N, 1, P]``."""
        mean, variance = _moments(known, share)
        summary = torch.cat([mean, variance.sqrt()])
        log = self.log_scale + _linear(self.rescale, summary).view(self.heads, PATTERN)
        return log.float().clamp(_LOWEST, _HIGHEST).exp()[:, None]

    def _queries(self, rows: CopyRows, scale: Tensor) -> Tensor:
        """``[N, L, P + 1 + E]``.

        Products with keys are negative squared distances but for the queries' own squares.
        """
        place = rows.points * scale
        content = self._content(self.query, rows.hidden)
        return torch.cat([2 * place, torch.ones_like(place[..., :1]), content], dim=-1)

    def _keys(self, rows: CopyRows, scale: Tensor, share: Tensor) -> Tensor:
        place = rows.points * scale
        content = self._content(self.key, rows.hidden)
        own = share.log()[:, None] - place.square().sum(-1, keepdim=True)
        return torch.cat([place, own, content], dim=-1)

    def _content(self, layer: nn.Linear, hidden: Tensor) -> Tensor:
        made = _linear(layer, hidden)
        return made.view(len(hidden), self.heads, self.content).transpose(0, 1)

    def _error(self, known: CopyRows, keys: Tensor, scale: Tensor, share: Tensor) -> Tensor:
        """Logarithm of each head's squared error on known points over their variance, ``[N]``.

        Never in chunks: however much is known, those judged are a sixteenth of a chunk's rows.
        """
        count = len(known.hidden)
        chosen = torch.linspace(0, count - 1, min(_JUDGED, count), device=keys.device).long()
        asked = CopyRows(*(rows[chosen] for rows in known))
        logits = self._queries(asked, scale) @ keys.transpose(-1, -2)
        near = torch.cdist(asked.points[:, :3], known.points[:, :3]) < _NEAR
        found = logits.masked_fill(near, -1e4).softmax(-1) @ known.latents
        variance = _moments(known.latents, share)[1].mean() + 1e-4
        wrong = (found - asked.latents).square().mean(-1)
        error = wrong @ (share[chosen] / share[chosen].sum()) / variance
        return (error.clamp(max=4.0) + 0.01).log()

    def _change_again(self, asked: CopyRows, known: CopyRows, *measured: Tensor) -> Tensor:
        """As ``_change``, but nothing of the size asked x known x heads waits for gradients."""

        def change(*rows: Tensor) -> Tensor:
            return self._change(CopyRows(*rows[:3]), CopyRows(*rows[3:6]), *rows[6:])

        rows = (*asked, *known, *measured)
        made: Tensor = checkpoint(change, *rows, use_reentrant=False, preserve_rng_state=False)
        return made

    def _change(
        self, asked: CopyRows, known: CopyRows, keys: Tensor, scale: Tensor, error: Tensor
    ) -> Tensor:
        logits = self._queries(asked, scale) @ keys.transpose(-1, -2)
        own = (asked.points * scale).square().sum(-1, keepdim=True)
        total = logits.logsumexp(-1, keepdim=True)
        mass = (total - own).clamp(min=-30.0) / 4
        channels = known.latents.shape[1]
        values = torch.cat([known.latents, known.latents.square(), known.points], dim=1)
        found = (logits - total).exp() @ values
        copied, squares, where = found.split([channels, channels, PATTERN], dim=-1)
        spread = (squares - copied.square()).clamp(min=0).mean(-1, keepdim=True)
        away = (asked.points - where).abs()
        change = copied - asked.latents
        evidence = [
            change,
            (spread + 1e-4).sqrt(),
            away[..., :3].sum(-1, keepdim=True),
            away[..., -3:].sum(-1, keepdim=True),
            mass,
            error[:, None, None].expand_as(mass),
        ]
        by_head = torch.cat(evidence, dim=-1).transpose(0, 1).flatten(1)
        features = torch.cat([asked.hidden, asked.latents, asked.points, by_head], dim=1)
        hidden = torch.nn.functional.gelu(_linear(self.gate[0], features))
        share = _linear(self.gate[2], hidden).softmax(-1)[:, : self.heads]
        return torch.einsum("ln,nlc->lc", share, change)


def pattern(points: Tensor) -> Tensor:
    """Coordinates that a colour may depend on, ``[L, 9]``, from points ``[L, 6]``.

    Position, its distances from the planes x = 0 and y = 0 and from the z axis, normal.

    Convention:
        z is up, as in ``seqtex_geometry.pattern_coordinates.pattern_features``.
    """
    place, normal = points[:, :3], points[:, 3:]
    across = place[:, :2]
    return torch.cat([place, across.abs(), across.norm(dim=1, keepdim=True), normal], dim=1)


def area_shares(points: Tensor, surface: Tensor) -> Tensor:
    """How much of the surface some points stand for, relative to the median of all, ``[L]``.

    Tokens are not spread evenly over a surface: an eye may have more than all the rest of an
    animal. The area is the squared distance to the fifth nearest point, within limits.

    Args:
        points: positions, ``[L, 3]``.
        surface: positions of all tokens of the object, those points among them, ``[M, 3]``.
    """
    count = min(_CROWD + 1, len(surface))
    if not len(points) or not count:
        return points.new_ones(len(points))
    some = surface[:: max(1, len(surface) // _CHUNK)]
    typical = _crowding(some, surface, count).median()
    return ((_crowding(points, surface, count) + _NO_AREA) / (typical + _NO_AREA)).clamp(*_SHARES)


def _crowding(points: Tensor, surface: Tensor, count: int) -> Tensor:
    """Squared distance to the neighbour of that number, the point itself included."""
    return torch.cat(
        [
            torch.cdist(rows, surface).topk(count, largest=False).values[:, -1].square()
            for rows in points.split(_CHUNK)
        ]
    )


def boxed(points: Tensor, present: Tensor) -> Tensor:
    """Points with positions scaled so that the present ones' box is centred, its longest half 1.

    Args:
        points: position and normal, ``[L, 6]``.
        present: which of them count, boolean ``[L]``; the others are scaled alike.
    """
    if not bool(present.any()):
        return points
    place = points[present, :3]
    low, high = place.amin(0), place.amax(0)
    half = ((high - low).amax() / 2).clamp(min=1e-9)
    return torch.cat([(points[:, :3] - (low + high) / 2) / half, points[:, 3:]], dim=1)


def first_scales(heads: int) -> Tensor:
    """Logarithms of the first scales, ``[N, 9]``: each head looks along other coordinates.

    In turn: near points; height; rings; mirror images; left to right; front to back; like normals;
    everything at once. Heads beyond these start at the same, stirred a little.
    """
    first = torch.tensor(
        [
            [2.0, 2.0, 2.0, -2.0, -2.0, -2.0, 0.0, 0.0, 0.0],
            [-1.0, -1.0, 2.2, -2.0, -2.0, -2.0, -1.0, -1.0, -1.0],
            [-1.0, -1.0, 2.0, -2.0, -2.0, 1.5, -1.0, -1.0, -1.0],
            [-1.0, -1.0, 2.0, 2.0, 2.0, -2.0, -1.0, -1.0, -1.0],
            [2.2, -1.0, -1.0, -2.0, -2.0, -2.0, -1.0, -1.0, -1.0],
            [-1.0, 2.2, -1.0, -2.0, -2.0, -2.0, -1.0, -1.0, -1.0],
            [-2.0, -2.0, -2.0, -2.0, -2.0, -2.0, 1.5, 1.5, 1.5],
            [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0],
        ]
    )
    index = torch.arange(heads)
    stirred = torch.randn(heads, PATTERN, generator=torch.Generator().manual_seed(0))
    again = (index >= len(first)).to(first.dtype)[:, None]
    return first[index % len(first)] + 0.3 * again * stirred


def _moments(values: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of values ``[L, C]``, of which each counts ``share``."""
    part = (share / share.sum())[:, None]
    mean = (part * values).sum(0)
    variance = (part * (values - mean).square()).sum(0)
    return mean, variance


def _linear(layer: nn.Module, rows: Tensor) -> Tensor:
    """In fp32, whatever the weights are kept in."""
    assert isinstance(layer, nn.Linear)
    return torch.nn.functional.linear(rows, layer.weight.float(), layer.bias.float())
