"""One sitting on a GPU: whether it is right, whether it answers as the CPU does, then how fast it is.

    python -m tests.live.gpu_check --out DIR [--seconds 450] [--stages environment,ops,...] [--tiny]

Needs torch with CUDA, transformers, numpy, pytest and typer; no network, and no installed `nih`: run it in the checkout. Without a GPU it
says so and succeeds. `--tiny` runs the same code with small shapes on any device, the CPU too, so that the script itself is tested
everywhere. A stage that fails is reported, and the next one begins; gpu-check.json is rewritten after each. Stages run in a process of their
own: one that does not end within --stage-seconds, or takes the process with it, is reported with the place where it stood, and a new
process goes on with the next one. Exit code 1 if a stage failed that decides: those of gpu_correct.py.
"""

from __future__ import annotations

import argparse
import faulthandler
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
FILE = "gpu-check.json"
STUCK = "stuck.txt"
"""Where a stage stood that took too long."""


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
    parser.add_argument("--stage-seconds", type=float, default=150.0, help="after these a stage is given up")
    parser.add_argument("--stages", default="", help="names, comma-separated; all by default")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on any device")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def kept(out: Path) -> Report:
    """Return the reports of the stages so far."""
    path = out / FILE
    return dict(json.loads(path.read_text(encoding="utf-8"))["stages"]) if path.exists() else {}


def keep(out: Path, name: str, report: Report, tiny: bool) -> None:
    """Write the report of a stage beside those before it, and say how it went."""
    text = json.dumps({"tiny": tiny, "stages": kept(out) | {name: report}}, indent=1, default=str)
    (out / FILE).write_text(text, encoding="utf-8")
    print(f"== {name}: {report['status']} in {report['seconds']} s", flush=True)
    if "error" in report:
        print(report["error"], flush=True)


def run_inside(asked: argparse.Namespace, names: list[str]) -> None:
    """Run stages in this process, until one takes too long."""
    known = stages()
    with (
        tempfile.TemporaryDirectory(prefix="nih-gpu-check-") as scratch,
        (asked.out / STUCK).open("w", encoding="utf-8") as stuck,
    ):
        check = Check(asked.out, asked.tiny, Path(scratch))
        ends = time.monotonic() + asked.seconds
        for name in names:
            if time.monotonic() > ends:
                return
            faulthandler.dump_traceback_later(asked.stage_seconds, exit=True, file=stuck)
            keep(asked.out, name, run_stage(known[name][0], check), asked.tiny)
            faulthandler.cancel_dump_traceback_later()


def lost(asked: argparse.Namespace, code: int, seconds: float) -> Report:
    """Return the report of a stage whose process has ended with it, after so many seconds of that process."""
    trace = (asked.out / STUCK).read_text(encoding="utf-8").splitlines()
    said = (
        f"the process ended with {code}"
        if not trace
        else "the stage did not end; where it stood is under `trace`"
    )
    return {"status": "failed", "error": said, "trace": trace[:60], "seconds": round(seconds, 1)}


def run_all(asked: argparse.Namespace, names: list[str]) -> Report:
    """Run the stages in a process, and after each that is lost the rest in a new one. Returns their reports."""
    ends = time.monotonic() + asked.seconds
    command = [sys.executable, "-m", "tests.live.gpu_check", "--inside", "--out", str(asked.out)]
    command += ["--stage-seconds", str(asked.stage_seconds), *(["--tiny"] if asked.tiny else [])]
    while left := [name for name in names if name not in kept(asked.out)]:
        start = time.monotonic()
        if start > ends:
            for name in left:
                keep(asked.out, name, {"status": "no time left", "seconds": 0.0}, asked.tiny)
            break
        child = subprocess.Popen(
            [*command, "--stages", ",".join(left), "--seconds", str(ends - start)], cwd=ROOT
        )
        try:
            # The watchdog inside gives a stage up; this one is for a process that cannot even end.
            code = child.wait(ends - start + asked.stage_seconds + 60)
        except subprocess.TimeoutExpired:
            child.kill()
            code = -9
        reached = [name for name in left if name not in kept(asked.out)]
        if code and reached:
            keep(asked.out, reached[0], lost(asked, code, time.monotonic() - start), asked.tiny)
    return kept(asked.out)


def main() -> int:
    """Run the stages. Returns the exit code."""
    asked = parsed()
    if not torch.cuda.is_available() and not asked.tiny:
        print("gpu-check: torch sees no CUDA device here, so nothing is checked; `--tiny` runs it on the CPU")
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    asked.out = asked.out.resolve()
    asked.out.mkdir(parents=True, exist_ok=True)
    known = stages()
    names = asked.stages.split(",") if asked.stages else list(known)
    if asked.inside:
        run_inside(asked, names)
        return 0
    build_cpu_form()
    (asked.out / FILE).unlink(missing_ok=True)
    reports = run_all(asked, names)
    return int(any(reports[name]["status"] != "ok" and known[name][1] for name in names))


if __name__ == "__main__":
    sys.exit(main())
