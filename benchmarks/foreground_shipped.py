"""Foreground tokens of the shipped model: its denoising on the demo's mesh, and what it makes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from seqtex.models.folder import DEFAULT_MODEL
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.run_options import RunOptions

from .approximations import SMALL, psnr
from .denoise_work import denoise_work
from .foreground import DENSE, SHIPPED, finite
from .pipeline import one_place_for_threads
from .result import Row, Scalar
from .runner import Candidate, Case, Session, run_cases
from .shipped import Denoising, held_out_objects, quality

DEMO = Path(__file__).parents[1] / "assets" / "demo"
OBJECTS = 8
"""Held-out ones, procedural, that textures are compared with the truth on."""


def shipped_rows(session: Session) -> list[Row]:
    """Rows of the shipped model."""
    with tempfile.TemporaryDirectory() as folder, one_place_for_threads():
        return run_cases(shipped_cases(session, Path(folder)), session)


def shipped_cases(session: Session, folder: Path) -> Iterator[Case]:
    """The shipped model's denoising on the demo's mesh; the truth is that of held-out objects."""
    prepare = PrepareOptions(device=str(session.device))
    job = prepare_job(DEMO / "mesh.glb", {"front": DEMO / "reference.png"}, options=prepare)
    pipeline = SeqTexPipeline.from_pretrained(DEFAULT_MODEL, device=session.device)
    model = pipeline.model
    steps, margin = model.config.sampling.steps, model.config.foreground or 0
    objects = held_out_objects(model, folder / "objects", count=1 if session.quick else OBJECTS)
    sizes: dict[str, Any] = dict(SMALL) if session.quick else {}
    candidates, textures = [], {}
    for name, asked in ((DENSE, None), (SHIPPED, margin)):
        shown = asked is not None
        options = RunOptions(foreground=shown, **sizes)
        denoise = Denoising.of(pipeline, job, seed=session.seed, options=options)
        textures[name] = denoise.texture
        found = quality(model, objects, foreground=asked, seed=session.seed)
        said = f"truth of {len(objects)} held-out objects: {found['psnr_unseen_db']:.2f} dB unseen"
        notes = [f"{said}, {found['psnr_all_db']:.2f} dB in all"]
        metrics: dict[str, Scalar] = {**found, "objects": len(objects)}
        if name != DENSE:
            apart = psnr(textures[name], textures[DENSE])
            metrics["psnr_from_dense_db"] = apart
            same = "the very texture of all tokens"
            notes.append(same if apart is None else f"{apart:.1f} dB from that of all tokens")
        candidates.append(
            Candidate(
                name=name,
                call=partial(denoise, model.transformer, steps),
                work=denoise_work(model, denoise.cache, steps),
                check=finite,
                metrics=metrics,
                notes=tuple(notes),
            )
        )
    work = candidates[0].work
    assert work is not None
    yield Case(
        benchmark="foreground",
        name=f"{DEFAULT_MODEL}, denoise, {steps} step{'s' if steps > 1 else ''}",
        dtype=model.dtype,
        candidates=candidates,
        work=work,
        parameters={"model": DEFAULT_MODEL, "steps": steps, **sizes},
        few=True,
    )
