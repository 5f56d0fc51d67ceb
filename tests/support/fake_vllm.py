"""A package `vllm` for tests: its public API over a queue, a block cache that is really kept, and a reader of pass keys."""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

_KEY = re.compile(r"pass key is (\d+)")


@dataclass
class EngineArgs:
    """Some of vLLM's, of each kind of type."""

    model: str = ""
    tokenizer: str | None = None
    dtype: str = "auto"
    max_model_len: int = 0
    hf_token: bool | str | None = None
    tensor_parallel_size: int = 1
    decode_context_parallel_size: int = 1
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    enable_prefix_caching: bool | None = None
    block_size: int | None = None
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    hf_overrides: dict[str, Any] = field(default_factory=dict)
    cudagraph_capture_sizes: list[int] | None = None
    quantization_config: "dict[str, Any] | OnlyForTypeCheckers | None" = None  # type: ignore[name-defined]  # noqa: F821
    _api_process_count: int = 1


@dataclass
class Behaviour:
    """How the fake behaves, and what it saw."""

    answer: Callable[[str], str] = lambda prompt: f" {(_KEY.findall(prompt) or [0])[-1]}. And so on"
    """Text of a prompt -> what is generated."""
    eos: int | None = None
    """Token that ends each answer."""
    logprob: Callable[[int], float] = lambda token: -float(token)
    rank: Callable[[int], int] = lambda token: 1
    stuck: Callable[[str], bool] = lambda key: False
    """Requests that never end."""
    finish: str = "length"
    fail_at: int | None = None
    """Number of the step that raises."""
    holds: bool = True
    """Whether the prefix cache keeps anything."""
    hybrid: bool = False
    """Whether it keeps only the last whole block of each request, as for a model with a recurrent state."""
    spoils: bool = False
    """Whether what is found in the cache is a wrong state: answers are then backwards."""
    block: int = 16
    arguments: dict[str, Any] = field(default_factory=dict)
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    sampling: list[dict[str, Any]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    most_open: int = 0


class Engine:
    """`LLM.llm_engine`: the first request that is not stuck ends with each step."""

    def __init__(self, behaviour: Behaviour) -> None:
        arguments = behaviour.arguments
        self.behaviour = behaviour
        self.caching = arguments.get("enable_prefix_caching", True)
        self.queue: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {}
        self.blocks: set[tuple[str, tuple[int, ...]]] = set()
        self.salts: dict[str, str] = {}
        self.steps = 0
        self.vllm_config = SimpleNamespace(
            cache_config=SimpleNamespace(
                enable_prefix_caching=self.caching,
                block_size=behaviour.block,
                num_gpu_blocks=100,
                mamba_cache_mode="align" if behaviour.hybrid else "none",
                mamba_block_size=behaviour.block if behaviour.hybrid else None,
            ),
            parallel_config=SimpleNamespace(
                decode_context_parallel_size=arguments.get("decode_context_parallel_size", 1)
            ),
            device_config=SimpleNamespace(device_type="cpu"),
            model_config=SimpleNamespace(dtype="torch.float32"),
        )

    def add_request(self, key: str, prompt: dict[str, Any], sampling: dict[str, Any]) -> None:
        ids = tuple(prompt["prompt_token_ids"])
        if max(ids) > 255:
            raise ValueError(f"Token id {max(ids)} is out of vocabulary")
        self.queue[key] = (ids, sampling)
        self.salts[key] = prompt.get("cache_salt", "")
        self.behaviour.prompts.append(ids)
        self.behaviour.sampling.append(sampling)
        self.behaviour.most_open = max(self.behaviour.most_open, len(self.queue))

    def abort_request(self, keys: list[str]) -> None:
        for key in keys:
            del self.queue[key]
        self.behaviour.aborted += keys

    def step(self) -> list[Any]:
        self.steps += 1
        if self.steps == self.behaviour.fail_at:
            raise RuntimeError("out of memory")
        for key, (ids, sampling) in self.queue.items():
            if not self.behaviour.stuck(key):
                del self.queue[key]
                return [SimpleNamespace(finished=False, request_id=key), self._output(key, ids, sampling)]
        return []

    def _output(self, key: str, ids: tuple[int, ...], sampling: dict[str, Any]) -> Any:
        hits = self._hits(ids, self.salts[key])
        spoken = self._spoken(ids, sampling)
        if hits and self.behaviour.spoils:
            spoken = spoken[::-1]
        ends = self.behaviour.eos is not None and spoken[-1] == self.behaviour.eos
        said = SimpleNamespace(
            token_ids=spoken,
            finish_reason="stop" if ends else self.behaviour.finish,
            stop_reason=None,
            logprobs=[{t: self._logprob(t)} for t in spoken] if "logprobs" in sampling else None,
        )
        rates_prompt = sampling.get("prompt_logprobs") is not None
        return SimpleNamespace(
            finished=True,
            request_id=key,
            prompt_token_ids=list(ids),
            prompt_logprobs=[None, *({t: self._logprob(t)} for t in ids[1:])] if rates_prompt else None,
            num_cached_tokens=hits,
            outputs=[said],
        )

    def _spoken(self, ids: tuple[int, ...], sampling: dict[str, Any]) -> list[int]:
        if allowed := sampling.get("allowed_token_ids"):
            return list(allowed)
        text = self.behaviour.answer(bytes(ids).decode())
        spoken = list(text.encode())[: sampling["max_tokens"]]
        return spoken if self.behaviour.eos is None else [*spoken[:-1], self.behaviour.eos]

    def _logprob(self, token: int) -> Any:
        return SimpleNamespace(logprob=self.behaviour.logprob(token), rank=self.behaviour.rank(token))

    def _hits(self, ids: tuple[int, ...], salt: str) -> int:
        if not (self.caching and self.behaviour.holds):
            return 0
        size = self.behaviour.block
        ends = range(size, len(ids) + 1, size)
        held = [end for end in ends if end < len(ids) and (salt, ids[:end]) in self.blocks]
        self.blocks |= {(salt, ids[:end]) for end in (ends[-1:] if self.behaviour.hybrid else ends)}
        return max(held, default=0)


def package(behaviour: Behaviour, version: str = "0.32.0") -> dict[str, ModuleType]:
    """Modules for `sys.modules`."""

    class LLM:
        def __init__(self, **arguments: Any) -> None:
            print("a library that prints")
            behaviour.arguments = arguments
            self.llm_engine = Engine(behaviour)

        def get_world_size(self) -> int:
            return int(behaviour.arguments.get("tensor_parallel_size", 1))

    names: dict[str, dict[str, Any]] = {
        "vllm": {
            "__version__": version,
            "__version_tuple__": tuple(int(part) for part in version.split(".")),
            "EngineArgs": EngineArgs,
            "SamplingParams": dict,
            "LLM": LLM,
        },
        "vllm.inputs": {
            "tokens_input": lambda ids, **more: {"type": "token", "prompt_token_ids": ids, **more}
        },
        "vllm.platforms": {"current_platform": SimpleNamespace(is_cpu=lambda: True)},
    }
    modules = {}
    for name, content in names.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(content)
        modules[name] = module
    assert "vllm" not in sys.modules, "a real vLLM is loaded"
    return modules
