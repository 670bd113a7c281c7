"""``pipeline``: a mesh file to a textured file, stage by stage, with the built-in model."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor

from seqtex.models.folder import DEFAULT_MODEL
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import PreparedJob, prepare_job
from seqtex.prepare_options import PrepareOptions
from seqtex.project import project_references
from seqtex.result import TextureResult
from seqtex_core.transformer import StepCache
from seqtex_geometry.render import render_textured

from .denoise_work import denoise_work
from .meshes import write_glb
from .result import Accuracy, Row, Scalar, Timing, Work
from .runner import Session, describe
from .timing import spread

RINGS = 40
TOTAL = "whole run"
REPEATS = {True: 2, False: 5}
"""Timed runs of each method, quick and not."""
NOTE = "the model's own sizes and steps; wall clock of the stages, CPU time of the whole run"


@dataclass
class Runs:
    """What several runs of one method took.

    Args:
        wall: seconds by stage, one entry per run.
        cpu: CPU seconds of the whole run.
        textures: what the runs made.
    """

    wall: dict[str, list[float]] = field(default_factory=dict)
    cpu: list[float] = field(default_factory=list)
    textures: list[Tensor] = field(default_factory=list)


def run(session: Session) -> list[Row]:
    """One row per stage and method, and one for the whole run of each, at the model's own steps."""
    repeats = REPEATS[session.quick]
    with tempfile.TemporaryDirectory() as name, one_place_for_threads():
        folder = Path(name)
        mesh = folder / "mesh.glb"
        write_glb(mesh, RINGS)
        options = PrepareOptions(device=str(session.device))
        reference = front_picture(prepare_job(mesh, options=options))
        pipeline = SeqTexPipeline.from_pretrained(DEFAULT_MODEL, device=session.device)
        steps = pipeline.model.config.sampling.steps
        methods: Mapping[str, Callable[[PreparedJob], TextureResult]] = {
            "model": lambda job: pipeline(job, seed=session.seed),
            "project": lambda job: project_references(job, uv_size=pipeline.model.config.uv_size),
        }

        def once(method: str, runs: Runs) -> None:
            job = prepare_job(mesh, {"front": reference}, options=options)
            _record(job, methods[method], folder / f"{method}.glb", runs)

        found = {method: Runs() for method in methods}
        with prepared_objects(pipeline) as caches:
            for method in methods:
                once(method, Runs())  # warm-up
        for _ in range(repeats):
            for method, runs in found.items():
                start = time.perf_counter(), time.process_time()
                once(method, runs)
                runs.wall.setdefault(TOTAL, []).append(time.perf_counter() - start[0])
                runs.cpu.append(time.process_time() - start[1])
    denoise = denoise_work(pipeline.model, caches[0], steps)
    rows = [row for m, runs in found.items() for row in _rows(m, runs, denoise, steps, session)]
    for row in rows:
        session.say(describe(row))
    return rows


def _record(
    job: PreparedJob, method: Callable[[PreparedJob], TextureResult], out: Path, runs: Runs
) -> None:
    result = method(job)
    start = time.perf_counter()
    result.save(out, overwrite=True)
    stages = {**result.manifest.stage_seconds, "Save and verify": time.perf_counter() - start}
    for stage, seconds in stages.items():
        runs.wall.setdefault(stage, []).append(seconds)
    runs.textures.append(result.textures[0].detach().cpu())


def _rows(method: str, runs: Runs, denoise: Work, steps: int, session: Session) -> Iterator[Row]:
    for stage, seconds in runs.wall.items():
        work = denoise if stage == "Denoise" else None
        timing = _timing(seconds)
        parameters: dict[str, Scalar] = {"faces": 4 * RINGS * (RINGS - 1)}
        if method == "model":
            parameters["steps"] = steps
        row = Row(
            benchmark="pipeline",
            case=stage,
            implementation=method,
            dtype="float32",
            parameters=parameters,
            time=timing,
            work=work,
            rate=None if work is None else session.ceilings.rate(work, timing, "float32"),
            accuracy=_repeatability(runs.textures) if stage == TOTAL else None,
            notes=(NOTE,),
        )
        yield row.with_metrics(cpu_median_s=spread(runs.cpu).median_s) if stage == TOTAL else row


def _timing(seconds: Sequence[float]) -> Timing:
    found = spread(seconds)
    return Timing(
        clock="wall",
        median_s=found.median_s,
        p10_s=found.p10_s,
        p90_s=found.p90_s,
        min_s=found.min_s,
        n=len(seconds),
        warmup=1,
        cache="warm",
        wall=found,
    )


def _repeatability(textures: Sequence[Tensor]) -> Accuracy:
    first = textures[0].double()
    distance = max(float((t.double() - first).norm() / first.norm()) for t in textures)
    return Accuracy(
        reference="the first of these runs: whether they repeat, not how good they are",
        relative=distance,
        max_abs=max(float((t.double() - first).abs().max()) for t in textures),
        finite=all(bool(torch.isfinite(t).all()) for t in textures),
        repeatable=all(torch.equal(t, textures[0]) for t in textures),
    )


@contextmanager
def prepared_objects(pipeline: SeqTexPipeline) -> Iterator[list[StepCache]]:
    """The caches that a pipeline's model makes inside the block."""
    made: list[StepCache] = []
    prepare = pipeline.model.transformer.prepare

    def watched(*inputs: Any, **options: Any) -> StepCache:
        made.append(prepare(*inputs, **options))
        return made[-1]

    with patch.object(pipeline.model.transformer, "prepare", watched):
        yield made


def front_picture(job: PreparedJob) -> Image.Image:
    """A reference: the mesh's own look from the front."""
    picture = render_textured(
        job.mesh,
        None,
        job.cameras.select("front"),
        height=256,
        width=256,
        rasterizer=job.rasterizer,
    )[0]
    pixels = (picture.cpu().permute(1, 2, 0) * 255).round().byte().numpy()
    return Image.fromarray(pixels, mode="RGBA")


@contextmanager
def one_place_for_threads() -> Iterator[None]:
    """Keeps torch's number of threads whatever the pipeline does to it."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
