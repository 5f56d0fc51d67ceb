"""A real vLLM on the CPU against sessions of the same weights: `python -m tests.live.vllm_check MODEL [FOLDER]`, in vLLM's environment.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

from nih.inference.asker import Asker
from nih.inference.engine import tree_order
from nih.inference.walk import Walk
from nih.models import smollm2, transformer
from nih.models.engines.vllm import VllmEngine
from nih.options import RunOptions
from nih.run.job import prepare
from nih.scores import score_answer
from nih.store.journal import Row
from nih.store.run import read
from nih.types import Answer, Sample

GRID = ("--lengths", "512-2k", "--depths", "0-100:5", "--trials", "2")
EAGER = {"enforce_eager": "true", "kv_cache_memory_bytes": str(10**9)}
SESSION = ("--dtype", "float32")
VLLM = (*SESSION, "--engine", "vllm", *(part for pair in EAGER.items() for part in ("--set", "=".join(pair))))
TIGHT = "20"
"""Blocks of the small cache: little more than one prompt of the longest length, at a CPU's 128 tokens a block."""
NATS = 1e-3
"""Most that a mean log-likelihood may differ: float32 in another order of summation."""

SHORT = "512"
"""Lengths of the grid where a session answers in this process."""


class Said(NamedTuple):
    """What was answered without a run folder."""

    answer: str
    score: float | None


Rows = Mapping[str, Row]


def run(folder: Path, model: str, *arguments: str) -> Rows:
    """`nih run`: its rows by sample id. Its stdout must be the folder's name and nothing else."""
    command = [sys.executable, "-m", "nih", "run", "--model", model, *GRID, *arguments, "--out", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}"
    assert done.stdout == f"{folder}\n", f"stdout holds more than the folder: {done.stdout!r}"
    return {row.id: row for row in read(folder).rows}


def agree(what: str, ours: Rows, theirs: Mapping[str, Row | Said]) -> bool:
    """Say whether two runs have the same samples and scores."""
    same = ours.keys() == theirs.keys()
    scores = sum(ours[i].score != theirs[i].score for i in ours) if same else len(ours)
    answers = sum(ours[i].answer != theirs[i].answer for i in ours) if same else len(ours)
    print(f"{what}: {len(ours)} samples, {scores} scores and {answers} answers differ", flush=True)
    return same and not scores


def rated_alike(what: str, ours: Rows, theirs: Rows) -> bool:
    """Say whether two runs rate the expected answers alike."""
    worst = max(abs((ours[i].nll or 0.0) - (theirs[i].nll or 0.0)) for i in ours)
    greedy = sum(ours[i].greedy != theirs[i].greedy for i in ours)
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


def cache_is_right(folder: Path) -> bool:
    """Say what came of asking some samples again with the cache out of play."""
    found = read(folder).manifest.values["verification"]
    print(f"cache: {found['state']}, {found['why']}", flush=True)
    return bool(found["state"] == "verified")


class Pass(NamedTuple):
    """What answering all samples once took."""

    hit: int
    """Prompt tokens that the cache, empty at first, came to hold."""
    computed: int
    steps: int
    """Forward passes: of prompts, and many more that only add a token to each open answer."""
    seconds: float
    worked: float
    """Seconds of all threads."""


def order_pays(model: str) -> bool:
    """Answer along the tree and shuffled, with a cache that holds little more than one prompt: tokens, passes, and the ratio of times.

    Both are measured twice, the second time in the other order, so that a machine that slows down favours neither. The
    shortest prompts go first, so that what is loaded or compiled at first use, several prompts a pass included, counts for neither.
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
    shortest = min(job.grid.lengths)
    engine.start()
    try:
        _answered(engine, [s for s in ordered if s.cell.length == shortest])
        shuffled = random.Random(0).sample(ordered, len(ordered))
        passes = [_answered(engine, samples) for samples in (ordered, shuffled, shuffled, ordered)]
    finally:
        engine.close()
    tree, other = passes[0::3], passes[1:3]
    for name, measured in (("along the tree", tree), ("shuffled", other)):
        print(
            f"order, cache of {TIGHT} blocks, {name}: {measured[0].hit:,} tokens hit, {measured[0].computed:,} computed, "
            f"{measured[0].steps} forward passes, {' and '.join(f'{p.seconds:.1f}' for p in measured)} s, "
            f"{' and '.join(f'{p.worked:.1f}' for p in measured)} s of the processor",
            flush=True,
        )
    print(
        f"order: shuffled computes {_ratio(other, tree, 'computed'):.2f} times the tokens, "
        f"takes {_ratio(other, tree, 'seconds'):.2f} times as long, {_ratio(other, tree, 'worked'):.2f} times the processor's time",
        flush=True,
    )
    return all(a.computed < b.computed for a in tree for b in other)


def _ratio(ours: Sequence[Pass], theirs: Sequence[Pass], of: str) -> float:
    return float(sum(getattr(p, of) for p in ours) / sum(getattr(p, of) for p in theirs))


def _answered(engine: VllmEngine, samples: Sequence[Sample]) -> Pass:
    """Answer all samples, from an empty prefix cache."""
    vllm = engine.llm.llm_engine
    engine.llm.reset_prefix_cache()
    step, steps = vllm.step, 0

    def counted() -> Any:
        nonlocal steps
        steps += 1
        return step()

    vllm.step = counted
    start, worked = time.monotonic(), time.process_time()
    answers = list(engine.answers(samples, likelihood=False, timeout=None))
    seconds, worked = time.monotonic() - start, time.process_time() - worked
    vllm.step = step
    assert len(answers) == len(samples)
    hit = sum(a.usage.cached_tokens or 0 for a in answers if a.usage)
    return Pass(hit, sum(len(s.prompt) for s in samples) - hit, steps, seconds, worked)


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
    yield cache_is_right(folder / "vllm")
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
    plain = {row.id: row for row in read(folder / "session").rows}
    chat = run(folder / "session-chat", "smollm2", *SESSION, "--chat")
    with served(source) as url:
        openai = ("--engine", "openai", "--base-url", url, "--tokenizer", source)
        yield agree("completions and session", run(folder / "completions", "smollm2", *openai), plain)
        ids = run(folder / "ids", "smollm2", *openai, "--set", "prompt=ids")
        yield agree("completions of token ids and session", ids, plain)
        yield cache_is_right(folder / "ids")
        with_prefix = run(folder / "chat", "smollm2", *openai, "--chat", "--set", "prefix=assistant")
        yield agree("chat and session with --chat", with_prefix, chat)
        hosted = run(folder / "chat-user", "smollm2", *openai, "--chat", "--lengths", SHORT)
        told = (
            "chat with the prefix in the question, and a session given the prompts that were counted for it"
        )
        yield agree(told, hosted, counted(url, source))


def counted(url: str, source: str) -> dict[str, Said]:
    """What a session answers to the prompts whose tokens `--engine openai --chat` counts, where the server lays them out itself.

    No `nih run` of a session is like it: a session begins the assistant's turn with the answer prefix.
    """
    grid = {"lengths": SHORT, "depths": "0-100:5", "trials": 2}
    openai = {"engine": "openai", "base_url": url, "tokenizer": source, "chat": True}
    job = prepare(RunOptions.of(model="smollm2", **grid, **openai))
    model = smollm2.open_model("smollm2", "smollm2", transformer.Options(device="cpu", dtype="float32"))
    walk = Walk(Asker(model.session(), model.tokenizer, likelihood=False, timeout=None))
    samples = {sample.id: sample for sample in job.samples}
    return {
        a.sample_id: Said(a.text, score_answer(a, samples[a.sample_id].expected, job.tasks[0].score))
        for a in walk.shared(job.plan.samples)
        if isinstance(a, Answer)
    }


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
