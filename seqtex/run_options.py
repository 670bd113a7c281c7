"""How a model makes a texture, for the library and the command line; importable without torch."""

from __future__ import annotations

from dataclasses import dataclass

from seqtex_core.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a model makes a texture, whatever mesh and pictures it is given.

    Args:
        steps: model calls per texture, 1 to 1000; the model's default if ``None``.
        shift: flow shift of the noise levels, above 0, at most 100; the model's default if
            ``None``.
        guidance: classifier-free guidance scale, 1 to 100; 1 is none. More needs a prompt.
        view_size: pixels of a view, 16 to 8192; the model's own size if ``None``.
        uv_size: texels of the texture that the model makes, likewise.
        texture_size: texels of the result. Where it is not ``uv_size``, the model's texture is
            enlarged, and what the references show is taken from them. If ``None``: the model's own
            choice if there are references and no ``uv_size``, else ``uv_size``.
        foreground: compute only the tokens that touch the surface (True) or all of them (False); as
            the model was trained if ``None``. Less work, but another result if it is not as the
            model was trained.
        step_reuse: an approximation: a step whose input changed by less than this share, at most 1,
            since the last computed one repeats what the transformer did then. 0.1, say.
        cuda_graph: replay each step as one CUDA graph: less time for small steps, whose kernels are
            over before the host has launched the next. With guidance there are two, each with the
            memory of a step of its own, which plans count. Without step reuse.
    """

    steps: int | None = None
    shift: float | None = None
    guidance: float = 1.0
    view_size: int | None = None
    uv_size: int | None = None
    texture_size: int | None = None
    foreground: bool | None = None
    step_reuse: float | None = None
    cuda_graph: bool = False

    def check(self, *, prompt: str | None) -> None:
        """Refuse numbers that no model takes.

        Args:
            prompt: beside these options.

        Raises:
            UsageError: names the option of the command line, see ``library_words``.
        """
        _check_from("--steps", self.steps, low=1, high=1000)
        _check_above("--shift", self.shift, high=100)
        _check_from("--guidance", self.guidance, low=1, high=100)
        _check_above("--step-reuse", self.step_reuse, high=1)
        for option, size in (
            ("--view-size", self.view_size),
            ("--uv-size", self.uv_size),
            ("--texture-size", self.texture_size),
        ):
            _check_from(option, size, low=16, high=8192, unit=" pixels")
        if self.guidance > 1 and prompt is None:
            raise UsageError("--guidance", expected="--prompt beside it", got="no --prompt")


def _check_from(option: str, value: float | None, *, low: int, high: int, unit: str = "") -> None:
    if value is not None and not low <= value <= high:
        raise UsageError(option, expected=f"{low} to {high}{unit}", got=str(value))


def _check_above(option: str, value: float | None, *, high: int) -> None:
    if value is not None and not 0 < value <= high:
        raise UsageError(option, expected=f"above 0, at most {high}", got=str(value))
