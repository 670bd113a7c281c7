"""Checks of training: which weights learn, adapters, checkpoints on disk and in memory."""

from __future__ import annotations

import copy
import itertools
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from ..adapter import SHAREABLE
from ..checkpoint import load_model, save_model, unique_tensors
from ..decoupled_config import DecoupledConfig
from ..errors import WeightsError
from ..lora import lora_layers, merge_lora, unmerge_lora
from ..lora_exchange import load_mv_lora, save_mv_lora
from ..transformer import SeqTexTransformer
from .harness import Harness, Inputs, assert_differs, assert_same, randomize


class TrainingChecks(Harness):
    """Gradients, adapters and files."""

    def test_gradients_reach_exactly_what_should_train(self) -> None:
        """For both ways to train the mv branch and every set of shared parts."""
        shares = [
            frozenset(names)
            for count in range(len(SHAREABLE) + 1)
            for names in itertools.combinations(SHAREABLE, count)
        ]
        for share in shares:
            for config in (
                DecoupledConfig(mv_train="lora", uv_share=share, lora_rank=4),
                DecoupledConfig(mv_train="full", uv_share=share),
            ):
                self._check_gradients(config)

    def test_checkpointing_gives_the_same_gradients(self) -> None:
        """Recomputing the blocks in the backward pass changes no bit."""
        transformer = self.make_transformer(DecoupledConfig(uv_share=frozenset(), lora_rank=4))
        inputs = self.make_inputs(transformer)
        want = self._gradients(transformer, inputs)
        transformer.gradient_checkpointing = True
        assert_same("gradients", self._gradients(transformer, inputs), want)

    def test_gradients_are_those_of_finite_differences(self) -> None:
        """In fp64, along a random direction and along one close to the gradient."""
        transformer = self.make_transformer().double()
        inputs = _double(self.make_inputs(transformer))
        gradients = self._gradients(transformer, inputs)
        generator = torch.Generator().manual_seed(3)
        noise = {
            name: torch.randn(gradient.shape, generator=generator).double()
            for name, gradient in gradients.items()
        }
        near = {n: g + noise[n] * float(g.std(correction=0)) for n, g in gradients.items()}
        for direction in (noise, near):
            slope = sum(float((gradients[n] * direction[n]).sum()) for n in gradients)
            length = sum(float(along.pow(2).sum()) for along in direction.values()) ** 0.5
            step = 5e-2 / length
            measured = self._slope(transformer, inputs, direction, step=step)
            # Norms, gates and rotations are fp32 by design: 6e-8 of a loss of about 1, over the
            # step; the rest is curvature.
            allowed = 0.02 * abs(slope) + 6e-8 / step
            assert abs(measured - slope) <= allowed, f"{measured} is not {slope} +- {allowed}"

    def test_the_frozen_base_needs_no_gradient_of_its_inputs(self) -> None:
        """Latents without gradients, checkpointing on: the first block's adapters still learn."""
        transformer = self.make_transformer()
        transformer.gradient_checkpointing = True
        gradients = self._gradients(transformer, self.make_inputs(transformer))
        first = [name for name in gradients if "lora_A" in name and ".0." in name]
        assert first
        assert all(bool(gradients[name].any()) for name in first)

    def test_merging_adapters_keeps_the_function(self) -> None:
        """Merged equals unmerged up to one rounding of each weight."""
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer)
        want = self.velocity(transformer, inputs)
        merge_lora(transformer)
        got = self.velocity(transformer, inputs)
        for name in want:
            self.assert_close(name, got[name], want[name], times=4)
        merged = transformer.mv_state_dict()
        unmerge_lora(transformer)
        assert_same("mv_state_dict", transformer.mv_state_dict(), merged)

    def test_unmerging_restores_every_bit(self) -> None:
        """In fp32 and in bfloat16, where the merged weights are far from exact."""
        for dtype in (torch.float32, torch.bfloat16):
            transformer = self.make_transformer().to(dtype)
            before = {k: v.clone() for k, v in transformer.state_dict().items()}
            merge_lora(transformer)
            merge_lora(transformer)
            changed = sum(
                not torch.equal(value, before[name])
                for name, value in transformer.state_dict().items()
            )
            assert changed == sum(1 for _ in lora_layers(transformer)), "merging changed others"
            unmerge_lora(transformer)
            assert_same("weights", transformer.state_dict(), before)

    def test_adapters_travel_through_a_file(self) -> None:
        """Saved by one model, loaded by another with the same base."""
        source, target = self.make_transformer(), self.make_transformer()
        for _, layer in lora_layers(target):
            randomize(layer.lora_A, seed=1)
            torch.nn.init.zeros_(layer.lora_B.weight)
        inputs = self.make_inputs(source)
        want = self.velocity(source, inputs)
        assert_differs("velocity", self.velocity(target, inputs)["views"], want["views"], least=0)
        with tempfile.TemporaryDirectory() as folder:
            save_mv_lora(source, Path(folder) / "lora.safetensors")
            load_mv_lora(target, Path(folder) / "lora.safetensors")
        assert_same("velocity", self.velocity(target, inputs), want)

    def test_weights_travel_through_a_file(self) -> None:
        """Every tensor once; the other model computes the same bits and shares the same parts."""
        for share in (frozenset[str](), frozenset(SHAREABLE)):
            config = DecoupledConfig(uv_share=share, lora_rank=4)
            source, target = self.make_transformer(config), self.make_transformer(config)
            randomize(target, seed=123)
            shared = _aliases(target)
            inputs = self.make_inputs(source)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "model.safetensors"
                save_model(source, path, metadata={"step": "3"})
                assert load_model(target, path) == {"format": "pt", "step": "3"}
            assert_same("velocity", self.velocity(target, inputs), self.velocity(source, inputs))
            assert _aliases(target) == shared
            # common parts stay the same whatever is shared
            common = {
                f"{part}.{name}.{key}"
                for part, module in target.named_modules()
                for name in getattr(module, "common", ())
                for key in module.get_submodule(name).state_dict()
            }
            if share:
                assert len(shared) > len(common) / 2
            else:
                assert {name for group in shared for name in group} == common

    def test_weights_of_another_configuration_are_refused(self) -> None:
        """Nothing is changed by the attempt."""
        source = self.make_transformer(DecoupledConfig(uv_share=frozenset(), lora_rank=4))
        target = self.make_transformer()
        before = {name: tensor.clone() for name, tensor in unique_tensors(target).items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            save_model(source, path)
            told = ""
            try:
                load_model(target, path)
            except WeightsError as error:
                told = str(error)
        assert "unexpected" in told, f"weights of another configuration: {told or 'loaded'}"
        assert_same("weights", unique_tensors(target), before)

    def test_a_deep_copy_is_independent_and_shares_within_itself(self) -> None:
        """Shared parts of the copy are shared in the copy, and with nothing else."""
        source = self.make_transformer()
        inputs = self.make_inputs(source)
        want = self.velocity(source, inputs)
        copied = copy.deepcopy(source)
        assert _aliases(copied) == _aliases(source)
        randomize(source, seed=55)
        assert_same("velocity", self.velocity(copied, inputs), want)

    def _check_gradients(self, config: DecoupledConfig) -> None:
        transformer = self.make_transformer(config)
        told = f"mv_train={config.mv_train}, uv_share={sorted(config.uv_share)}"
        gradients = self._gradients(transformer, self.make_inputs(transformer))
        owned_by_mv = {id(p) for p in transformer.shells["mv"].parameters()}
        for block in transformer.muv_blocks():
            owned_by_mv |= {id(p) for p in block.mv.parameters()}
        for name, parameter in transformer.named_parameters():
            if any(part in name for part in self.unused_parameters):
                continue
            is_adapter = ".lora_A." in name or ".lora_B." in name
            trains = config.mv_train == "full" or is_adapter or id(parameter) not in owned_by_mv
            assert parameter.requires_grad == trains, f"{told}: {name} requires_grad"
            reached = name in gradients and bool(gradients[name].any())
            assert reached == trains, f"{told}: gradient of {name} is {reached}, not {trains}"

    @torch.no_grad()
    def _slope(
        self,
        transformer: SeqTexTransformer,
        inputs: Inputs,
        direction: dict[str, Tensor],
        *,
        step: float,
    ) -> float:
        """Central difference of the loss; the weights come back."""
        named = dict(transformer.named_parameters())
        ends = []
        for move in (step, -2 * step):
            for name, along in direction.items():
                named[name].add_(move * along)
            ends.append(float(self._loss(transformer, inputs)))
        for name, along in direction.items():
            named[name].add_(step * along)
        return (ends[0] - ends[1]) / (2 * step)

    def test_compiled_blocks_have_no_graph_breaks(self) -> None:
        """One graph per block, the same function; traced only, so that no compiler is needed."""
        torch.compiler.reset()  # every backbone is a variant of one code; few are kept at a time
        transformer = self.make_transformer()
        inputs = self.make_inputs(transformer)
        want = self.velocity(transformer, inputs)
        transformer.compile_blocks(backend="eager")
        got = self.velocity(transformer, inputs)
        for name in want:
            # Traced rotations use real arithmetic, eager ones complex: a few roundings.
            self.assert_close(name, got[name], want[name], times=4)

    def _gradients(self, transformer: SeqTexTransformer, inputs: Inputs) -> dict[str, Tensor]:
        transformer.zero_grad(set_to_none=True)
        self._loss(transformer, inputs).backward()
        return {
            name: parameter.grad.clone()
            for name, parameter in transformer.named_parameters()
            if parameter.grad is not None
        }

    def _loss(self, transformer: SeqTexTransformer, inputs: Inputs) -> Tensor:
        cache = self.prepare(transformer, inputs, precompute=False)
        velocity = transformer(inputs.latents, inputs.sigmas, cache)
        generator = torch.Generator().manual_seed(11)
        parts = [
            (value * torch.randn(value.shape, generator=generator)).mean()
            for value in velocity.values()
        ]
        return torch.stack(parts).sum()


def _aliases(module: torch.nn.Module) -> set[tuple[str, ...]]:
    """Groups of names that belong to one tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in module.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return {tuple(group) for group in names.values() if len(group) > 1}


def _double(inputs: Inputs) -> Inputs:
    for name, latents in inputs.latents.items():
        inputs.latents[name] = latents.double()
    return inputs
