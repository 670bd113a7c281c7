"""Make the README's picture: the demo's reference, its bare mesh, and the default result.

Run from the root of the repository: ``python scripts/make_readme_picture.py``.
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import interpolate

from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex_geometry.render import RenderStyle, render_textured

ROOT = Path(__file__).parents[1]
SIZE = 420
STYLE = RenderStyle(shading="shaded", background=(1.0, 1.0, 1.0), supersample=3)


def main() -> None:
    """Write ``docs/images/demo.png``."""
    demo = ROOT / "assets" / "demo"
    job = prepare_job(demo / "mesh.glb", {"front": demo / "reference.png"})
    result = SeqTexPipeline.from_pretrained("seqtex-tiny")(job)

    def render(textures: tuple[torch.Tensor, ...] | None) -> torch.Tensor:
        pictures = render_textured(
            job.mesh,
            textures,
            job.cameras,
            height=2 * SIZE,
            width=2 * SIZE,
            rasterizer=job.rasterizer,
            style=STYLE,
        )
        return pictures[:, :3]

    reference = job.references[0]
    given = interpolate(
        (reference.rgb * reference.mask + 1 - reference.mask)[None],
        (2 * SIZE, 2 * SIZE),
        mode="bilinear",
        antialias=True,
    )
    panels = torch.cat([given, render(None)[:1], render(result.textures)])
    side, top, bottom = SIZE // 4, SIZE // 6, SIZE // 10  # the rig leaves room around the object
    row = torch.cat(list(panels[:, :, top:-bottom, side:-side]), dim=-1)
    small = interpolate(row[None], scale_factor=0.5, mode="bilinear", antialias=True)[0]
    pixels = (small.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    target = ROOT / "docs" / "images" / "demo.png"
    target.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(target, optimize=True)


if __name__ == "__main__":
    main()
