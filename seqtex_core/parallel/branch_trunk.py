"""The way through the blocks on several devices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, distributed
from torch.distributed import Work
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from ..attention import Attend
from ..branch_data import BlockCache, BranchInputs, BranchTimes, Hidden, StepCache
from ..errors import UnsupportedError, UsageError
from ..frames import STREAMS, Stream, TokenLayout
from .row_shares import RowShares
from .spread_attention import SPREADS, Spread, gather_rows

if TYPE_CHECKING:
    from ..transformer import SeqTexTransformer

BRANCH, SEQUENCE = "branch", "sequence"


def parallel_mesh(device_type: str, *, branches: int = 1, sequence: int = 1) -> DeviceMesh:
    """The processes as a grid: one row per branch, the rows of a branch spread over its columns.

    Args:
        device_type: "cuda" or "cpu".
        branches: 2 for each branch on devices of its own, 1 for both on the same.
        sequence: processes that share the rows of a branch.

    Raises:
        UsageError: other numbers, or another number of processes.
    """
    if branches not in (1, 2) or sequence < 1:
        raise UsageError(
            "parallel mesh", expected="1 or 2 branches", got=f"{branches} x {sequence}"
        )
    world = distributed.get_world_size() if distributed.is_initialized() else 1
    if world != branches * sequence or not distributed.is_initialized():
        raise UsageError(
            "parallel mesh",
            expected=f"{branches} x {sequence} processes in torch's process group",
            got=f"{world}",
            remedy="Start them with torchrun and call torch.distributed.init_process_group.",
        )
    return init_device_mesh(device_type, (branches, sequence), mesh_dim_names=(BRANCH, SEQUENCE))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Local:
    """What this process needs of a ``StepCache``."""

    shares: RowShares
    inputs: Mapping[Stream, BranchInputs]
    blocks: tuple[BlockCache, ...]
    attend: Attend


class ParallelTrunk:
    """Runs the blocks of a model over a mesh of processes; assign it to ``model.trunk``.

    Every process calls the model with the same latents and gets the velocities of all groups.
    With two branches, mv processes send what the uv branch reads and never wait for an answer
    inside a step, so that they run ahead; the tensors sent per block are those of one process's
    rows. For inference: nothing here has a gradient. Blocks are entered by ``mv_branch`` and
    ``uv_branch`` then, which ``compile_blocks`` does not reach.

    Args:
        mesh: from :func:`parallel_mesh`.
        sequence: how rows of a branch reach each other: ``"gather"`` collects keys and values,
            ``"ulysses"`` exchanges heads for rows.
        exchange: every process gets the last hidden states of both branches in every step.
            Without it, the branches are independent over all steps, velocities of groups of the
            other branch mean nothing, and ``collect`` brings the final latents together.

    Raises:
        UsageError: an unknown way.

    Example:
        >>> mesh = parallel_mesh("cuda", branches=2, sequence=2)
        >>> model.trunk = ParallelTrunk(mesh, sequence="ulysses")
    """

    def __init__(
        self, mesh: DeviceMesh, *, sequence: Spread = "gather", exchange: bool = True
    ) -> None:
        if sequence not in SPREADS:
            raise UsageError("sequence", expected=f"one of {[*SPREADS]}", got=repr(sequence))
        self.mesh, self.sequence, self.exchange = mesh, sequence, exchange
        self.branches, self.count = mesh.size(0), mesh.size(1)
        self.stream: Stream | None = None
        if self.branches == 2:
            self.stream = STREAMS[mesh.get_local_rank(BRANCH)]
        self._pair: list[int] = mesh.mesh[:, mesh.get_local_rank(SEQUENCE)].tolist()
        self._made: WeakKeyDictionary[StepCache, dict[tuple[Stream, ...], _Local]] = (
            WeakKeyDictionary()
        )

    def __call__(
        self,
        model: SeqTexTransformer,
        hidden: Hidden,
        inputs: Mapping[Stream, BranchInputs],
        times: BranchTimes,
        cache: StepCache,
        /,
    ) -> Hidden:
        """The residual streams after the last block, see :func:`~seqtex_core.trunk.run_blocks`.

        Raises:
            UnsupportedError: gradients, or samples packed one after the other.
            UsageError: two branches and no uv stream, or fewer rows than processes.
        """
        self._check(inputs, cache)
        local = self._local(model, inputs, cache)
        own = local.shares.hidden(hidden)
        if self.stream == "mv":
            own = self._mv_blocks(model, own, times, local)
        elif self.stream == "uv":
            own = self._uv_blocks(model, own, times, local)
        else:
            own = self._both(model, own, times, local)
        return self._whole(own, hidden, local.shares)

    def collect(self, latents: Mapping[str, Tensor], layout: TokenLayout) -> dict[str, Tensor]:
        """Latents of every group from the processes that computed them.

        Args:
            latents: of all groups, at the end of a run without ``exchange``.
            layout: which group belongs to which branch.
        """
        if self.branches == 1:
            return dict(latents)
        owners = {name: STREAMS.index(layout.group(name).stream) for name in latents}
        return {name: self._from(owners[name], x.clone()) for name, x in latents.items()}

    def agree(self, value: Tensor) -> Tensor:
        """The largest of all processes' values; every process must call it."""
        largest = value.detach().clone()
        distributed.all_reduce(largest, op=distributed.ReduceOp.MAX)
        return largest

    def _both(
        self, model: SeqTexTransformer, hidden: Hidden, times: BranchTimes, local: _Local
    ) -> Hidden:
        for index, block in enumerate(model.muv_blocks()):
            if index and model.spec.repeats_position:
                hidden = hidden.placed(local.inputs)
            hidden = block(hidden, local.inputs, times, local.blocks[index], local.attend)
        return hidden

    def _mv_blocks(
        self, model: SeqTexTransformer, hidden: Hidden, times: BranchTimes, local: _Local
    ) -> Hidden:
        under_way: list[tuple[Work | None, Tensor]] = []
        for index, block in enumerate(model.muv_blocks()):
            if index and model.spec.repeats_position:
                hidden = hidden.placed(local.inputs)
            hidden, source = block.mv_branch(
                hidden, local.inputs, times, local.blocks[index], local.attend
            )
            for x in (source.mv, source.text):
                if x is not None:
                    x = x.contiguous()
                    under_way.append((distributed.isend(x, self._pair[1]), x))
        for work, _ in under_way:  # their tensors must live until then
            if work is not None:
                work.wait()
        return hidden

    def _uv_blocks(
        self, model: SeqTexTransformer, hidden: Hidden, times: BranchTimes, local: _Local
    ) -> Hidden:
        uv, blocks = hidden.uv, list(model.muv_blocks())
        assert uv is not None
        coming = self._receive(hidden)
        for index, block in enumerate(blocks):
            works, source = coming
            if index + 1 < len(blocks):
                coming = self._receive(hidden)
            for work in works:
                work.wait()
            if index and model.spec.repeats_position:
                placed = hidden._replace(uv=uv).placed(local.inputs).uv
                assert placed is not None
                uv = placed
            uv = block.uv_branch(uv, source, local.inputs, times, local.blocks[index], local.attend)
        return hidden._replace(uv=uv)

    def _receive(self, like: Hidden) -> tuple[list[Work], Hidden]:
        """What the mv process of the same rows sends for one block, on its way."""
        mv = torch.empty_like(like.mv)
        text = None if like.text is None else like.text.new_empty(like.text.shape)
        tensors = [x for x in (mv, text) if x is not None]
        works = [distributed.irecv(x, self._pair[0]) for x in tensors]
        return [work for work in works if work is not None], Hidden(mv=mv, text=text)

    def _whole(self, own: Hidden, before: Hidden, shares: RowShares) -> Hidden:
        """All rows of the streams; those of the other branch from its process."""
        parts: dict[Stream, Tensor | None] = {"mv": before.mv, "uv": before.uv}
        found: dict[Stream, Tensor | None] = {"mv": own.mv, "uv": own.uv}
        for index, stream in enumerate(STREAMS):
            part, full = found[stream], parts[stream]
            if part is None or full is None:
                parts[stream] = None if self.stream is None else full
            elif self.stream in (None, stream):
                parts[stream] = self._gathered(part, shares.lengths[stream])
            if self.branches == 2 and self.exchange and full is not None:
                mine = parts[stream] if self.stream == stream else torch.empty_like(full)
                assert mine is not None
                parts[stream] = self._from(index, mine.contiguous())
        assert parts["mv"] is not None
        return Hidden(mv=parts["mv"], uv=parts["uv"])

    def _gathered(self, part: Tensor, lengths: tuple[int, ...]) -> Tensor:
        if self.count == 1:
            return part
        return gather_rows(part, lengths, self.mesh.get_group(SEQUENCE), dim=1)

    def _from(self, branch: int, x: Tensor) -> Tensor:
        """``x`` as the process of ``branch`` with the same rows has it; written in place."""
        distributed.broadcast(x, src=self._pair[branch], group=self.mesh.get_group(BRANCH))
        return x

    def _check(self, inputs: Mapping[Stream, BranchInputs], cache: StepCache) -> None:
        if torch.is_grad_enabled():
            raise UnsupportedError(
                "ParallelTrunk",
                expected="inference, with gradients off",
                got="gradients on",
                remedy="Wrap the call in torch.no_grad(); for training, shard the weights instead.",
            )
        if not isinstance(cache.layout, TokenLayout):
            raise UnsupportedError(
                "ParallelTrunk", expected="samples as a batch", got="packed samples"
            )
        if self.branches == 2 and "uv" not in inputs:
            raise UsageError(
                "ParallelTrunk",
                expected="latents of both streams for two branches",
                got="none of the uv stream",
                remedy="Use a mesh with branches=1.",
            )

    def _local(
        self, model: SeqTexTransformer, inputs: Mapping[Stream, BranchInputs], cache: StepCache
    ) -> _Local:
        """This process's part of what stays over the steps; made once."""
        made = self._made.setdefault(cache, {})
        key = tuple(inputs)
        if key not in made:
            wanted = {s: b for s, b in inputs.items() if self.stream != "mv" or s == "mv"}
            shares = RowShares.of(wanted, self.count, self.mesh.get_local_rank(SEQUENCE))
            own = shares.inputs(wanted)
            if cache.blocks is None:
                blocks = tuple(block.build_cache(own) for block in model.muv_blocks())
            else:
                blocks = tuple(shares.block(block) for block in cache.blocks)
            attend = model.attend
            if self.count > 1:
                attend = SPREADS[self.sequence](attend, shares, self.mesh.get_group(SEQUENCE))
            # what is added before the first block has been added, and would only hold memory
            own = {s: replace(branch, geometry_input=None) for s, branch in own.items()}
            made[key] = _Local(shares=shares, inputs=own, blocks=blocks, attend=attend)
        return made[key]
