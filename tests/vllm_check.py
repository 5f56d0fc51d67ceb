"""A real vLLM on the CPU against sessions of the same weights: `python -m tests.vllm_check MODEL [FOLDER]`, in vLLM's environment.

`smollm2` is the whole check, offline and behind `vllm serve`; `transformer` the small one. Every run is a command of
its own, as a user types it. Exit 1 if a score differs, the prefix cache hits less than 90 % of what was predicted for it, or
the order of the tree makes it hit no more than a shuffled one.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

from nih.models import smollm2, transformer
from nih.models.vllm import VllmEngine
from nih.run import prepare
from nih.settings import RunOptions
from nih.store import read
from nih.submit import tree_order
from nih.types import Sample

GRID = ("--lengths", "512-2k", "--depths", "0-100:5", "--trials", "2")
EAGER = {"enforce_eager": "true", "kv_cache_memory_bytes": str(10**9)}
SESSION = ("--dtype", "float32")
VLLM = (*SESSION, "--engine", "vllm", *(part for pair in EAGER.items() for part in ("--set", "=".join(pair))))
TIGHT = "20"
"""Blocks of the small cache: little more than one prompt of the longest length, at a CPU's 128 tokens a block."""
NATS = 1e-3
"""Most that a mean log-likelihood may differ: float32 in another order of summation."""

Rows = dict[str, dict[str, Any]]


def run(folder: Path, model: str, *arguments: str) -> Rows:
    """`nih run`: its rows by sample id. Its stdout must be the folder's name and nothing else."""
    command = [sys.executable, "-m", "nih", "run", "--model", model, *GRID, *arguments, "--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}"
    assert done.stdout == f"{folder}\n", f"stdout holds more than the folder: {done.stdout!r}"
    return {row["id"]: row for row in read(folder).rows}


def agree(what: str, ours: Rows, theirs: Rows) -> bool:
    """Say whether two runs have the same samples and scores."""
    same = ours.keys() == theirs.keys()
    scores = sum(ours[i]["score"] != theirs[i]["score"] for i in ours) if same else len(ours)
    answers = sum(ours[i]["answer"] != theirs[i]["answer"] for i in ours) if same else len(ours)
    print(f"{what}: {len(ours)} samples, {scores} scores and {answers} answers differ", flush=True)
    return same and not scores


def rated_alike(what: str, ours: Rows, theirs: Rows) -> bool:
    """Say whether two runs rate the expected answers alike."""
    worst = max(abs(ours[i]["nll"] - theirs[i]["nll"]) for i in ours)
    greedy = sum(ours[i]["greedy"] != theirs[i]["greedy"] for i in ours)
    print(f"{what}: likelihoods differ by at most {worst:.2g} nats, {greedy} greedy flags differ", flush=True)
    return worst < NATS and not greedy


def cache_hits(folder: Path) -> bool:
    """Say what the prefix cache held of what was predicted."""
    cache = json.loads((folder / "run.json").read_text(encoding="utf-8"))["engine"][-1]["prefix_cache"]
    hit, planned = cache["hit_tokens"], cache["planned_hit_tokens"]
    print(
        f"prefix cache, blocks of {cache['block_size']}: {hit:,} of {cache['prompt_tokens']:,} prompt tokens hit, "
        f"{planned:,} were predicted",
        flush=True,
    )
    return bool(hit >= 0.9 * planned > 0)


def order_pays(model: str) -> bool:
    """Answer along the tree and shuffled, with a cache that holds little more than one prompt: hits, and the ratio of times.

    Both are measured twice, the second time in the other order, so that a machine that slows down favours neither.
    """
    job = prepare(
        RunOptions.of(
            model=model,
            lengths="512-2k",
            depths="0-100:5",
            trials=2,
            engine="vllm",
            dtype="float32",
            set={**EAGER, "num_gpu_blocks_override": TIGHT},
        )
    )
    engine = job.engine
    assert isinstance(engine, VllmEngine)
    ordered = tree_order(job.samples)
    engine.start()
    try:
        _answered(engine, ordered[:1])  # what is loaded or compiled at the first request
        shuffled = random.Random(0).sample(ordered, len(ordered))
        passes = [_answered(engine, samples) for samples in (ordered, shuffled, shuffled, ordered)]
    finally:
        engine.close()
    tree, other = (np.add(*pair) for pair in ((passes[0], passes[3]), (passes[1], passes[2])))
    print(
        f"order, cache of {TIGHT} blocks: {tree[0] / 2:,.0f} tokens hit along the tree, {other[0] / 2:,.0f} shuffled; "
        f"shuffled takes {other[1] / tree[1]:.2f} times as long, {other[2] / tree[2]:.2f} times the processor's time",
        flush=True,
    )
    return bool(tree[0] > other[0])


def _answered(engine: VllmEngine, samples: Sequence[Sample]) -> tuple[int, float, float]:
    """Prompt tokens that the emptied cache came to hold, seconds, and seconds of all threads."""
    engine.llm.reset_prefix_cache()
    start, worked = time.monotonic(), time.process_time()
    answers = list(engine.answers(samples, likelihood=False, timeout=None))
    assert len(answers) == len(samples)
    held = sum(a.usage.cached_tokens or 0 for a in answers if a.usage)
    return held, time.monotonic() - start, time.process_time() - worked


@contextmanager
def served(model: str) -> Iterator[str]:
    """`vllm serve` on loopback: the URL of its API."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    arguments = ["--max-model-len", "2048", "--enforce-eager", "--dtype", "float32"]
    arguments += ["--kv-cache-memory-bytes", EAGER["kv_cache_memory_bytes"], "--served-model-name", "smollm2"]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        [str(Path(sys.executable).parent / "vllm"), "serve", model, *arguments],
        stdout=sys.stderr,
        env={**os.environ, "VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"},
    )
    try:
        _await(f"{url}/health", server)
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait(60)


def _await(url: str, server: subprocess.Popen[bytes], seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert server.poll() is None, "vllm serve ended"
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, OSError):
            time.sleep(2)
    raise TimeoutError(f"no answer from {url} within {seconds:g} s")


def offline(folder: Path, model: str) -> Iterator[bool]:
    """Generation, likelihoods over the prefix cache and without it, and the order of the tree."""
    session = run(folder / "session", model, *SESSION)
    yield agree("vLLM and session", run(folder / "vllm", model, *VLLM), session)
    yield cache_hits(folder / "vllm")
    rating = ("--score", "likelihood")
    session = run(folder / "rated", model, *SESSION, *rating)
    yield rated_alike("vLLM and session", run(folder / "rated-vllm", model, *VLLM, *rating), session)
    yield cache_hits(folder / "rated-vllm")
    uncached = run(folder / "rated-uncached", model, *VLLM, *rating, "--set", "enable_prefix_caching=false")
    yield rated_alike("vLLM without prefix cache and session", uncached, session)
    yield order_pays(model)


def behind_a_server(folder: Path) -> Iterator[bool]:
    """SmolLM2 behind `vllm serve`: completions of text and of ids, and chat, against sessions of `offline` and with --chat."""
    source = smollm2.open_model("smollm2", "smollm2", transformer.Options(device="cpu")).source
    plain = {row["id"]: row for row in read(folder / "session").rows}
    chat = run(folder / "session-chat", "smollm2", *SESSION, "--chat")
    with served(source) as url:
        openai = ("--engine", "openai", "--base-url", url, "--tokenizer", source)
        yield agree("completions and session", run(folder / "completions", "smollm2", *openai), plain)
        ids = run(folder / "ids", "smollm2", *openai, "--set", "prompt=ids")
        yield agree("completions of token ids and session", ids, plain)
        with_prefix = run(folder / "chat", "smollm2", *openai, "--chat", "--set", "prefix=assistant")
        yield agree("chat and session with --chat", with_prefix, chat)


def main(model: str, kept: str | None = None) -> int:
    """Run the checks of a model; 0 if all hold. Runs that lie in the folder `kept` are resumed."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(kept or scratch)
        results = list(offline(folder, model))
        if model == "smollm2":
            results += behind_a_server(folder)
    print(f"vllm: {sum(results)} checks hold, {len(results) - sum(results)} do not", flush=True)
    return int(not all(results))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
