"""The batches of one process, in order, made ahead in a thread if asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from seqtex_core.errors import UsageError

from .batch import BatchSource, TrainingBatch
from .config import TrainingConfig
from .task_mix import TaskMix


@dataclass(frozen=True, kw_only=True)
class BatchShape:
    """How the samples of an optimizer step are split.

    Args:
        batch_size: samples per step, over all processes.
        micro_batch: samples per forward and process.
        rank: number of this process.
        world_size: number of processes.
    """

    batch_size: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, config: TrainingConfig, *, rank: int, world_size: int) -> BatchShape:
        """The split of a run.

        Raises:
            UsageError: the batch cannot be split evenly.
        """
        size, micro = config.run.batch_size, config.run.micro_batch
        parts = (micro or 1) * world_size
        if size % parts:
            told = f"{micro or 1} (micro_batch) x {world_size} (processes)"
            raise UsageError(
                "[run] batch_size",
                expected=f"a multiple of {told}",
                got=str(size),
                remedy=f"The nearest is {max(round(size / parts), 1) * parts}.",
            )
        micro = micro or size // world_size
        return cls(batch_size=size, micro_batch=micro, rank=rank, world_size=world_size)

    @property
    def accumulation(self) -> int:
        """Forwards per step and process."""
        return self.batch_size // (self.micro_batch * self.world_size)

    def indices(self, step: int, micro: int) -> list[int]:
        """Global sample numbers of one forward; over processes and forwards, each exactly once."""
        first = step * self.batch_size
        first += (micro * self.world_size + self.rank) * self.micro_batch
        return list(range(first, first + self.micro_batch))


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """What one forward gets.

    Args:
        step: optimizer step.
        micro: forward within it.
        task: of the step.
        indices: global sample numbers.
        batch: the samples.
    """

    step: int
    micro: int
    task: str
    indices: list[int]
    batch: TrainingBatch


class BatchStream:
    """Micro-batches from a step on, to the end of the run.

    Args:
        source: where samples come from.
        config: of the run.
        shape: the split over processes and forwards.
        mixes: the task mix of every stage, in order.
        from_step: first step.
    """

    def __init__(
        self,
        source: BatchSource,
        config: TrainingConfig,
        shape: BatchShape,
        mixes: tuple[TaskMix, ...],
        *,
        from_step: int,
    ) -> None:
        self._source = source
        self._config = config
        self._shape = shape
        self._mixes = mixes
        self._from_step = from_step

    def __iter__(self) -> Iterator[MicroBatch]:
        depth = self._config.data.prefetch
        places = self._places()
        if depth < 1:
            yield from (self._make(step, micro) for step, micro in places)
            return
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        try:
            waiting: deque[Future[MicroBatch]] = deque()
            for step, micro in places:
                waiting.append(pool.submit(self._make, step, micro))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def mix_at(self, step: int) -> TaskMix:
        """The task mix of a step."""
        stage, _ = self._config.stage_at(step)
        return self._mixes[self._config.stages.index(stage)]

    def _places(self) -> Iterator[tuple[int, int]]:
        for step in range(self._from_step, self._config.total_steps):
            for micro in range(self._shape.accumulation):
                yield step, micro

    def _make(self, step: int, micro: int) -> MicroBatch:
        task = self.mix_at(step).task_of(step, seed=self._config.seed)
        indices = self._shape.indices(step, micro)
        batch = self._source.batch(indices, task)
        return MicroBatch(step=step, micro=micro, task=task, indices=indices, batch=batch)
