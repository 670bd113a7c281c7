"""Choosing what a program of a Triton kernel takes: by a made-up clock, in the interpreter."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqtex_core.frames import FrameGroup, Grid, StreamLayout
from seqtex_core.kernels import tuning, using_kernels
from seqtex_core.kernels.triton_backend import TritonKernels
from seqtex_core.kernels.tuning import (
    Config,
    Launch,
    Launched,
    backward_configs,
    can_measure,
    forward_configs,
    watched_launches,
)
from seqtex_core.modulation import RowNorm, modulated_norm, residual_norm
from seqtex_core.query_key import QKNorm, qk_prep
from seqtex_core.rope import Rope

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("triton") is None, reason="needs the package triton (extra dev)"
    ),
    pytest.mark.skipif(
        torch.cuda.is_available(), reason="with a GPU the kernels are not interpreted"
    ),
]
HEADS, DIM = 4, 128
WIDTH = HEADS * DIM
INTERPRETED = TritonKernels(interpreted=True)
CUDA = torch.device("cuda")


@dataclass
class Clock:
    """Says that the ``favourite``-th config of every kernel takes ``share`` of the others' time."""

    favourite: int = 0
    share: float = 0.5
    raises: Exception | None = None
    timed: list[Config] = field(default_factory=list)
    last: tuple[Launch, Config] | None = None

    def __call__(self, call: Callable[[], object]) -> float:
        call()
        assert self.last is not None
        launch, config = self.last
        self.timed.append(config)
        if launch.configs.index(config) != self.favourite:
            return 1.0
        if self.raises is not None:
            raise self.raises
        return self.share


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Clock:
    """As on a GPU, where everything may be measured, and nothing is known yet."""
    made, launched = Clock(), Launch._launch

    def launch(which: Launch, config: Config, arguments: tuple[Any, ...]) -> None:
        made.last = (which, config)
        launched(which, config, arguments)

    monkeypatch.setattr(tuning, "can_measure", lambda kernel, device: True)
    monkeypatch.setattr(tuning, "_made_for", lambda kernel, device: ("a GPU",))
    monkeypatch.setattr(tuning, "_timed", made)
    monkeypatch.setattr(tuning, "_found", {})
    monkeypatch.setattr(Launch, "_launch", launch)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return made


def rows_of(*lengths: int) -> StreamLayout:
    group = FrameGroup(name="views", stream="mv", grid=Grid(frames=len(lengths), height=8, width=8))
    return StreamLayout(groups=(group,), frame_lengths=lengths, group_lengths=(sum(lengths),))


def distance(got: Tensor, exact: Tensor) -> float:
    return float((got.double() - exact.double()).norm() / exact.double().norm())


def config_of(x: Tensor, kernels: TritonKernels = INTERPRETED) -> Config:
    """What a norm of these rows takes."""
    factor, shift = torch.linspace(-1, 1, 2 * WIDTH).view(2, 1, 1, WIDTH)
    with using_kernels(kernels), watched_launches() as seen, torch.no_grad():
        modulated_norm(x, shift, factor, rows_of(x.shape[1]), eps=1e-6)
    assert [one.kernel for one in seen] == ["residual_norm_forward"]
    return seen[0].config


DEFAULT, OTHER = forward_configs(WIDTH)


def test_the_fastest_is_taken_and_every_kind_of_rows_measured_once(clock: Clock) -> None:
    clock.favourite = 1
    x = torch.randn(1, 3, WIDTH)
    assert [config_of(x), config_of(x)] == [OTHER, OTHER]
    assert clock.timed == [DEFAULT, OTHER]
    config_of(torch.randn(1, 2, WIDTH))  # two rows and three lie between powers of two
    assert len(clock.timed) == 2
    for others in (torch.randn(1, 4, WIDTH), x.bfloat16()):
        clock.timed.clear()
        assert config_of(others) == OTHER
        assert len(clock.timed) == 2


def test_what_is_faster_by_no_more_than_noise_is_not_taken(clock: Clock) -> None:
    clock.favourite, clock.share = 1, 0.98
    assert config_of(torch.randn(1, 3, WIDTH)) == DEFAULT


def test_another_process_knows_it_but_not_for_another_gpu(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.favourite = 1
    x = torch.randn(1, 3, WIDTH)
    config_of(x)
    clock.timed.clear()
    clock.favourite = 0
    monkeypatch.setattr(tuning, "_found", {})
    assert config_of(x) == OTHER
    assert clock.timed == []
    monkeypatch.setattr(tuning, "_found", {})
    monkeypatch.setattr(tuning, "_made_for", lambda kernel, device: ("another GPU",))
    assert config_of(x) == DEFAULT
    assert clock.timed == [DEFAULT, OTHER]


@pytest.mark.parametrize("strip", tuning.STRIPS)
def test_every_config_gives_what_the_plain_form_gives(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, strip: int
) -> None:
    """fp32: sums over 512 channels and 10 rows in another order, a few roundings of 6e-8.

    Warps are the compiler's: the interpreter has none.
    """
    monkeypatch.setattr(
        Launch,
        "_measured",
        lambda launch, scratch: next(c for c in launch.configs if c.strip in (0, strip)),
    )
    angles = torch.randn(10, DIM // 2)
    rope = Rope(cos=angles.cos(), sin=angles.sin())
    x, update = (torch.randn(1, 10, WIDTH, requires_grad=True) for _ in range(2))
    weight = torch.randn(WIDTH, requires_grad=True)
    gate, factor, shift = (torch.randn(1, 2, WIDTH, requires_grad=True) for _ in range(3))
    leaves = [x, update, weight, gate, factor, shift]
    incoming, results = torch.randn(3, 1, 10, WIDTH), []
    for kernels in (INTERPRETED, "plain"):
        with using_kernels(kernels), watched_launches() as seen:
            norm = RowNorm(factor, shift, 1e-5)
            out = residual_norm(x, update, rows_of(1, 9), gate=gate, norm=norm)
            prepared = qk_prep(x, QKNorm(weight=weight), num_heads=HEADS, rope=rope).flatten(2)
            ends = [*out, prepared]
            results.append([*ends, *torch.autograd.grad(ends, leaves, [*incoming])])
        assert {one.config.strip for one in seen} == ({0, strip} if kernels != "plain" else set())
    for got, want in zip(*results, strict=True):
        assert distance(got.detach(), want.detach()) < 1e-6


def test_where_bits_must_be_equal_the_default_is_taken_whatever_was_found(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.favourite = 1
    x = torch.randn(1, 3, WIDTH)
    assert config_of(x) == OTHER
    assert config_of(x, TritonKernels(interpreted=True, tuned=False)) == DEFAULT
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert config_of(x) == DEFAULT
    assert len(clock.timed) == 2


def test_a_capture_takes_the_default_or_what_is_known(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.favourite = 1
    x = torch.randn(1, 3, WIDTH)
    monkeypatch.setattr(tuning, "can_measure", lambda kernel, device: False)
    assert config_of(x) == DEFAULT
    assert clock.timed == []
    monkeypatch.setattr(tuning, "can_measure", lambda kernel, device: True)
    assert config_of(x) == OTHER
    monkeypatch.setattr(tuning, "can_measure", lambda kernel, device: False)
    assert config_of(x) == OTHER


@pytest.mark.parametrize(
    ("where", "name", "answer"),
    [
        (tuning, "_is_compiled", False),
        (torch.compiler, "is_compiling", True),
        (torch.cuda, "is_current_stream_capturing", True),
    ],
)
def test_when_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, where: Any, name: str, answer: bool
) -> None:
    assert not can_measure(None, torch.device("cpu"))
    assert not can_measure(None, CUDA)
    monkeypatch.setattr(tuning, "_is_compiled", lambda kernel: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert can_measure(None, CUDA)
    monkeypatch.setattr(where, name, lambda *given: answer)
    assert not can_measure(None, CUDA)


@pytest.mark.parametrize("aliased", [True, False])
def test_measuring_leaves_rows_that_are_written_where_they_are_read(
    clock: Clock, aliased: bool
) -> None:
    """Of a launch that is timed nothing is seen; neither where it writes nor what it reads."""
    x, update = torch.randn(2, 1, 3, WIDTH)
    factor, shift = torch.randn(2, 1, 1, WIDTH)
    norm, rows = RowNorm(factor, shift, 1e-6), rows_of(3)
    with using_kernels("plain"), torch.no_grad():
        want = residual_norm(x, update, rows, gate=None, norm=norm)
    out = x if aliased else torch.empty_like(x)
    with using_kernels(INTERPRETED), torch.no_grad():
        got = residual_norm(x, update, rows, gate=None, norm=norm, out=out)
    assert len(clock.timed) == 2
    assert got[1].data_ptr() == out.data_ptr()
    assert max(map(distance, got, want)) < 1e-6


def test_too_little_memory_to_measure_is_no_error(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.favourite = 1
    clock.raises = torch.OutOfMemoryError("256 MB to flush a cache with")
    x = torch.randn(1, 3, WIDTH)
    assert [config_of(x), config_of(x)] == [DEFAULT, DEFAULT]
    assert len(clock.timed) == 2
    assert "too little memory" in caplog.text
    clock.raises = None
    monkeypatch.setattr(tuning, "_found", {})
    assert config_of(x) == OTHER  # the next process may have more


@pytest.mark.parametrize("which", ["of Triton", "of the driver"])
def test_what_the_gpu_cannot_run_is_not_taken(clock: Clock, which: str) -> None:
    from triton.runtime.errors import OutOfResources

    clock.favourite = 1
    driver = RuntimeError("Triton Error [CUDA]: invalid argument")
    clock.raises = driver if which == "of the driver" else OutOfResources(2048, 1024, "threads")
    assert config_of(torch.randn(1, 3, WIDTH)) == DEFAULT


def test_where_nothing_runs_the_error_is_seen_and_nothing_kept(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(call: Callable[[], object]) -> float:
        raise RuntimeError("Triton Error [CUDA]: an illegal memory access")

    clock.favourite = 1
    monkeypatch.setattr(tuning, "_timed", refuse)
    x = torch.randn(1, 3, WIDTH)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        config_of(x)
    assert not list(tmp_path.rglob(tuning._FILE))
    monkeypatch.setattr(tuning, "_timed", clock)
    assert config_of(x) == OTHER


@pytest.mark.parametrize("text", ["", "[16", "16", "[]", "[1, 2, 3]", "[64, 0]", '["16", 0]'])
def test_a_damaged_file_is_measured_anew(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str
) -> None:
    """As a file is that was written when the power went."""
    clock.favourite = 1
    x = torch.randn(1, 3, WIDTH)
    config_of(x)
    (path,) = tmp_path.rglob(tuning._FILE)
    good = path.read_text()
    path.write_text(text)
    clock.timed.clear()
    monkeypatch.setattr(tuning, "_found", {})
    assert config_of(x) == OTHER
    assert clock.timed == [DEFAULT, OTHER]
    assert path.read_text() == good


@pytest.mark.parametrize("name", ["__init__", "put"])
def test_a_folder_that_cannot_be_written_is_no_error(
    clock: Clock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Triton needs none where its own kernels lie in it already."""
    from triton.runtime.cache import FileCacheManager

    def refuse(*given: object, **named: object) -> None:
        raise PermissionError("a folder of an image")

    monkeypatch.setattr(FileCacheManager, name, refuse)
    clock.favourite = 1
    x = torch.randn(1, 3, WIDTH)
    assert [config_of(x), config_of(x)] == [OTHER, OTHER]
    assert len(clock.timed) == 2
    assert "measured again next time: a folder of an image" in caplog.text


def test_threads_measure_a_kernel_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, as kernels that run at once take longer."""
    measured: list[Launch] = []

    def slowly(launch: Launch, scratch: object) -> Config:
        measured.append(launch)
        threading.Event().wait(0.02)
        return OTHER

    monkeypatch.setattr(Launch, "_measured", slowly)
    launch = Launch(
        kernel=slowly,
        constants={},
        configs=(DEFAULT, OTHER),
        inputs=(torch.zeros(1),),
        rows=1,
        programs=lambda strip: 1,
        tuned=True,
    )
    found: list[Config] = []
    threads = [
        threading.Thread(target=lambda: found.append(launch.config(lambda strip: ())))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(measured) == 1
    assert found == [OTHER] * 4


@pytest.mark.parametrize("elements", [2**power for power in range(4, 14)])
@pytest.mark.parametrize("sums", [0, 1, 3])
def test_no_choice_is_absurd(elements: int, sums: int) -> None:
    """A thread has 8 to 16 channels, or the row is narrow; no config is there twice."""
    backward = backward_configs(elements, sums)
    for choices in (forward_configs(elements), backward):
        assert len(set(choices)) == len(choices) <= 4
        for config in choices:
            assert 1 <= config.num_warps <= 32
            assert elements // (32 * config.num_warps) <= 16
            assert elements // (32 * config.num_warps) >= 8 or config.num_warps == 1
    assert max(config.num_warps for config in backward) <= 16
    assert {config.strip for config in backward} == set(tuning.STRIPS)


@pytest.mark.parametrize(
    ("elements", "sums", "want"), [(2048, 3, 8), (4096, 1, 16), (4096, 2, 8), (8192, 3, 16)]
)
def test_a_thread_keeps_few_sums(elements: int, sums: int, want: int) -> None:
    assert backward_configs(elements, sums)[0] == Config(want, tuning.STRIP)


def test_a_launch_says_what_it_took() -> None:
    assert str(Launched("prepare_forward", Config(8))) == "prepare_forward: 8 warps"
    assert str(Launched("a", Config(8, 16))) == "a: 8 warps, strips of 16"
