"""Any causal language model of transformers: attention, sliding window, Mamba-2, hybrids; a folder, a hub id, a .gguf file.

The prompt is read in chunks that carry the model's cache; `_cache` marks and rewinds it.
"""

from __future__ import annotations

import copy
import inspect
import logging
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.fx.experimental import _config as _torch_config

from nih.errors import ModelError, OutOfMemory, reason
from nih.kernels import causal_attention
from nih.kernels.backend import Choice
from nih.models._attention import NAME, of_rows, prefer_causal, without_cudnn
from nih.models._cache import (
    CacheMark,
    Footprint,
    GrowingLayer,
    Sharing,
    copied,
    footprints,
    grows_only,
    held_bytes,
    new_cache,
    restore,
    sharing,
    snapshot,
    snapshot_at,
    unknown_layers,
)
from nih.models._device import pick_device, pick_dtype
from nih.models._fused import fuse_elements
from nih.models._half import is_slow, widen_logits, widen_products
from nih.models._hf_config import (
    Options,
    architecture,
    auto_class,
    extrapolates,
    original_positions,
    position_limit,
    positions,
    read_config,
    shortened,
    tell_what_the_limit_counts,
)
from nih.models._hf_kernels import MOST_PER_CALL, answering, counts_in_32_bits
from nih.models._hf_load import find_tokenizer, load, weight_files
from nih.models._kv_rows import COPIES, PER_LAYER, KeyRows, held
from nih.models._loading import fingerprint, is_reference, reference
from nih.models._products import use_own_products
from nih.models._rope import ChangingRope, Factors, changing_rope, even_calls
from nih.models._rows import MOST_BYTES, RowSession, tie_of
from nih.models._session import JUDGED_CHUNK, Mark
from nih.protocols import Tokenizer
from nih.types import NO_TURN, TokenIds, Turn

__all__ = ["CachedSession", "Options", "TransformerModel", "open_model"]

log = logging.getLogger(__name__)

_CACHE_NAMES = ("past_key_values", "cache", "cache_params", "state", "mems")
"""What models call the cache, as an argument of `forward` and in its output: `cache` from transformers 5.24 on, the others before."""
_MODULE_STATES = frozenset({"recurrent_states", "conv1d_state"})
"""RecurrentGemma keeps its recurrence in attributes of its modules; None means that nothing was read."""
_LONG_PROBE = 256
"""Tokens that show how a state of unknown kind grows."""
_CHUNK = {"cpu": 640, "cuda": 2048}
"""Most tokens per forward call; masks of chunk x cache are in memory at once."""
_UNMASKED_CHUNK = {"cuda": 8192}
"""The same where there are no masks."""


def open_model(source: str, name: str, options: Options) -> TransformerModel:
    """Read config and tokenizer of a folder, hub id or .gguf file; the weights wait for `session`. Raises ModelError."""
    if is_reference(source, "transformer"):
        source = str(reference(source).folder)
    if options.chunk is not None and options.chunk < 1:
        raise ModelError(f"option `chunk={options.chunk}` must be at least 1")
    device = pick_device(options.device)
    config = read_config(source, options)
    if not options.beyond_limit:
        tell_what_the_limit_counts(source, config.get_text_config(decoder=True))
    return TransformerModel(
        source, name, options, config, device, find_tokenizer(source, name, options, config)
    )


class TransformerModel:
    """A Model (nih.types) whose weights are loaded by the first `session`."""

    def __init__(
        self,
        source: str,
        name: str,
        options: Options,
        config: Any,
        device: torch.device,
        tokenizer: Tokenizer,
    ) -> None:
        self._source = source
        self._name = name
        self._options = options
        self._config = config
        self._text = config.get_text_config(decoder=True)
        self._device = device
        own = getattr(self._text, "nih_training_length", None)
        self._training_length: int | None = own or original_positions(self._text) or positions(self._text)
        stored = str(getattr(self._text, "dtype", None)).removeprefix("torch.")
        self._dtype = pick_dtype(options.dtype, stored, device, self._local_files)
        self._logits_dtype = str(self._dtype).removeprefix("torch.")
        self._tokenizer = tokenizer
        self._turn = NO_TURN
        self._linear_kernel: Choice | None = None
        self._fused: Mapping[str, int] = {}

    def take_turns(self, turn: Turn) -> None:
        """End answers also at the end of a turn of a chat."""
        self._turn = turn

    @property
    def name(self) -> str:
        """What the user typed after `--model`."""
        return self._name

    @property
    def source(self) -> str:
        """Folder, .gguf file or hub id of the weights."""
        return self._source

    @property
    def commit(self) -> str | None:
        """Commit of the hub's snapshot; None for a folder or file."""
        on_hub = not Path(self._source).expanduser().exists()
        return getattr(self._config, "_commit_hash", None) if on_hub else None

    @property
    def weights(self) -> str | None:
        """Commit, or SHA-256 of the files, which are then read."""
        return self._weights_identity["weights"]

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own, or the one that `--tokenizer` names."""
        return self._tokenizer

    @property
    def limit(self) -> int | None:
        """Positions that the config allows, scaled RoPE included; None for recurrent models and with `beyond_limit`."""
        return None if self._options.beyond_limit else position_limit(self._text)

    @property
    def training_length(self) -> int | None:
        """Our own key in the config, else positions before any RoPE scaling, else all it allows."""
        return self._training_length

    def state_bytes(self, tokens: int) -> int:
        """Return the bytes of the cache after `tokens` tokens, found without weights; growing buffers may hold a quarter more."""
        return sum(layer.at(tokens) for layer in self._shape.layers)

    def identity(self) -> Mapping[str, Any]:
        """Describe what decides the answers, for the manifest. Reads the weight files once, to hash them."""
        own = {
            "model": self._name,
            "class": type(self._loaded).__name__ if "_loaded" in vars(self) else architecture(self._config),
            "model_type": self._config.model_type,
            "device": str(self._device),
            "device_name": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu",
            "dtype": str(self._dtype).removeprefix("torch."),
            "chunk": self._chunk,
            "sharing": self._shape.sharing,
            **({"rope": self._rope.describe()} if self._rope else {}),
            "tokenizer": self._tokenizer.name,
            "tokenizer_fingerprint": self._tokenizer.fingerprint,
            "options": asdict(self._options),
        }
        if "_loaded" in vars(self):
            own["attn_implementation"] = self._loaded.config._attn_implementation
            if own["attn_implementation"] == NAME and self._device.type == "cpu":
                own["attention_kernel"] = causal_attention.serving()._asdict()
            if self._linear_kernel:
                own["linear_kernel"] = self._linear_kernel._asdict()
            if self._fused:
                own["fused_layers"] = dict(self._fused)
            if self._device.type == "cuda":
                own["cudnn_attention"] = False
            if kernels := answering(self._loaded):
                own["kernels"] = dict(kernels)
                own |= {"most_per_call": MOST_PER_CALL} if counts_in_32_bits(kernels) else {}
            if self._dtype != torch.float32:
                own["logits"] = self._logits_dtype
            own["parameters"] = sum(p.numel() for p in self._loaded.parameters())
        return {**self._weights_identity, **own}

    def session(self) -> CachedSession:
        """Load the weights (once) and start at position 0. Raises ModelError.

        One session at a time: some models keep state in their modules.
        """
        if self._rope:
            log.warning("%s %s", self._name, self._rope.warning())
        return self._session(self._loaded, self._chunk)

    def judge(self) -> CachedSession | None:
        """Load a short float32 copy: the first layers, with which verification judges what half precision hides.

        Returns None in float32, and where a model cannot be shortened or does not fit beside the other.
        """
        if self._dtype == torch.float32:
            return None
        try:
            config = shortened(self._config)
            model = load(self._source, self._options, config, torch.float32, self._device, part=True)
            return self._session(model, JUDGED_CHUNK)
        # Whatever a model's own code raises when it has fewer layers than it was made for.
        except Exception as error:
            log.warning("%s cannot be judged in float32 (%s)", self._name, reason(error))
            return None

    def _session(self, model: Any, chunk: int) -> CachedSession:
        ends = self._eos | self._turn.end_ids
        session = CachedSession(model, self._tokenizer, self._device, ends, chunk)
        session.end_texts = self._turn.end_texts
        if model is vars(self).get("_loaded") and self._tie is not None:
            session.tie, session.most_held = self._tie, self._most_held
        return session

    @cached_property
    def _loaded(self) -> Any:
        if self._options.beyond_limit and not extrapolates(self._text):
            raise ModelError(
                f"`{self._source}` has {positions(self._text)} learned positions and none beyond; "
                "leave out --beyond-limit"
            )
        model = load(self._source, self._options, self._config, self._dtype, self._device)
        if self._device.type == "cpu" and is_slow(self._dtype):
            widen_products(model)
        if self._device.type == "cpu" and self._dtype == torch.float32:
            self._linear_kernel = use_own_products(model)
        if self._device.type == "cpu":
            self._fused = fuse_elements(model)
        if self._dtype != torch.float32:
            self._widen_logits(model)
        if (
            self._grows_only
            and model._supports_attention_backend
            and model.config._attn_implementation == "sdpa"
        ):
            session = CachedSession(model, self._tokenizer, self._device, frozenset(), self._chunk)
            layers = self._text.num_hidden_layers
            prefer_causal(model, layers, lambda tokens: session.extend([np.zeros(tokens, np.int32)]))
        return model

    def _widen_logits(self, model: Any) -> None:
        """Let a half-precision model's logits be float32, or say that they are not."""
        session = CachedSession(model, self._tokenizer, self._device, frozenset(), self._chunk)

        def read() -> torch.Tensor:
            session.extend([np.zeros(1, np.int32)])
            logits = session.mark().logits
            assert logits is not None, "a token was read"
            return logits

        why = widen_logits(model, read)
        session.reset()
        if why is None:
            self._logits_dtype = "float32"
        else:
            log.warning(
                "%s compares logits that are rounded to %s, where near-equal ones tie (%s)",
                self._name,
                self._logits_dtype,
                why,
            )

    @cached_property
    def _tie(self) -> float | None:
        """Which near-ties of rows are decoded again alone; None where a probe shows that the model cannot decode rows."""
        if self._loaded.config._attn_implementation != NAME or self._rope:
            return None
        session = CachedSession(self._loaded, self._tokenizer, self._device, frozenset(), self._chunk)
        try:
            tie = session.probe_rows(self._dtype)
            why = "several together say something else than each alone"
        # Whatever a model's own code raises when it is given several rows.
        except Exception as error:
            tie, why = None, reason(error)
        if tie is None:
            log.warning("%s decodes one answer after the other (%s)", self._name, why)
        return tie

    @cached_property
    def _most_held(self) -> int:
        """Bytes of KV caches that may wait to be decoded together: on a GPU a quarter of what is free."""
        if self._device.type == "cuda":
            return int(torch.cuda.mem_get_info(self._device)[0]) // 4
        return MOST_BYTES

    @property
    def _rope(self) -> ChangingRope | None:
        return changing_rope(self._text)

    @property
    def _grows_only(self) -> bool:
        """Whether attention may be computed without masks, as far as the config shows."""
        try:
            return self._options.attn_implementation is None and grows_only(new_cache(self._config))
        except KeyError:
            # A kind of layer that only the model's own cache knows.
            return False

    @cached_property
    def _weights_identity(self) -> Mapping[str, str | None]:
        if self.commit:
            return {"weights": self.commit}
        files = self._local_files()
        return {"weights": fingerprint(files) if files else None}

    def _local_files(self) -> Sequence[Path]:
        path = Path(self._source).expanduser()
        return [path] if path.is_file() else weight_files(path)

    @property
    def _chunk(self) -> int:
        if self._options.chunk is not None:
            return self._options.chunk
        return (_UNMASKED_CHUNK if self._grows_only else _CHUNK).get(self._device.type, _CHUNK["cpu"])

    @cached_property
    def _shape(self) -> StateShape:
        try:
            with _everything_counts_as_nonzero():
                return _state_shape(self._meta_model(), self._tokenizer)
        except ModelError:
            raise
        # Whatever a model's own code raises when its tensors hold no numbers.
        except Exception as error:
            log.warning(
                "the state of %s is estimated from its config, because it does not run without weights (%s)",
                self._name,
                reason(error),
            )
            return _estimated_shape(self._text, self._dtype.itemsize)

    def _meta_model(self) -> Any:
        with torch.device("meta"):
            return (
                auto_class(self._config)
                .from_config(
                    copy.deepcopy(self._config),
                    dtype=self._dtype,
                    trust_remote_code=self._options.trust_remote_code,
                    # The default kernel for experts does not know the meta device.
                    experts_implementation="batched_mm",
                )
                .eval()
            )

    @property
    def _eos(self) -> frozenset[int]:
        configs = (self._loaded.generation_config, self._config, self._text)
        for eos in (getattr(c, "eos_token_id", None) for c in configs):
            if eos is not None:
                return frozenset([eos] if isinstance(eos, int) else eos)
        return frozenset()


class _State(NamedTuple):
    """What a mark of a CachedSession holds."""

    cache: CacheMark | None
    modules: list[dict[str, Any]]
    """State that is kept in the model's modules."""
    factors: Factors | None
    """RoPE's, of what is cached."""
    held: Any
    """The cache itself, where it is a row's own; None where it is the session's."""


class CachedSession(RowSession):
    """A Session over a model of transformers and its cache."""

    tells_ends = True
    sizes = (16,)
    """All batches are computed alike: rows that are not there cost little, because only those that are hold keys and values."""
    most_held = 0
    """Bytes of caches that may wait to be decoded together; 0 where the model decodes one answer after the other."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, device: torch.device, eos: frozenset[int], chunk: int
    ) -> None:
        self._most = MOST_PER_CALL if counts_in_32_bits(answering(model)) else sys.maxsize
        rows = model.get_input_embeddings().weight.shape[0]
        super().__init__(tokenizer, device, rows, eos, min(chunk, self._most))
        self._model = model
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next((n for n in _CACHE_NAMES if n in parameters), "")
        if not self._cache_name:
            raise ModelError(
                f"{type(model).__name__} keeps no state between forward calls, so it cannot read in pieces"
            )
        self._takes_positions = "position_ids" in parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self._takes_cache = bool(type(model)._supports_default_dynamic_cache())
        self._returns_cache = True
        self._stateful = [m for m in model.modules() if _MODULE_STATES & vars(m).keys()]
        self._cache: Any = None
        self._held: Any = None
        """The row whose cache is the present one; None where that is the session's."""
        self._own: Any = None
        """The session's cache while a row's is the present one."""
        self._weight_bytes = sum(p.nbytes for p in model.parameters())
        self._rope = changing_rope(model.config.get_text_config(decoder=True))
        self._factors: Factors | None = None
        """RoPE's, of all that is cached."""
        self._longest_met = sys.maxsize
        """Text of the last forward call, as far as its factors depend on that; unknown before the first."""
        self._read_ids = torch.empty(0, dtype=torch.long)
        """What was read, where it may have to be read again."""
        self._clear()
        self._told = device.type == "meta"
        self._told_pieces = False

    @property
    def model(self) -> Any:
        """The model of transformers, for comparisons with its own `generate`."""
        return self._model

    @property
    def cache(self) -> Any:
        """The cache of transformers; None before the first token."""
        return self._cache

    @property
    def module_states(self) -> list[dict[str, Any]]:
        """What is kept in the model's modules instead of the cache."""
        return [{name: vars(m)[name] for name in _MODULE_STATES & vars(m).keys()} for m in self._stateful]

    @property
    def crops(self) -> bool:
        """Whether all that the model keeps are keys and values of every token."""
        return not self._stateful and self._cache is not None and sharing(self._cache) == "crop"

    def rereads(self, start: int, stop: int) -> bool:
        """Whether RoPE's factors change while a text grows from `start` to `stop` tokens, so that it is read anew on the way."""
        return self._rope is not None and self._rope.factors(start) != self._rope.factors(stop)

    def prefill_whole(self, ids: TokenIds) -> None:
        """Reset, then read `ids` in a single forward call, or where kernels count in 32 bits in as few as they can take.

        What follows is read token by token until the next reset. Raises OutOfMemory, AnswerTimeout, ModelError.
        """
        if len(ids) <= self._most:
            super().prefill_whole(ids)
            return
        self._tell_pieces(len(ids))
        self.reset()
        self._stride = self._most
        self.extend([ids])
        self._stride = 1

    def _tell_pieces(self, tokens: int) -> None:
        if not self._told_pieces:
            log.warning(
                "%s reads a prompt of %d tokens in pieces of at most %d where one forward call is asked for, because its kernels count in "
                "32 bits",
                type(self._model).__name__,
                tokens,
                self._most,
            )
        self._told_pieces = True

    def _lengths(self, tokens: int) -> Sequence[int]:
        if self._rope is not None and self._stride > 1:
            return self._rope.calls(self._position, tokens, self._stride)
        return even_calls(tokens, self._stride)

    def _rated_lengths(self, tokens: int) -> Sequence[int]:
        if self._rope is not None:
            return self._rope.rated_calls(self._position, tokens, self._stride)
        return super()._rated_lengths(tokens)

    def _forward(self, ids: torch.Tensor, keep: int) -> torch.Tensor:
        ids, start = self._under_one_rope(ids)
        if self._cache is None and self._takes_cache:
            self._cache = new_cache(self._model.config)
        return self._call(ids, keep, start)

    def _under_one_rope(self, ids: torch.Tensor) -> tuple[torch.Tensor, int]:
        """Return what to read next, and its first position: `ids`, or all again where the cache has other factors than the text now has."""
        if self._rope is None:
            return ids, self._position
        self._read_ids = torch.cat((self._read_ids.to(ids.device)[: self._position], ids))
        needed = self._rope.factors(len(self._read_ids))
        if needed == self._factors:
            return ids, self._position
        if self._rope.growing_from and needed[1] < self._longest_met:
            # transformers keeps the factors of the longest text that it met, until it meets a short one.
            self._model(input_ids=ids[None, :1], use_cache=False)
        self._factors, self._longest_met = needed, needed[1]
        self._cache = None
        return self._read_ids, 0

    def _forward_whole(self, ids: torch.Tensor) -> torch.Tensor:
        ids, _ = self._under_one_rope(ids)
        if self._returns_cache:
            logits = self._call(ids, 1, 0)
            if self._cache is not None:
                return logits
            # RecurrentGemma fills a cache and does not hand it out: it has to be given an empty one.
            self._returns_cache = False
        return self._forward(ids, 1)

    def _call(self, ids: torch.Tensor, keep: int, start: int) -> torch.Tensor:
        arguments: dict[str, Any] = {"input_ids": ids[None], "use_cache": True}
        if self._cache is not None:
            arguments[self._cache_name] = self._cache
        if self._keeps_logits:
            arguments["logits_to_keep"] = keep
        self._stretch(start + len(ids))
        if self._takes_positions:
            # Not every model counts on from its cache by itself (Bamba begins each call at position 0).
            arguments["position_ids"] = torch.arange(start, start + len(ids), device=ids.device)[None]
        with without_cudnn():
            output = self._model(**arguments)
        self._cache = output.get(self._cache_name, self._cache)
        self._tell_unknown()
        logits: torch.Tensor = output.logits[0, -keep:]
        return logits

    def _stretch(self, tokens: int) -> None:
        """Let MPT, which makes its distances anew in each call, make so many; its weights know no length."""
        config = self._model.config
        if config.model_type == "mpt" and tokens > config.max_seq_len:
            config.max_seq_len = tokens + tokens // 4

    def _tell_unknown(self) -> None:
        if not self._told and self._cache is not None and (unknown := unknown_layers(self._cache)):
            log.warning(
                "%s keeps its state in %s, which can only be copied whole: marks cost memory and time",
                type(self._model).__name__,
                ", ".join(unknown),
            )
        self._told = True

    def _snapshot(self) -> _State:
        return _State(snapshot(self._cache), copied(self.module_states), self._factors, self._held)

    def _snapshot_at(self, tokens: int) -> _State:
        return _State(snapshot_at(self._cache, tokens), [], self._factors, self._held)

    def _restore(self, state: _State) -> None:
        mark, states, factors, row = state
        self._change_cache(row)
        if factors != self._factors and not self.crops:
            # Some layers are the mark's and some are cropped: what they hold was turned by different factors.
            self._factors = None
        self._cache = restore(self._cache, mark)
        for module, values in zip(self._stateful, copied(states), strict=True):
            vars(module).update(values)

    def _change_cache(self, row: Any) -> None:
        """Make a row's own cache the present one, or with None the session's."""
        if self._held is None and row is not None:
            self._own = self._cache
        if row is not None:
            self._cache = row
        elif self._held is not None:
            self._cache, self._own = self._own, None
        self._held = row

    def waits(self, new_tokens: int) -> bool:
        """Return whether decoding `new_tokens` with others saves more than a copy of the cache costs, and there is memory for two.

        A step alone reads all weights; a step of many rows reads them once.
        """
        if not self.crops or not self.most_held:
            return False
        saved = (new_tokens - 1) * (self._weight_bytes + PER_LAYER * len(self._cache.layers))
        bytes_held = self._bytes_at(self.position + new_tokens)
        return 2 * bytes_held <= self.most_held and saved > COPIES * bytes_held

    def hold(self, new_tokens: int) -> Mark:
        """Return a mark with a copy of the cache and room for `new_tokens`. Raises OutOfMemory, and then nothing waits any more."""
        try:
            cache = self._guarded(lambda: held(self._cache, new_tokens))
        except OutOfMemory:
            self.most_held = 0
            raise
        return Mark(self.position, self._logits, _State(snapshot(cache), [], None, cache))

    def fits(self, marks: Sequence[Mark], new_tokens: int) -> bool:
        """Return whether the present state may be held too, beside these marks, for one call of `generate_rows`."""
        held = sum(_buffered(mark.state.held) for mark in marks)
        more = self._bytes_at(self.position + new_tokens)
        return len(marks) < self.sizes[-1] and held + more <= self.most_held

    def _bytes_at(self, tokens: int) -> int:
        return tokens * sum(held_bytes(layer) for layer in self._cache.layers) // max(self.position, 1)

    def _gathered(self, marks: Sequence[Mark], size: int) -> KeyRows:
        return KeyRows([mark.state.held for mark in marks], size)

    def _forward_rows(
        self, ids: torch.Tensor, state: KeyRows, live: Collection[int]
    ) -> tuple[torch.Tensor, KeyRows]:
        arguments = {"input_ids": ids, "use_cache": True, self._cache_name: state.cache}
        if self._takes_positions:
            arguments["position_ids"] = state.positions(ids.device)
        state.begin(live)
        with without_cudnn(), of_rows(state.layers):
            output = self._model(**arguments)
        state.end()
        return output.logits[:, -1], state

    def probe_rows(self, dtype: torch.dtype) -> float | None:
        """Decode rows of two lengths; forgets what was read. Returns None if they say something else than each alone, else `tie`.

        In half precision only equal logits tie where a row's bits do not depend on its place and company: rounding may then
        exchange what lies close, but it always does so alike.
        """
        size, marks = self.sizes[-1], []
        for length in (5, 3):
            self.reset()
            self.extend([np.arange(1, length + 1, dtype=np.int32) % self._vocabulary])
            marks.append(self.hold(1))
        said = self._step_of(marks, [0, 1])
        moved = self._step_of([marks[1]] * (size - 1) + [marks[0]], [1] * (size - 1) + [0])
        tie = tie_of(dtype)
        for token, mark in enumerate(marks):
            self.rewind(mark)
            self.extend([np.array([token], np.int32)])
            alone = self.logits()
            if not np.abs(said[token] - alone).max() <= tie * np.abs(alone).max():
                return None
        self.reset()
        is_alike = np.array_equal(said[0], moved[-1]) and np.array_equal(said[1], moved[0])
        return 0.0 if is_alike and dtype != torch.float32 else tie

    def _step_of(self, marks: Sequence[Mark], tokens: Sequence[int]) -> npt.NDArray[np.float32]:
        """Return the logits (R, V) of rows that have each read one more token."""
        size = self.sizes[-1]
        ids = torch.tensor([*tokens, *[0] * (size - len(tokens))], device=self._device)[:, None]
        rows = range(len(marks))
        logits, _ = self._guarded(lambda: self._forward_rows(ids, self._gathered(marks, size), rows))
        found: npt.NDArray[np.float32] = logits.float().cpu().numpy()
        return found

    def _clear(self) -> None:
        self._cache = self._factors = self._held = self._own = None
        for module in self._stateful:
            vars(module).update(dict.fromkeys(_MODULE_STATES & vars(module).keys()))


def _buffered(cache: Any) -> int:
    """Return the bytes of a held cache, its room included."""
    layers: Sequence[GrowingLayer] = cache.layers
    return sum(layer.buffered for layer in layers)


class StateShape(NamedTuple):
    """What a model's state is made of."""

    sharing: Sharing
    layers: list[Footprint]


def _everything_counts_as_nonzero() -> AbstractContextManager[Any]:
    """Let models that pick what is not zero run without numbers (sparse attention, routed experts); from torch 2.7 on."""
    setting = "meta_nonzero_assume_all_nonzero"
    config: Any = _torch_config
    return config.patch(**{setting: True}) if hasattr(config, setting) else nullcontext()


def _state_shape(model: Any, tokenizer: Tokenizer) -> StateShape:
    """Read one token and two with a model on torch's meta device, which has shapes and no numbers."""
    once, twice = (_read_zeros(model, tokenizer, count) for count in (1, 2))
    found = footprints(once.cache, twice.cache, 1)
    if unknown_layers(once.cache):
        # Such states may grow in steps (compressed blocks), which one token does not show.
        once, twice = (_read_zeros(model, tokenizer, count) for count in (_LONG_PROBE, 2 * _LONG_PROBE))
        found = footprints(once.cache, twice.cache, _LONG_PROBE)
    return StateShape(sharing(once.cache), [*found, Footprint(held_bytes(once.module_states), 0, None)])


def _read_zeros(model: Any, tokenizer: Tokenizer, count: int) -> CachedSession:
    meta = torch.device("meta")
    session = CachedSession(model, tokenizer, meta, frozenset(), count)
    with meta:
        session.extend([np.zeros(count, np.int32)])
    return session


def _estimated_shape(config: Any, item: int) -> StateShape:
    """Estimate as if every layer kept the keys and values of all tokens."""
    attending = getattr(config, "num_attention_heads", None)
    if not attending:
        return StateShape("copy-all", [])
    heads = getattr(config, "num_key_value_heads", None) or attending
    width = getattr(config, "head_dim", None) or config.hidden_size // attending
    layer = Footprint(0, 2 * heads * width * item, None)
    return StateShape(sharing(new_cache(config)), [layer] * config.num_hidden_layers)
