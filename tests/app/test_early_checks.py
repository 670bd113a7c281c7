"""What a model cannot do is refused before torch is imported, let alone weights loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

Seqtex = Callable[..., Any]
WAN = "wan2.1-t2v-1.3b"


@pytest.fixture
def early(seqtex: Seqtex, work: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run with options of a model; the error, after making sure that no mesh was looked at."""

    def refuse(*options: str | Path, code: int = 2, model: str = WAN) -> str:
        def reached(*_: object, **__: object) -> None:
            raise AssertionError("the mesh was read")

        monkeypatch.setattr("seqtex.cli.texture_run.load_asset", reached)
        picture = work / "views" / "0_front.png"
        command = ["texture", work / "figure.glb", "--image", picture, "--model", model]
        outcome = seqtex(*command, *options)
        assert outcome.code == code, outcome.err
        message: str = outcome.err
        return message

    return refuse


@pytest.fixture
def prompts(work: Path) -> Path:
    path = work / "words.safetensors"
    rows = {f"prompt000{i}": np_rows() for i in range(6)}
    names = ["a chair", *(f"chair {i}" for i in range(5))]
    save_file(rows, path, metadata={"prompts": json.dumps(names)})
    return path


def np_rows() -> Any:
    import numpy as np

    return np.zeros((4, 8), np.float32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--view-size", "100"], ["--view-size", "multiple of 16", "nearest is 96"]),
        (["--uv-size", "1000"], ["--uv-size", "multiple of 16", "nearest is 992"]),
        (["--texture-size", "512"], ["--texture-size", "1024 or more", "--uv-size 512"]),
        (["--uv-size", "2048", "--texture-size", "1024"], ["2048 or more"]),
        (["--random-weights", "-1"], ["--random-weights", "from 0"]),
        (["--random-weights", str(10**23)], ["--random-weights", "from 0"]),
        (["--prompt", "a chair"], ["--prompt", "--text-weights", "neither"]),
    ],
)
def test_options_that_a_full_size_model_cannot_take(
    early: Callable[..., str], options: list[str], words: list[str]
) -> None:
    seed = [] if "--random-weights" in options else ["--random-weights", "0"]
    message = early(*seed, *options)
    for word in words:
        assert word in message


def test_tokens_of_other_models_are_larger(early: Callable[..., str]) -> None:
    seed = ["--random-weights", "0"]
    assert "multiple of 32" in early(*seed, "--view-size", "528", model="wan2.2-ti2v-5b")


def test_weights_without_a_text_encoder(early: Callable[..., str], work: Path) -> None:
    (work / "weights" / "transformer").mkdir(parents=True)
    message = early("--weights", work / "weights", "--prompt", "a chair")
    assert "no text_encoder/ and no tokenizer/" in message
    (work / "weights" / "text_encoder").mkdir()
    assert "no tokenizer/ in" in early("--weights", work / "weights", "--prompt", "a chair")


def test_a_built_in_model_without_text(early: Callable[..., str]) -> None:
    assert "made without text" in early("--prompt", "a chair", model="seqtex-tiny")


def test_prompts_that_are_not_in_the_file(early: Callable[..., str], prompts: Path) -> None:
    given = ["--random-weights", "0", "--text-embeddings", prompts]
    message = early(*given, "--prompt", "a table")
    assert "'a chair', 'chair 0', 'chair 1', 'chair 2' and 2 more" in message
    assert "seqtex embed" in message
    message = early(*given, "--prompt", "a chair", "--guidance", "5")
    assert "the empty prompt, which --guidance needs" in message


def test_a_file_of_something_else(early: Callable[..., str], work: Path) -> None:
    """Not a screen full of shapes."""
    save_file({f"w{i}": np_rows()[:, :i] for i in range(1, 40)}, work / "vae.safetensors")
    given = ["--random-weights", "0", "--text-embeddings"]
    message = early(*given, work / "vae.safetensors", code=4)
    assert "and 35 more" in message
    assert len(message) < 600
    assert "seqtex embed" in message
    for content in (b"", b"\xff" * 40, struct.pack("<Q", 2) + b"[]"):
        (work / "bad.safetensors").write_bytes(content)
        assert "bad.safetensors" in early(*given, work / "bad.safetensors", code=4)
    assert "a folder" in early(*given, work, code=4)


def test_no_torch_for_any_of_this(start: Callable[..., Any], work: Path, prompts: Path) -> None:
    code = "import sys; from seqtex.cli import run; code = run(sys.argv[1:]); "
    code += "print('torch' in sys.modules); sys.exit(code)"
    command = ["texture", work / "figure.glb", "--image", work / "views" / "0_front.png"]
    command += ["--model", WAN, "--random-weights", "0", "--text-embeddings", prompts]
    process = start([*command, "--prompt", "a table"], code=code)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out.strip()) == (2, "False"), err


def test_weights_of_another_kind_of_file(early: Callable[..., str], work: Path) -> None:
    message = early("--weights", work / "figure.glb", code=4)
    assert "a .safetensors file" in message
    assert "a .glb file" in message


def test_the_closest_model_is_named(early: Callable[..., str]) -> None:
    assert "Did you mean 'wan2.1-t2v-1.3b'?" in early(code=4, model="wan2.1-t2v-1.3")
