"""When, where and with which code a result was made."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from ..manifest import installed_versions


def provenance() -> dict[str, Any]:
    """Date, commit, versions and machine, plain JSON types only."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "versions": dict(installed_versions()),
        "machine": {
            "platform": platform.platform(),
            "cpus": os.cpu_count() or 1,
            "threads": torch.get_num_threads(),
        },
    }


def commit() -> dict[str, Any] | None:
    """Hash of the checked-out commit and whether tracked files differ; ``None`` if installed."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return None if head is None else {"hash": head, "changed": bool(changes)}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
