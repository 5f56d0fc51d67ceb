"""RoPE whose factors depend on how long the text is: a cache made under other factors is that of another text.

| kind | factors change |
|---|---|
| `longrope` | once, behind `original_max_position_embeddings` (Phi-3: generate of transformers then reads everything anew) |
| `dynamic` | with every token behind `max_position_embeddings` |

transformers takes them from the largest position of each forward call. So whatever is cached must have been read in calls whose
largest position had the factors of the text as it now is; `calls` cuts a text accordingly, and `factors` names them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LONG = ("longrope", "su")
"""`su` is what Phi-3's first configs called it."""


Factors = tuple[bool, int]
"""Whether the long ones count, and the length of the text as far as they depend on it: equal names are equal factors."""


@dataclass(frozen=True)
class ChangingRope:
    """Where the factors change. Lengths are in tokens of the whole text, answer included."""

    switch: int | None
    """Longest text with the first factors, where they change once; None without such layers."""
    growing_from: int | None
    """Longest text with the first factors, where every further token changes them; None without such layers."""

    def factors(self, length: int) -> Factors:
        """Name the factors of a text."""
        long = self.switch is not None and length > self.switch
        grown = self.growing_from is not None and length > self.growing_from
        return long, length if grown else 0

    def calls(self, start: int, tokens: int, chunk: int) -> Sequence[int]:
        """Return the tokens of each forward call that reads a text on from `start`, all with the factors of its end."""
        end = start + tokens
        if not any(self.factors(end)):
            return even_calls(tokens, chunk)
        if self.factors(end)[1]:
            return [tokens]
        assert self.switch is not None
        # The first call must reach the long factors; all that follow do.
        first = min(tokens, max(self.switch + 1 - start, 0))
        return [first] * (first > 0) + list(even_calls(tokens - first, chunk))

    def rated_calls(self, start: int, tokens: int, chunk: int) -> Sequence[int]:
        """Return the tokens of each forward call where each place counts with the factors of a text that ends there."""
        calls: list[int] = []
        for at in range(start + 1, start + tokens + 1):
            same = calls and self.factors(at) == self.factors(at - 1)
            if same and calls[-1] < chunk:
                calls[-1] += 1
            else:
                calls.append(1)
        return calls

    def describe(self) -> dict[str, int]:
        """Return what the manifest says."""
        found = {"changes_behind": self.switch, "grows_behind": self.growing_from}
        return {key: value for key, value in found.items() if value is not None}

    def warning(self) -> str:
        """Return what the user should know, behind the model's name."""
        said = []
        if self.switch is not None:
            said.append(
                f"turns its positions otherwise in texts of more than {self.switch:,} tokens, and a text that grows beyond is read anew"
            )
        if self.growing_from is not None:
            said.append(
                f"turns its positions otherwise with every token beyond {self.growing_from:,}: each of these reads the whole text anew, "
                "and nothing is shared there"
            )
        return "; it ".join(said)


def changing_rope(config: Any) -> ChangingRope | None:
    """Return where the factors of a text config change; None where they never do."""
    switch, growing = [], []
    for rope in _ropes(config):
        kind = str(rope.get("rope_type") or rope.get("type") or "")
        if kind in _LONG:
            own = rope.get("original_max_position_embeddings")
            switch.append(own or getattr(config, "original_max_position_embeddings", None))
        elif "dynamic" in kind:
            growing.append(getattr(config, "max_position_embeddings", None))
    first, grows = (min(filter(None, found), default=None) for found in (switch, growing))
    return ChangingRope(first, grows) if first or grows else None


def _ropes(config: Any) -> list[Mapping[str, Any]]:
    """Return the RoPE of all layers: one, or one per type of layer; older configs call it `rope_scaling`."""
    found = []
    for name in ("rope_parameters", "rope_scaling"):
        rope = getattr(config, name, None)
        if isinstance(rope, Mapping):
            found += [rope, *(own for own in rope.values() if isinstance(own, Mapping))]
    return found


def even_calls(tokens: int, chunk: int) -> Sequence[int]:
    """Cut into as few calls as there can be, equal but for one token: a short last one would read all weights for a few tokens."""
    calls = -(-tokens // chunk)
    return [tokens // calls + (i < tokens % calls) for i in range(calls)]
