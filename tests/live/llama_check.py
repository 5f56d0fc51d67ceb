"""llama.cpp's own server against sessions of the same weights: `python -m tests.live.llama_check [FOLDER]`; `pip install xllamacpp` has it.

SmolLM2 as its .gguf file is (Q4_1), which a session reads converted to float32. Every run is a command of its own, as a user
types it. Exit 1 if a score differs, a prompt has another count of tokens there, or the prefix cache of its one slot
holds less than the plan says, or is not verified.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nih.errors import ModelError
from nih.models import smollm2, transformer
from nih.store.run import read
from tests.live.vllm_check import SESSION, SHORT, agree, cache_is_right, counted, run

NAME = "smollm2"
POSITIONS = 1024
"""Of the slot: the grid's prompts are shorter."""
GRID = ("--lengths", SHORT)
_LISTENS = "listens: "


def serve(gguf: str) -> None:
    """Serve a .gguf file on a free port of the loopback, say where, and stay."""
    llama: Any = importlib.import_module("xllamacpp")
    params = llama.CommonParams()
    params.model.path = gguf
    params.model_alias = {NAME}
    params.n_ctx, params.n_parallel = POSITIONS, 1
    # Its threads wait by spinning, which beside other work takes longer than one alone.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    server = llama.Server(params)
    print(f"{_LISTENS}{server.listening_address}", flush=True)
    threading.Event().wait()


@contextmanager
def served(gguf: Path) -> Iterator[str]:
    """The server in a process of its own: the URL of its API."""
    command = [sys.executable, "-m", "tests.live.llama_check", "serve", str(gguf)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert server.stdout is not None
    try:
        line = next((line for line in server.stdout if line.startswith(_LISTENS)), None)
        assert line is not None, "the server ended"
        yield f"{line.removeprefix(_LISTENS).strip()}/v1"
    finally:
        server.kill()
        server.wait(60)


def counts_agree(what: str, folder: Path) -> bool:
    """Say whether the server counted every prompt as it was counted here."""
    drift = _told(folder)["drift"]
    print(f"{what}: {drift['differ']} of {drift['samples']} counts differ", flush=True)
    return bool(drift["samples"] and not drift["differ"])


def cache_holds(folder: Path) -> bool:
    """Say what the slot, empty at first, held of what the plan says that prompts share."""
    manifest = read(folder).manifest
    shared = manifest.naive_tokens - manifest.values["planned_tokens"]
    cached = _told(folder)["cached_tokens"]
    print(
        f"prefix cache: {cached:,} of {manifest.naive_tokens:,} prompt tokens, {shared:,} planned",
        flush=True,
    )
    return bool(cached >= shared > 0)


def _told(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))["engine"][-1]
    return told


def checks(folder: Path, gguf: Path) -> Iterator[bool]:
    """Completions of text and of ids, and chats with the answer begun and not begun."""
    source = smollm2.open_model(NAME, NAME, transformer.Options(device="cpu")).source
    plain = run(folder / "session", NAME, *SESSION, *GRID)
    chat = run(folder / "session-chat", NAME, *SESSION, *GRID, "--chat")
    with served(gguf) as url:
        openai = (
            "--engine", "openai", "--base-url", url, "--tokenizer", source, "--concurrency", "1", *GRID,
        )  # fmt: skip
        asked: dict[str, tuple[Any, tuple[str, ...]]] = {
            "completions": (plain, ()),
            "completions of token ids": (plain, ("--set", "prompt=ids")),
            "chat begun": (chat, ("--chat", "--set", "prefix=assistant")),
            "chat": (counted(url, source), ("--chat",)),
        }
        for what, (session, more) in asked.items():
            out = folder / what.replace(" ", "-")
            yield agree(f"{what} and session", session, run(out, NAME, *openai, *more))
            yield counts_agree(what, out)
            if what == "completions":
                yield cache_holds(out)
            yield cache_is_right(out)


def main(kept: str | None = None) -> int:
    """Run the checks; 0 if all hold, or if they cannot be had here. Runs that lie in the folder `kept` are resumed."""
    if importlib.util.find_spec("xllamacpp") is None:
        print("llama: left out, xllamacpp is not installed; type `pip install xllamacpp`", flush=True)
        return 0
    try:
        gguf = smollm2._weights()
    except ModelError as error:
        print(f"llama: left out, {error}", flush=True)
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        results = list(checks(Path(kept or scratch), gguf))
    print(f"llama: {sum(results)} checks hold, {len(results) - sum(results)} do not", flush=True)
    return int(not all(results))


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        sys.exit(main(*sys.argv[1:]))
