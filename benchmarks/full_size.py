"""One texture by the command line at full size: time and peak memory of every stage.

    python -m benchmarks.full_size --out docs/results/full-size/NAME.json -- \
        texture MESH --image PICTURE --model wan2.1-t2v-1.3b --random-weights 0 ...

Linux only: the peak is that of the resident memory of the process, reset after every stage.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from seqtex.manifest import read_manifest

_STAGE = re.compile(r"^(?P<name>[A-Z][\w ./-]*): (?P<seconds>[\d.]+) s$")
_RESET_PEAK = "5"


def main() -> int:
    """Run the command and write the record; returns the command's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("command", nargs="+", help="of seqtex, after --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "textured.glb"
        record = run([*options.command, "-o", str(result)], threads=options.threads)
        manifest = Path(f"{result}.seqtex.json")
        if manifest.is_file():
            made = read_manifest(manifest)
            keys = ("model", "task", "seed", "settings", "choices", "versions", "stage_seconds")
            record["manifest"] = {key: made[key] for key in keys}
    record["command"] = "seqtex " + " ".join(options.command)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return int(record["exit_code"])


def run(arguments: list[str], *, threads: int) -> dict[str, Any]:
    """Run one command line; stages with their seconds and peaks as they end.

    Args:
        arguments: of ``seqtex``.
        threads: of torch.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    load = os.getloadavg()[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "seqtex", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stderr is not None
    stages: list[dict[str, Any]] = []
    for line in process.stderr:
        sys.stderr.write(line)
        found = _STAGE.match(line.strip())
        if found is not None:
            peak = _take_peak(process.pid)
            seconds = float(found["seconds"])
            stages.append({"stage": found["name"], "seconds": seconds, "peak_rss_bytes": peak})
    code = process.wait()
    known = [stage["peak_rss_bytes"] for stage in stages if stage["peak_rss_bytes"]]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": {
            "cpu": _cpu(),
            "cores": os.cpu_count(),
            "threads": threads,
            "load_average_before": load,
            "load_average_after": os.getloadavg()[0],
            "platform": platform.platform(),
        },
        "exit_code": code,
        "wall_seconds": round(time.perf_counter() - started, 1),
        "peak_rss_bytes": max(known, default=None),
        "stages": stages,
    }


def _take_peak(pid: int) -> int | None:
    """Greatest resident memory since the last call, or ``None`` where it cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK, encoding="utf-8")
    except OSError:
        return None
    kilobytes = re.search(r"VmHWM:\s+(\d+) kB", status)
    return None if kilobytes is None else int(kilobytes[1]) * 1024


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    name = re.search(r"model name\s*:\s*(.+)", text)
    return platform.processor() if name is None else name[1]


if __name__ == "__main__":
    sys.exit(main())
