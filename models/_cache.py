"""Marks on the caches of transformers: attention KV is cropped, only window and recurrent state is copied.

| layer | what a mark holds |
|---|---|
| full attention | its length |
| sliding or chunked window | its tensors by reference: an update replaces them, it never writes into them |
| convolution, linear attention, SSM | a copy: updates write in place |
| both in one layer | its length and a copy |
| any other class | a deep copy |

What a subclass of `DynamicCache` keeps beside its layers (MiniMax's linear attention) is copied deeply; a cache of any
other class (xLSTM's) is copied whole.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from transformers import cache_utils
from transformers.cache_utils import (
    DynamicCache,
    DynamicIndexedLayer,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionAndFullAttentionLayer,
    LinearAttentionAndSlidingWindowAttentionLayer,
    LinearAttentionLayer,
)

Sharing = Literal["crop", "copy-part", "copy-all"]
"""What a mark costs: nothing, the state of some layers, or the whole cache."""

_GROWTH = 4
"""A full buffer grows by a quarter: tokens are then copied four times on average, however long the prompt."""


class GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]  # transformers does not annotate it
    """KV cache of a layer in a buffer with room to grow.

    `keys` and `values` (B, H, T, D) are views of its filled part, so appending a token does not copy those before it
    (DynamicLayer concatenates: prefill in chunks and decoding are then quadratic), and cropping moves nothing.
    """

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append (B, H, t, D); returns all keys and values."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._key_buffer, self._value_buffer = key_states[..., :0, :], value_states[..., :0, :]
        start = self.get_seq_length()
        stop = start + key_states.shape[-2]
        self._key_buffer = _with_room(self._key_buffer, start, stop)
        self._value_buffer = _with_room(self._value_buffer, start, stop)
        self._key_buffer[..., start:stop, :] = key_states
        self._value_buffer[..., start:stop, :] = value_states
        self._show(stop)
        return self.keys, self.values

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last `-tokens_to_remove` tokens (negative, as transformers has it)."""
        if self.is_initialized:
            self._show(self.get_seq_length() - abs(tokens_to_remove))

    def roomy(self, room: int) -> GrowingLayer:
        """Return a copy whose buffers have room for `room` more tokens."""
        copy = GrowingLayer()  # type: ignore[no-untyped-call]  # transformers does not annotate it
        copy.lazy_initialization(self.keys, self.values)
        length = self.get_seq_length()
        copy._key_buffer, copy._value_buffer = (
            _grown(x, length, length + room) for x in (self.keys, self.values)
        )
        copy._show(length)
        return copy

    @property
    def buffered(self) -> int:
        """Bytes of the buffers, their room included."""
        return self._key_buffer.nbytes + self._value_buffer.nbytes

    def put(self, at: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Write the key and value (B, H, 1, D) of a token that `update` has not shown yet, within the buffers' room."""
        self._key_buffer[..., at : at + 1, :] = key
        self._value_buffer[..., at : at + 1, :] = value

    def first(self, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return keys and values (B, H, tokens, D), also of what was `put`."""
        return self._key_buffer[..., :tokens, :], self._value_buffer[..., :tokens, :]

    def _show(self, length: int) -> None:
        self.keys = self._key_buffer[..., :length, :]
        self.values = self._value_buffer[..., :length, :]


def _with_room(buffer: torch.Tensor, filled: int, needed: int) -> torch.Tensor:
    if needed <= buffer.shape[-2]:
        return buffer
    return _grown(buffer, filled, max(needed, filled + filled // _GROWTH))


def _grown(buffer: torch.Tensor, filled: int, room: int) -> torch.Tensor:
    grown = buffer.new_empty((*buffer.shape[:-2], room, buffer.shape[-1]))
    grown[..., :filled, :] = buffer[..., :filled, :]
    return grown


class _LayerMark(NamedTuple):
    length: int
    values: Mapping[str, Any]


class CacheMark(NamedTuple):
    """The state of a cache at one moment."""

    layers: tuple[_LayerMark, ...]
    beside: Mapping[str, Any]
    """What the cache keeps outside its layers."""
    whole: Any
    """A deep copy of the cache, where it cannot be taken apart."""


_CROPPED = (DynamicLayer, GrowingLayer, DynamicIndexedLayer)
_WINDOWED = (DynamicSlidingWindowLayer,)
_COPIED = (LinearAttentionLayer, LinearAttentionAndSlidingWindowAttentionLayer)
_KV = frozenset({"keys", "values"})
_OWN = frozenset(vars(DynamicCache()))
"""Attributes of the plain cache: its layers and how to make them, no state."""
_EMPTY: Any = getattr(cache_utils, "DummyLayer", None)
"""Stands for layers without any state; transformers 5.17 has no such class."""


def new_cache(config: Any) -> DynamicCache:
    """Return an empty cache for a model's config, whose full-attention layers have growing buffers."""
    cache = DynamicCache(config=config)
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
    cache.layers = [GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]  # type: ignore[no-untyped-call]  # transformers does not annotate it
    return cache


def grows_only(cache: DynamicCache) -> bool:
    """Return whether every layer of an empty cache will keep the keys and values of all tokens, and nothing else."""
    kinds = {type(layer) for layer in cache.layers} | {cache.layer_class_to_replicate}
    return kinds - {None} == {GrowingLayer}


def sharing(cache: Any) -> Sharing:
    """Return what a mark on this cache costs."""
    if not isinstance(cache, DynamicCache):
        return "copy-all"
    cropped = all(type(layer) in (*_CROPPED, _EMPTY) for layer in cache.layers)
    return "crop" if cropped and not _beside(cache) else "copy-part"


def _beside(cache: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(cache).items() if name not in _OWN}


def unknown_layers(cache: Any) -> list[str]:
    """Return the names of the classes that can only be copied deeply."""
    if not isinstance(cache, DynamicCache):
        return [type(cache).__name__]
    known = (*_CROPPED, *_WINDOWED, *_COPIED, LinearAttentionAndFullAttentionLayer, _EMPTY)
    return sorted({type(layer).__name__ for layer in cache.layers if type(layer) not in known})


class Footprint(NamedTuple):
    """Memory of one layer's state as a function of the tokens read, in bytes."""

    constant: int
    per_token: int
    window: int | None
    """Most tokens it keeps; None keeps all."""

    def at(self, tokens: int) -> int:
        """Return the bytes after `tokens` tokens."""
        return self.constant + self.per_token * (tokens if self.window is None else min(tokens, self.window))


def footprints(once: Any, twice: Any, tokens: int) -> list[Footprint]:
    """Return the footprints of a cache's layers, from one cache that has read `tokens` tokens and one that has read twice as many.

    A cache that cannot be taken apart counts as one layer, as does what is kept beside the layers.
    """
    if not isinstance(once, DynamicCache):
        return [_footprint(once, twice, tokens)]
    pairs = [*zip(once.layers, twice.layers, strict=True), (_beside(once), _beside(twice))]
    return [_footprint(a, b, tokens) for a, b in pairs]


def _footprint(once: Any, twice: Any, tokens: int) -> Footprint:
    windowed = type(once) in (*_WINDOWED, LinearAttentionAndSlidingWindowAttentionLayer)
    window = once.sliding_window - 1 if windowed else None
    first, second = (min(n, n if window is None else window) for n in (tokens, 2 * tokens))
    per_token = (held_bytes(twice) - held_bytes(once)) // max(second - first, 1)
    return Footprint(held_bytes(once) - per_token * first, per_token, window)


def held_bytes(state: Any) -> int:
    """Return the bytes of all tensors in a cache, layer, list or dict; the room in growing buffers does not count."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(held_bytes(value) for name, value in state.items() if not str(name).startswith("_"))
    if isinstance(state, list | tuple):
        return sum(map(held_bytes, state))
    return held_bytes(vars(state)) if hasattr(state, "__dict__") and not isinstance(state, type) else 0


def snapshot(cache: Any) -> CacheMark | None:
    """Take a mark on the cache that all later work leaves intact."""
    if cache is None:
        return None
    if not isinstance(cache, DynamicCache):
        return CacheMark((), {}, copy.deepcopy(cache))
    return CacheMark(tuple(map(_snapshot_layer, cache.layers)), copy.deepcopy(_beside(cache)), None)


def snapshot_at(cache: DynamicCache, tokens: int) -> CacheMark:
    """Take a mark on a cache as it was after `tokens` tokens; only for caches whose `sharing` is "crop"."""
    return CacheMark(tuple(_LayerMark(min(tokens, _length(layer)), {}) for layer in cache.layers), {}, None)


def _length(layer: Any) -> int:
    return 0 if type(layer) is _EMPTY else int(layer.get_seq_length())


def restore(cache: Any, mark: CacheMark | None) -> Any:
    """Return the cache as it was at the mark: the same object changed in place, or a copy. The mark stays valid."""
    if mark is None:
        return None
    if mark.whole is not None:
        return copy.deepcopy(mark.whole)
    for layer, layer_mark in zip(cache.layers, mark.layers, strict=False):
        _restore_layer(layer, layer_mark)
    # Layers that appeared after the mark (caches that grow a layer at its first update).
    del cache.layers[len(mark.layers) :]
    for name in _beside(cache):
        delattr(cache, name)
    vars(cache).update(copy.deepcopy(dict(mark.beside)))
    return cache


def _snapshot_layer(layer: Any) -> _LayerMark:
    kind = type(layer)
    if kind is _EMPTY:
        return _LayerMark(0, {})
    if kind in _CROPPED:
        return _LayerMark(layer.get_seq_length(), {})
    if kind in _WINDOWED:
        return _LayerMark(0, dict(vars(layer)))
    if kind in _COPIED:
        return _LayerMark(0, copied(vars(layer)))
    if kind is LinearAttentionAndFullAttentionLayer:
        return _LayerMark(
            layer.get_seq_length(), copied({k: v for k, v in vars(layer).items() if k not in _KV})
        )
    return _LayerMark(0, copy.deepcopy(vars(layer)))


def _restore_layer(layer: Any, mark: _LayerMark) -> None:
    kind = type(layer)
    if kind in _CROPPED:
        _crop(layer, mark.length)
    elif kind in _WINDOWED:
        _become(layer, mark.values)
    elif kind in _COPIED:
        _become(layer, copied(mark.values))
    elif kind is LinearAttentionAndFullAttentionLayer:
        DynamicLayer.crop(layer, mark.length - layer.get_seq_length())
        _become(layer, {**copied(mark.values), "keys": layer.keys, "values": layer.values})
    elif kind is not _EMPTY:
        _become(layer, copy.deepcopy(dict(mark.values)))


def _become(layer: Any, values: Mapping[str, Any]) -> None:
    """Give a layer these attributes and no others."""
    vars(layer).clear()
    vars(layer).update(values)


def _crop(layer: Any, length: int) -> None:
    surplus = layer.get_seq_length() - length
    if surplus:
        layer.crop(-surplus)  # the one form that 5.17 and 5.23 share: minus the number of tokens to remove


def copied(state: Any) -> Any:
    """Copy dicts and lists, and clone their tensors."""
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, Mapping):
        return {name: copied(value) for name, value in state.items()}
    return [copied(value) for value in state] if isinstance(state, list) else state
