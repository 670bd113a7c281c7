"""The examples that need ``seqtex_core`` alone: they run with the other packages out of reach."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import util
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
BLOCK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("seqtex", "seqtex_backbones", "seqtex_geometry"):
            raise ModuleNotFoundError(f"{name} is out of reach here")
sys.meta_path.insert(0, Refuse())
"""


def load_example(name: str) -> ModuleType:
    spec = util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


plain_dit = load_example("plain_dit")


def run_blocked(code: str) -> str:
    paths = f"sys.path[:0] = {[str(ROOT), str(EXAMPLES)]!r}\n"
    done = subprocess.run(
        [sys.executable, "-c", BLOCK + paths + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_block_is_effective() -> None:
    code = "try:\n    import seqtex_backbones\nexcept ModuleNotFoundError:\n    print('refused')"
    assert run_blocked(code).strip() == "refused"


def test_both_examples_run_with_core_alone() -> None:
    out = run_blocked(
        "import seqtex_core, plain_dit\n"
        "print(len(plain_dit.train(plain_dit.PlainDiT(), steps=2)))\n"
        "assert 'diffusers' not in sys.modules\n"
        "import geo_attention_in_diffusers as live\n"
        "assert 'diffusers' not in sys.modules\n"
        "print(*(list(x.shape) for x in live.main().values()))\n"
    )
    assert out.split("\n")[:2] == ["2", "[1, 4, 4, 8, 8] [1, 4, 1, 16, 16]"]


def test_the_plain_model_is_sixty_lines() -> None:
    sources = [inspect.getsource(kind) for kind in (plain_dit.Block, plain_dit.PlainDiT)]
    lines = [line for source in sources for line in source.splitlines() if line.strip()]
    assert len(lines) <= 60


def test_the_plain_model_learns() -> None:
    model = plain_dit.PlainDiT()
    losses = plain_dit.train(model, steps=60, batch=8)
    # falls to 0.4 of the first ten steps' mean; single batches scatter by a quarter
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    casters = [block.attention.geometry_caster.weight for block in model.blocks]
    assert all(bool(weight.any()) for weight in casters)


def test_views_never_read_the_texture_and_each_frame_has_its_own_level() -> None:
    model = plain_dit.PlainDiT(dim=24, depth=2)
    for block in model.blocks:
        torch.nn.init.normal_(block.attention.geometry_caster.weight, std=0.1)
    generator = torch.Generator().manual_seed(0)
    positions, latents = plain_dit.toy_objects(2, generator=generator)
    sigmas = {"views": torch.rand(2, 4, generator=generator), "texture": torch.rand(2, 1)}
    with torch.no_grad():
        base = model(latents, sigmas, positions)
        other = model({**latents, "texture": latents["texture"] + 1}, sigmas, positions)
        level = {**sigmas, "views": sigmas["views"].index_fill(1, torch.tensor([3]), 0.5)}
        moved = model(latents, level, positions)
    assert torch.equal(base["views"], other["views"])
    assert not torch.equal(base["texture"], other["texture"])
    assert not torch.equal(base["views"][:, :, 3], moved["views"][:, :, 3])


def test_the_plain_model_makes_latents_and_keeps_the_given_view() -> None:
    made, truth = plain_dit.texture(plain_dit.PlainDiT(dim=24, depth=1), steps=2)
    assert {name: x.shape for name, x in made.items()} == {n: x.shape for n, x in truth.items()}
    assert torch.equal(made["views"][:, :, 0], truth["views"][:, :, 0])
    assert not torch.equal(made["views"][:, :, 1], truth["views"][:, :, 1])
