"""RWKV-4, AFT, Mamba-1 and S4D as they are trained: parameter names, and recurrences that autograd goes through fast on a CPU.

The adapters in nih.models read these models with inference kernels. Training needs gradients, and at these small widths a token-by-token
loop of PyTorch ops costs only overhead, so here the whole sequence goes through a few large matrix products (WKV), or through a scan whose
backward is written by hand (Mamba).
RWKV-4 and Mamba-1 have transformers' names. AFT is RWKV-4 without decay and bonus, S4D is Mamba-1 without selection: so two models tell what one
part buys, and nothing else differs.
Letters: B batch, T time, C channels, L steps of a chunk, N states a channel.
Sources: Peng et al., RWKV: Reinventing RNNs for the Transformer Era (2023); Zhai et al., An Attention Free Transformer (2021); Gu and Dao,
Mamba (2023); Gu et al., On the Parameterization and Initialization of Diagonal State Space Models (2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_CHUNK = 64
_QUERIES = 128
_SCAN_CHUNK_BYTES = 1 << 18
"""States that one pass of the scan touches: small enough to stay in the cache of a core."""


def wkv(time_decay: Tensor, time_first: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """WKV4 of k, v (B, T, C) from an empty state, differentiable; (B, T, C) float32.

    The decay of a channel is constant, so its weights over a chunk, and over the chunks before, are Toeplitz matrices:
    two batched products with the channel as the batch. Exponents are taken against the greatest key of each row and channel, which holds
    as long as keys of one row and channel lie within about 80 of each other.
    """
    batch, steps, channels = k.shape
    pad = -steps % _CHUNK
    w = time_decay.float().exp()
    top = k.detach().amax(1, keepdim=True)
    weight = (k - top).exp()
    pairs = torch.stack((weight * v, weight))
    if pad:
        pairs = F.pad(pairs, (0, 0, 0, pad))
    chunks = (steps + pad) // _CHUNK
    x = pairs.view(2 * batch * chunks, _CHUNK, channels).permute(2, 1, 0).contiguous()
    inside = _decays(w, _CHUNK) + torch.diag_embed(time_first.float().exp()[:, None].expand(-1, _CHUNK))
    y = torch.bmm(inside, x)
    if chunks > 1:
        ages = torch.arange(_CHUNK, device=w.device, dtype=w.dtype)
        ends = torch.bmm((-w[:, None] * (_CHUNK - 1 - ages)).exp()[:, None], x)
        starts = torch.bmm(ends.view(channels, 2 * batch, chunks), _decays(w * _CHUNK, chunks).mT)
        y = torch.baddbmm(y, (-w[:, None] * ages).exp()[..., None], starts.view(channels, 1, -1))
    y = y.permute(2, 1, 0).reshape(2, batch, steps + pad, channels)[:, :, :steps]
    return y[0] / y[1]


def _decays(w: Tensor, size: int) -> Tensor:
    """(C, size, size): row i weighs what lies j < i steps back by e^(-w (i - 1 - j)), and nothing from i on."""
    at = torch.arange(size, device=w.device, dtype=w.dtype)
    gap = at[:, None] - 1 - at
    return torch.where(gap >= 0, (-w[:, None, None] * gap.clamp(min=0)).exp(), 0.0)


def causal_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of q, k, v (B, H, T, D) as transformers calls it: (B, T, H, D). It is causal whatever the mask says, so nothing may be padded on the left.

    A block of queries at a time, against the keys up to its end: at these small widths the scores cost most, and so they stay in the cache.
    """
    steps, out = query.shape[2], []
    later = torch.ones(_QUERIES, _QUERIES, dtype=torch.bool, device=query.device).triu(1)
    for start in range(0, steps, _QUERIES):
        stop = min(start + _QUERIES, steps)
        scores = (query[:, :, start:stop] * scaling) @ key[:, :, :stop].mT
        own = later[: stop - start, : stop - start]
        scores = torch.cat((scores[..., :start], scores[..., start:].masked_fill(own, -torch.inf)), -1)
        out.append(scores.softmax(-1) @ value[:, :, :stop])
    return torch.cat(out, 2).transpose(1, 2).contiguous(), None


class TimeMix(nn.Module):
    """Attention of RWKV-4, or of AFT-simple, where nothing decays. `wkv` can be exchanged for a faster form."""

    wkv: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = staticmethod(wkv)
    time_decay: Tensor
    time_first: Tensor

    def __init__(self, width: int, layer: int, layers: int, decays: bool) -> None:
        super().__init__()
        late, early = layer / max(layers - 1, 1), 1 - layer / layers
        place = torch.arange(width) / width
        if decays:
            speed = torch.arange(width) / (width - 1)
            zigzag = ((torch.arange(width) + 1) % 3 - 1) * 0.5
            self.time_decay = nn.Parameter(-5 + 8 * speed ** (0.7 + 1.3 * late))
            self.time_first = nn.Parameter(math.log(0.3) + zigzag)
        else:
            self.register_buffer("time_decay", torch.full((width,), -math.inf), persistent=False)
            self.register_buffer("time_first", torch.zeros(width), persistent=False)
        self.time_mix_key = nn.Parameter((place**early)[None, None])
        self.time_mix_value = nn.Parameter((place**early + 0.3 * late)[None, None])
        self.time_mix_receptance = nn.Parameter((place ** (0.5 * early))[None, None])
        self.key, self.value, self.receptance, self.output = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        k = self.key(torch.lerp(before, x, self.time_mix_key)).float()
        v = self.value(torch.lerp(before, x, self.time_mix_value)).float()
        r = self.receptance(torch.lerp(before, x, self.time_mix_receptance)).float()
        out: Tensor = self.output(torch.sigmoid(r) * self.wkv(self.time_decay, self.time_first, k, v))
        return out


class ChannelMix(nn.Module):
    """Feed-forward of RWKV-4."""

    def __init__(self, width: int, inner: int, layer: int, layers: int) -> None:
        super().__init__()
        place = (torch.arange(width) / width) ** (1 - layer / layers)
        self.time_mix_key = nn.Parameter(place[None, None])
        self.time_mix_receptance = nn.Parameter(place[None, None].clone())
        self.key = nn.Linear(width, inner, bias=False)
        self.receptance = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        before = F.pad(x, (0, 0, 1, -1))
        k = F.relu(self.key(torch.lerp(before, x, self.time_mix_key))).square()
        r = torch.sigmoid(self.receptance(torch.lerp(before, x, self.time_mix_receptance)))
        out: Tensor = r * self.value(k)
        return out


class RwkvBlock(nn.Module):
    def __init__(self, width: int, inner: int, layer: int, layers: int, eps: float, decays: bool) -> None:
        super().__init__()
        if layer == 0:
            self.pre_ln = nn.LayerNorm(width, eps=eps)
        self.ln1, self.ln2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attention = TimeMix(width, layer, layers, decays)
        self.feed_forward = ChannelMix(width, inner, layer, layers)

    def forward(self, x: Tensor) -> Tensor:
        if hasattr(self, "pre_ln"):
            x = self.pre_ln(x)
        x = x + self.attention(self.ln1(x))
        out: Tensor = x + self.feed_forward(self.ln2(x))
        return out


class RwkvModel(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, layers, eps = config["hidden_size"], config["num_hidden_layers"], config["layer_norm_epsilon"]
        self.embeddings = nn.Embedding(config["vocab_size"], width)
        decays = config["model_type"] != "aft"
        self.blocks = nn.ModuleList(
            RwkvBlock(width, config["intermediate_size"], i, layers, eps, decays) for i in range(layers)
        )
        self.ln_out = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings(ids)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.ln_out(x)
        return out


class Rwkv(nn.Module):
    """RWKV-4 with the state dict of RwkvForCausalLM, or AFT without `time_decay` and `time_first`.

    `forward` gives the last layer's output (B, T, C); `head` makes logits of it.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.rwkv = RwkvModel(config)
        self.head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                rows, columns = parameter.shape
                nn.init.orthogonal_(parameter, gain=math.sqrt(max(rows / columns, 1)))
        nn.init.uniform_(self.rwkv.embeddings.weight, -1e-4, 1e-4)
        for block in self.rwkv.blocks:
            assert isinstance(block, RwkvBlock)
            # As in RWKV-4's own trainer: these begin silent, so that each block begins as the identity.
            nn.init.zeros_(block.attention.key.weight)
            nn.init.zeros_(block.attention.receptance.weight)
            nn.init.zeros_(block.feed_forward.receptance.weight)
            nn.init.zeros_(block.feed_forward.value.weight)
            nn.init.zeros_(block.attention.output.weight)
        nn.init.orthogonal_(self.head.weight, gain=0.5)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.rwkv(ids)
        return out


class SelectiveScan(torch.autograd.Function):
    """h_t = e^(dt_t A) h_(t-1) + dt_t x_t B_t, y_t = C_t h_t, from h = 0, in float32.

    x, dt (T, B, C); A (N, C); B, C (T, B, N). Keeps the state at the beginning of each chunk of time and makes the rest again in the
    backward, so that what is touched at a time stays in the cache.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        steps, batch, channels = x.shape
        size = _scan_chunk(batch, a)
        dtx = dt * x
        h = x.new_zeros(batch, *a.shape)
        starts = x.new_empty(math.ceil(steps / size), *h.shape)
        y = torch.empty_like(x)
        for i, at in enumerate(range(0, steps, size)):
            now = slice(at, at + size)
            starts[i] = h
            _, states = _states(h, dt[now], dtx[now], a, b[now])
            h = states[-1].clone()
            torch.bmm(
                c[now].reshape(-1, 1, a.shape[0]), states.flatten(0, 1), out=y[now].view(-1, 1, channels)
            )
        ctx.save_for_backward(x, dt, a, b, c, starts)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        x, dt, a, b, c, starts = ctx.saved_tensors
        gy = grads[0].contiguous()
        _, batch, channels = x.shape
        states_n = a.shape[0]
        size = _scan_chunk(batch, a)
        dtx = dt * x
        gdtx, gdt = torch.empty_like(x), torch.empty_like(x)
        gb, gc, ga = torch.empty_like(b), torch.empty_like(c), torch.zeros_like(a)
        later = x.new_zeros(batch, *a.shape)
        for i in reversed(range(len(starts))):
            now = slice(i * size, (i + 1) * size)
            decay, states = _states(starts[i], dt[now], dtx[now], a, b[now])
            torch.bmm(
                states.flatten(0, 1), gy[now].reshape(-1, channels, 1), out=gc[now].view(-1, states_n, 1)
            )
            g = c[now].unsqueeze(-1) * gy[now].unsqueeze(-2)
            g[-1] += later
            for t in range(len(g) - 1, 0, -1):
                g[t - 1].addcmul_(decay[t], g[t])
            later = decay[0] * g[0]
            flat = g.flatten(0, 1)
            torch.bmm(flat, dtx[now].reshape(-1, channels, 1), out=gb[now].view(-1, states_n, 1))
            torch.bmm(b[now].reshape(-1, 1, states_n), flat, out=gdtx[now].view(-1, 1, channels))
            decay *= g
            decay[1:] *= states[:-1]
            decay[0] *= starts[i]
            torch.sum(decay * a, 2, out=gdt[now])
            ga += decay.mul_(dt[now].unsqueeze(2)).sum((0, 1))
        gdt.addcmul_(gdtx, x)
        return gdtx * dt, gdt, ga, gb, gc


def _scan_chunk(batch: int, a: Tensor) -> int:
    return max(_SCAN_CHUNK_BYTES // (4 * batch * a.numel()), 1)


def _states(start: Tensor, dt: Tensor, dtx: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Decays and states (T, B, N, C) of one chunk of time."""
    decay = (dt.unsqueeze(2) * a).exp_()
    states = dtx.unsqueeze(2) * b.unsqueeze(3)
    states[0].addcmul_(decay[0], start)
    for t in range(1, len(states)):
        states[t].addcmul_(decay[t], states[t - 1])
    return decay, states


class MambaMixer(nn.Module):
    """Mamba's block without its norm, or that of S4D, whose step, B and C are the same for all tokens. `scan` can be exchanged for a faster form."""

    scan: type[torch.autograd.Function] = SelectiveScan

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        width, inner, states = config["hidden_size"], config["intermediate_size"], config["state_size"]
        self.fixed = config["model_type"] == "s4d"
        self.states, self.taps = states, config["conv_kernel"]
        self.conv1d = nn.Conv1d(inner, inner, self.taps, groups=inner)
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        if not self.fixed:
            self.rank = config["time_step_rank"]
            self.x_proj = nn.Linear(inner, self.rank + 2 * states, bias=False)
            self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)
        low, high = math.log(config["time_step_min"]), math.log(config["time_step_max"])
        dt = torch.exp(low + torch.rand(inner) * (high - low))
        before_softplus = dt + torch.log(-torch.expm1(-dt))
        assert self.conv1d.bias is not None
        nn.init.zeros_(self.conv1d.bias)
        if self.fixed:
            self.dt_bias = nn.Parameter(before_softplus)
            self.B, self.C = nn.Parameter(torch.ones(states)), nn.Parameter(torch.randn(states))
            return
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(before_softplus)

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden and result are (T, B, width): time first, as the scan reads it."""
        x, gate = self.in_proj(hidden).float().chunk(2, -1)
        x = F.silu(self._convolved(x))
        dt, b, c = self._selected(x)
        a = -self.A_log.float().exp().T.contiguous()
        y = self.scan.apply(x.contiguous(), dt.contiguous(), a, b.contiguous(), c.contiguous())  # type: ignore[no-untyped-call]
        out: Tensor = self.out_proj((y + x * self.D) * F.silu(gate))
        return out

    def _selected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return step (T, B, C), input weights and output weights (T, B, N) of the scan's input."""
        if self.fixed:
            step = F.softplus(self.dt_bias).expand_as(x)
            return step, self.B.expand(*x.shape[:2], -1), self.C.expand(*x.shape[:2], -1)
        low, b, c = self.x_proj(x).float().split((self.rank, self.states, self.states), -1)
        dt = F.linear(low.float(), self.dt_proj.weight, None).float() + self.dt_proj.bias
        return F.softplus(dt), b, c

    def _convolved(self, x: Tensor) -> Tensor:
        """The causal depthwise convolution as a sum of shifted products: faster on a CPU than its grouped convolution."""
        padded = F.pad(x, (0, 0, 0, 0, self.taps - 1, 0))
        out: Tensor = padded[: len(x)] * self.conv1d.weight[:, 0, 0]
        for tap in range(1, self.taps):
            out = torch.addcmul(out, padded[tap : tap + len(x)], self.conv1d.weight[:, 0, tap])
        assert self.conv1d.bias is not None
        return out + self.conv1d.bias


class MambaBlock(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config["hidden_size"], eps=config["layer_norm_epsilon"])
        self.mixer = MambaMixer(config)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.mixer(self.norm(x))
        return out


class MambaModel(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(MambaBlock(config) for _ in range(config["num_hidden_layers"]))
        self.norm_f = nn.RMSNorm(config["hidden_size"], eps=config["layer_norm_epsilon"])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embeddings(ids.T)
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.norm_f(x)
        return out.transpose(0, 1)


class Mamba(nn.Module):
    """Mamba-1 with the state dict of MambaForCausalLM, or S4D. `forward` gives the last layer's output (B, T, C); `lm_head` makes logits of it."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.backbone = MambaModel(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        nn.init.normal_(self.backbone.embeddings.weight, std=config["initializer_range"])
        nn.init.normal_(self.lm_head.weight, std=config["hidden_size"] ** -0.5)

    def forward(self, ids: Tensor) -> Tensor:
        out: Tensor = self.backbone(ids)
        return out
