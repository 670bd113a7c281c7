"""Texturing methods measured on objects whose true texture is known."""

from __future__ import annotations

from typing import TYPE_CHECKING

from seqtex_core.lazy_exports import lazy_exports

if TYPE_CHECKING:
    from .cases import BankObjects as BankObjects
    from .cases import CaseSource as CaseSource
    from .cases import EvaluationCase as EvaluationCase
    from .cases import bank_cases as bank_cases
    from .intervals import Estimate as Estimate
    from .intervals import estimate as estimate
    from .measures import psnr as psnr
    from .measures import ssim as ssim
    from .methods import TexturingMethod as TexturingMethod
    from .methods import baselines as baselines
    from .model_method import ModelMethod as ModelMethod
    from .prepared import PreparedObjects as PreparedObjects
    from .report import write_report as write_report
    from .run import EvaluationSettings as EvaluationSettings
    from .run import run_evaluation as run_evaluation

_MODULE_OF_NAME = {
    "Estimate": "intervals",
    "BankObjects": "cases",
    "CaseSource": "cases",
    "EvaluationCase": "cases",
    "EvaluationSettings": "run",
    "ModelMethod": "model_method",
    "PreparedObjects": "prepared",
    "TexturingMethod": "methods",
    "bank_cases": "cases",
    "baselines": "methods",
    "estimate": "intervals",
    "psnr": "measures",
    "run_evaluation": "run",
    "ssim": "measures",
    "write_report": "report",
}
__all__ = sorted(_MODULE_OF_NAME)
__getattr__, __dir__ = lazy_exports(__name__, _MODULE_OF_NAME)
