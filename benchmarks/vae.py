"""``vae``: the codecs' one-frame form against diffusers' own forward, and what a texture costs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seqtex_backbones.codecs import cogvideox_frames, wan_frames
from seqtex_backbones.codecs.tiles import Tiles

from .counting import count
from .result import Row, Work
from .runner import Candidate, Case, Session, describe, run_cases

Direction = Literal["encode", "decode"]
GOAL_TFLOP = 20.6
GOAL_SPEEDUP = 2.3
FACTOR = 8
COGVIDEOX_BLOCKS = {
    "down_block_types": ["CogVideoXDownBlock3D"] * 4,
    "up_block_types": ["CogVideoXUpBlock3D"] * 4,
}


@dataclass(frozen=True, kw_only=True)
class Family:
    """A VAE architecture of diffusers with its one-frame form.

    Args:
        name: for cases.
        kind: name of the class in diffusers.
        form: module with ``encode`` and ``decode``.
        released: arguments of the released size.
        narrow: arguments of a narrow one.
        latent_channels: of both.
    """

    name: str
    kind: str
    form: ModuleType
    released: Mapping[str, Any] = field(default_factory=dict)
    narrow: Mapping[str, Any] = field(default_factory=dict)
    latent_channels: int = 16

    def build(self, *, narrow: bool = False) -> Any:
        """The VAE with torch's default initialisation on the default device."""
        import diffusers

        return getattr(diffusers, self.kind)(**(self.narrow if narrow else self.released)).eval()

    @cached_property
    def on_meta(self) -> Any:
        """The released size without memory."""
        with torch.device("meta"):
            return self.build()

    def original(self, vae: nn.Module, direction: Direction, x: Tensor) -> Tensor:
        """What diffusers itself makes of images ``[N, C, H, W]``, as videos of one frame."""
        model: Any = vae
        result: Tensor
        if direction == "encode":
            result = model.encode(x.unsqueeze(2)).latent_dist.parameters
        else:
            result = model.decode(x.unsqueeze(2), return_dict=False)[0]
        return result.squeeze(2)

    def one_frame(self, vae: nn.Module, direction: Direction, x: Tensor) -> Tensor:
        """The same in one-frame form."""
        result: Tensor = getattr(self.form, direction)(vae, x)
        return result

    def shape(self, direction: Direction, side: int) -> tuple[int, int, int, int]:
        """Input of one image with ``side`` pixels."""
        if direction == "encode":
            return (1, 3, side, side)
        return (1, self.latent_channels, side // FACTOR, side // FACTOR)


FAMILIES = (
    Family(
        name="wan",
        kind="AutoencoderKLWan",
        form=wan_frames,
        narrow={"base_dim": 32},
    ),
    Family(
        name="cogvideox",
        kind="AutoencoderKLCogVideoX",
        form=cogvideox_frames,
        released={
            "block_out_channels": (128, 256, 256, 512),
            "latent_channels": 16,
            "layers_per_block": 3,
            **COGVIDEOX_BLOCKS,
        },
        narrow={
            "block_out_channels": (32, 64, 64, 128),
            "latent_channels": 16,
            "layers_per_block": 2,
            **COGVIDEOX_BLOCKS,
        },
    ),
)
Forward = Callable[[nn.Module, Direction, Tensor], Tensor]


def texture_flop(family: Family, forward: Forward) -> int:
    """FLOP of a texture at the released size, counted on the meta device.

    Position and normal maps of four views at 512 pixels and of the texture at 1024, one picture at
    512; four views and the texture decoded.
    """

    def cost(direction: Direction, side: int) -> int:
        x = torch.empty(family.shape(direction, side), device="meta")
        return count(lambda: forward(family.on_meta, direction, x)).total_flop

    encoded = 9 * cost("encode", 512) + 2 * cost("encode", 1024)
    return encoded + 4 * cost("decode", 512) + cost("decode", 1024)


def run(session: Session) -> list[Row]:
    """What a texture costs, then rows of all cases."""
    counts = list(_texture_rows())
    for row in counts:
        session.say(f"{describe(row)}{row.metrics['tflop']:.2f} TFLOP")
    return counts + run_cases(_cases(session), session)


def _texture_rows() -> Iterator[Row]:
    for family in FAMILIES:
        original = texture_flop(family, family.original)
        ours = texture_flop(family, family.one_frame)
        for name, flop in (("one frame", ours), ("diffusers", original)):
            metrics: dict[str, Any] = {"tflop": flop / 1e12, "over_one_frame": flop / ours}
            if family.name == "wan" and name == "one frame":
                metrics |= {"tflop_goal": GOAL_TFLOP, "tflop_goal_met": flop / 1e12 <= GOAL_TFLOP}
            yield Row(
                benchmark="vae",
                case=f"{family.name}, one texture",
                implementation=name,
                status="ok",
                dtype="float32",
                parameters={"encoded": "9 x 512, 2 x 1024", "decoded": "4 x 512, 1 x 1024"},
                work=Work(flop=float(flop), flop_formula="FlopCounterMode on the meta device"),
                metrics=metrics,
                notes=("position and normal maps and one picture in, views and texture out",),
            )


def _cases(session: Session) -> Iterator[Case]:
    sides = (512, 1024) if session.on_cuda else (64,) if session.quick else (128,)
    dtypes = (torch.float32, torch.bfloat16) if session.on_cuda else (torch.float32,)
    for family in FAMILIES:
        torch.manual_seed(session.seed)
        vae = family.build(narrow=session.quick and not session.on_cuda)
        vae = vae.requires_grad_(False).to(session.device)
        for dtype in dtypes:
            for side in sides:
                for direction in ("encode", "decode"):
                    yield _case(family, vae.to(dtype), direction, side, dtype, session)


def _case(
    family: Family,
    vae: Any,
    direction: Direction,
    side: int,
    dtype: torch.dtype,
    session: Session,
) -> Case:
    shape = family.shape(direction, side)
    x = session.randn(*shape, dtype=dtype, generator=session.generator())

    def runs(forward: Forward) -> Callable[[], Tensor]:
        @torch.no_grad()
        def call() -> Tensor:
            return forward(vae, direction, x)

        return call

    @torch.no_grad()
    def expected() -> Tensor:
        wide = copy.deepcopy(vae).double()
        return family.original(wide, direction, x.double())

    candidates = [
        Candidate(name="one frame", call=runs(family.one_frame)),
        Candidate(name="diffusers", call=runs(family.original)),
    ]
    tile = side // FACTOR // 2
    if family.form is wan_frames and direction == "decode" and tile > wan_frames.decoder_reach(vae):
        tiles = Tiles(size=tile, reach=wan_frames.decoder_reach(vae), outward=FACTOR)
        candidates.append(
            Candidate(
                name="one frame, four tiles",
                call=runs(
                    lambda model, _, z: tiles(
                        lambda part: wan_frames.decode_last(model, part),
                        wan_frames.decode_first(model, z),
                    )
                ),
                notes=("the same pixels in less memory; the overlap is computed twice",),
            )
        )
    flop = _flop(family, vae, direction, shape)
    part = getattr(vae, f"{direction}r")
    weights = sum(p.numel() * p.itemsize for p in part.parameters())
    return Case(
        benchmark="vae",
        name=f"{family.name} {direction}, {side} pixels",
        dtype=dtype,
        candidates=candidates,
        work=Work(
            flop=float(flop),
            flop_formula="one-frame form by FlopCounterMode",
            bytes=float(weights + x.numel() * x.itemsize),
            bytes_formula="weights and input read once",
        ),
        parameters={
            "pixels": side,
            "layers": sum(isinstance(m, nn.Conv2d | nn.Conv3d) for m in part.modules()),
            "parameters": sum(p.numel() for p in vae.parameters()),
            "goal_speedup_over_diffusers": GOAL_SPEEDUP,
        },
        expected=expected,
        reference="diffusers' own forward in fp64",
        plain="diffusers",
        convolves=True,
    )


def _flop(family: Family, vae: Any, direction: Direction, shape: tuple[int, ...]) -> int:
    on_meta = copy.deepcopy(vae).to("meta")
    x = torch.empty(shape, dtype=next(vae.parameters()).dtype, device="meta")
    return count(lambda: family.one_frame(on_meta, direction, x)).total_flop
