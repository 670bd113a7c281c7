"""Components for texturing with video diffusion transformers, each usable alone.

Needs torch, einops and safetensors; nothing is imported before it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .adapter import Backbone as Backbone
    from .adapter import BackboneBlock as BackboneBlock
    from .adapter import BackboneShell as BackboneShell
    from .adapter import BackboneSpec as BackboneSpec
    from .adapter import KeyValue as KeyValue
    from .adapter import RowSublayers as RowSublayers
    from .adapter import TextContext as TextContext
    from .adapter import TimeEmbedding as TimeEmbedding
    from .attention import ATTENTION as ATTENTION
    from .attention import Attend as Attend
    from .attention import attention_reference as attention_reference
    from .attention import choose_attention as choose_attention
    from .attention import list_attention as list_attention
    from .attention.geo_attention import GeoAttention as GeoAttention
    from .attention.geo_attention import GeoAttentionConfig as GeoAttentionConfig
    from .attention.geo_attention import Placement as Placement
    from .attention.geo_attention import geo_attention as geo_attention
    from .attention.geo_attention import geo_attention_reference as geo_attention_reference
    from .attention.packed import attend_packed as attend_packed
    from .branch_data import BlockCache as BlockCache
    from .branch_data import BranchInputs as BranchInputs
    from .branch_data import BranchTimes as BranchTimes
    from .branch_data import Hidden as Hidden
    from .checkpoint import load_model as load_model
    from .checkpoint import save_model as save_model
    from .copy_head import CopyConfig as CopyConfig
    from .copy_head import CopyHead as CopyHead
    from .copy_head import CopyRows as CopyRows
    from .decoupled_config import DecoupledConfig as DecoupledConfig
    from .errors import ContractError as ContractError
    from .errors import InputError as InputError
    from .errors import MissingDependencyError as MissingDependencyError
    from .errors import OutOfMemoryError as OutOfMemoryError
    from .errors import SeqTexError as SeqTexError
    from .errors import UnsupportedError as UnsupportedError
    from .errors import UsageError as UsageError
    from .errors import WeightsError as WeightsError
    from .flow_matching import FlowMatchingLoss as FlowMatchingLoss
    from .flow_matching import SigmaSample as SigmaSample
    from .flow_matching import TrainingSchedule as TrainingSchedule
    from .flow_matching import add_noise as add_noise
    from .flow_matching import bell_weights as bell_weights
    from .flow_matching import clean_to_velocity as clean_to_velocity
    from .flow_matching import expand_sigma as expand_sigma
    from .flow_matching import flow_matching_loss as flow_matching_loss
    from .flow_matching import inference_sigmas as inference_sigmas
    from .flow_matching import shift_sigmas as shift_sigmas
    from .flow_matching import velocity_to_clean as velocity_to_clean
    from .flow_matching import velocity_to_noise as velocity_to_noise
    from .fp8_linear import Fp8Linear as Fp8Linear
    from .fp8_linear import reason_fp8_unsupported as reason_fp8_unsupported
    from .fp8_linear import use_fp8_linears as use_fp8_linears
    from .frame_plan import FramePlan as FramePlan
    from .frame_plan import NoisySample as NoisySample
    from .frame_run import KnownLatents as KnownLatents
    from .frames import FrameGroup as FrameGroup
    from .frames import Grid as Grid
    from .frames import StreamLayout as StreamLayout
    from .frames import TokenLayout as TokenLayout
    from .geometry_embedding import GeometryEmbedding as GeometryEmbedding
    from .geometry_embedding import GeometryLatents as GeometryLatents
    from .graphed import GraphedModel as GraphedModel
    from .graphed import reason_graph_unsupported as reason_graph_unsupported
    from .guidance import with_guidance as with_guidance
    from .inference import prepare_for_inference as prepare_for_inference
    from .joint_projection import join_layers as join_layers
    from .joint_projection import project as project
    from .kernels import KERNELS as KERNELS
    from .kernels import list_kernels as list_kernels
    from .kernels import using_kernels as using_kernels
    from .kernels.activation import linear_gelu as linear_gelu
    from .lora import LoRALinear as LoRALinear
    from .lora import inject_lora as inject_lora
    from .lora import load_lora_state_dict as load_lora_state_dict
    from .lora import lora_state_dict as lora_state_dict
    from .lora import merge_lora as merge_lora
    from .lora import unmerge_lora as unmerge_lora
    from .modulation import RowNorm as RowNorm
    from .modulation import affine_norm as affine_norm
    from .modulation import gated_residual as gated_residual
    from .modulation import modulate as modulate
    from .modulation import modulated_norm as modulated_norm
    from .modulation import normed_rows as normed_rows
    from .modulation import residual_norm as residual_norm
    from .muv_block import MUVBlock as MUVBlock
    from .packed_layout import PackedLayout as PackedLayout
    from .parallel import ParallelTrunk as ParallelTrunk
    from .parallel import parallel_mesh as parallel_mesh
    from .query_key import QKNorm as QKNorm
    from .query_key import qk_prep as qk_prep
    from .query_key import rotate_geometry as rotate_geometry
    from .registry import Registry as Registry
    from .roles import CONDITION as CONDITION
    from .roles import DENOISE as DENOISE
    from .roles import NONSENSE as NONSENSE
    from .roles import FrameState as FrameState
    from .roles import Role as Role
    from .rope import Extrapolation as Extrapolation
    from .rope import Interpolation as Interpolation
    from .rope import Rope as Rope
    from .rope import RopePolicy as RopePolicy
    from .rope import RopeSpec as RopeSpec
    from .rope import apply_rope as apply_rope
    from .rope import cogvideox_axis_dims as cogvideox_axis_dims
    from .rope import rope_table as rope_table
    from .rope import wan_axis_dims as wan_axis_dims
    from .samplers import EulerSampler as EulerSampler
    from .samplers import Sampler as Sampler
    from .sampling import StepReport as StepReport
    from .sampling import StepSignal as StepSignal
    from .sampling import sample as sample
    from .split_block import SplitBlock as SplitBlock
    from .split_block import SplitRows as SplitRows
    from .split_block import Sublayer as Sublayer
    from .split_block import Sublayers as Sublayers
    from .step_reuse import ResidualReuse as ResidualReuse
    from .tasks import TASKS as TASKS
    from .tasks import geo2mv as geo2mv
    from .tasks import img2tex as img2tex
    from .tasks import mv2tex as mv2tex
    from .tasks import tex2mv as tex2mv
    from .transformer import SeqTexTransformer as SeqTexTransformer
    from .transformer import StepCache as StepCache

_MODULES = {
    "ATTENTION": "attention",
    "Attend": "attention",
    "Backbone": "adapter",
    "BackboneBlock": "adapter",
    "BackboneShell": "adapter",
    "BackboneSpec": "adapter",
    "BlockCache": "branch_data",
    "BranchInputs": "branch_data",
    "BranchTimes": "branch_data",
    "CONDITION": "roles",
    "ContractError": "errors",
    "CopyConfig": "copy_head",
    "CopyHead": "copy_head",
    "CopyRows": "copy_head",
    "DENOISE": "roles",
    "DecoupledConfig": "decoupled_config",
    "EulerSampler": "samplers",
    "Extrapolation": "rope",
    "FlowMatchingLoss": "flow_matching",
    "Fp8Linear": "fp8_linear",
    "FrameGroup": "frames",
    "FramePlan": "frame_plan",
    "FrameState": "roles",
    "GeoAttention": "attention.geo_attention",
    "GeoAttentionConfig": "attention.geo_attention",
    "GeometryEmbedding": "geometry_embedding",
    "GeometryLatents": "geometry_embedding",
    "GraphedModel": "graphed",
    "Grid": "frames",
    "Hidden": "branch_data",
    "InputError": "errors",
    "Interpolation": "rope",
    "KERNELS": "kernels",
    "KeyValue": "adapter",
    "KnownLatents": "frame_run",
    "LoRALinear": "lora",
    "MUVBlock": "muv_block",
    "MissingDependencyError": "errors",
    "NONSENSE": "roles",
    "NoisySample": "frame_plan",
    "OutOfMemoryError": "errors",
    "PackedLayout": "packed_layout",
    "ParallelTrunk": "parallel",
    "Placement": "attention.geo_attention",
    "QKNorm": "query_key",
    "Registry": "registry",
    "ResidualReuse": "step_reuse",
    "Role": "roles",
    "Rope": "rope",
    "RopePolicy": "rope",
    "RopeSpec": "rope",
    "RowNorm": "modulation",
    "RowSublayers": "adapter",
    "Sampler": "samplers",
    "SeqTexError": "errors",
    "SeqTexTransformer": "transformer",
    "SigmaSample": "flow_matching",
    "SplitBlock": "split_block",
    "SplitRows": "split_block",
    "StepCache": "transformer",
    "StepReport": "sampling",
    "StepSignal": "sampling",
    "StreamLayout": "frames",
    "Sublayer": "split_block",
    "Sublayers": "split_block",
    "TASKS": "tasks",
    "TextContext": "adapter",
    "TimeEmbedding": "adapter",
    "TokenLayout": "frames",
    "TrainingSchedule": "flow_matching",
    "UnsupportedError": "errors",
    "UsageError": "errors",
    "WeightsError": "errors",
    "add_noise": "flow_matching",
    "affine_norm": "modulation",
    "apply_rope": "rope",
    "attend_packed": "attention.packed",
    "attention_reference": "attention",
    "bell_weights": "flow_matching",
    "choose_attention": "attention",
    "clean_to_velocity": "flow_matching",
    "cogvideox_axis_dims": "rope",
    "expand_sigma": "flow_matching",
    "flow_matching_loss": "flow_matching",
    "gated_residual": "modulation",
    "geo2mv": "tasks",
    "geo_attention": "attention.geo_attention",
    "geo_attention_reference": "attention.geo_attention",
    "img2tex": "tasks",
    "inference_sigmas": "flow_matching",
    "inject_lora": "lora",
    "join_layers": "joint_projection",
    "linear_gelu": "kernels.activation",
    "list_attention": "attention",
    "list_kernels": "kernels",
    "load_lora_state_dict": "lora",
    "load_model": "checkpoint",
    "lora_state_dict": "lora",
    "merge_lora": "lora",
    "modulate": "modulation",
    "modulated_norm": "modulation",
    "mv2tex": "tasks",
    "normed_rows": "modulation",
    "parallel_mesh": "parallel",
    "prepare_for_inference": "inference",
    "project": "joint_projection",
    "qk_prep": "query_key",
    "reason_fp8_unsupported": "fp8_linear",
    "reason_graph_unsupported": "graphed",
    "residual_norm": "modulation",
    "rope_table": "rope",
    "rotate_geometry": "query_key",
    "sample": "sampling",
    "save_model": "checkpoint",
    "shift_sigmas": "flow_matching",
    "tex2mv": "tasks",
    "unmerge_lora": "lora",
    "use_fp8_linears": "fp8_linear",
    "using_kernels": "kernels",
    "velocity_to_clean": "flow_matching",
    "velocity_to_noise": "flow_matching",
    "wan_axis_dims": "rope",
    "with_guidance": "guidance",
}
__all__ = sorted(_MODULES)
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
