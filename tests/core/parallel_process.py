"""One process of a mesh: ``python parallel_process.py BRANCHES,SEQUENCE[;...] FOLDER`` under RANK.

Every process computes each case alone and over the mesh, in fp64, and writes how far they differ.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

from seqtex_backbones.registry import load_backbone
from seqtex_core.attention import Attend
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.errors import SeqTexError
from seqtex_core.frame_run import KnownLatents
from seqtex_core.frames import TokenLayout
from seqtex_core.geometry_embedding import GeometryLatents
from seqtex_core.parallel import SPREADS, ParallelTrunk, RowShares, parallel_mesh
from seqtex_core.sampling import sample
from seqtex_core.step_reuse import ResidualReuse
from seqtex_core.stream_attention import Attended, SpreadAttend, attend_streams
from seqtex_core.tasks import img2tex
from seqtex_core.transformer import SeqTexTransformer, StepCache

STREAMS: dict[str, Any] = {"views": "mv", "texture": "uv"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model on a layout.

    Args:
        backbone: a tiny one.
        config: further options of the doubled model.
        keep: tokens that are present, so that shares are uneven.
        precompute: block caches are made with the step cache, else by the trunk.
    """

    backbone: str = "wan-tiny"
    config: dict[str, Any] = field(default_factory=dict)
    keep: bool = False
    precompute: bool = True


CASES = {
    "default": Case(),
    "uneven": Case(keep=True, precompute=False),
    "released": Case(
        config={"uv_key_source": "raw_post_attn", "geometry_order": "pre_rope"}, precompute=False
    ),
    "joint text": Case(backbone="cogvideox-tiny-5b"),
    "repeated positions": Case(backbone="cosmos-tiny"),
}


def build(case: Case) -> tuple[SeqTexTransformer, StepCache, dict[str, Tensor], dict[str, Tensor]]:
    torch.manual_seed(0)
    config = DecoupledConfig(lora_rank=2, lora_alpha=1.0, **case.config)
    model = SeqTexTransformer(load_backbone(case.backbone, seed=0), config).eval()
    for block in model.muv_blocks():
        torch.nn.init.normal_(block.geometry_caster.weight, std=0.1)
    model = model.double()
    sizes = {"views": (3, 4, 6), "texture": (1, 8, 8)}
    layout = model.layout(sizes, STREAMS)
    if case.keep:
        keep = {"views": torch.arange(1, 18, 2), "texture": torch.tensor([0, 3, 4, 9, 11, 12, 15])}
        layout = TokenLayout(groups=layout.groups, keep=keep)

    def maps() -> dict[str, Tensor]:
        channels = model.spec.latent_channels
        return {n: torch.randn(2, channels, *s, dtype=torch.float64) for n, s in sizes.items()}

    position, normal = maps(), maps()
    geometry = {n: GeometryLatents(position=position[n], normal=normal[n]) for n in sizes}
    text = torch.randn(2, model.spec.text_length, model.spec.text_dim, dtype=torch.float64)
    cache = model.prepare(layout, geometry=geometry, text=text, precompute=case.precompute)
    sigmas = {"views": torch.tensor([[0.1, 0.6, 0.9]] * 2), "texture": torch.tensor([[0.7]] * 2)}
    return model, cache, maps(), sigmas


def distance(one: dict[str, Tensor], many: dict[str, Tensor]) -> float:
    """Largest difference, relative to the largest value."""
    assert set(one) == set(many)
    return max(float((one[n] - many[n]).abs().max() / one[n].abs().max()) for n in one)


class OwnKeysOnly(SpreadAttend):
    """What a missing exchange would give: rows of this process over its own keys."""

    def __init__(self, local: Attend, shares: RowShares, group: ProcessGroup) -> None:
        super().__init__(local)
        del shares, group

    def streams(self, *args: Any, **options: Any) -> Attended:
        return attend_streams(self.local, *args, **options)


def runs(branches: int, sequence: int) -> Iterator[tuple[str, float]]:
    mesh = parallel_mesh("cpu", branches=branches, sequence=sequence)
    ways = ["gather", "ulysses"] if sequence > 1 else ["gather"]
    cases = CASES if branches == 2 else {n: CASES[n] for n in ("default", "uneven", "joint text")}
    for name, case in cases.items():
        model, cache, latents, sigmas = build(case)
        alone = model(latents, sigmas, cache)
        for way in ways:
            model.trunk = ParallelTrunk(mesh, sequence=way)  # type: ignore[arg-type]
            if way == "ulysses" and next(model.muv_blocks()).mv.num_heads % sequence:
                yield f"{name}, {way}, refused", float(_refuses(model, latents, "heads", cache))
                continue
            both = model(latents, sigmas, cache)
            again = model(latents, sigmas, cache)  # with what the trunk keeps
            yield f"{name}, {way}", distance(alone, both)
            yield f"{name}, {way}, again", distance(both, again)
        yield f"control: {name}", _control(model, mesh, (latents, sigmas, cache), alone)
        if branches == 1:
            del latents["texture"], sigmas["texture"]
            both = model(latents, sigmas, cache)
            yield f"{name}, views only", distance({"views": alone["views"]}, both)
    model, cache, latents, _ = build(CASES["default"])
    trunk = ParallelTrunk(mesh)
    reuse = ResidualReuse(threshold=0.3, inner=trunk, agree=trunk.agree)
    yield "sampling", _sampling(model, cache, latents, ParallelTrunk(mesh, exchange=False))
    model.trunk = ResidualReuse(threshold=0.3)
    yield "sampling, reuse", _sampling(model, cache, latents, reuse)
    assert reuse.reused > 0
    with torch.enable_grad():
        yield "gradients, refused", float(_refuses(model, latents, "gradients", cache))


def _control(
    model: SeqTexTransformer, mesh: DeviceMesh, inputs: Any, alone: dict[str, Tensor]
) -> float:
    """How much the smallest of all differences is that a missing exchange would make."""
    latents, sigmas, cache = inputs
    if mesh.size(1) > 1:
        trunk = ParallelTrunk(mesh)
        trunk.sequence = "own"  # type: ignore[assignment]
        model.trunk = trunk
        found = model(latents, sigmas, cache)
        model.trunk = ParallelTrunk(mesh)
    else:  # the texture reads the views
        found = model({**latents, "views": latents["views"].flip(2)}, sigmas, cache)
    return min(distance({n: alone[n]}, {n: found[n]}) for n in alone)


def _sampling(
    model: SeqTexTransformer, cache: StepCache, latents: dict[str, Tensor], trunk: Any
) -> float:
    """A whole run of the model as it is, and with a trunk; how far the end results differ."""
    plan = img2tex(num_views=3)
    known = KnownLatents(
        clean={"views": latents["views"]},
        shapes={"texture": latents["texture"].shape},
        dtype=torch.float64,
    )
    results = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        result = sample(
            lambda x, s: model(x, s, cache),
            plan,
            known,
            sigmas=[1.0, 0.9, 0.8, 0.6, 0.3, 0.0],
            generator=generator,
        )
        if isinstance(trunk, ParallelTrunk) and model.trunk is trunk:
            assert isinstance(cache.layout, TokenLayout)
            result = trunk.collect(result, cache.layout)
        results.append(result)
        model.trunk = trunk
    return distance(*results)


def _refuses(
    model: SeqTexTransformer, latents: dict[str, Tensor], told: str, cache: StepCache
) -> bool:
    """Whether a call does anything but say ``told`` in its error."""
    sigmas = {name: torch.rand(2, x.shape[2]) for name, x in latents.items()}
    try:
        model(latents, sigmas, cache)
    except SeqTexError as error:
        return told not in str(error)
    return True


@torch.no_grad()
def main(meshes: str, folder: Path) -> None:
    """All cases on every mesh."""
    torch.set_num_threads(1)
    assert isinstance(SPREADS, dict)
    SPREADS["own"] = OwnKeysOnly
    distributed.init_process_group("gloo")
    found = {}
    for mesh in meshes.split(";"):
        branches, sequence = map(int, mesh.split(","))
        found[mesh] = dict(runs(branches, sequence))
    (folder / f"{distributed.get_rank()}.json").write_text(json.dumps(found))
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
