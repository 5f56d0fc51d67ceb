"""RWKV-5 to 7 in float64, token by token, by the papers' formulas; it shares no code with the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Wide = npt.NDArray[np.float64]
Words = dict[str, Any]


class Truth:
    """A model that reads one token after the other."""

    def __init__(
        self, weights: Mapping[str, Any], version: str, epsilon: float = 1e-5, of_heads: float = 64e-5
    ) -> None:
        self._epsilon, self._of_heads = epsilon, of_heads
        self._weights = {name: tensor.double().numpy() for name, tensor in weights.items()}
        self._version = version
        self._layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
        self._blocks = [
            {
                n.removeprefix(f"blocks.{i}."): t
                for n, t in self._weights.items()
                if n.startswith(f"blocks.{i}.")
            }
            for i in range(self._layers)
        ]
        rows = {"5": "time_decay", "6": "time_faaaa", "7": "r_k"}[version[0]]
        self._heads = len(self._blocks[0][f"att.{rows}"])
        width = self._weights["emb.weight"].shape[1]
        head = width // self._heads
        tuned = [block.get("att.time_state") for block in self._blocks]
        zero = np.zeros((self._heads, head, head))
        # S[h] is keys x values here.
        self._S = [zero if state is None else state.transpose(0, 2, 1) for state in tuned]
        self._attended = [np.zeros(width) for _ in range(self._layers)]
        self._fed = [np.zeros(width) for _ in range(self._layers)]
        self._first = np.zeros(width)

    def read(self, ids: npt.NDArray[Any]) -> Wide:
        """Read ids (T,). Returns the logits (T, V)."""
        return np.stack([self._token(int(token)) for token in ids])

    def _token(self, token: int) -> Wide:
        h = self._norm(self._weights["emb.weight"][token], "blocks.0.ln0")
        for i, w in enumerate(self._blocks):
            x, before = self._norm(h, f"blocks.{i}.ln1"), self._attended[i]
            self._attended[i] = x
            mix = {"5": self._attend_5, "6": self._attend_6, "7": self._attend_7}[self._version[0]]
            h = h + mix(i, w, x, before)
            x, before = self._norm(h, f"blocks.{i}.ln2"), self._fed[i]
            self._fed[i] = x
            h = h + self._feed(w, x, before, token)
        return np.asarray(self._weights["head.weight"] @ self._norm(h, "ln_out"))

    def _norm(self, x: Wide, name: str) -> Wide:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return np.asarray(_unit(x, self._epsilon) * weight + bias)

    def _heads_of(self, x: Wide) -> Wide:
        return np.asarray(x.reshape(self._heads, -1))

    def _said(self, w: Words, y: Wide) -> Wide:
        normed = np.stack([_unit(row, self._of_heads) for row in y]).reshape(-1)
        return np.asarray(normed * w["att.ln_x.weight"] + w["att.ln_x.bias"])

    def _attend_5(self, i: int, w: Words, x: Wide, before: Wide) -> Wide:
        def mixed(letter: str) -> Wide:
            share = w[f"att.time_mix_{letter}"].reshape(-1)
            return np.asarray(share * x + (1 - share) * before)

        decay = np.exp(-np.exp(w["att.time_decay"].reshape(self._heads, -1)))
        bonus = w["att.time_faaaa"] if "att.time_faaaa" in w else np.exp(w["att.time_first"])
        y = self._recur(i, w, mixed("r"), mixed("k"), mixed("v"), decay, bonus.reshape(self._heads, -1))
        gate = _silu(w["att.gate.weight"] @ mixed("g")) if "att.gate.weight" in w else 1.0
        return np.asarray(w["att.output.weight"] @ (self._said(w, y) * gate))

    def _attend_6(self, i: int, w: Words, x: Wide, before: Wide) -> Wide:
        inner = np.tanh((x + (before - x) * w["att.time_maa_x"].reshape(-1)) @ w["att.time_maa_w1"]).reshape(
            5, -1
        )
        mixed = {}
        for j, letter in enumerate("wkvrg"):
            share = w[f"att.time_maa_{letter}"].reshape(-1) + inner[j] @ w["att.time_maa_w2"][j]
            mixed[letter] = x + (before - x) * share
        moved = np.tanh(mixed["w"] @ w["att.time_decay_w1"]) @ w["att.time_decay_w2"]
        decay = self._heads_of(np.exp(-np.exp(w["att.time_decay"].reshape(-1) + moved)))
        y = self._recur(i, w, mixed["r"], mixed["k"], mixed["v"], decay, w["att.time_faaaa"])
        gate = _silu(w["att.gate.weight"] @ mixed["g"])
        return np.asarray(w["att.output.weight"] @ (self._said(w, y) * gate))

    def _recur(self, i: int, w: Words, r: Wide, k: Wide, v: Wide, decay: Wide, bonus: Wide) -> Wide:
        r, k, v = (
            self._heads_of(w[f"att.{name}.weight"] @ x)
            for name, x in (("receptance", r), ("key", k), ("value", v))
        )
        fresh = np.einsum("hk,hv->hkv", k, v)
        y = np.einsum("hk,hkv->hv", r, self._S[i] + np.broadcast_to(bonus, k.shape)[..., None] * fresh)
        self._S[i] = self._S[i] * np.broadcast_to(decay, k.shape)[..., None] + fresh
        return np.asarray(y)

    def _attend_7(self, i: int, w: Words, x: Wide, before: Wide) -> Wide:
        def mixed(letter: str) -> Wide:
            return np.asarray(x + (before - x) * w[f"att.x_{letter}"].reshape(-1))

        def low(letter: str, inner: Any = lambda z: z) -> Wide:
            return np.asarray(
                w[f"att.{letter}0"].reshape(-1)
                + inner(mixed(letter) @ w[f"att.{letter}1"]) @ w[f"att.{letter}2"]
            )

        r, k, v = (
            w[f"att.{name}.weight"] @ mixed(letter)
            for name, letter in (("receptance", "r"), ("key", "k"), ("value", "v"))
        )
        decay = np.exp(-np.exp(-0.5) * _sigmoid(low("w", np.tanh)))
        rate = _sigmoid(low("a"))
        if i == 0:
            self._first = v
        else:
            v = v + (self._first - v) * _sigmoid(low("v"))
        along = self._heads_of(k * w["att.k_k"].reshape(-1))
        along = along / np.linalg.norm(along, axis=1, keepdims=True)
        k = k * (1 + (rate - 1) * w["att.k_a"].reshape(-1))
        r, k, v, decay, rate = map(self._heads_of, (r, k, v, decay, rate))
        S = self._S[i]
        removed = np.einsum("hk,hkv->hv", along, S)
        S = (
            S * decay[..., None]
            - np.einsum("hk,hv->hkv", along * rate, removed)
            + np.einsum("hk,hv->hkv", k, v)
        )
        self._S[i] = S
        y = self._said(w, np.einsum("hk,hkv->hv", r, S))
        y = y + ((r * k * w["att.r_k"]).sum(1, keepdims=True) * v).reshape(-1)
        gate = _sigmoid(mixed("g") @ w["att.g1"]) @ w["att.g2"]
        return np.asarray(w["att.output.weight"] @ (y * gate))

    def _feed(self, w: Words, x: Wide, before: Wide, token: int) -> Wide:
        if self._version[0] == "7":
            k = w["ffn.key.weight"] @ (x + (before - x) * w["ffn.x_k"].reshape(-1))
            return np.asarray(w["ffn.value.weight"] @ (np.maximum(k, 0) ** 2 * self._deep(w, x, token)))
        if self._version == "6":
            shares = {letter: w[f"ffn.time_maa_{letter}"].reshape(-1) for letter in "kr"}
        else:
            shares = {letter: 1 - w[f"ffn.time_mix_{letter}"].reshape(-1) for letter in "kr"}
        k, r = (x + (before - x) * shares[letter] for letter in "kr")
        inner = np.maximum(w["ffn.key.weight"] @ k, 0) ** 2
        return np.asarray(_sigmoid(w["ffn.receptance.weight"] @ r) * (w["ffn.value.weight"] @ inner))

    def _deep(self, w: Words, x: Wide, token: int) -> Any:
        if "ffn.s1" not in w:
            return 1.0
        embedded = self._norm(self._weights["emb.weight"][token], "blocks.0.ln0")
        matrix = w["ffn.s_emb.weight"][token] + w["ffn.s_emb_x.weight"] @ embedded
        small = (x @ w["ffn.s1"]) @ matrix.reshape(32, 32)
        return np.asarray(small @ w["ffn.s2"] + w["ffn.s0"].reshape(-1))


def _unit(x: Wide, epsilon: float) -> Wide:
    return np.asarray((x - x.mean()) / np.sqrt(x.var() + epsilon))


def _sigmoid(x: Wide) -> Wide:
    return np.asarray(1 / (1 + np.exp(-x)))


def _silu(x: Wide) -> Wide:
    return np.asarray(x * _sigmoid(x))
