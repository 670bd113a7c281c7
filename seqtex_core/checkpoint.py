"""Saving and loading a model with shared parts: every tensor is stored once, under one name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from .errors import UsageError
from .lora import lora_layers
from .parameter_table import ParameterTable
from .weight_files import WeightFiles, write_tensors
from .weight_report import check_weights
from .wrapper_names import without_wrappers


def unique_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers, each under the first of its names.

    ``state_dict()`` lists what the two branches share twice; the first name is that of the mv
    branch.
    """
    named: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            named[name] = tensor
    return named


def save_model(
    module: nn.Module, path: Path | str, *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write all weights of ``module`` to a safetensors file.

    Args:
        module: for example a ``SeqTexTransformer``.
        path: the file; replaced in one step if it exists.
        metadata: text for the header (a configuration, a step).

    Raises:
        UsageError: adapters are merged into the weights (loading would add them again), the path
            is a folder or in none that exists, or metadata is not text.
    """
    _refuse_merged(module)
    write_tensors(Path(path), unique_tensors(module), metadata=metadata)


def load_model(module: nn.Module, path: Path | str) -> dict[str, str]:
    """Put the weights of a file by ``save_model`` into ``module``; returns the file's metadata.

    Values are cast to the dtype and device of the module's own parameters. Parameters on the meta
    device are replaced, so that an empty model is filled without a second copy in memory. What was
    wrapped when it was saved (DDP, ``torch.compile``) fits what is not, and the other way round.

    Args:
        module: a model of the same configuration.
        path: the file.

    Raises:
        WeightsError: not a readable safetensors file, or names and shapes of another model.
        UsageError: adapters are merged.
    """
    _refuse_merged(module)
    named = unique_tensors(module)
    with WeightFiles([Path(path)]) as files:
        if set(files) != set(named):
            files.unwrap()
            named = {bare: named[name] for name, bare in without_wrappers(named).items()}
        wanted = {name: tuple(tensor.shape) for name, tensor in named.items()}
        check_weights(
            f"weights in {path}",
            wanted,
            files.shapes,
            remedy="Check that the model was built with the configuration that was saved.",
        )
        table = ParameterTable([module])
        for name in named:
            table.fill(named, name, files.read(name))
        return dict(files.metadata)


def _refuse_merged(module: nn.Module) -> None:
    merged = [name for name, layer in lora_layers(module) if layer.is_merged]
    if merged:
        raise UsageError(
            "LoRA adapters",
            expected="unmerged ones",
            got=f"{len(merged)} merged, such as {merged[0]!r}",
            remedy="Call unmerge_lora first.",
        )
