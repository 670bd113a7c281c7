"""One step of a model as a CUDA graph: all its kernels by one launch, opt-in.

A small step is over before the host has launched the next kernel; a graph launches all of them at
once. It computes with the addresses that it was captured with, so nothing of the step may move.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .branch_data import StepCache
from .checks import check_type
from .errors import UnsupportedError, UsageError
from .model_checks import check_step
from .transformer import SeqTexTransformer
from .trunk import run_blocks

Groups = Mapping[str, Tensor]

_WARM_UP = 3  # calls; kernels are compiled, chosen and given their workspaces in the first ones


class GraphedModel:
    """Velocities of one object and prompt by replays of a CUDA graph.

    The first call runs the model three times and captures it in a fourth; later ones copy their
    inputs to where the graph reads them and replay it. It calls for gradients off, and for the
    same groups, sizes and dtypes each time. The memory of one step stays taken as long as this
    object lives.

    Args:
        model: on a CUDA device, all its weights, with the usual way through the blocks. What is
            captured is what it computes: blocks that ``compile_blocks`` compiled stay so.
        cache: of the object and prompt, prepared with gradients off.

    Raises:
        UnsupportedError: another device, weights that come and go, or another trunk.
        UsageError: no transformer, no cache, or one with gradients.

    Example:
        >>> with torch.no_grad():
        ...     predict = GraphedModel(model, model.prepare(layout, geometry=geometry))
        ...     latents = sample(predict, plan, known, sigmas=sigmas, generator=generator)
    """

    def __init__(self, model: SeqTexTransformer, cache: StepCache) -> None:
        check_type("model", model, SeqTexTransformer)
        check_type("cache", cache, StepCache, remedy="`prepare` of the model makes one.")
        _check_supported(model)
        if cache.with_gradients:
            raise UsageError(
                "cache",
                expected="one prepared with gradients off, for a graph",
                got="one with gradients",
                remedy="Call prepare inside torch.no_grad().",
            )
        self.model, self.cache = model, cache
        self._graph: torch.cuda.CUDAGraph | None = None
        self._latents: dict[str, Tensor] = {}
        self._sigmas: dict[str, Tensor] = {}
        self._velocity: dict[str, Tensor] = {}
        self._weights: tuple[Tensor, ...] = ()
        self._addresses: tuple[int, ...] = ()

    def __call__(self, latents: Groups, sigmas: Groups) -> dict[str, Tensor]:
        """Velocity of every group in ``latents``; see ``SeqTexTransformer.forward``.

        Raises:
            UsageError: as the model; gradients or autocast are on; groups, sizes or dtypes other
                than in the first call, or weights that were moved since.
            UnsupportedError: the trunk was exchanged, or the step cannot be captured.
        """
        _check_modes(next(self.model.parameters()).device)
        check_step(latents, sigmas, self.cache, self.model)
        if self._graph is None:
            self._graph = self._captured(latents, sigmas)
        self._check_as_captured(latents, sigmas)
        for kept, given in ((self._latents, latents), (self._sigmas, sigmas)):
            for name, x in given.items():
                kept[name].copy_(x)
        self._graph.replay()
        return {name: x.clone() for name, x in self._velocity.items()}

    def _captured(self, latents: Groups, sigmas: Groups) -> torch.cuda.CUDAGraph:
        device = next(self.model.parameters()).device
        with torch.inference_mode(False), torch.no_grad():  # what is kept is written to later
            self._latents, self._sigmas = _copies(latents), _copies(sigmas)
            with torch.cuda.device(device):
                aside = torch.cuda.Stream()
                aside.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(aside):
                    for _ in range(_WARM_UP):
                        self.model(self._latents, self._sigmas, self.cache)
                torch.cuda.current_stream().wait_stream(aside)
                graph = torch.cuda.CUDAGraph()
                self._capture(graph)
        self._weights = (*self.model.parameters(), *self.model.buffers())
        self._addresses = self._weights_now()
        return graph

    def _capture(self, graph: torch.cuda.CUDAGraph) -> None:
        try:
            with torch.cuda.graph(graph):
                self._velocity = self.model(self._latents, self._sigmas, self.cache)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise UnsupportedError(
                "GraphedModel",
                expected="a step that runs on the device without the host",
                got=(str(error).strip().splitlines() or [type(error).__name__])[0],
                remedy="Call the model itself.",
            ) from error

    def _weights_now(self) -> tuple[int, ...]:
        """Addresses of all weights, and of those of one block now, should others be in their place.

        Collecting the weights of every block anew would take longer than launching a small step.
        """
        block = next(self.model.muv_blocks()).parameters()
        return tuple(map(Tensor.data_ptr, (*block, *self._weights)))

    def _check_as_captured(self, latents: Groups, sigmas: Groups) -> None:
        for what, kept, given in (
            ("latents", self._latents, latents),
            ("sigmas", self._sigmas, sigmas),
        ):
            if _kinds(kept) != _kinds(given):
                raise UsageError(
                    what,
                    expected=f"those of the captured graph: {_told(kept)}",
                    got=_told(given),
                    remedy="Make another GraphedModel for them.",
                )
        _check_trunk(self.model)
        if self._addresses != self._weights_now():
            raise UsageError(
                "model",
                expected="weights where they were when the graph was captured",
                got="weights that were moved",
                remedy="Make another GraphedModel, with a new cache.",
            )


def reason_graph_unsupported(device: torch.device) -> str | None:
    """Why a step cannot become a CUDA graph on a device, or ``None``."""
    if device.type != "cuda":
        return f"a model on {device}, where there are no CUDA graphs"
    return None


def _check_supported(model: SeqTexTransformer) -> None:
    devices = {parameter.device for parameter in model.parameters()}
    reasons = [reason_graph_unsupported(device) for device in sorted(devices, key=str)]
    got = next((reason for reason in reasons if reason is not None), None)
    if got is None and len(devices) > 1:
        got = f"weights on {', '.join(sorted(map(str, devices)))}"
    if got is not None:
        raise UnsupportedError(
            "GraphedModel",
            expected="a model with all weights on one CUDA device",
            got=got,
            remedy="Call the model itself.",
        )
    _check_trunk(model)


def _check_trunk(model: SeqTexTransformer) -> None:
    if model.trunk is not run_blocks:
        raise UnsupportedError(
            "GraphedModel",
            expected="the usual way through the blocks, which never asks the host",
            got=f"a {type(model.trunk).__name__} as trunk",
            remedy="Call the model itself, or set model.trunk = run_blocks.",
        )


def _check_modes(device: torch.device) -> None:
    if torch.is_grad_enabled():
        raise UsageError(
            "GraphedModel",
            expected="a call with gradients off",
            got="gradients on",
            remedy="Wrap the call in torch.no_grad().",
        )
    if torch.is_autocast_enabled(device.type):
        raise UsageError(
            "GraphedModel",
            expected="a call without autocast, which casts weights anew",
            got="autocast on",
            remedy="Move the model to the dtype instead.",
        )


def _copies(groups: Groups) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in groups.items()}


def _kinds(groups: Groups) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (x.shape, x.dtype) for name, x in groups.items()}


def _told(groups: Groups) -> str:
    return ", ".join(f"{name} {list(x.shape)} {x.dtype}" for name, x in sorted(groups.items()))
