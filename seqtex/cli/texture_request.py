"""What the user asked of ``seqtex texture``, and which combinations make no sense."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from seqtex.launched import check_parallel, launched_processes
from seqtex.models.folder import DEFAULT_MODEL, check_model
from seqtex.models.memory import check_budget
from seqtex.models.run_sizes import RunSizes
from seqtex.models.sources import ModelSources
from seqtex.prepare_options import CHART_CHOICES, DEFAULT_MIN_IOU, UvMode
from seqtex.references import parse_references
from seqtex.run_options import RunOptions
from seqtex_core.errors import UsageError
from seqtex_geometry.mesh import VIEW_NAMES

from .options import check_choice
from .text_options import TextRequest

METHODS = ("project", "model")
TEXTURE_TASKS = ("img2tex", "img2tex_projected", "mv2tex")
DTYPES = ("float32", "bfloat16", "float16")
_MODEL_ONLY = ("model", "task", "seed", "prompt", "dtype", "memory", "parallel")


@dataclass(frozen=True, kw_only=True)
class TextureRequest:
    """The options as given; ``None`` means "not given"."""

    mesh: Path
    image: Path | None
    refs: tuple[str, ...]
    ref_view: str | None
    up: str | None
    front: str | None
    uv: UvMode
    charts: str
    min_iou: float | None
    method: str
    model: str | None
    sources: ModelSources
    memory: int | None
    task: str | None
    seed: int | None
    prompt: str | None
    run: RunOptions
    fp8: bool
    parallel: str | None
    rasterizer: str
    device: str
    dtype: str | None
    out: Path | None
    save_intermediates: Path | None
    overwrite: bool
    text: TextRequest | None = None

    def check(self) -> dict[str, Path]:
        """The references by view, after every check that needs no file.

        Raises:
            UsageError: an unknown word, a number out of range, or options that exclude each other.
        """
        check_choice("--method", self.method, METHODS)
        check_choice("--charts", self.charts, CHART_CHOICES)
        if self.method == "project":
            self._refuse_model_options()
        references = parse_references(self.image, self.refs, ref_view=self.ref_view)
        self._check_numbers()
        if self.dtype is not None:
            check_choice("--dtype", self.dtype, DTYPES)
        check_parallel(self.parallel, method=self.method)
        if self.run.cuda_graph and (self.parallel is not None or launched_processes() > 1):
            raise UsageError(
                "--cuda-graph",
                expected="one process",
                got="several, whose steps wait for each other",
                remedy="Leave --cuda-graph out, or torchrun and --parallel.",
            )
        self._check_task(self._check_text(references) or references)
        check_budget(self.memory)
        if self.method == "model":
            check_model(self.model or DEFAULT_MODEL, self.sources, run_sizes([self]))
        return references

    @property
    def silhouette_threshold(self) -> float:
        """``--min-iou``, or its default."""
        return DEFAULT_MIN_IOU if self.min_iou is None else self.min_iou

    def _check_text(self, references: dict[str, Path]) -> tuple[str, ...]:
        """The view that is made from text, if one is."""
        if self.text is None:
            return ()
        if references:
            raise UsageError(
                "--text, --image, --ref", expected="one of the three", got="--text too"
            )
        if launched_processes() > 1:
            raise UsageError(
                "--text",
                expected="one process",
                got=f"{launched_processes()} by torchrun",
                remedy="Make the picture first: `seqtex reference`, then give it to --image.",
            )
        self.text.check()
        return (self.text.shown_view,)

    def _refuse_model_options(self) -> None:
        given = [name for name in _MODEL_ONLY if getattr(self, name) is not None]
        given += [f.name for f in fields(RunOptions) if getattr(self.run, f.name) != f.default]
        given += ["fp8"] * self.fp8
        given += [flag for flag, value in self.sources.by_flag().items() if value is not None]
        if "texture_size" in given:
            given.remove("texture_size")  # this method's too
        if self.text is not None and "seed" in given:
            given.remove("seed")  # the image model's
        if given:
            flags = ", ".join("--" + name.replace("_", "-").removeprefix("--") for name in given)
            raise UsageError(
                flags,
                expected="--method model beside it",
                got="--method project, which has no such setting",
                remedy="Add --method model, or leave it out.",
            )

    def _check_task(self, references: Collection[str]) -> None:
        task = self.task or TEXTURE_TASKS[0]
        if task in ("geo2mv", "tex2mv"):
            raise UsageError(
                "--task",
                expected="a task that makes a texture: " + " or ".join(TEXTURE_TASKS),
                got=f"{task!r}, which makes views",
                remedy="Call seqtex.SeqTexPipeline for views.",
            )
        check_choice("--task", task, TEXTURE_TASKS)
        if not references:
            raise UsageError(
                "reference image",
                expected="--image FILE or --ref VIEW=FILE, or --text TEXT",
                got="none",
                remedy="Render the views with `seqtex render` to see what they look like.",
            )
        missing = [view for view in VIEW_NAMES if view not in references]
        if task == "mv2tex" and missing:
            raise UsageError(
                "--task mv2tex",
                expected="--ref for all views",
                got="none for " + ", ".join(missing),
            )

    def _check_numbers(self) -> None:
        if self.min_iou is not None and not 0.0 <= self.min_iou <= 1.0:
            raise UsageError("--min-iou", expected="a share in [0, 1]", got=str(self.min_iou))
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise UsageError("--seed", expected="a number from 0 to 2^63 - 1", got=str(self.seed))
        self.run.check(prompt=self.prompt)


def run_sizes(requests: Sequence[TextureRequest]) -> RunSizes:
    """The largest sizes of some runs of one model, and the prompts of all of them.

    A size that only some of them give counts for all: the model's own is not known yet.
    """
    runs = [request.run for request in requests]
    guided = any(run.guidance > 1.0 for run in runs)
    prompts = dict.fromkeys(r.prompt for r in requests if r.prompt is not None)
    return RunSizes(
        view_size=max((run.view_size for run in runs if run.view_size), default=None),
        uv_size=max((run.uv_size for run in runs if run.uv_size), default=None),
        texture_size=runs[0].texture_size if len(runs) == 1 else None,
        guided=guided,
        graphed=any(run.cuda_graph for run in runs),
        texts=(*prompts, "") if guided and prompts else tuple(prompts),
    )
