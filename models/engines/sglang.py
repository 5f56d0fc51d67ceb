"""SGLang's server, with its own fields: `python -m sglang.launch_server --model-path MODEL --enable-cache-report`; `--base-url` says where.

It is asked as any server that speaks OpenAI's protocol (`--engine openai`), but with token ids.
Its own addresses tell its version, positions, page size and cache, and empty the cache when it is verified.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import httpx

from nih.models.engines import openai
from nih.models.engines._background import from_background
from nih.models.engines._cold import Way, root
from nih.models.engines._exchange import exchange
from nih.models.engines._http import quoted, text_of
from nih.models.engines._response import count

_LOOK_SECONDS = 10.0
_INFO = ("server_info", "get_server_info")
"""The address of what the server was started with, and its older name."""
_KEPT = (
    "version", "model_path", "weight_version", "dtype", "quantization", "kv_cache_dtype", "attention_backend", "context_length",
    "max_total_num_tokens", "max_req_input_len", "page_size", "chunked_prefill_size", "disable_radix_cache", "enable_cache_report",
    "enable_deterministic_inference", "mamba_scheduler_strategy", "mamba_track_interval", "tp_size", "dp_size", "pp_size",
)  # fmt: skip
"""What is kept of it. It also holds the server's keys, so nothing else is."""


@dataclass(frozen=True)
class Options(openai.Options):
    """Those of `--engine openai`, with another default."""

    prompt: Literal["text", "ids"] = "ids"
    """`ids` sends token ids, exactly those that were counted, also with --chat, whose template is then ours; `text` leaves it to the
    server's."""


@dataclass
class SglangEngine(openai.OpenAIEngine):
    """A server of SGLang."""

    info: dict[str, Any] = field(default_factory=dict)
    """What it says of itself, of the fields that are kept."""
    untold: str = ""
    """Why nothing is known of it; "" if something is."""

    def start(self) -> None:
        """Ask the server for its models, and for what it was started with. Raises EngineError."""
        super().start()
        try:
            found = list(from_background(self._ask_info))
        # A library may raise anything for what a stranger sends.
        except Exception as error:
            self.untold = (
                f"the server's own report could not be read ({type(error).__name__}: {quoted(str(error))})"
            )
            return
        self.info = next(iter(found), {})
        if not self.info:
            self.untold = f"the server at `{self.base_url}` has no `/{_INFO[0]}` as SGLang has, so its cache is not known"

    async def _ask_info(self, put: Callable[[dict[str, Any]], None]) -> None:
        async with asyncio.timeout(_LOOK_SECONDS), self.sender.client(1) as client:
            for name in _INFO:
                response = await exchange(client, "GET", f"{root(self.base_url)}/{name}", None)
                if info := told(response):
                    put(info)
                    return

    @property
    def limit(self) -> int | None:
        """Most positions: `--set limit`, else the least of what the server reports of its model, its context and its memory."""
        if self.options.limit:
            return self.options.limit
        memory = count(self.info.get("max_total_num_tokens"))
        found = (super().limit, count(self.info.get("context_length")), memory)
        return min(filter(None, found), default=None)

    @property
    def _way(self) -> Way:
        return "flush" if self.options.cold == "auto" else self.options.cold

    def why_not_cold(self) -> str:
        """Say why the server's cache cannot be taken out of play; "" if it can."""
        if self.info.get("disable_radix_cache") is True:
            return "the server keeps no prefix cache (`--disable-radix-cache`)"
        return super().why_not_cold()

    def identity(self) -> Mapping[str, Any]:
        """Describe which server and model were asked. A server does not report its weights."""
        return {**super().identity(), "sglang": dict(self.info)}

    def report(self) -> Mapping[str, Any]:
        """Return what `--engine openai` does, with what SGLang's own report adds."""
        found = dict(super().report())
        warnings = [self.untold] if self.untold else []
        if self.info.get("enable_cache_report") is False:
            warnings.append(
                "the server does not tell what came from its cache; start it with `--enable-cache-report`"
            )
        return {**found, "warnings": [*found["warnings"], *warnings]}


def told(response: httpx.Response) -> dict[str, Any]:
    """Return what is kept of a server's report: plain values of the known fields, cut."""
    if not response.is_success:
        return {}
    try:
        value = json.loads(text_of(response))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(value, Mapping):
        return {}
    found: dict[str, Any] = {}
    for key in _KEPT:
        each = value.get(key)
        if isinstance(each, str):
            found[key] = quoted(each)
        elif isinstance(each, bool) or (isinstance(each, int) and count(each) is not None):
            found[key] = each
    return found


def open_engine(model: str, options: Options, longest: int) -> SglangEngine:
    """Open the tokenizer; send nothing. Raises EngineError, ModelError."""
    return openai.open_server(model, options, SglangEngine, "sglang")
