"""The work behind ``seqtex texture``, cheap checks first."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from seqtex.launched import ParallelKind, launched_processes
from seqtex.outputs import (
    STEPS_RECORD,
    check_folder,
    check_holds_no_input,
    check_replaceable,
    resolve_output,
)
from seqtex.prepare_options import ChartChoice, PrepareOptions
from seqtex.references import ReferenceImage, read_references
from seqtex_geometry.asset import MeshAsset, load_asset
from seqtex_geometry.export.publish import check_output

from .exits import naming_smaller_setting
from .progress import StageReporter
from .texture_request import TextureRequest, run_sizes
from .texture_text import check_text_reference, reference_from_text

if TYPE_CHECKING:
    from seqtex.models.model import SeqTexModel
    from seqtex.models.run_sizes import RunSizes
    from seqtex.result import SavedResult, TextureResult
    from seqtex.shared_run import SharedRun

_DEFAULT_TEXTURE_SIZE = 1024
_TOLD_OF_THE_MODEL = ("model", "about", "unseen", "text", "memory")  # before the run


def run_texture(request: TextureRequest) -> None:
    """Check, prepare, paint, save; prints choices to stderr and the results' paths to stdout.

    Raises:
        SeqTexError: of any kind; nothing is written then.
    """
    request.check()
    with _shared(request) as shared, _reporter(shared) as report:
        if shared is not None:
            request = replace(request, device=str(shared.device))
        saved = texture_file(request, report=report, shared=shared)
    if saved is None:
        return
    print(saved.path)
    print(saved.manifest)
    if saved.intermediates is not None:
        print(saved.intermediates)


@contextmanager
def _shared(request: TextureRequest) -> Iterator[SharedRun | None]:
    """This process among those that torchrun started; ``None`` without others."""
    if launched_processes() == 1:
        yield None
        return
    from seqtex.shared_run import joined

    with joined(cast(ParallelKind, request.parallel or "rows"), request.device) as shared:
        yield shared


def _reporter(shared: SharedRun | None) -> StageReporter:
    """Only the first of several processes speaks."""
    if shared is None or shared.rank == 0:
        return StageReporter()
    from rich.console import Console

    return StageReporter(Console(file=io.StringIO()))


def texture_file(
    request: TextureRequest,
    *,
    report: StageReporter,
    model: SeqTexModel | None = None,
    shared: SharedRun | None = None,
) -> SavedResult | None:
    """What was written for a request, after all checks; ``None`` where another process writes.

    Args:
        request: what is asked for.
        report: told about stages and choices.
        model: one that is loaded already; loaded here if ``None`` and it is asked for.
        shared: this process among several that make the texture together.

    Raises:
        SeqTexError: of any kind; nothing is written then.
    """
    references = request.check()
    images = read_references(references)
    asset = load_asset(request.mesh, up=request.up, front=request.front, bad_images="tell")
    out = check_output(asset, resolve_output(request.mesh, request.out))
    check_replaceable(out, overwrite=request.overwrite)
    if request.text is not None:
        check_text_reference(out, overwrite=request.overwrite)
    if request.save_intermediates is not None:
        check_folder(
            request.save_intermediates,
            record=STEPS_RECORD,
            overwrite=request.overwrite,
            option="--save-intermediates",
        )
        check_holds_no_input(
            request.save_intermediates, references.values(), option="--save-intermediates"
        )
    with naming_smaller_setting(_smaller(request)):
        made = None
        if request.text is not None:
            made = reference_from_text(request, asset, out, report)
            images = [made.image]
        if model is None and request.method == "model":
            model = requested_model(request, run_sizes([request]), report)
            if shared is not None:
                shared.share_out(model)
                report.say(f"  parallel: {shared}")
        result = _make(request, asset, images, report, model)
        if shared is not None:
            result = result.noting(parallel={"kind": shared.kind, "processes": shared.count})
            if shared.rank > 0:
                return None
        if made is not None:
            result = made.noted_in(result)
        _say_result(result, report)
        saved = result.save(
            out,
            intermediates=request.save_intermediates,
            overwrite=request.overwrite,
            on_progress=report,
        )
    if made is not None and saved.intermediates is not None:
        made.save_controls(saved.intermediates)
    for note in saved.notes:
        report.say(f"  note: {note}")
    report.say("  unchanged: " + ", ".join(saved.checked))
    return saved


def _make(
    request: TextureRequest,
    asset: MeshAsset,
    images: Sequence[ReferenceImage],
    report: StageReporter,
    model: SeqTexModel | None,
) -> TextureResult:
    from seqtex.prepare import prepare_job

    if model is not None:
        from seqtex.texturing import check_run, texture_job

        check_run(model, request.run, task=request.task, prompt=request.prompt)
    job = prepare_job(
        asset,
        images,
        options=PrepareOptions(
            uv=request.uv,
            charts=cast(ChartChoice, request.charts),
            rasterizer=request.rasterizer,
            device=request.device,
            min_iou=request.silhouette_threshold,
        ),
        on_progress=report,
    )
    report.say_choices(job)
    report.say(f"  method: {request.method}")
    if model is None:
        from seqtex.project import project_references

        return project_references(
            job, uv_size=request.run.texture_size or _DEFAULT_TEXTURE_SIZE, on_progress=report
        )
    return texture_job(
        model,
        job,
        task=request.task,
        seed=request.seed or 0,
        prompt=request.prompt,
        options=request.run,
        on_progress=report,
    )


def requested_model(request: TextureRequest, sizes: RunSizes, report: StageReporter) -> SeqTexModel:
    """The model that a request asks for.

    Args:
        request: names the model.
        sizes: of all runs, see ``run_sizes``.
        report: told about what is loaded.

    Raises:
        SeqTexError: of any kind.
    """
    from seqtex.models.folder import DEFAULT_MODEL
    from seqtex.models.graphs import check_graph
    from seqtex.models.load import DTYPES, load_model
    from seqtex.prepare import choose_device
    from seqtex.stages import StageClock
    from seqtex.texturing import model_choices

    name, device = request.model or DEFAULT_MODEL, choose_device(request.device)
    if request.run.cuda_graph:
        check_graph(device, step_reuse=request.run.step_reuse)
    with StageClock(report).stage(f"Load model {name}"):
        model = load_model(
            name,
            device=device,
            dtype=None if request.dtype is None else DTYPES[request.dtype],
            sources=request.sources,
            memory=request.memory,
            sizes=sizes,
            on_progress=report,
            fp8=request.fp8,
        )
    for label, text in model_choices(model, request.prompt).items():
        report.say(f"  {label}: {text}")
    return model


def _say_result(result: TextureResult, report: StageReporter) -> None:
    """Print what the method itself decided, apart from what was said of the model before."""
    for label, text in result.manifest.choices.items():
        if label not in result.job.choices and label not in _TOLD_OF_THE_MODEL:
            report.say(f"  {label}: {text}")


def _smaller(request: TextureRequest) -> str:
    if request.method == "project":
        size = request.run.texture_size or _DEFAULT_TEXTURE_SIZE
        return f"Use --texture-size {max(size // 2, 64)}."
    view, uv = request.run.view_size or 512, request.run.uv_size or 1024
    return (
        f"Use --view-size {max(view // 2, 64)} --uv-size {max(uv // 2, 64)}, "
        "a smaller --model, or --dtype bfloat16."
    )
