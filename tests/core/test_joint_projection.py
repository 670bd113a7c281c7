"""Layers whose weights lie one after the other: one product, and when it is taken apart again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from seqtex_backbones.registry import load_backbone
from seqtex_core import joint_projection
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.inference import joint_layers, prepare_for_inference
from seqtex_core.joint_projection import join_layers, project
from seqtex_core.lora import LoRALinear, lora_layers, lora_state_dict
from seqtex_core.transformer import SeqTexTransformer

WIDTH = 12


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joint_projection, "_gains", lambda device: True)


def layers(*sizes: int, bias: bool = True) -> list[nn.Linear]:
    return [nn.Linear(WIDTH, size, bias=bias) for size in sizes]


def is_joint(x: Tensor, group: list[nn.Linear]) -> bool:
    """Parts of one product share their memory."""
    parts = project(x, group)
    return len({part.untyped_storage().data_ptr() for part in parts}) == 1


@torch.no_grad()
@pytest.mark.parametrize("bias", [True, False])
def test_one_product_gives_what_the_layers_give(bias: bool) -> None:
    """fp32: sums over 12 channels in another order."""
    group, x = layers(5, 3, 8, bias=bias), torch.randn(2, 7, WIDTH)
    before = [p.clone() for layer in group for p in layer.parameters()]
    want = [layer(x) for layer in group]
    assert not is_joint(x, group)
    assert join_layers(group)
    assert is_joint(x, group)
    assert is_joint(x, group[1:])
    for got, exact in zip(project(x, group), want, strict=True):
        torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-6)
    for kept, old in zip([p for layer in group for p in layer.parameters()], before, strict=True):
        assert torch.equal(kept, old)
    storage = group[0].weight.untyped_storage()
    assert storage.nbytes() == 4 * WIDTH * 16  # no second copy
    assert join_layers(group)  # once more changes nothing
    assert group[0].weight.untyped_storage().data_ptr() == storage.data_ptr()


@torch.no_grad()
def test_new_values_are_seen_and_new_weights_take_it_apart() -> None:
    group, x = layers(4, 4), torch.randn(1, 3, WIDTH)
    join_layers(group)
    group[1].load_state_dict(nn.Linear(WIDTH, 4).state_dict())
    for got, layer in zip(project(x, group), group, strict=True):
        torch.testing.assert_close(got, layer(x), rtol=1e-6, atol=1e-6)
    assert is_joint(x, group)
    for change in (
        lambda layer: layer.double().float(),
        lambda layer: setattr(layer, "weight", nn.Parameter(torch.randn(4, WIDTH))),
        lambda layer: layer.register_forward_hook(lambda module, given, out: out + 1),
    ):
        changed = [*layers(4), *layers(4)]
        join_layers(changed)
        change(changed[1])
        assert not is_joint(x, changed)
        torch.testing.assert_close(project(x, changed)[1], changed[1](x))
    assert not is_joint(x, copy.deepcopy(group))


@torch.no_grad()
def test_a_cpu_takes_every_layer_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    group, x = layers(4, 4), torch.randn(1, 3, WIDTH)
    join_layers(group)
    monkeypatch.undo()
    assert not is_joint(x, group)
    assert all(map(torch.equal, project(x, group), [layer(x) for layer in group]))
    on_meta = [layer.to("meta") for layer in group]
    assert join_layers(on_meta)
    assert len({part.untyped_storage()._cdata for part in project(x.to("meta"), on_meta)}) == 1


def test_gradients_and_autocast_take_every_layer_by_itself() -> None:
    group, x = layers(4, 4), torch.randn(1, 3, WIDTH)
    join_layers(group)
    parts = project(x, group)
    torch.autograd.grad(sum(p.sum() for p in parts), group[0].weight)
    assert not is_joint(x, group)
    nn.ModuleList(group).requires_grad_(False)
    assert is_joint(x, group)
    assert not is_joint(x.clone().requires_grad_(), group)
    with torch.autocast("cpu", torch.bfloat16):
        assert project(x, group)[0].dtype == torch.bfloat16
        assert not is_joint(x, group)


@torch.no_grad()
def test_what_cannot_be_joined_is_left_alone() -> None:
    x = torch.randn(1, 2, WIDTH)
    adapted = LoRALinear(nn.Linear(WIDTH, 4), rank=2, alpha=1.0)
    nn.init.normal_(adapted.lora_B.weight)
    for odd in (
        nn.Linear(WIDTH, 4, bias=False),
        nn.Linear(WIDTH, 4).double(),
        nn.Identity(),
        adapted,
    ):
        group = [nn.Linear(WIDTH, 4), odd]
        assert not join_layers(group)
    adapted.merge()
    group = [nn.Linear(WIDTH, 4), adapted]
    assert join_layers(group)
    assert is_joint(x, group)
    adapted.unmerge()
    assert not is_joint(x, group)
    torch.testing.assert_close(project(x, group)[1], adapted(x))


@torch.no_grad()
def test_a_model_ready_for_inference_is_the_same_model() -> None:
    """Names, shapes and values of its weights, and what it computes, up to the order of sums."""
    config = DecoupledConfig(lora_rank=2)
    model = SeqTexTransformer(load_backbone("wan-tiny", seed=0), config)
    for _, layer in lora_layers(model):
        nn.init.normal_(layer.lora_B.weight, std=0.05)
    layout = model.layout(
        {"views": (2, 4, 4), "texture": (1, 8, 8)}, {"views": "mv", "texture": "uv"}
    )
    channels = model.spec.latent_channels
    latents = {g.name: torch.randn(1, channels, *size(g.name)) for g in layout.groups}
    sigmas = {g.name: torch.rand(1, g.grid.frames) for g in layout.groups}
    text = torch.randn(1, model.spec.text_length, model.spec.text_dim)
    want = model(latents, sigmas, model.prepare(layout, text=text))
    names = {name: tensor.shape for name, tensor in model.state_dict().items()}
    adapters = {name: tensor.clone() for name, tensor in lora_state_dict(model).items()}
    nbytes = sum(storages(model).values())

    assert prepare_for_inference(model) is model
    assert all(
        len({p.untyped_storage().data_ptr() for p in weights(g)}) == 1 for g in groups(model)
    )
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == names
    for name, tensor in lora_state_dict(model).items():
        assert torch.equal(tensor, adapters[name])
    assert sum(storages(model).values()) == nbytes
    got = model(latents, sigmas, model.prepare(layout, text=text))
    for name, velocity in got.items():
        distance = (velocity - want[name]).norm() / want[name].norm()
        assert distance < 2e-6, name  # a few layers of fp32 sums in another order


def size(name: str) -> tuple[int, int, int]:
    return {"views": (2, 4, 4), "texture": (1, 8, 8)}[name]


def groups(model: SeqTexTransformer) -> list[list[nn.Module]]:
    found = list(joint_layers(model))
    assert len(found) == 4 * len(model.blocks)  # self- and cross-attention of both branches
    return found


def weights(group: list[nn.Module]) -> list[Tensor]:
    return [layer.weight for layer in group if isinstance(layer, nn.Linear)]


def storages(model: nn.Module) -> dict[int, int]:
    """Bytes of all weights by the place where they lie."""
    tensors = [t.untyped_storage() for t in model.state_dict().values()]
    return {storage.data_ptr(): storage.nbytes() for storage in tensors}
