"""Model calls as replays of a CUDA graph, where a user asks for it."""

from __future__ import annotations

from functools import partial

import torch

from seqtex_core.branch_data import StepCache
from seqtex_core.errors import UnsupportedError, UsageError
from seqtex_core.graphed import GraphedModel, reason_graph_unsupported
from seqtex_core.sampling import PredictVelocity
from seqtex_core.transformer import SeqTexTransformer


def check_graph(device: torch.device, *, step_reuse: float | None = None) -> None:
    """Refuse what a graph cannot be made for, before anything is computed.

    Args:
        device: where the model will work.
        step_reuse: threshold of the steps that repeat another, which the host decides.

    Raises:
        UnsupportedError: a device without graphs.
        UsageError: with step reuse.
    """
    if why := reason_graph_unsupported(device):
        raise UnsupportedError(
            "--cuda-graph",
            expected="a CUDA device",
            got=why,
            remedy="Leave --cuda-graph out.",
        )
    if step_reuse is not None:
        raise UsageError(
            "--cuda-graph",
            expected="steps that are all computed",
            got=f"--step-reuse {step_reuse:g}, which decides in every step",
            remedy="Leave one of them out.",
        )


def calling(
    transformer: SeqTexTransformer, cache: StepCache, *, cuda_graph: bool
) -> PredictVelocity:
    """The transformer for one object and prompt, as a sampler calls it."""
    if cuda_graph:
        return GraphedModel(transformer, cache)
    return partial(transformer, cache=cache)
