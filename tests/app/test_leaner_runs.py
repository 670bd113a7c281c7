"""Approximations and several processes: asked for, refused, recorded; exact where they claim it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import distributed

from seqtex.manifest import read_manifest
from seqtex.models.approximations import repeating_steps
from seqtex.models.load import load_model
from seqtex.pipeline import SeqTexPipeline
from seqtex.prepare import prepare_job
from seqtex.run_options import RunOptions
from seqtex.shared_run import joined
from seqtex_core.errors import UnsupportedError, UsageError
from seqtex_core.fp8_linear import reason_fp8_unsupported
from seqtex_core.parallel import ParallelTrunk
from seqtex_core.trunk import run_blocks

Seqtex = Callable[..., Any]
ROOT = Path(__file__).parents[2]
SMALL = ["--model", "seqtex-tiny", "--texture-size", "128"]


@pytest.fixture
def good(work: Path) -> list[str | Path]:
    picture = work / "views" / "0_front.png"
    return ["texture", work / "figure.glb", "--image", picture, *SMALL]


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in one of three processes of torchrun."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "1")


def texture_of(glb: Path) -> np.ndarray:
    mesh = trimesh.load(glb, force="mesh", process=False)
    return np.asarray(mesh.visual.material.baseColorTexture).astype(int)


# --- steps that repeat ------------------------------------------------------------------------


def test_repeated_steps_are_counted_said_and_recorded(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    outcome = seqtex(*good, "--steps", "4", "--step-reuse", "1")
    assert outcome.code == 0, outcome.err
    said = "approximation: 3 of 4 model calls repeat an earlier one (--step-reuse 1)"
    assert said in outcome.err
    record = read_manifest(work / "figure_textured.glb.seqtex.json")
    assert record["settings"]["step_reuse"] == 1.0
    assert record["choices"]["approximation"] in said
    assert record["settings"]["fp8"] is False


def test_the_way_through_the_blocks_is_as_before() -> None:
    transformer = load_model("seqtex-tiny").transformer
    with repeating_steps(transformer, 0.1) as reuse:
        assert transformer.trunk is reuse
    assert transformer.trunk is run_blocks
    with repeating_steps(transformer, None) as nothing:
        assert nothing is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--step-reuse", "0.1"], "several steps"),
        (["--step-reuse", "0", "--steps", "4"], "above 0"),
        (["--step-reuse", "nan", "--steps", "4"], "above 0"),
        (["--parallel", "rows"], "torchrun --nproc-per-node"),
        (["--parallel", "columns"], "rows, heads, branches"),
    ],
)
def test_what_cannot_apply(
    seqtex: Seqtex, good: list[str | Path], options: list[str], words: str
) -> None:
    outcome = seqtex(*good, *options)
    assert outcome.code == 2
    assert words in outcome.err


@pytest.mark.parametrize(
    "options", [["--step-reuse", "0.1"], ["--cuda-graph"], ["--fp8"], ["--parallel", "rows"]]
)
def test_the_method_without_a_model_has_none(
    seqtex: Seqtex, work: Path, options: list[str]
) -> None:
    picture = work / "views" / "0_front.png"
    command = ["texture", work / "figure.glb", "--image", picture, "--method", "project"]
    outcome = seqtex(*command, *options)
    assert outcome.code == 2
    assert "--method model" in outcome.err


# --- steps as graphs --------------------------------------------------------------------------


def test_steps_as_graphs(
    seqtex: Seqtex, work: Path, good: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for graphs, which are tested with the core: it is asked in every step."""
    calls: list[object] = []

    class Replayed:
        def __init__(self, model: Any, cache: Any) -> None:
            self.model, self.cache = model, cache

        def __call__(self, latents: Any, sigmas: Any) -> Any:
            calls.append(self.cache)
            return self.model(latents, sigmas, self.cache)

    monkeypatch.setattr("seqtex.models.graphs.reason_graph_unsupported", lambda device: None)
    monkeypatch.setattr("seqtex.models.graphs.GraphedModel", Replayed)
    outcome = seqtex(*good, "--steps", "2", "--cuda-graph")
    assert outcome.code == 0, outcome.err
    assert len(calls) == 2
    assert calls[0] is calls[1]
    record = read_manifest(work / "figure_textured.glb.seqtex.json")
    assert record["settings"]["cuda_graph"] is True


def test_graphs_are_refused_before_anything_is_loaded(
    seqtex: Seqtex, good: list[str | Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seqtex.models.load.load_model", lambda *a, **o: pytest.fail("loaded"))
    outcome = seqtex(*good, "--cuda-graph", "--device", "cpu")
    assert outcome.code == 4, outcome.err
    assert "Error: --cuda-graph" in outcome.err
    assert "there are no CUDA graphs" in outcome.err
    monkeypatch.setattr("seqtex.models.graphs.reason_graph_unsupported", lambda device: None)
    outcome = seqtex(*good, "--cuda-graph", "--step-reuse", "0.1", "--steps", "4")
    assert outcome.code == 2
    assert "--step-reuse 0.1, which decides in every step" in outcome.err


def test_graphs_are_refused_in_words_of_the_library() -> None:
    pipeline = SeqTexPipeline.from_pretrained("seqtex-tiny", device="cpu")
    with pytest.raises(UnsupportedError, match=r"^cuda_graph: .*Leave cuda_graph out"):
        pipeline("figure.glb", "front.png", options=RunOptions(cuda_graph=True))


# --- 8 bits -----------------------------------------------------------------------------------


def test_products_in_8_bits(seqtex: Seqtex, work: Path, good: list[str | Path]) -> None:
    if why := reason_fp8_unsupported(torch.device("cpu")):
        pytest.skip(why)
    assert seqtex(*good, "-o", work / "exact.glb").code == 0
    outcome = seqtex(*good, "--fp8")
    assert outcome.code == 0, outcome.err
    assert "approximation: 8-bit products in " in outcome.err
    assert read_manifest(work / "figure_textured.glb.seqtex.json")["settings"]["fp8"] is True
    difference = np.abs(texture_of(work / "exact.glb") - texture_of(work / "figure_textured.glb"))
    # of 255; 2^-4 relative in the rows that a head in fp32 reads, and corrects a smooth fill by
    assert difference.max() > 0
    assert difference.mean() < 3
    pipeline = SeqTexPipeline.from_pretrained("seqtex-tiny", fp8=True)
    with pytest.raises(UsageError, match="computes in 8 bits"):
        pipeline.to("cpu", torch.bfloat16)


def test_no_products_in_8_bits_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqtex.models.approximations.reason_fp8_unsupported", lambda _: "old card")
    with pytest.raises(UnsupportedError, match="old card"):
        load_model("seqtex-tiny", fp8=True)


# --- several processes ------------------------------------------------------------------------


@pytest.mark.usefixtures("torchrun")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parallel", "branches"], "an even number of processes"),
        (["--method", "project"], "`seqtex batch --workers`"),
        (["--device", "cuda:1"], "a card of its own"),
        (["--cuda-graph"], "wait for each other"),
    ],
)
def test_what_processes_cannot_share(
    seqtex: Seqtex, work: Path, options: list[str], words: str
) -> None:
    picture = work / "views" / "0_front.png"
    model = [] if "--method" in options else SMALL
    outcome = seqtex("texture", work / "figure.glb", "--image", picture, *model, *options)
    assert outcome.code == 2, outcome.err
    assert words in outcome.err


@pytest.mark.usefixtures("torchrun")
def test_other_commands_are_for_one_process(seqtex: Seqtex, work: Path) -> None:
    outcome = seqtex("render", work / "figure.glb", "-o", work / "new")
    assert outcome.code == 2
    assert "without torchrun" in outcome.err


def test_one_process_of_a_group_makes_what_it_makes_alone(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The group, the trunk and the comparison; exchanges are tested with the core."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "1", "RANK": "0"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    job = prepare_job(work / "figure.glb", {"front": work / "views" / "0_front.png"})
    pipeline = SeqTexPipeline.from_pretrained("seqtex-tiny")
    alone = pipeline(job, options=RunOptions(texture_size=128))
    sent: list[torch.Tensor] = []
    broadcast = distributed.broadcast

    def sending(tensor: torch.Tensor, **options: Any) -> object:
        sent.append(tensor)
        return broadcast(tensor, **options)

    monkeypatch.setattr(distributed, "broadcast", sending)
    with joined("rows", "cpu") as shared:
        shared.share_out(pipeline.model)
        assert isinstance(pipeline.model.transformer.trunk, ParallelTrunk)
        together = pipeline(job, options=RunOptions(texture_size=128))
    torch.testing.assert_close(together.texture, alone.texture, atol=1e-5, rtol=0)
    # what a copy head reads, and what decides its tokens: points by group, texels that are seen
    assert sum(tensor.ndim == 5 and tensor.shape[1] == 6 for tensor in sent) == 3
    assert sum(tensor.dtype == torch.bool for tensor in sent) == 1


@pytest.mark.slow
def test_two_processes_make_what_one_makes(
    seqtex: Seqtex, work: Path, good: list[str | Path]
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    paths = [str(ROOT), str(ROOT / "backbones"), str(ROOT / "geometry")]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": "1",
        "TORCHELASTIC_RUN_ID": "none",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, "-m", "seqtex", *map(str, good), "--parallel", "branches"]
    processes = [
        subprocess.Popen(
            [*command, "-o", str(work / "two.glb")],
            env=common | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        assert seqtex(*good, "-o", work / "one.glb").code == 0
        told = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], told
    assert "2 processes share the branches" in told[0][1]
    assert told[1] == ("", "")  # the first one speaks
    record = read_manifest(work / "two.glb.seqtex.json")
    assert record["settings"]["parallel"] == {"kind": "branches", "processes": 2}
    difference = np.abs(texture_of(work / "one.glb") - texture_of(work / "two.glb"))
    assert difference.max() <= 1  # fp32 sums in another order may round to the next of 255
