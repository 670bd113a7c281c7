"""``seqtex texture --text``: the reference is made first, kept beside the result, then used."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from seqtex.outputs import check_replaceable, check_unedited, manifest_path, staged
from seqtex.prepare_options import PrepareOptions
from seqtex.references import ReferenceImage, read_reference
from seqtex_geometry.asset import MeshAsset

from .progress import StageReporter
from .text_run import make_from_text

if TYPE_CHECKING:
    from seqtex.result import TextureResult
    from seqtex.text_to_image.reference import TextReference

    from .texture_request import TextureRequest

_PICTURE = "from_text.png"


@dataclass(frozen=True, kw_only=True, eq=False)
class MadeReference:
    """A reference made from text, saved and read back.

    Args:
        image: as any other reference of a job.
        made: how it was made.
    """

    image: ReferenceImage
    made: TextReference

    def noted_in(self, result: TextureResult) -> TextureResult:
        """The same result whose record says how its reference was made; that has the times."""
        record = {name: value for name, value in self.made.record.items() if name != "seconds"}
        return result.noting(text_to_image=record)

    def save_controls(self, folder: Path) -> None:
        """Write the control images among a run's intermediates."""
        from seqtex.text_to_image.reference import write_controls

        with staged(folder / "references") as scratch:
            write_controls(self.made.controls, scratch / _PICTURE)


def text_reference_path(out: Path) -> Path:
    """Where the reference of the result ``out`` is kept: ``<stem>_reference.png`` beside it."""
    return out.with_name(f"{out.stem}_reference.png")


def check_text_reference(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace a picture that is not ours, or that was painted over since.

    Raises:
        UsageError: such a picture is where the reference would go.
    """
    picture = text_reference_path(out)
    check_replaceable(picture, overwrite=overwrite)
    check_unedited([picture], record=manifest_path(picture), overwrite=overwrite)


def reference_from_text(
    request: TextureRequest, asset: MeshAsset, out: Path, report: StageReporter
) -> MadeReference:
    """Make the reference that ``--text`` asks for and keep it beside the result.

    It is written at once, so that it is there to be looked at, or painted over and given with
    --image, whatever happens later.

    Raises:
        InputError: the picture does not show the mesh's shape.
        SeqTexError: of any other kind.
    """
    from seqtex.prepare import prepare_job
    from seqtex.text_to_image.reference import save_text_reference

    assert request.text is not None
    spec = request.text.check()
    options = PrepareOptions(uv="as_is", rasterizer=request.rasterizer, device=request.device)
    job = prepare_job(asset, options=options)
    made = make_from_text(request.text, spec, job, report)
    picture = text_reference_path(out)
    save_text_reference(made, picture, mesh=asset.path.name, with_controls=False)
    report.say(f"  reference kept: {picture}")
    made.check_overlap(request.silhouette_threshold, saved=picture)
    return MadeReference(image=read_reference(picture, view=made.view), made=made)
