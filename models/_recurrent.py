"""Recurrent models with a forward pass of our own: their options, the Model, and a Session whose marks are small.

Letters: B batch, T tokens of one call, C width of the model, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from nih.coerce import Tokens
from nih.errors import ModelError
from nih.kernels import backend, fla
from nih.models._device import pick_device, pick_dtype
from nih.models._graphs import Capture, Forward, Graphs, capture
from nih.models._half import MIXED_PRODUCTS
from nih.models._loading import Source, find_tokenizer, fingerprint, read_json
from nih.models._rows import RowSession, tie_of
from nih.models._session import JUDGED_CHUNK
from nih.protocols import Tokenizer
from nih.tokenizers.rwkv_world import WorldTokenizer
from nih.types import NO_TURN, Turn

log = logging.getLogger(__name__)

State = tuple[tuple[Tensor, ...], ...]
"""One tuple per layer; every tensor has the batch in front. Nothing writes into it: a call returns a fresh one."""

TILE = 8192
"""Most tokens whose widest activations are in memory at once, also where a call reads more."""
_CHUNK = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Options:
    """How to load a model; every field can be set by `--set`, the first three also by an option of their own."""

    device: str = "auto"
    """`auto` is cuda where there is one, else cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of weights and activations; the recurrent state is float32. `auto` is float32 on a CPU; on a GPU float32 for small
    models that are stored so, else float16 where the weights are, else bfloat16."""
    tokenizer: str | None = None
    """A `20B_tokenizer.json`, a `rwkv_vocab_v20230424.txt`, a folder, a hub id, or `byte`; None takes the model's own."""
    chunk: Tokens | None = None
    """Most tokens per forward call during prefill; None is 1024 on a CPU, 8192 on a GPU."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    trust_remote_code: bool = False
    """Run Python code that comes with the tokenizer."""
    graphs: bool = False
    """Decode answers together by CUDA graphs, one for each number of rows; needs a GPU, and memory for one more batch of states."""


class Shape(Protocol):
    """What a config says of a model before its weights are read."""

    @property
    def model_type(self) -> str:
        """transformers' word for the architecture."""

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding."""

    @property
    def training_length(self) -> int | None:
        """Tokens of a training text, where the files tell."""

    @property
    def eos(self) -> frozenset[int]:
        """Ids that end an answer."""

    def state_bytes(self, dtype: torch.dtype) -> int:
        """Return the bytes of one row's state."""


class Network(Protocol):
    """Loaded weights and the forward pass over them."""

    @property
    def parameters(self) -> int:
        """Numbers in the weights; a tied head counts once."""

    def __call__(
        self, ids: Tensor, state: State | None = None, keep: int = 1, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Read ids (B, T). Returns logits (B, keep, V) of the last `keep` places, float32, and the state after them.

        state: what an earlier call returned, None for nothing read yet; it stays as it is. lengths (B): row i ends after
        lengths[i] tokens, its last places and its state are those of that end.
        """


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: what is known before its weights are read, and how to read them."""

    source: Source
    shape: Shape
    dtype: str | None
    """Name of the type the weights are stored in, where the files tell."""
    files: Callable[[], list[Path]]
    """The weight files; from the hub they are fetched by this call."""
    load: Callable[[torch.device, torch.dtype], Network]

    def local_files(self) -> list[Path]:
        """Return the weight files if no download is needed to know them, else none."""
        return [] if self.source.revision is not None else self.files()


def open_recurrent(checkpoint: Checkpoint, name: str, options: Options) -> RecurrentModel:
    """Choose device, dtype and tokenizer; the weights wait for `session`. Raises ModelError."""
    if options.chunk is not None and options.chunk < 1:
        raise ModelError(f"option `chunk={options.chunk}` must be at least 1")
    device = pick_device(options.device)
    if options.graphs and device.type != "cuda":
        raise ModelError(
            f"option `graphs=true` captures CUDA graphs, and `{name}` runs on `{device}`; leave it out"
        )
    dtype = pick_dtype(options.dtype, checkpoint.dtype, device, checkpoint.local_files)
    tokenizer = find_tokenizer(
        checkpoint.source, options.tokenizer, name, checkpoint.shape.vocabulary, options.trust_remote_code
    )
    return RecurrentModel(checkpoint, name, options, tokenizer, device, dtype)


class RecurrentModel:
    """A Model (nih.types) whose weights are loaded by the first `session`."""

    limit: int | None = None
    """A recurrent state holds any number of tokens."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        name: str,
        options: Options,
        tokenizer: Tokenizer,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._checkpoint = checkpoint
        self._shape = checkpoint.shape
        self._name = name
        self._options = options
        self._tokenizer = tokenizer
        self._device = device
        self._dtype = dtype
        self._turn = NO_TURN

    def take_turns(self, turn: Turn) -> None:
        """End answers also at the end of a turn of a chat; where a blank line would end a turn, there are none within the words."""
        self._turn = turn
        if isinstance(self._tokenizer, WorldTokenizer) and not self._tokenizer.joins_lines:
            self._tokenizer = self._tokenizer.in_chat()
            log.warning(
                "%s: blank lines within haystack, needles and questions become one line break, because one ends a turn of RWKV's chat",
                self._name,
            )

    @property
    def name(self) -> str:
        """What the user typed after `--model`."""
        return self._name

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's own, or the one that `--tokenizer` names."""
        return self._tokenizer

    @property
    def folder(self) -> Path:
        """Where its files lie: transformers' own classes load a Hugging Face folder from there."""
        return self._checkpoint.source.folder

    @property
    def training_length(self) -> int | None:
        """Tokens of a training text, where the files tell."""
        return self._shape.training_length

    def state_bytes(self, tokens: int) -> int:
        """Return the bytes of the state: 0 before the first token, then always the same."""
        return self._shape.state_bytes(self._dtype) if tokens else 0

    def identity(self) -> Mapping[str, Any]:
        """Describe what decides the answers, for the manifest. Reads local weight files once, to hash them."""
        own = {
            "model": self._name,
            "model_type": self._shape.model_type,
            **({"version": self._shape.version} if hasattr(self._shape, "version") else {}),
            "weights": self._weights,
            "device": str(self._device),
            "device_name": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu",
            "dtype": str(self._dtype).removeprefix("torch."),
            "chunk": self._chunk,
            "sharing": "copy-all",
            "kernels": backend.choose(self._device.type)._asdict(),
            "tokenizer": self._tokenizer.name,
            "tokenizer_fingerprint": self._tokenizer.fingerprint,
            **({"blank_lines": "joined"} if getattr(self._tokenizer, "joins_lines", False) else {}),
            "options": asdict(self._options),
        }
        return {**own, "parameters": self._network.parameters} if "_network" in vars(self) else own

    def session(self) -> RecurrentSession:
        """Load the weights (once) and start at position 0. Raises ModelError, KernelError."""
        session = self._session(self._network, self._chunk)
        session.tie = tie_of(self._dtype)
        if self._options.graphs:
            session.capture_rows()
        return session

    def judge(self) -> RecurrentSession | None:
        """Load a float32 copy of the weights, with which verification judges what half precision hides; None in float32."""
        if self._dtype == torch.float32:
            return None
        network = self._checkpoint.load(self._device, torch.float32)
        return self._session(network, JUDGED_CHUNK)

    def _session(self, network: Network, chunk: int) -> RecurrentSession:
        ends = self._shape.eos | self._turn.end_ids
        session = RecurrentSession(
            network, self._tokenizer, self._device, self._shape.vocabulary, ends, chunk
        )
        session.end_texts = self._turn.end_texts
        return session

    def report_kernels(self) -> Mapping[str, str]:
        """Return what verification found of flash-linear-attention, for the manifest; {} where it does not serve."""
        return fla.told()

    @cached_property
    def _network(self) -> Network:
        backend.choose(self._device.type)
        fla.begin()
        try:
            return self._checkpoint.load(self._device, self._dtype)
        except torch.OutOfMemoryError as error:
            raise ModelError(
                f"the weights of `{self._checkpoint.source.name}` do not fit into the memory of `{self._device}` in "
                f"{self._dtype}; type a smaller --dtype or `--device cpu`"
            ) from error

    @cached_property
    def _weights(self) -> str:
        return self._checkpoint.source.revision or fingerprint(self._checkpoint.files())

    @property
    def _chunk(self) -> int:
        return self._options.chunk or _CHUNK.get(self._device.type, 1024)


class RecurrentSession(RowSession):
    """A Session over a Network. A mark is a reference: no call changes a state it was given."""

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        device: torch.device,
        vocabulary: int,
        eos: frozenset[int],
        chunk: int,
    ) -> None:
        super().__init__(tokenizer, device, vocabulary, eos, chunk)
        self._network = network
        self._state: State | None = None
        self._step_rows: Forward = self._eager_step

    def capture_rows(self, capture: Capture = capture) -> None:
        """Decode rows by graphs from now on. `capture`: how a step is captured; see nih.models._graphs."""
        self._step_rows = Graphs(self._eager_step, capture)

    @property
    def state(self) -> State | None:
        """What was read so far, for a batch of one; None before the first token."""
        return self._state

    def _lengths(self, tokens: int) -> Sequence[int]:
        # Cut at multiples of the stride from the beginning of the text, wherever an edge begins: the kernels' blocks then
        # lie as in one go, and a cut between two of them changes no bit.
        first = min(tokens, -self._position % self._stride)
        return [first] * (first > 0) + list(super()._lengths(tokens - first))

    def _forward(self, ids: Tensor, keep: int) -> Tensor:
        logits, self._state = self._network(ids[None], self._state, keep)
        return logits[0]

    def _forward_rows(self, ids: Tensor, state: State, live: Collection[int]) -> tuple[Tensor, State]:
        return self._step_rows(ids, state)

    def _eager_step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        logits, after = self._network(ids, state, 1)
        return logits[:, -1], after

    def _snapshot(self) -> State | None:
        return self._state

    def _restore(self, state: State | None) -> None:
        self._state = state

    def _clear(self) -> None:
        self._state = None


def tiles(tokens: int) -> Iterator[slice]:
    """Yield consecutive stretches of at most TILE tokens."""
    for start in range(0, tokens, TILE):
        yield slice(start, min(start + TILE, tokens))


def tiled(tokens: int, make: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Join along time what `make` returns for each stretch, tensors (B, t, ...); one stretch passes without a copy."""
    if tokens <= TILE:
        return make(slice(0, tokens))
    joined: Sequence[Tensor] = ()
    for tile in tiles(tokens):
        parts = make(tile)
        joined = joined or [p.new_empty(p.shape[0], tokens, *p.shape[2:]) for p in parts]
        for whole, part in zip(joined, parts, strict=True):
            whole[:, tile] = part
    return tuple(joined)


Reading = Callable[[Tensor, State, "Tensor | None"], tuple[Tensor, State]]
"""Reads ids (B, t) with a state: what the last layer says of each (B, t, C), and the state after them."""


def in_tiles(
    ids: Tensor, state: State, keep: int, lengths: Tensor | None, read: Reading
) -> tuple[Tensor, State]:
    """Read ids (B, T) in stretches of at most TILE tokens. Returns the last `keep` places as `last_places` has them, and the state.

    Whatever a layer computes is then in memory for one stretch at a time, however long the call.
    """
    said: list[Tensor] = []
    for tile in tiles(ids.shape[1]):
        part = ids[:, tile]
        hidden, state = read(part, state, ends_in(tile, lengths))
        said.append(hidden)
        while lengths is None and sum(h.shape[1] for h in said[1:]) >= keep:
            del said[0]
    return last_places(torch.cat(said, 1) if len(said) > 1 else said[0], keep, lengths), state


def ends_in(tile: slice, lengths: Tensor | None) -> Tensor | None:
    """Return after how many of a stretch's tokens each row ends; `lengths` count from the first token of the call."""
    return None if lengths is None else (lengths - tile.start).clamp(0, tile.stop - tile.start)


def shifted(x: Tensor, last: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return for tokens x (B, T, C) the token before each, and the one (B, C) before what follows; `last` is the one before x."""
    seen = torch.cat((last[:, None], x), 1)
    if lengths is None:
        # A copy, so that the state does not keep the whole stretch in memory.
        return seen[:, :-1], seen[:, -1].clone()
    return seen[:, :-1], seen.gather(1, lengths[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]


def per_head(x: Tensor, heads: int) -> Tensor:
    """Return (..., heads, channels of a head) of (..., channels), without a copy."""
    return x.view(*x.shape[:-1], heads, x.shape[-1] // heads)


def last_places(hidden: Tensor, keep: int, lengths: Tensor | None) -> Tensor:
    """Return the last `keep` of T places (B, T, C), or of each row's own length, which must be at least `keep`."""
    if lengths is None:
        return hidden[:, -keep:]
    at = lengths[:, None] + torch.arange(-keep, 0, device=hidden.device)
    return hidden.gather(1, at[:, :, None].expand(-1, -1, hidden.shape[2]))


class Head:
    """The output matrix (V, C), whose products are float32: in half precision the best logits would often tie."""

    def __init__(self, weight: Tensor) -> None:
        # cuBLAS adds up in float32 and can hand that out; elsewhere a float32 copy is multiplied.
        self._mixed = weight.device.type == "cuda" and MIXED_PRODUCTS and weight.dtype != torch.float32
        self._weight = weight if self._mixed else weight.float()

    def __call__(self, hidden: Tensor) -> Tensor:
        """Return the logits (B, K, V) of places (B, K, C), float32."""
        if not self._mixed:
            return F.linear(hidden.float(), self._weight)
        rows = hidden.to(self._weight.dtype).flatten(0, -2)
        product = torch.mm(rows, self._weight.t(), out_dtype=torch.float32)
        return product.view(*hidden.shape[:-1], -1)


def end_tokens(source: Source, config: Mapping[str, Any], default: int | None) -> frozenset[int]:
    """Return the ids that end an answer: those of generation_config.json, else of config.json, else the architecture's own."""
    path = source.folder / "generation_config.json"
    asked = read_json(path).get("eos_token_id") if path.is_file() else None
    eos = config.get("eos_token_id", default) if asked is None else asked
    if eos is None:
        return frozenset()
    return frozenset([eos] if isinstance(eos, int) else eos)
