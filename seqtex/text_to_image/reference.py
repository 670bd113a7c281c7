"""From a job and a text to a reference image with the mesh's own silhouette."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from seqtex_core.errors import InputError
from seqtex_geometry.contact_sheet import to_image

from ..manifest import SCHEMA, installed_versions
from ..outputs import manifest_path, staged
from ..references import plain_background
from ..silhouettes import silhouette_iou
from ..stages import OnProgress, StageClock
from .control_images import ControlImages, draw_control_images
from .diffusers_generator import settings_record
from .kinds import NormalConvention, control_path
from .protocol import ImageSettings, ReferenceGenerator

if TYPE_CHECKING:
    from ..prepare import PreparedJob

_SIDES = {
    "front": "front view",
    "left": "seen from its left side",
    "back": "seen from behind",
    "right": "seen from its right side",
}
_EVEN = "the whole object, plain white background, flat even light, no shadows"


@dataclass(frozen=True, kw_only=True, eq=False)
class TextReference:
    """A reference image made from text.

    Args:
        rgba: sRGB and straight alpha, ``[4, S, S]`` float32 in [0, 1]; alpha is the mesh's
            silhouette, not the picture's.
        controls: the control images that it was made from.
        overlap: of the picture's own silhouette with the mesh's, intersection over union; ``None``
            if its background is not plain.
        record: how it was made, for manifests.
    """

    rgba: Tensor
    controls: ControlImages
    overlap: float | None
    record: Mapping[str, Any]

    @property
    def view(self) -> str:
        """Name of the view that it shows."""
        return self.controls.view

    def __str__(self) -> str:
        if self.overlap is None:
            return "silhouette not measured (no plain background)"
        return f"silhouette IoU {self.overlap:.3f}"

    def check_overlap(self, least: float, *, saved: Path | None = None) -> None:
        """Refuse a picture that does not show the mesh's shape.

        Args:
            least: least overlap that is accepted.
            saved: where the picture is, for the message.

        Raises:
            InputError: the overlap was measured and is smaller.
        """
        if self.overlap is None or self.overlap >= least:
            return
        take = f" To take it as it is, give it with --image {saved}." if saved else ""
        raise InputError(
            f"image of the {self.view} view from text",
            expected=f"an object that fills the mesh's silhouette with IoU >= {least:.2f} "
            "(--min-iou)",
            got=f"IoU {self.overlap:.3f}",
            remedy="Try another --seed, or `seqtex reference` with a higher --control-scale."
            + take,
        )


def full_prompt(text: str, view: str) -> str:
    """``text`` with the words that make a reference: the side, a plain background, even light."""
    return f"{text.strip().rstrip('.,')}, {_SIDES[view]}, {_EVEN}"


def make_text_reference(
    job: PreparedJob,
    generator: ReferenceGenerator,
    settings: ImageSettings,
    *,
    view: str = "front",
    size: int | None = None,
    normal_convention: NormalConvention = "bae",
    on_progress: OnProgress | None = None,
) -> TextReference:
    """A reference image of one view, made from text.

    Args:
        job: the mesh; UVs and references are not used.
        generator: an image model.
        settings: prompt (given to the model as it is), seed and so on.
        view: name of the view.
        size: edge of the image in pixels; the generator's default if ``None``.
        normal_convention: of the normals that the generator reads.
        on_progress: told about the stages.

    Raises:
        UsageError: an unknown view, or settings that the generator does not have.
        InputError: the view shows nothing of the mesh.
    """
    clock = StageClock(on_progress)
    defaults = generator.defaults
    resolved = defaults.resolve(settings)
    with clock.stage("Control images"):
        controls = draw_control_images(
            job, view, size=size or defaults.size, normal_convention=normal_convention
        )
    with clock.stage("Reference image", int(resolved.steps or 1)) as step, torch.no_grad():
        rgb = generator(settings, controls, on_step=lambda done, total: step(done))
    mask = controls.mask.cpu()
    overlap = _overlap(rgb, mask)
    return TextReference(
        rgba=torch.cat([rgb, mask]),
        controls=controls,
        overlap=overlap,
        record={
            **generator.record(),
            "view": view,
            "size": controls.size,
            **settings_record(resolved),
            "normal_convention": normal_convention,
            "silhouette_iou": None if overlap is None else round(overlap, 4),
            "seconds": {name: round(seconds, 3) for name, seconds in clock.times.items()},
        },
    )


def save_text_reference(
    reference: TextReference, path: Path, *, mesh: str, with_controls: bool = True
) -> None:
    """Write the picture, its record beside it, and the control images; all of it, or nothing.

    Args:
        reference: what to write.
        path: of the picture, ``.png``. The control images get its name with ``_depth`` and so on.
        mesh: name of the mesh's file, for the record.
        with_controls: write the control images too.
    """
    with staged(path.parent) as folder:
        (folder / path.name).write_bytes(_png(reference.rgba))
        if with_controls:
            write_controls(reference.controls, folder / path.name)
        write_record(folder / path.name, mesh=mesh, record=reference.record)


def write_controls(controls: ControlImages, path: Path) -> None:
    """Write ``<stem>_depth.png``, ``<stem>_normal.png`` and ``<stem>_mask.png`` beside ``path``."""
    mask = controls.mask.expand(3, -1, -1)
    for name, picture in (("depth", controls.depth), ("normal", controls.normal), ("mask", mask)):
        control_path(path, name).write_bytes(_png(picture))


def write_record(path: Path, *, mesh: str, record: Mapping[str, Any]) -> None:
    """Write the record of the picture ``path`` beside it."""
    content = {
        "schema": SCHEMA,
        "mesh": mesh,
        "text_to_image": dict(record),
        "versions": dict(installed_versions()),
    }
    manifest_path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _overlap(rgb: Tensor, mask: Tensor) -> float | None:
    pixels = (rgb * 255).round().byte().permute(1, 2, 0).numpy()
    background = plain_background(np.ascontiguousarray(pixels))
    if background is None or bool(background.all()):
        return None
    return silhouette_iou(1.0 - torch.from_numpy(background).float(), mask[0])


def _png(picture: Tensor) -> bytes:
    buffer = io.BytesIO()
    to_image(picture).save(buffer, format="PNG")
    return buffer.getvalue()
