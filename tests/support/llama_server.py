"""llama.cpp's own server (`pip install xllamacpp`) in a process of its own: what comes after a prompt of token ids, and how long it took."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

_LISTENS = "listens: "


class Said(NamedTuple):
    """What the server says after a prompt."""

    logprobs: dict[int, float]
    """Of the likeliest next tokens, by id, the likeliest first."""
    prompt_tokens: int
    """Tokens that it read."""
    seconds: float
    """For reading them, by its own clock."""


def serve(gguf: str, positions: int) -> None:
    """Serve a file with one thread on a free port of the loopback, say where, and stay."""
    llama: Any = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = gguf
    params.n_ctx, params.n_parallel, params.warmup = positions, 1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = llama.Server(params)
    print(f"{_LISTENS}{server.listening_address}", flush=True)
    threading.Event().wait()


@contextmanager
def served(gguf: Path, positions: int) -> Iterator[str]:
    """The server in a process of its own: its URL."""
    command = [sys.executable, "-m", "tests.support.llama_server", str(gguf), str(positions)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            line = next((line for line in server.stdout if line.startswith(_LISTENS)), None)
            assert line is not None, "the server ended: it does not read this file"
            yield line.removeprefix(_LISTENS).strip()
        finally:
            server.kill()


def ask(url: str, ids: Sequence[int], count: int = 50) -> Said:
    """Let the server read a prompt anew, and say which `count` tokens may come next."""
    asked = {
        "prompt": list(map(int, ids)),
        "n_predict": 1,
        "n_probs": count,
        "temperature": 0,
        "cache_prompt": False,
    }
    request = urllib.request.Request(
        f"{url}/completion", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=600) as response:
        said = json.load(response)
    [first] = said["completion_probabilities"]
    return Said(
        {int(top["id"]): float(top["logprob"]) for top in first["top_logprobs"]},
        int(said["timings"]["prompt_n"]),
        float(said["timings"]["prompt_ms"]) / 1e3,
    )


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
