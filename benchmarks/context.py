"""What a result depends on besides the code: machine, versions, commit, load."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

from .result import Scalar

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "diffusers",
    "embreex",
    "einops",
    "flash-attn",
    "flash-attn-3",
    "flash-attn-4",
    "kaolin",
    "numpy",
    "sageattention",
    "torch",
    "trimesh",
    "triton",
    "warp-lang",
    "xformers",
)
FLAGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "PYTORCH_CUDA_ALLOC_CONF")
PREFIXES = ("TRITON_", "TORCHINDUCTOR_", "CUBLAS_", "CUDNN_", "ONEDNN_", "NVIDIA_TF32")


def device_record(device: torch.device) -> dict[str, object]:
    """Name, folder name and properties of a device."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name = str(properties.name)
        details: dict[str, Scalar] = {
            "multiprocessors": int(properties.multi_processor_count),
            "memory_bytes": int(properties.total_memory),
            "capability": f"{properties.major}.{properties.minor}",
            "host_cpu": cpu_name(),
        }
    else:
        name = cpu_name()
        details = {
            "logical_cpus": os.cpu_count() or 1,
            "machine": platform.machine(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        }
    slug = re.sub(r"[^a-z0-9]+", "-", f"{device.type} {name}".lower()).strip("-")
    return {"type": device.type, "name": name, "slug": slug, "details": details}


def cpu_name() -> str:
    """Model of the processor, with family and model number where the name alone is vague."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    found = {key.strip(): value.strip() for key, _, value in lines}
    name = re.sub(r"\((R|TM)\)|CPU|Processor", "", found.get("model name", platform.machine()))
    numbers = [f"{key} {found[key]}" for key in ("cpu family", "model") if key in found]
    return " ".join([*name.split(), *(number.removeprefix("cpu ") for number in numbers)])


def versions() -> dict[str, str]:
    """Python, the packages that matter, and the libraries inside torch."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
        found["driver"] = str(_nvidia_smi("driver_version").get("driver_version", "unknown"))
    return found


def environment() -> dict[str, Scalar]:
    """Switches that change which kernel runs; no folders, which say nothing of that."""
    record: dict[str, Scalar] = {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_conv_tf32": torch.backends.cudnn.allow_tf32,
        "mkldnn": torch.backends.mkldnn.is_available(),
        "argv": " ".join(_without_folders(sys.argv[1:])),
    }
    for name, value in sorted(os.environ.items()):
        if (name in FLAGS or name.startswith(PREFIXES)) and not name.endswith("_DIR"):
            record[name] = value
    return record


def _without_folders(words: list[str]) -> list[str]:
    """A command line with every path named by what it is for."""
    made: list[str] = []
    for word in words:
        before, _, value = word.partition("=")
        if os.sep in (value or word):
            name = before if value else (made[-1] if made else "")
            made.append(f"{before}=" * bool(value) + name.lstrip("-").upper())
        else:
            made.append(word)
    return made


def commit() -> dict[str, object]:
    """Hash of the checkout and whether tracked files differ from it."""
    head = _git("rev-parse", "HEAD")
    status = _git("status", "--porcelain", "--untracked-files=no")
    return {"hash": head, "dirty": None if status is None else bool(status)}


def load_average() -> float | None:
    """Of the last minute; ``None`` where the system does not say."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def device_state(device: torch.device) -> dict[str, Scalar]:
    """Clocks, temperature and power of a GPU; the frequency of a CPU."""
    if device.type == "cuda":
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
        return _nvidia_smi("clocks.sm,clocks.mem,temperature.gpu,power.draw,power.limit", uuid)
    frequencies = re.findall(r"cpu MHz\s*:\s*([\d.]+)", _read("/proc/cpuinfo"))
    return {"mhz_max": max(map(float, frequencies))} if frequencies else {}


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _nvidia_smi(fields: str, card: str = "0") -> dict[str, Scalar]:
    answer = _output(
        ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", f"--id={card}"]
    )
    if answer is None:
        return {}
    values = [value.strip() for value in answer.splitlines()[0].split(",")]
    return dict(zip(fields.split(","), values, strict=False))


def _git(*arguments: str) -> str | None:
    return _output(["git", "-C", str(ROOT), *arguments])


def _output(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
