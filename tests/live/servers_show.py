"""How many of 330 samples are scored wrongly by servers with one habit each: `python -m tests.live.servers_show`.

Each server answers every question rightly, in its own way: so a score other than 1 is wrong, unless the server gave no answer at
all, which a filter does to one in twenty; those may have no score, but not the score 0. It runs `nih` in a process of its own, so
that another version of it can be measured: `--path FOLDER` puts that version's folder first.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.fake_server import FakeServer, Reply, Request, error, key_of, serve
from tests.support.server_dialects import THOUGHT, chat

TRIALS = ("--lengths", "1k,2k,4k", "--depths", "0-100:11", "--trials", "10")
SAMPLES = 3 * 11 * 10


def _shared(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def right(request: Request) -> str:
    """What a good model says."""
    return f"The pass key is {key_of(request.prompt)}."


def thinks(request: Request) -> Reply:
    """Its thinking stands in the content, and stop strings end it."""
    text = f"<think>\n{THOUGHT}\n</think>\n\n{right(request)}"
    for stop in request.body.get("stop", ()):
        text = text.partition(stop)[0]
    return Reply(200, chat(request, {"content": text}, "stop"))


def taken(prompt: str) -> bool:
    """Whether a filter takes this prompt: one in twenty."""
    return hashlib.blake2b(prompt.encode(), digest_size=2).digest() < b"\x0c\xcd"


def filters(request: Request) -> Reply:
    """A filter takes one answer in twenty."""
    if taken(request.prompt):
        return Reply(200, chat(request, {"content": ""}, "content_filter"))
    return Reply(200, chat(request, {"content": right(request)}, "stop"))


def caches() -> Callable[[Request], Reply]:
    """It counts only what its cache did not hold."""
    before: list[str] = []

    def fault(request: Request) -> Reply:
        shared = max((_shared(request.prompt, old) for old in before[-40:]), default=0)
        before.append(request.prompt)
        counted = {"prompt_tokens": len(request.prompt) - shared}
        return Reply(200, chat(request, {"content": right(request)}, "stop", counted))

    return fault


def refuses(request: Request) -> Reply:
    """It takes no `stop`, and says so in its own words."""
    if "stop" in request.body:
        return error(400, "Argument not supported on this model: stop")
    return Reply(200, chat(request, {"content": right(request)}, "stop"))


def streams(request: Request) -> Reply:
    """It streams, asked or not."""
    pieces = [{"delta": {"content": piece}} for piece in right(request).partition("pass")]
    events = [{"choices": [{"index": 0, **piece}]} for piece in pieces]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return Reply(200, "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode())


HABITS: dict[str, Callable[[], Callable[[Request], Reply]]] = {
    "thinks": lambda: thinks,
    "filters 5 %": lambda: filters,
    "counts only uncached tokens": caches,
    "refuses `stop`": lambda: refuses,
    "streams": lambda: streams,
}


def counts(fault: Callable[[Request], Reply], tokenizer: str, path: str) -> dict[str, int]:
    """Rows of a run by what became of them."""
    with tempfile.TemporaryDirectory() as folder, serve(FakeServer(fault)) as server:
        command = [
            sys.executable, "-m", "nih", "run", "--engine", "openai", "--base-url", server.url, "--model", "m", "--chat",
            "--tokenizer", tokenizer, *TRIALS, "--set", "backoff=0.01", "--out", f"{folder}/r",
        ]  # fmt: skip
        # In a folder of its own, so that the version at `path` is the one that runs.
        subprocess.run(
            command, capture_output=True, cwd=folder, check=False, env={**os.environ, "PYTHONPATH": path}
        )
        journal = Path(folder, "r", "samples.jsonl")
        rows: list[dict[str, Any]] = [json.loads(line) for line in journal.read_text().splitlines()]
        none = sum(map(taken, set(server.prompts))) if fault is filters else 0
    last = list({row["id"]: row for row in rows}.values())
    right_ones = sum(row["score"] == 1 for row in last)
    unscored = sum(row["status"] == "no_answer" for row in last)
    # What has no answer may lack a score; all else that is not 1 is wrong, and so is a sample that was never answered.
    return {"right": right_ones, "no_answer": unscored, "wrong": SAMPLES - right_ones - min(unscored, none)}


def main() -> None:
    """Print a line for each habit."""
    from tests.support.vocabularies import tokenizer

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--path", default=str(Path(__file__).parents[2]))
    path = parser.parse_args().path
    with tempfile.TemporaryDirectory() as folder:
        coder: Any = tokenizer("chat")
        coder._tokenizer.save_pretrained(folder)
        for name, habit in HABITS.items():
            found = counts(habit(), folder, path)
            print(
                f"{name:28} right {found['right']:4} no_answer {found['no_answer']:3} wrong {found['wrong']:4}",
                flush=True,
            )


if __name__ == "__main__":
    main()
