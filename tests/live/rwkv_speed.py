"""Prefill of whole RWKV-7 and 6 models of the 0.1B shape with random weights, beside the package `rwkv`: `python -m tests.live.rwkv_speed [TOKENS]`.

Both read the same .pth file on one thread in float32, each in a process of its own, in turn; the median of three. The share of matrix products
is that of our own time. Then the memory that a prompt of 128k and one of 1M tokens take, with two layers of a third of the width: `... memory`. Exit 1 where a goal is missed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tests.support.rwkv_files import Size, made

GOAL = 1.8
"""Times the tokens per second of the package."""
MOST_GROWTH = 32.0
"""MB from 128k to 1M tokens."""
SHAPES = {
    "7": Size("7", heads=12, layers=12, rank=64, vocabulary=65536),
    "6": Size("6", heads=12, layers=12, rank=32, ratio=3.5, vocabulary=65536),
}
ROUNDS = 3

THEIRS = """
import sys, time
import numpy as np, torch
torch.set_num_threads(1)
from rwkv.model import RWKV
model = RWKV(model=sys.argv[1].removesuffix(".pth"), strategy="cpu fp32")
ids = np.random.default_rng(0).integers(1, 60000, int(sys.argv[2])).tolist()
model.forward(ids[:64], None)
began = time.perf_counter()
logits, _ = model.forward(ids, None)
print("seconds", time.perf_counter() - began, int(logits.argmax()))
"""
OURS = """
import sys, time
import numpy as np, torch
from nih.models import rwkv
from nih.models._recurrent import Options
torch.set_num_threads(1)
options = Options(device="cpu", dtype="float32", tokenizer="byte")
session = rwkv.open_model(sys.argv[1], "x", options).session()
ids = np.random.default_rng(0).integers(1, 60000, int(sys.argv[2])).astype(np.int32)
session.extend([ids[:64]])
session.reset()
began = time.perf_counter()
session.extend([ids])
seconds = time.perf_counter() - began
session.reset()
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    session.extend([ids])
events = profile.key_averages()
products = sum(e.self_cpu_time_total for e in events if e.key in ("aten::mm", "aten::addmm", "aten::bmm"))
share = products / sum(e.self_cpu_time_total for e in events)
print("seconds", seconds, int(session.logits().argmax()), share)
"""
MEMORY = """
import resource, sys
import numpy as np, torch
from nih.models import rwkv
from nih.models._recurrent import Options
torch.set_num_threads(1)
session = rwkv.open_model(sys.argv[1], "x", Options(device="cpu", dtype="float32", tokenizer="byte")).session()
ids = np.zeros(1 << 16, np.int32)
peaks = []
for times in (1, 2, 16):
    session.reset()
    for _ in range(times):
        session.extend([ids])
        session.mark()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
print("grown", peaks[2] - peaks[1])
"""


def say(code: str, *arguments: str, **switches: str) -> list[float]:
    """The numbers of the last line that a program prints, run in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | switches
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [float(word) for word in done.stdout.split("\n")[-2].split()[1:]]


def speed(version: str, folder: Path, tokens: int) -> bool:
    """Measure both in turn; whether the goal is met, and the next token is the same."""
    path = folder / f"{version}.pth"
    torch.save(made(SHAPES[version]), path)
    switches = {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"} | ({"RWKV_V7_ON": "1"} if version == "7" else {})
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(say(THEIRS, str(path), str(tokens), **switches))
        ours.append(say(OURS, str(path), str(tokens)))
    path.unlink()
    fast, slow = (tokens / statistics.median(seconds for seconds, *_ in found) for found in (ours, theirs))
    told = {
        "version": version,
        "tokens": tokens,
        "ours": round(fast),
        "package rwkv": round(slow),
        "times": round(fast / slow, 2),
        "share of matrix products": round(statistics.median(row[2] for row in ours), 2),
        "same next token": ours[0][1] == theirs[0][1],
    }
    print(json.dumps(told), flush=True)
    return fast >= GOAL * slow and ours[0][1] == theirs[0][1]


def memory(version: str, folder: Path) -> bool:
    """Measure how much more the longest prompt takes, marks included; whether the goal is met."""
    path = folder / f"{version}-two.pth"
    torch.save(made(SHAPES[version]._replace(layers=2, heads=4)), path)
    [grown] = say(MEMORY, str(path))
    path.unlink()
    print(json.dumps({"version": version, "MB from 128k to 1M": round(grown, 1)}), flush=True)
    return grown <= MOST_GROWTH


def main(arguments: list[str]) -> int:
    """Return the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments == ["memory"]:
            return 0 if min([memory(version, folder) for version in SHAPES]) else 1
        if importlib.util.find_spec("rwkv") is None:
            print("the package is not installed; type `pip install --no-deps rwkv`", file=sys.stderr)
            return 2
        tokens = int(arguments[0]) if arguments else 2048
        return 0 if min([speed(version, folder, tokens) for version in SHAPES]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
