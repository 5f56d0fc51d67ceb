"""One sitting on a GPU: whether it is right, whether it answers as the CPU does, then how fast it is.

    python -m tests.live.gpu_check --out DIR [--seconds 450] [--stages environment,ops,...] [--tiny]

Needs torch with CUDA, transformers, numpy, pytest and typer; no network, and no installed `nih`: run it in the checkout. Without a GPU it
says so and succeeds. `--tiny` runs the same code with small shapes on any device, the CPU too, so that the script itself is tested
everywhere. A stage that fails is reported, and the next one begins; gpu-check.json is rewritten after each. Exit code 1 if a stage failed
that decides: those of gpu_correct.py.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
Report = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """What all stages share."""

    out: Path
    tiny: bool
    scratch: Path
    """Run folders: they stay on the device's machine."""

    @property
    def cuda(self) -> bool:
        """Whether the stages run on a GPU."""
        return torch.cuda.is_available()

    @property
    def device(self) -> torch.device:
        """Where the stages run."""
        return torch.device("cuda:0" if self.cuda else "cpu")

    def wait(self) -> None:
        """Wait until the device has done all its work."""
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], object]) -> float:
        """Return the seconds of one call and of the device's work for it, by the host's clock."""
        self.wait()
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def device_seconds(self, *calls: Callable[[], object]) -> float:
        """Return the device's seconds of one of the calls, by replays of a graph that holds them all; on a CPU the host's."""
        from nih.bench.kernels import graph_seconds

        if self.cuda:
            return graph_seconds(calls)
        return min(self.seconds(call) for call in calls)

    def free(self) -> None:
        """Give back the memory of tensors that nothing refers to."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


Stage = Callable[[Check], Report]


def stages() -> dict[str, tuple[Stage, bool]]:
    """Return the stages in their order, and whether each decides the exit code."""
    from tests.live import gpu_correct as correct
    from tests.live import gpu_speed as speed

    return {
        "environment": (correct.environment, True),
        "ops": (correct.ops, True),
        "huge": (correct.huge, True),
        "parity": (correct.parity, True),
        "sweep": (correct.sweep, True),
        "kernels": (speed.kernels, False),
        "models": (speed.models, False),
        "transformer": (speed.transformer, False),
    }


def build_cpu_form() -> None:
    """Build the C++ kernels without pip: the loader takes a plain `_cpu.so`."""
    if importlib.util.find_spec("nih.kernels._cpu") is not None:
        return
    name = ROOT / "kernels" / f"_cpu{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = ["-O3", "-std=c++17", "-fopenmp", "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(ROOT / "kernels" / "cpu.cpp"), "-o", str(name)], check=True)


def run_stage(stage: Stage, check: Check) -> Report:
    """Run one stage; a failure becomes part of the report."""
    start = time.monotonic()
    try:
        report: Report = {"status": "ok", **stage(check)}
    except Exception as error:
        report = {
            "status": "failed",
            "error": f"{type(error).__name__}: {error}"[:4000],
            "trace": traceback.format_exc().splitlines()[-8:],
        }
    return report | {"seconds": round(time.monotonic() - start, 1)}


def parsed() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("results/runs/gpu-check"), help="folder of results")
    parser.add_argument("--seconds", type=float, default=450.0, help="no stage begins after these")
    parser.add_argument("--stages", default="", help="names, comma-separated; all by default")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on any device")
    return parser.parse_args()


def main() -> int:
    """Run the stages. Returns the exit code."""
    asked = parsed()
    if not torch.cuda.is_available() and not asked.tiny:
        print("gpu-check: torch sees no CUDA device here, so nothing is checked; `--tiny` runs it on the CPU")
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    asked.out.mkdir(parents=True, exist_ok=True)
    build_cpu_form()
    known = stages()
    names = asked.stages.split(",") if asked.stages else list(known)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="nih-gpu-check-") as scratch:
        check = Check(asked.out.resolve(), asked.tiny, Path(scratch))
        reports: Report = {}
        for name in names:
            stage, _ = known[name]
            late = time.monotonic() - began > asked.seconds
            reports[name] = {"status": "no time left", "seconds": 0.0} if late else run_stage(stage, check)
            text = json.dumps({"tiny": asked.tiny, "stages": reports}, indent=1, default=str)
            (asked.out / "gpu-check.json").write_text(text, encoding="utf-8")
            print(f"== {name}: {reports[name]['status']} in {reports[name]['seconds']} s", flush=True)
            if reports[name]["status"] == "failed":
                print(reports[name]["error"], flush=True)
    return int(any(reports[name]["status"] != "ok" and known[name][1] for name in names))


if __name__ == "__main__":
    sys.exit(main())
