"""Prefill of whole RWKV-7, RWKV-6 and Mamba-2 models of the 0.1B shape with random weights, beside the package `rwkv` and llama.cpp's server.

    python -m tests.live.recurrent_speed [rwkv7|rwkv6|mamba2 ...] [--beside WHO] [--tokens N] [--rounds N] [--out FILE.csv]
    python -m tests.live.recurrent_speed --memory

All read the same float32 weights on one thread, each in a process of its own, in turn; the median of the rounds, llama.cpp by its own clock. The
shares of matrix products and of the op are those of our own time, of one more reading of half the prompt. `--memory`: what a prompt of 1M tokens takes more than
one of 128k, with two layers of a third of the width. Exit 1 where a goal is missed, or another says another next token.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.support import recurrent_gguf
from tests.support.llama_server import ask, served
from tests.support.rwkv_files import Size, made

GOALS = {"package rwkv": 1.8, "llama.cpp": 1.5}
"""Times the tokens per second of each."""
MOST_GROWTH = 32.0
"""MB from 128k to 1M tokens."""
SHAPES = {
    "rwkv7": Size("7", heads=12, layers=12, rank=64, vocabulary=65536),
    "rwkv6": Size("6", heads=12, layers=12, rank=32, ratio=3.5, vocabulary=65536),
}
MAMBA2 = recurrent_gguf.mamba2_config(layers=24, width=768, vocabulary=50288)
NEEDS = {"package rwkv": "rwkv", "llama.cpp": "xllamacpp"}
"""Package that has it."""
COLUMNS = (
    "model", "tokens", "beside", "times", "goal",
    "products_share", "op_share", "same_next_token", "largest_logprob_difference",
)  # fmt: skip

PACKAGE = """
import sys, time
import numpy as np, torch
torch.set_num_threads(1)
from rwkv.model import RWKV
model = RWKV(model=sys.argv[1].removesuffix(".pth"), strategy="cpu fp32")
ids = np.load(sys.argv[2]).tolist()
model.forward(ids[:64], None)
began = time.perf_counter()
logits, _ = model.forward(ids, None)
print("seconds", time.perf_counter() - began)
np.save(sys.argv[3], torch.log_softmax(logits.float(), 0).numpy())
"""
OURS = """
import sys, time
import numpy as np, torch
from nih.models import mamba2, rwkv
from nih.models._recurrent import Options
torch.set_num_threads(1)
options = Options(device="cpu", dtype="float32", tokenizer="byte")
adapter = rwkv if sys.argv[1].endswith(".pth") else mamba2
session = adapter.open_model(sys.argv[1], "x", options).session()
ids = np.load(sys.argv[2])
session.extend([ids[:64]])
session.reset()
if len(sys.argv) > 3:
    began = time.perf_counter()
    session.extend([ids])
    logits = session.logits()
    print("seconds", time.perf_counter() - began)
    np.save(sys.argv[3], torch.log_softmax(torch.from_numpy(logits), 0).numpy())
    sys.exit()
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    session.extend([ids])
spent = {e.key: e.self_cpu_time_total for e in profile.key_averages()}
products = sum(spent.get(f"aten::{name}", 0) for name in ("mm", "addmm", "bmm"))
print("shares", products / sum(spent.values()), spent["nih::matrix_state"] / sum(spent.values()))
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


@dataclass
class Reader:
    """Somebody who reads the prompt."""

    read: Callable[[], float]
    """Returns the seconds."""
    logprobs: Callable[[], dict[int, float]]
    """Of the likeliest next tokens after the last reading, the likeliest first."""


def say(code: str, *arguments: str, **switches: str) -> list[float]:
    """The numbers of the last line that a program prints, run in a process of its own."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | switches
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [float(word) for word in done.stdout.split("\n")[-2].split()[1:]]


def _likeliest(path: Path, count: int = 50) -> dict[int, float]:
    found = np.load(path)
    return {int(i): float(found[i]) for i in np.argsort(-found)[:count]}


def _program(code: str, weights: Path, ids: Path, out: Path, **switches: str) -> Reader:
    def read() -> float:
        [seconds] = say(code, str(weights), str(ids), str(out), **switches)
        return seconds

    return Reader(read, partial(_likeliest, out))


def _llama(url: str, ids: Path) -> Reader:
    last: dict[int, float] = {}

    def read() -> float:
        said = ask(url, np.load(ids).tolist())
        last.clear()
        last.update(said.logprobs)
        return said.seconds

    return Reader(read, lambda: last)


def _readers(
    model: str, weights: Path, ids: Path, beside: Sequence[str], stack: ExitStack
) -> dict[str, Reader]:
    """Write the weights in all formats; return who of `beside` reads them here, and ourselves first."""
    folder = weights.parent
    there = {who for who in beside if importlib.util.find_spec(NEEDS[who])}
    for who in sorted(set(beside) - there):
        print(f"{who} is left out, because `{NEEDS[who]}` is not installed; type `pip install {NEEDS[who]}`")
    gguf = folder / f"{model}.gguf"
    if model == "mamba2":
        there.discard("package rwkv")
        stored = recurrent_gguf.made_mamba2(MAMBA2)
        recurrent_gguf.write_mamba2_folder(weights, stored, MAMBA2)
        write: Callable[[], Path] = partial(recurrent_gguf.write_mamba2, gguf, stored, MAMBA2)
    else:
        stored = made(SHAPES[model])
        torch.save(stored, weights)
        write = partial(recurrent_gguf.write_rwkv7, gguf, stored, SHAPES[model])
    found = {"ours": _program(OURS, weights, ids, folder / "ours.npy")}
    if "package rwkv" in there:
        switches = {"RWKV_JIT_ON": "1", "RWKV_CUDA_ON": "0"}
        switches |= {"RWKV_V7_ON": "1"} if model == "rwkv7" else {}
        found["package rwkv"] = _program(PACKAGE, weights, ids, folder / "package.npy", **switches)
    if "llama.cpp" in there and model != "rwkv6":
        positions = len(np.load(ids)) + 64
        found["llama.cpp"] = _llama(stack.enter_context(served(write(), positions)), ids)
    return found


def speed(model: str, tokens: int, rounds: int, beside: Sequence[str]) -> list[dict[str, Any]]:
    """Measure all in turn; a row for each that is beside us."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        ids = folder / "ids.npy"
        np.save(ids, np.random.default_rng(0).integers(1, 50000, tokens).astype(np.int32))
        weights = folder / ("mamba2" if model == "mamba2" else f"{model}.pth")
        readers = _readers(model, weights, ids, beside, stack)
        readings: dict[str, list[float]] = {who: [] for who in readers}
        for _ in range(rounds):
            for who, reader in readers.items():
                readings[who].append(reader.read())
                print(
                    f"{model}: {who} {tokens / readings[who][-1]:.1f} tokens/s", file=sys.stderr, flush=True
                )
        ours = readings.pop("ours")
        own = np.load(folder / "ours.npy")
        np.save(ids, np.load(ids)[: tokens // 2])
        shares = say(OURS, str(weights), str(ids))
        rows = []
        for who, found in readings.items():
            fast, slow = (statistics.median(these) for these in (ours, found))
            said = readers[who].logprobs()
            row = (
                model, tokens, who, round(slow / fast, 2), GOALS[who],
                *(round(share, 3) for share in shares),
                next(iter(said)) == int(own.argmax()),
                f"{max(abs(own[i] - value) for i, value in said.items()):.2g}",
            )  # fmt: skip
            rows.append(dict(zip(COLUMNS, row, strict=True)))
        return rows


def memory() -> bool:
    """Measure how much more the longest prompt takes, marks included; whether the goal is met."""
    met = []
    with tempfile.TemporaryDirectory() as name:
        for model, size in SHAPES.items():
            path = Path(name) / f"{model}.pth"
            torch.save(made(size._replace(layers=2, heads=4)), path)
            [grown] = say(MEMORY, str(path))
            print(f"{model}: {grown:.1f} MB more for 1M tokens than for 128k", flush=True)
            met.append(grown <= MOST_GROWTH)
    return all(met)


def _keep(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows in place of those of the same models beside the same."""
    new = {(row["model"], row["beside"]) for row in rows}
    kept: list[dict[str, Any]] = []
    if out.is_file():
        with out.open(encoding="utf-8", newline="") as file:
            kept = [row for row in csv.DictReader(file) if (row["model"], row["beside"]) not in new]
    with out.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*kept, *rows])


def main() -> int:
    """Return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"{', '.join((*SHAPES, 'mamba2'))}; all by default")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--beside", action="append", choices=GOALS, help="may be repeated; all by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", action="store_true")
    asked = parser.parse_args()
    known = (*SHAPES, "mamba2")
    if wrong := [model for model in asked.models if model not in known]:
        parser.error(f"`{wrong[0]}` is no model that is measured here; type one of {', '.join(known)}")
    if asked.memory:
        return 0 if memory() else 1
    met = []
    for model in asked.models or known:
        rows = speed(model, asked.tokens, asked.rounds, asked.beside or tuple(GOALS))
        for row in rows:
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
            met.append(row["times"] >= row["goal"] and row["same_next_token"])
        if asked.out and rows:
            _keep(asked.out, rows)
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
