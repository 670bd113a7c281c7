"""The pretended device refuses what a GPU refuses; sampling and training pass on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import copying_models as copying
import pytest
import torch
from pretended_device import DEVICE, Elsewhere, MixedDevicesError, pretended_device, there
from sampling_models import LOCKED, clean_latents, known, mixing_model, seed
from torch import Tensor, nn

from seqtex_backbones.registry import load_backbone
from seqtex_backbones.unipc import SAMPLERS
from seqtex_core import frame_run
from seqtex_core.copy_head import CopyConfig
from seqtex_core.decoupled_config import DecoupledConfig
from seqtex_core.flow_matching import inference_sigmas
from seqtex_core.guidance import with_guidance
from seqtex_core.inference import prepare_for_inference
from seqtex_core.packed_layout import AnyLayout, PackedLayout
from seqtex_core.roles import NONSENSE
from seqtex_core.rope import Rope
from seqtex_core.sampling import sample
from seqtex_core.step_reuse import ResidualReuse
from seqtex_core.tasks import img2tex
from seqtex_core.transformer import SeqTexTransformer

SIZES = {"views": (2, 4, 6), "texture": (1, 8, 8)}


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretended_device() as found:
        yield found


# --- the device itself ------------------------------------------------------------------------

HERE = torch.arange(12.0).view(3, 4)
ROW = torch.tensor([1])
REFUSED: dict[str, Callable[[Tensor], object]] = {
    "a sum": lambda x: x + HERE,
    "a sum in place": lambda x: x.add_(HERE),
    "a sum written to the CPU": lambda x: HERE.clone().add_(x),
    "a number written to the CPU": lambda x: torch.tensor(0.0).add_(x.sum()),
    "a product": lambda x: x @ HERE.T,
    "a stack of numbers": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "rows by an index of the CPU": lambda x: x.index_select(0, ROW),
    "values of the CPU by its index": lambda x: x.index_put_((ROW,), HERE[:1]),
    "rows of the CPU": lambda x: HERE[there(ROW)],
    "a weight of the CPU": lambda x: nn.Linear(4, 2)(x),
    "an array": lambda x: x.numpy(),
    "a generator of the CPU": lambda x: torch.randn(2, device=DEVICE, generator=seed()),
}
TAKEN: dict[str, Callable[[Tensor], Tensor]] = {
    "a number of the CPU": lambda x: x * torch.tensor(2.0),
    "an index of the CPU": lambda x: x[ROW],
    "a list": lambda x: x[[2, 0], [1, 1]],
    "a number at an index": lambda x: x.index_put_((ROW,), torch.tensor(3.0)),
    "a copy from the CPU": lambda x: x.copy_(HERE.flip(0)),
    "made like it": lambda x: x + torch.tensor([1.0, 2, 3, 4], device=x.device) + x.new_ones(4),
    "a conjugate": lambda x: torch.view_as_real(1 * torch.view_as_complex(x.view(3, 2, 2)).conj()),
    "in place through a view": lambda x: x.requires_grad_().clone()[:, 1].mul_(2)._base,
    "another tensor's data": lambda x: _with_data(x.clone(), 2 * x),
}


def _with_data(x: Tensor, data: Tensor) -> Tensor:
    x.data = data
    return x


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_gpu_refuses_is_refused(device: torch.device, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"lazy|numpy\(\)"):
        REFUSED[name](HERE.to(device))


@pytest.mark.parametrize("name", TAKEN)
def test_what_a_gpu_takes_gives_what_the_cpu_gives(device: torch.device, name: str) -> None:
    wanted, found = TAKEN[name](HERE.clone()), TAKEN[name](HERE.to(device))
    assert found.device == device
    assert torch.equal(found.cpu(), wanted)


def test_modules_move_with_what_they_share_and_train(device: torch.device) -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    second.weight = first.weight
    model = nn.Sequential(first, second).to(device)
    assert second.weight is first.weight
    before = first.weight.cpu().detach()
    optimizer = torch.optim.AdamW(model.parameters())
    model(HERE.to(device)).square().sum().backward()
    optimizer.step()
    assert isinstance(first.weight.grad, Elsewhere)
    assert not torch.equal(first.weight.cpu(), before)


def test_the_device_is_gone_afterwards() -> None:
    with pretended_device() as device:
        kept = torch.ones(2, device=device)
    assert type(torch.ones(2) + 1) is Tensor
    with pytest.raises(MixedDevicesError):
        kept + torch.ones(2)
    with pytest.raises((RuntimeError, NotImplementedError)):
        torch.ones(2, device=device)


# --- the library on it ------------------------------------------------------------------------


def sampled(sampler: str, device: torch.device | str) -> dict[str, Tensor]:
    mask = torch.rand(2, 1, 1, 8, 8, generator=seed()) < 0.5
    plan = img2tex().with_frame("views", 2, LOCKED).with_frame("views", 3, NONSENSE)
    return sample(
        mixing_model,
        plan,
        known(clean_latents(), lock_masks={"texture": mask}, device=device),
        sigmas=inference_sigmas(4),
        generator=seed(),
        sampler=SAMPLERS.get(sampler),
        callback=lambda report: report.predicted_clean() and None,
    )


@pytest.mark.parametrize("sampler", SAMPLERS.names())
def test_every_sampler_stays_on_the_device(device: torch.device, sampler: str) -> None:
    found = sampled(sampler, device)
    for name, latents in sampled(sampler, "cpu").items():
        assert found[name].device == device
        assert torch.equal(found[name].cpu(), latents)  # the same operations on the same numbers


def test_a_forgotten_move_in_the_loop_is_found(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = frame_run._index
    monkeypatch.setattr(frame_run, "_index", lambda frames, device: index(frames, "cpu"))
    with pytest.raises(MixedDevicesError, match="index_select"):
        sampled("euler", device)


@pytest.mark.parametrize("packed", [False, True])
def test_a_model_that_copies_samples_and_trains_on_it(device: torch.device, packed: bool) -> None:
    model = copying.make(CopyConfig(heads=3))
    latents, sigmas, geometry = copying.scene(2)
    layout: AnyLayout = copying.dense(model)
    if packed:
        layout = PackedLayout.of(layout, copying.keeps(2))

    def run() -> dict[str, Tensor]:
        options = {"geometry": geometry, "clean": copying.known(latents), "batch_size": 2}
        with torch.no_grad():
            cache = model.prepare(layout, **options)
            one = with_guidance(*[lambda x, s: model(x, s, cache)] * 2, 2.0)(latents, sigmas)
        velocity = model(latents, sigmas, model.prepare(layout, **options))
        sum(x.square().mean() for x in velocity.values()).backward()
        return {**one, **{n: p.grad for n, p in model.named_parameters() if p.grad is not None}}

    wanted = run()
    model.zero_grad()
    model.to(device)
    latents, sigmas, geometry = there(latents), there(sigmas), there(geometry)
    found = run()
    assert set(found) == set(wanted)
    for name, x in wanted.items():
        assert found[name].device == device
        # products of other shapes: a few roundings of the largest value
        assert float((found[name].cpu() - x).abs().max()) <= 2e-5 * max(1.0, float(x.abs().max()))


def ready_for_inference() -> SeqTexTransformer:
    config = DecoupledConfig(lora_rank=2, lora_alpha=1.0)
    return SeqTexTransformer(load_backbone("wan-tiny", seed=0), config)


@torch.no_grad()
def velocity(model: SeqTexTransformer, device: torch.device | str) -> Tensor:
    latents = {n: torch.randn(1, 16, *s, generator=seed()).to(device) for n, s in SIZES.items()}
    text = torch.randn(1, 8, model.spec.text_dim, generator=seed()).to(device)
    cache = model.prepare(model.layout(SIZES, {"views": "mv", "texture": "uv"}), text=text)
    for level in (0.5, 0.49):
        sigmas = {n: torch.full((1, s[0]), level, device=device) for n, s in SIZES.items()}
        out = model(latents, sigmas, cache)["texture"]
    return out


def test_joined_weights_and_repeated_steps_on_it(device: torch.device) -> None:
    found = []
    for where in ("cpu", device):
        model = prepare_for_inference(ready_for_inference().to(where))
        model.trunk = ResidualReuse(threshold=0.5)
        found.append(velocity(model, where).cpu())
        assert model.trunk.reused == 1
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=5e-6)


def test_rotations_left_on_the_cpu_are_found(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ready_for_inference().to(device)
    monkeypatch.setattr(Rope, "to", lambda self, *args, **kwargs: self)
    with pytest.raises((MixedDevicesError, ValueError, RuntimeError), match=r"lazy|device"):
        velocity(model, device)
