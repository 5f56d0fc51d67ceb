"""Any causal language model of transformers: attention, sliding window, Mamba-2, hybrids; a folder, a hub id, a .gguf file.

The prompt is read in chunks that carry the model's cache; `_cache` marks and rewinds it.
"""

from __future__ import annotations

import copy
import inspect
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import transformers
from torch.fx.experimental import _config as _torch_config
from transformers import modeling_gguf_pytorch_utils
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

from nih.errors import ModelError, reason
from nih.models._cache import (
    CacheMark,
    Footprint,
    Sharing,
    copied,
    footprints,
    held_bytes,
    new_cache,
    restore,
    sharing,
    snapshot,
    snapshot_at,
    unknown_layers,
)
from nih.models._loading import fingerprint, is_reference, pick_device, pick_dtype, reference
from nih.models._session import ForwardSession
from nih.protocols import Tokenizer
from nih.tokenizers.byte import ByteTokenizer
from nih.tokenizers.huggingface import locate, open_tokenizer
from nih.types import TokenIds

log = logging.getLogger(__name__)
_AutoConfig: Any = transformers.AutoConfig
_library_log: Any = transformers.logging
_gguf: Any = modeling_gguf_pytorch_utils

_CACHE_NAMES = ("past_key_values", "cache_params", "state", "mems")
"""What models call the cache, as an argument of `forward` and in its output."""
_MODULE_STATES = frozenset({"recurrent_states", "conv1d_state"})
"""RecurrentGemma keeps its recurrence in attributes of its modules; None means that nothing was read."""
_POSITION_NAMES = ("max_position_embeddings", "max_seq_len", "seq_length", "max_sequence_length")
_WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "*.model", "spiece*", "merges*")
_BYTES = 256
"""Vocabulary of a model that reads bytes and ships no tokeniser files."""
_LONG_PROBE = 256
"""Tokens that show how a state of unknown kind grows."""
_CHUNK = {"cpu": 640, "cuda": 2048}


@dataclass(frozen=True)
class Options:
    """How to load a model; every field can be set by `--set`, the first three also by an option of their own."""

    device: str = "auto"
    """`auto` is cuda where there is one, else cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto` is float32 on a CPU; on a GPU float16 where the config says so, else bfloat16."""
    tokenizer: str | None = None
    """A folder, hub id, .gguf file, or `byte`; None takes the model's own."""
    chunk: int | None = None
    """Most tokens a forward call during prefill; None is 640 on a CPU, 2048 on a GPU."""
    attn_implementation: str | None = None
    """`eager`, `sdpa`, `flash_attention_2` ...; None leaves the choice to transformers."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    beyond_limit: bool = False
    """Ask beyond the positions that the config allows."""


def open_model(source: str, name: str, options: Options) -> TransformerModel:
    """Read config and tokeniser of a folder, hub id or .gguf file; the weights wait for `session`. Raises ModelError."""
    if is_reference(source, "transformer"):
        source = str(reference(source).folder)
    if options.chunk is not None and options.chunk < 1:
        raise ModelError(f"option `chunk={options.chunk}` must be at least 1")
    device = pick_device(options.device)
    config = _config(source, options)
    if not options.beyond_limit:
        _tell_what_the_limit_counts(source, config.get_text_config(decoder=True))
    return TransformerModel(source, name, options, config, device, _tokenizer(source, name, options, config))


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
        self._dtype = pick_dtype(
            options.dtype, str(getattr(self._text, "dtype", None)).removeprefix("torch."), device
        )
        self._tokenizer = tokenizer

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
        own = getattr(self._text, "nih_training_length", None)
        return own or _original_positions(self._text) or _positions(self._text)

    def state_bytes(self, tokens: int) -> int:
        """Cache after `tokens` tokens, in bytes, found without weights; growing buffers may hold a quarter more."""
        return sum(layer.at(tokens) for layer in self._shape.layers)

    def identity(self) -> Mapping[str, Any]:
        """What decides the answers, for the manifest. Reads the weight files once, to hash them."""
        own = {
            "model": self._name,
            "class": type(self._loaded).__name__ if "_loaded" in vars(self) else _architecture(self._config),
            "model_type": self._config.model_type,
            "device": str(self._device),
            "device_name": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu",
            "dtype": str(self._dtype).removeprefix("torch."),
            "chunk": self._chunk,
            "sharing": self._shape.sharing,
            "tokenizer": self._tokenizer.name,
            "tokenizer_fingerprint": self._tokenizer.fingerprint,
            "options": asdict(self._options),
        }
        if "_loaded" in vars(self):
            own["attn_implementation"] = self._loaded.config._attn_implementation
            own["parameters"] = sum(p.numel() for p in self._loaded.parameters())
        return {**self._weights_identity, **own}

    def session(self) -> CachedSession:
        """Load the weights (once) and start at position 0. Raises ModelError.

        One session at a time: some models keep state in their modules.
        """
        return CachedSession(self._loaded, self._tokenizer, self._device, self._eos, self._chunk)

    @cached_property
    def _loaded(self) -> Any:
        if self._options.beyond_limit and not _extrapolates(self._text):
            raise ModelError(
                f"`{self._source}` has {_positions(self._text)} learned positions and none beyond; "
                "leave out --beyond-limit"
            )
        return _load(self._source, self._options, self._config, self._dtype, self._device)

    @cached_property
    def _weights_identity(self) -> Mapping[str, str | None]:
        if self.commit:
            return {"weights": self.commit}
        path = Path(self._source).expanduser()
        files = [path] if path.is_file() else _weight_files(path)
        return {"weights": fingerprint(files) if files else None}

    @property
    def _chunk(self) -> int:
        return self._options.chunk or _CHUNK.get(self._device.type, _CHUNK["cpu"])

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


class CachedSession(ForwardSession):
    """A Session over a model of transformers and its cache."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, device: torch.device, eos: frozenset[int], chunk: int
    ) -> None:
        super().__init__(tokenizer, device, model.get_input_embeddings().weight.shape[0], eos, chunk)
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
        self._clear()
        self._told = device.type == "meta"

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

    def _parts(self, ids: TokenIds) -> Sequence[TokenIds]:
        # Of equal length: a forward call reads all weights, and a short last one would do so for a few tokens.
        return np.array_split(ids, -(-len(ids) // self._stride)) if len(ids) else []

    def _forward(self, ids: torch.Tensor, keep: int) -> torch.Tensor:
        if self._cache is None and self._takes_cache:
            self._cache = new_cache(self._model.config)
        return self._call(ids, keep)

    def _forward_whole(self, ids: torch.Tensor) -> torch.Tensor:
        if self._returns_cache:
            logits = self._call(ids, 1)
            if self._cache is not None:
                return logits
            # RecurrentGemma fills a cache and does not hand it out: it has to be given an empty one.
            self._returns_cache = False
        return self._forward(ids, 1)

    def _call(self, ids: torch.Tensor, keep: int) -> torch.Tensor:
        arguments: dict[str, Any] = {"input_ids": ids[None], "use_cache": True}
        if self._cache is not None:
            arguments[self._cache_name] = self._cache
        if self._keeps_logits:
            arguments["logits_to_keep"] = keep
        if self._takes_positions:
            # Not every model counts on from its cache by itself (Bamba begins each call at position 0).
            arguments["position_ids"] = torch.arange(
                self._position, self._position + len(ids), device=ids.device
            )[None]
        output = self._model(**arguments)
        self._cache = output.get(self._cache_name, self._cache)
        self._tell_unknown()
        logits: torch.Tensor = output.logits[0, -keep:]
        return logits

    def _tell_unknown(self) -> None:
        if not self._told and self._cache is not None and (unknown := unknown_layers(self._cache)):
            log.warning(
                "%s keeps its state in %s, which can only be copied whole: marks cost memory and time",
                type(self._model).__name__,
                ", ".join(unknown),
            )
        self._told = True

    def _snapshot(self) -> tuple[CacheMark | None, list[dict[str, Any]]]:
        return snapshot(self._cache), copied(self.module_states)

    def _snapshot_at(self, tokens: int) -> tuple[CacheMark | None, list[dict[str, Any]]]:
        return snapshot_at(self._cache, tokens), []

    def _restore(self, state: tuple[CacheMark | None, list[dict[str, Any]]]) -> None:
        mark, states = state
        self._cache = restore(self._cache, mark)
        for module, values in zip(self._stateful, copied(states), strict=True):
            vars(module).update(values)

    def _clear(self) -> None:
        self._cache = None
        for module in self._stateful:
            vars(module).update(dict.fromkeys(_MODULE_STATES & vars(module).keys()))


def position_limit(config: Any) -> int | None:
    """Most positions a text config allows; None if it names none (recurrent models, ALiBi without a bound).

    RoPE scaled by YaRN or linearly reaches `factor` times its original positions, where these are given; `dynamic` is
    computed from `max_position_embeddings` as the original (transformers' RopeParameters). Every other kind is already in
    the config's own number, and so is linear scaling without original: some such configs hold the product (DeepSeek
    Coder), others the original and the product as `max_sequence_length` (Vicuna 16k).
    """
    positions = _positions(config)
    rope = _rope(config)
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if positions is None or kind not in ("yarn", "linear", "dynamic") or not factor:
        return positions
    original = _original_positions(config)
    if original is None and kind == "linear":
        return max(_all_positions(config))
    return max(positions, int(factor * (original or positions)))


def _tell_what_the_limit_counts(source: str, config: Any) -> None:
    rope, found = _rope(config), _all_positions(config)
    if rope.get("rope_type") == "linear" and len(set(found)) == 1 and _original_positions(config) is None:
        log.warning(
            "%s scales its positions linearly by %g without saying whether its %d positions count that; "
            "they are taken as the limit: --beyond-limit asks further",
            source,
            rope["factor"],
            found[0],
        )


class StateShape(NamedTuple):
    """What a model's state is made of."""

    sharing: Sharing
    layers: list[Footprint]


def _everything_counts_as_nonzero() -> AbstractContextManager[Any]:
    """Lets models that pick what is not zero run without numbers (sparse attention, routed experts); from torch 2.7 on."""
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
    """As if every layer kept keys and values of all tokens."""
    attending = getattr(config, "num_attention_heads", None)
    if not attending:
        return StateShape("copy-all", [])
    heads = getattr(config, "num_key_value_heads", None) or attending
    width = getattr(config, "head_dim", None) or config.hidden_size // attending
    layer = Footprint(0, 2 * heads * width * item, None)
    return StateShape(sharing(new_cache(config)), [layer] * config.num_hidden_layers)


def _positions(config: Any) -> int | None:
    return next(iter(_all_positions(config)), None)


def _all_positions(config: Any) -> list[int]:
    found = (getattr(config, name, None) for name in _POSITION_NAMES)
    return [n for n in found if isinstance(n, int) and n > 0]


def _rope(config: Any) -> Mapping[str, Any]:
    return getattr(config, "rope_parameters", None) or {}


def _original_positions(config: Any) -> int | None:
    own = _rope(config).get("original_max_position_embeddings") or getattr(
        config, "original_max_position_embeddings", None
    )
    return int(own) if own else None


def _extrapolates(config: Any) -> bool:
    """Whether positions are computed (RoPE, ALiBi, none) rather than looked up in a table that ends."""
    return (
        bool(getattr(config, "rope_parameters", None) or getattr(config, "alibi", False))
        or _positions(config) is None
    )


def _config(source: str, options: Options) -> Any:
    where, extra = locate(source)
    try:
        config = _AutoConfig.from_pretrained(
            where, revision=options.revision, trust_remote_code=options.trust_remote_code, **extra
        )
    # transformers raises nearly every built-in class for files that are missing or broken.
    except Exception as error:
        raise ModelError(
            f"cannot read the config of `{source}` ({reason(error)}); "
            "type a folder that `save_pretrained` wrote, a hub id or a .gguf file"
        ) from error
    _refuse_what_cannot_continue_text(source, config)
    return config


def _refuse_what_cannot_continue_text(source: str, config: Any) -> None:
    kind = config.model_type
    if _architecture(config) is None:
        raise ModelError(
            f"`{source}` has model type `{kind}`, which transformers does not know as a causal language model"
        )
    if config.is_encoder_decoder:
        raise ModelError(
            f"`{source}` is an encoder-decoder (`{kind}`); only models that continue a text can be asked"
        )
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and getattr(config, "is_decoder", None) is False:
        raise ModelError(
            f"`{source}` is an encoder (`{kind}`), which reads in both directions and continues no text"
        )


def auto_class(config: Any) -> Any:
    """The class of transformers that makes a config's model: a causal language model where there is one, else what reads
    images too (GLM-5-Next, Inkling), which is then given text only."""
    images = not _causal(config) and config.model_type in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return transformers.AutoModelForImageTextToText if images else transformers.AutoModelForCausalLM


def _architecture(config: Any) -> str | None:
    """Name of the class of the model that continues a text; None if there is none."""
    return _causal(config) or MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.get(config.model_type)


def _causal(config: Any) -> str | None:
    remote = (getattr(config, "auto_map", None) or {}).get("AutoModelForCausalLM")
    name: str | None = remote or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    return name


def _tokenizer(source: str, name: str, options: Options, config: Any) -> Tokenizer:
    if options.tokenizer is not None:
        return open_tokenizer(options.tokenizer, options.tokenizer, None, options.trust_remote_code)
    folder = Path(source).expanduser()
    bytes_only = config.get_text_config(decoder=True).vocab_size == _BYTES
    if bytes_only and folder.is_dir() and not any(any(folder.glob(pattern)) for pattern in _TOKENIZER_FILES):
        return ByteTokenizer()
    return open_tokenizer(source, name, options.revision, options.trust_remote_code)


def _load(source: str, options: Options, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    where, extra = locate(source)
    if extra:
        print(f"reading {source}, whose weights are converted to {dtype}", file=sys.stderr)
    try:
        with quiet_loading():
            model, report = auto_class(config).from_pretrained(
                where,
                dtype=dtype,
                revision=options.revision,
                trust_remote_code=options.trust_remote_code,
                attn_implementation=options.attn_implementation,
                output_loading_info=True,
                device_map=None if device.type == "cpu" else {"": device},
                **(extra or {"config": config}),
            )
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the weights of `{source}` do not fit into the memory of `{device}` in {dtype}; "
            "type a smaller --dtype or `--device cpu`"
        ) from error
    # As above: nearly every built-in class.
    except Exception as error:
        raise ModelError(f"cannot load the weights of `{source}` ({reason(error)})") from error
    if lacking := sorted(report["missing_keys"]):
        # transformers would go on with random numbers in their place.
        raise ModelError(
            f"the weights of `{source}` lack {len(lacking)} of the model's tensors (`{lacking[0]}` ...); "
            "the files do not belong to this config.json"
        )
    if unused := sorted(report["unexpected_keys"]):
        log.warning(
            "%d tensors in the weights of %s are not the model's (%s ...)", len(unused), source, unused[0]
        )
    return model.eval().requires_grad_(False)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without transformers' progress bars and report: errors and unused tensors are told in our own words."""
    bars, verbosity = _library_log.is_progress_bar_enabled(), _library_log.get_verbosity()
    bar = _gguf.tqdm
    _library_log.disable_progress_bar()
    _library_log.set_verbosity_error()
    _gguf.tqdm = partial(bar, disable=True)  # the one bar that does not ask whether it may be shown
    try:
        yield
    finally:
        _gguf.tqdm = bar
        _library_log.set_verbosity(verbosity)
        if bars:
            _library_log.enable_progress_bar()


def _weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads: safetensors where there are any."""
    for pattern in _WEIGHT_FILES:
        if files := sorted(folder.glob(pattern)):
            return files
    return []
