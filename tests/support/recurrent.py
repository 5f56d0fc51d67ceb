"""Random RWKV-4 and Mamba checkpoints in every format they are released in, and their logits in float64.

The truths follow the papers token by token and share no code with the package: transformers' own classes cast to float32
in their norms and recurrences even where the weights are float64.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers

from nih.kernels import cpu_loader
from nih.models import _recurrent
from nih.models._recurrent import RecurrentModel, RecurrentSession
from nih.types import TokenIds
from tests.support.laws import Logits, Subject
from tests.support.mamba2_truth import mamba2_truth

Wide = npt.NDArray[np.float64]
Values = dict[str, Any]
ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "models" / "reference"
VOCABULARY = 256
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Most that rounding moves the logits of these models, in parts of the largest one."""
SCALE = {"Rwkv": 4, "Mamba": 2, "FalconMamba": 2, "Mamba2": 2}
"""By how much matrices are larger than usual."""

SHAPES: dict[str, tuple[str, Values]] = {
    "rwkv": ("Rwkv", {"hidden_size": 64, "num_hidden_layers": 7, "context_length": 512}),
    "rwkv-narrow": (
        "Rwkv",
        {"hidden_size": 40, "num_hidden_layers": 4, "rescale_every": 2, "layer_norm_epsilon": 1e-4},
    ),
    "rwkv-uneven": (
        "Rwkv",
        {"hidden_size": 40, "attention_hidden_size": 24, "intermediate_size": 100, "num_hidden_layers": 2},
    ),
    "rwkv-tied": (
        "Rwkv",
        {"hidden_size": 96, "num_hidden_layers": 2, "tie_word_embeddings": True, "rescale_every": 0},
    ),
    "mamba": ("Mamba", {"hidden_size": 64, "num_hidden_layers": 3}),
    "mamba-odd": (
        "Mamba",
        {"hidden_size": 40, "num_hidden_layers": 4, "state_size": 5, "conv_kernel": 3, "time_step_rank": 7}
        | {"expand": 3, "use_bias": True, "use_conv_bias": False, "tie_word_embeddings": False},
    ),
    "mamba-gelu": (
        "Mamba",
        {"hidden_size": 48, "num_hidden_layers": 2, "hidden_act": "gelu", "residual_in_fp32": False},
    ),
    "falcon_mamba": (
        "FalconMamba",
        {"hidden_size": 64, "num_hidden_layers": 3, "tie_word_embeddings": False, "state_size": 8},
    ),
    "falcon_mamba-wide": (
        "FalconMamba",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "expand": 16,
            "intermediate_size": 96,
            "mixer_rms_eps": 1e-3,
        }
        | {"layer_norm_epsilon": 1e-3},
    ),
    "mamba2": (
        "Mamba2",
        {"hidden_size": 64, "num_hidden_layers": 3, "num_heads": 2, "head_dim": 64, "state_size": 128}
        | {"n_groups": 1, "tie_word_embeddings": True},
    ),
    "mamba2-odd": (
        "Mamba2",
        {"hidden_size": 48, "num_hidden_layers": 2, "num_heads": 6, "head_dim": 16, "state_size": 20}
        | {"n_groups": 3, "use_bias": True, "use_conv_bias": False, "conv_kernel": 3, "chunk_size": 16}
        | {"residual_in_fp32": False, "layer_norm_epsilon": 1e-4},
    ),
}
"""Name -> class and values of its config: odd sizes, every switch at least once on and once off."""
RWKV = [name for name in SHAPES if name.startswith("rwkv")]
MAMBA = [name for name in SHAPES if "mamba" in name and "mamba2" not in name]
MAMBA2 = [name for name in SHAPES if name.startswith("mamba2")]


def fresh_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """transformers' model: a trained one by the name of its folder, or a random one by that of its shape.

    In a random one no two tensors are alike, and matrices are so large that the state matters.
    """
    if name not in SHAPES:
        auto: Any = transformers.AutoModelForCausalLM
        return auto.from_pretrained(REFERENCE / name.removesuffix("-trained"), dtype=dtype).eval()
    kind, values = SHAPES[name]
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(vocab_size=VOCABULARY, eos_token_id=None, **values)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            _shake(parameter_name, parameter, SCALE[kind])
    return model.to(dtype)


@cache
def library_model(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The one that answers; an RWKV of transformers changes its weights then, so it must not be saved any more."""
    return fresh_model(name, dtype)


def _shake(name: str, parameter: torch.Tensor, scale: float) -> None:
    if "embeddings" in name:
        parameter.normal_(0, 0.3)
    elif "time_mix" in name:
        parameter.uniform_(0, 1)
    elif "time_decay" in name or "A_log" in name or "time_first" in name:
        parameter.add_(0.2 * torch.randn_like(parameter))
    elif parameter.ndim == 1:
        parameter.add_(0.3 * torch.randn_like(parameter))
    elif "conv1d" in name:
        parameter.mul_(2)
    else:
        parameter.mul_(scale)


@cache
def folder(name: str, base: Path, dtype: torch.dtype = torch.float32) -> Path:
    """The model as `save_pretrained` writes it."""
    path = base / f"{name}-{dtype}"
    if name not in SHAPES and dtype == torch.float32:
        return REFERENCE / name.removesuffix("-trained")
    fresh_model(name, dtype).save_pretrained(path)
    return path


def open_folder(name: str, path: Path, **options: Any) -> RecurrentModel:
    """Our model of a folder, by the adapter that its name asks for."""
    from nih.models import mamba, mamba2, rwkv

    adapter: Any = mamba2 if name.startswith("mamba2") else rwkv if name.startswith("rwkv") else mamba
    model: RecurrentModel = adapter.open_model(
        str(path), name, _recurrent.Options(**{"device": "cpu", **options})
    )
    return model


def library_logits(name: str, ids: TokenIds, dtype: torch.dtype = torch.float32) -> Logits:
    """transformers' logits (T, V), in one go and without a cache."""
    return _library_logits(name, ids.tobytes(), dtype)


@cache
def _library_logits(name: str, ids: bytes, dtype: torch.dtype) -> Logits:
    with torch.no_grad():
        logits = library_model(name, dtype)(wide(np.frombuffer(ids, np.int32))[None], use_cache=False).logits[
            0
        ]
    values: Logits = logits.float().numpy()
    return values


def prompt(length: int, seed: int = 0) -> TokenIds:
    """Random ids (T,)."""
    return np.random.default_rng([seed, length]).integers(0, VOCABULARY, length).astype(np.int32)


def marks(session: RecurrentSession, count: int, seed: int = 0) -> list[Any]:
    """Marks behind random texts of several lengths."""
    drawn, found = np.random.default_rng(seed), []
    for _ in range(count):
        session.reset()
        session.extend([drawn.integers(32, 127, int(drawn.integers(3, 90))).astype(np.int32)])
        found.append(session.mark())
    return found


def prompt_of(name: str, seed: int, length: int) -> TokenIds:
    """Ids (T,) such as the model reads: random ones, or for a trained one text that asks for the key it hides."""
    if name in SHAPES:
        return prompt(length, seed)
    key = 10007 + 7919 * seed % 90000
    needle, question = (
        f"The pass key is {key}. Remember it. {key} is the pass key. ",
        "What is the pass key? The pass key is",
    )
    noise = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
    room = max(0, length - len(needle) - len(question))
    text = (noise * (1 + room // len(noise)))[:room]
    at = seed * 37 % (room + 1)
    return np.frombuffer((text[:at] + needle + text[at:] + question).encode()[-length:], np.uint8).astype(
        np.int32
    )


def edited(source: Path, path: Path, **changes: Any) -> Path:
    """A copy of a model's folder with another config."""
    shutil.copytree(source, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    return path


def wide(ids: npt.NDArray[Any]) -> torch.Tensor:
    """Ids as torch has them."""
    return torch.from_numpy(ids.astype(np.int64))


def every_logit(session: RecurrentSession, ids: TokenIds) -> Logits:
    """Our logits (T, V) of all places of one forward call from nothing."""
    with torch.inference_mode():
        logits, _ = session._network(wide(ids)[None], None, len(ids))
    values: Logits = logits[0].numpy()
    return values


@cache
def weights_of(name: str, dtype: torch.dtype = torch.float32) -> dict[str, Wide]:
    """The checkpoint's tensors in float64, by transformers' names."""
    return {key: value.double().numpy() for key, value in fresh_model(name, dtype).state_dict().items()}


def subject(name: str, base: Path, form: str, tile: int | None = None) -> Iterator[Subject]:
    """A model for the laws, over one form of the kernels; `tile` is the size of a forward call's stretches."""
    with kernels(form), pytest.MonkeyPatch.context() as patch:
        if tile is not None:
            patch.setattr(_recurrent, "TILE", tile)
        device = "cuda" if form == "cuda" else "cpu"
        model = open_folder(
            name, folder(name, base), tokenizer="byte", chunk=16, device=device, dtype="float32"
        )
        yield Subject(model.session, lambda ids: library_logits(name, ids), VOCABULARY)


def agrees_with_the_truth(name: str, base: Path, dtype: torch.dtype) -> None:
    """Our error is at most twice that of transformers in the same type: of any logit (plus 1e-5) in float32, and in the
    root mean square, because narrower types make single logits of such wild models a matter of luck.
    """
    session = open_folder(name, folder(name, base, dtype), tokenizer="byte", dtype=str(dtype)[6:]).session()
    ours, theirs, scale = [], [], 0.0
    for seed in range(3):
        ids = prompt_of(name, seed, 80)
        exact = truth(name, ids, dtype)
        ours.append(every_logit(session, ids) - exact)
        theirs.append(library_logits(name, ids, dtype) - exact)
        scale = max(scale, float(np.abs(exact).max()))
    # An oracle of another model would make both errors large, and their ratio fine.
    assert root_mean_square(theirs) < ROUNDING[dtype] * scale
    assert root_mean_square(ours) <= 2 * root_mean_square(theirs)
    if dtype == torch.float32:
        assert np.abs(ours).max() <= 2 * np.abs(theirs).max() + 1e-5
    if dtype == torch.float32 and name not in SHAPES:
        assert np.abs(np.subtract(ours, theirs)).max() <= 2e-4


def root_mean_square(errors: list[Wide]) -> float:
    """Over all logits of all prompts."""
    return float(np.sqrt(np.mean(np.square(errors))))


def generates_the_same(name: str, base: Path, lengths: Iterable[int], rows: int, new: int = 8) -> int:
    """Greedy text equals that of transformers' generate on `rows` random prompts of each length. Returns their number."""
    session = open_folder(name, folder(name, base), tokenizer="byte", chunk=16).session()
    count = 0
    for length in lengths:
        prompts = np.stack([prompt_of(name, length * rows + row, length) for row in range(rows)])
        for row, theirs in zip(prompts, _library_text(name, prompts, new), strict=True):
            session.reset()
            session.extend([row])
            generation = session.generate(new, [])
            assert list(generation.ids) == theirs
            assert generation.text == session._tokenizer.decode(theirs)
            count += 1
    return count


def _library_text(name: str, prompts: TokenIds, new: int) -> list[list[int]]:
    # transformers' RWKV mixes up the rows of a batch as soon as it reads single tokens.
    batches = [prompts] if "mamba" in name else np.split(prompts, len(prompts))
    said = [
        library_model(name).generate(
            wide(ids),
            attention_mask=torch.ones(ids.shape),
            max_new_tokens=new,
            do_sample=False,
            pad_token_id=0,
        )[:, ids.shape[1] :]
        for ids in batches
    ]
    found: list[list[int]] = torch.cat(said).tolist()
    return found


def rows_are_alone(name: str, base: Path) -> None:
    """A batch equals its rows alone: of equal length, ragged, with and without a state, which stays as it was.

    How far it may be off the truth is what parity allows: twice what the row alone or transformers is off, plus 1e-5. (One row of one
    token is another product than four, and such wild models make much of the last bit, in either direction.)
    """
    session = open_folder(name, folder(name, base), tokenizer="byte").session()
    network = session._network
    rng = np.random.default_rng(0)
    ids, more = (wide(rng.integers(0, VOCABULARY, (4, n))) for n in (37, 21))
    lengths = torch.tensor([37, 1, 20, 36])
    with torch.inference_mode():
        for ends in (None, lengths):
            logits, state = network(ids, None, 1, ends)
            before = [[tensor.clone() for tensor in layer] for layer in state]
            later, _ = network(more, state, 5)
            assert later.shape == (4, 5, VOCABULARY)
            for i in range(4):
                stop = 37 if ends is None else int(ends[i])
                alone, own = network(ids[i : i + 1, :stop])
                whole_row = torch.cat((ids[i, :stop], more[i])).numpy().astype(np.int32)
                exact, theirs = truth(name, whole_row), library_logits(name, whole_row)
                for found, single, places in (
                    (logits[i], alone[0], slice(stop - 1, stop)),
                    (later[i], network(more[i : i + 1], own, 5)[0][0], slice(-5, None)),
                ):
                    assert_no_worse(found, (single.numpy(), theirs[places]), exact[places])
                for whole, single in zip(_flat(state), _flat(own), strict=True):
                    torch.testing.assert_close(whole[i : i + 1], single, rtol=1e-4, atol=1e-4)
            assert all(torch.equal(a, b) for a, b in zip(_flat(state), _flat(before), strict=True))


def assert_no_worse(found: torch.Tensor, others: Sequence[Logits], exact: Wide) -> None:
    """One way to logits (T, V) is at most twice as far off the truth as the worst of other ways to them, plus 1e-5."""
    allowed = 2 * max(float(np.abs(other - exact).max()) for other in others) + 1e-5
    assert float(np.abs(found.numpy() - exact).max()) <= allowed


def _flat(state: Any) -> list[torch.Tensor]:
    return [tensor for layer in state for tensor in layer]


def state_is_as_planned(name: str, base: Path) -> None:
    """`state_bytes` is the size of the state, in every type and after any number of tokens."""
    for dtype in (torch.float32, torch.bfloat16):
        model = open_folder(name, folder(name, base), tokenizer="byte", dtype=str(dtype)[6:])
        session = model.session()
        assert (session.state, model.state_bytes(0)) == (None, 0)
        for length in (1, 50):
            session.extend([prompt(length)])
            assert session.state is not None
            held = sum(t.untyped_storage().nbytes() for t in _flat(session.state))
            assert held == model.state_bytes(session.position)


def memory_stays(path: Path) -> None:
    """Peak memory after 96k tokens is that after 16k, but for the ids (4 bytes a token)."""
    code = f"""
import resource, sys
import numpy as np, torch
torch.set_num_threads(1)
from nih.models._recurrent import Options
from nih.registry import resolve_model
adapter = resolve_model({str(path)!r}).module
session = adapter.open_model({str(path)!r}, "x", Options(device="cpu", tokenizer="byte")).session()
ids = np.zeros(16384, np.int32)
peaks = []
for repeats in (1, 1, 6):
    session.reset()
    for _ in range(repeats):
        session.extend([ids])
        session.mark()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print((peaks[2] - peaks[1]) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert float(done.stdout) < 4, f"{done.stdout.strip()} MB more for six times the tokens"


@contextmanager
def kernels(form: str) -> Iterator[None]:
    """Force a form of the kernels."""
    if form == "cpu" and (missing := cpu_loader.missing()):
        pytest.skip(missing)
    if form == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIH_KERNELS", form)
        yield


def truth(name: str, ids: TokenIds, dtype: torch.dtype = torch.float32) -> Wide:
    """Logits (T, V) in float64 of the checkpoint that `library_model(name, dtype)` holds."""
    config = library_model(name).config.to_dict()
    if name.startswith("mamba2"):
        return mamba2_truth(weights_of(name, dtype), config, ids)
    return (rwkv_truth if name.startswith("rwkv") else mamba_truth)(weights_of(name, dtype), config, ids)


def rwkv_truth(weights: Mapping[str, Wide], config: Mapping[str, Any], ids: TokenIds) -> Wide:
    """RWKV-4 by the paper's sums, with transformers' rescaling of the residual stream."""
    layers, every, epsilon = (
        config["num_hidden_layers"],
        config["rescale_every"],
        config["layer_norm_epsilon"],
    )
    width = config["hidden_size"]
    attention = config["attention_hidden_size"]
    shifted = np.zeros((layers, 2, width))
    keys: list[list[Wide]] = [[] for _ in range(layers)]
    values: list[list[Wide]] = [[] for _ in range(layers)]
    logits = []

    def norm(x: Wide, name: str, epsilon: float = epsilon) -> Wide:
        return _centred(x, epsilon) * weights[f"rwkv.{name}.weight"] + weights[f"rwkv.{name}.bias"]

    for token in ids:
        h = norm(weights["rwkv.embeddings.weight"][token], "blocks.0.pre_ln")
        for i in range(layers):
            part = f"rwkv.blocks.{i}"
            scale = 2.0 ** (i // every) if every > 0 else 1.0

            def mixed(x: Wide, before: Wide, name: str) -> Wide:
                m = weights[name][0, 0]
                result: Wide = x * m + before * (1 - m)
                return result

            x, before = norm(h, f"blocks.{i}.ln1"), shifted[i, 0].copy()
            shifted[i, 0] = x
            own = f"{part}.attention"
            k, v, r = (
                weights[f"{own}.{n}.weight"] @ mixed(x, before, f"{own}.time_mix_{n}")
                for n in ("key", "value", "receptance")
            )
            keys[i].append(k)
            values[i].append(v)
            y = _wkv(weights[f"{own}.time_decay"], weights[f"{own}.time_first"], keys[i], values[i])
            assert y.shape == (attention,)
            h = h + weights[f"{own}.output.weight"] @ (_sigmoid(r) * y) / scale
            x, before = norm(h, f"blocks.{i}.ln2"), shifted[i, 1].copy()
            shifted[i, 1] = x
            own = f"{part}.feed_forward"
            k = weights[f"{own}.key.weight"] @ mixed(x, before, f"{own}.time_mix_key")
            r = weights[f"{own}.receptance.weight"] @ mixed(x, before, f"{own}.time_mix_receptance")
            h = h + _sigmoid(r) * (weights[f"{own}.value.weight"] @ np.maximum(k, 0) ** 2) / scale
            if every > 0 and (i + 1) % every == 0:
                h = h / 2
        logits.append(weights["head.weight"] @ norm(h, "ln_out", 1e-5))
    return np.stack(logits)


def _wkv(decay: Wide, first: Wide, keys: list[Wide], values: list[Wide]) -> Wide:
    """The paper's weighted average over all tokens, the last one with its bonus."""
    age = np.arange(len(keys) - 2, -1, -1)[:, None]
    exponents = np.concatenate(
        [np.array(keys[:-1]).reshape(-1, len(first)) - age * np.exp(decay), (keys[-1] + first)[None]]
    )
    share = np.exp(exponents - exponents.max(0))
    result: Wide = (share * np.array(values)).sum(0) / share.sum(0)
    return result


def mamba_truth(
    weights: Mapping[str, Wide], config: Mapping[str, Any], ids: TokenIds, layer_norm: bool = False
) -> Wide:
    """Mamba-1 and FalconMamba, token by token; `layer_norm` instead of RMS as state-spaces' `rms_norm: false`."""
    layers, taps, states = config["num_hidden_layers"], config["conv_kernel"], config["state_size"]
    rank, epsilon = config["time_step_rank"], config["layer_norm_epsilon"]
    inner = config["mixer_rms_eps"] if config["model_type"] == "falcon_mamba" else None
    channels = weights["backbone.layers.0.mixer.D"].shape[0]
    seen = np.zeros((layers, taps, channels))
    state = np.zeros((layers, channels, states))
    act = _gelu if config["hidden_act"] == "gelu" else _silu
    logits = []

    def norm(x: Wide, name: str) -> Wide:
        weight = weights[f"backbone.{name}.weight"]
        if layer_norm:
            return _centred(x, epsilon) * weight + weights[f"backbone.{name}.bias"]
        return _rms(x, epsilon) * weight

    def linear(name: str, x: Wide) -> Wide:
        result: Wide = weights[f"{name}.weight"] @ x + weights.get(f"{name}.bias", np.zeros(()))
        return result

    for token in ids:
        h = weights["backbone.embeddings.weight"][token]
        for i in range(layers):
            own = f"backbone.layers.{i}.mixer"
            x, z = np.split(linear(f"{own}.in_proj", norm(h, f"layers.{i}.norm")), 2)
            seen[i] = np.concatenate([seen[i, 1:], x[None]])
            bias = weights.get(f"{own}.conv1d.bias", np.zeros(()))
            u = act((seen[i] * weights[f"{own}.conv1d.weight"][:, 0].T).sum(0) + bias)
            dt, B, C = np.split(weights[f"{own}.x_proj.weight"] @ u, [rank, rank + states])
            if inner is not None:
                dt, B, C = (_rms(part, inner) for part in (dt, B, C))
            step = np.logaddexp(0, linear(f"{own}.dt_proj", dt))[:, None]
            state[i] = np.exp(-step * np.exp(weights[f"{own}.A_log"])) * state[i] + step * B * u[:, None]
            y = (state[i] @ C + weights[f"{own}.D"] * u) * _silu(z)
            h = h + linear(f"{own}.out_proj", y)
        logits.append(weights["lm_head.weight"] @ norm(h, "norm_f"))
    return np.stack(logits)


def _centred(x: Wide, epsilon: float) -> Wide:
    result: Wide = (x - x.mean()) / np.sqrt(x.var() + epsilon)
    return result


def _rms(x: Wide, epsilon: float) -> Wide:
    result: Wide = x / np.sqrt((x * x).mean() + epsilon)
    return result


def _sigmoid(x: Wide) -> Wide:
    result: Wide = 1 / (1 + np.exp(-x))
    return result


def _silu(x: Wide) -> Wide:
    return x * _sigmoid(x)


def _gelu(x: Wide) -> Wide:
    from scipy.special import erf

    result: Wide = x * (1 + erf(x / np.sqrt(2))) / 2
    return result


def blinkdl_tensors(name: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A checkpoint under the names of BlinkDL's releases."""
    words = {"embeddings": "emb", "pre_ln": "ln0", "attention": "att", "feed_forward": "ffn"}
    letters = {
        "time_mix_key": "time_mix_k",
        "time_mix_value": "time_mix_v",
        "time_mix_receptance": "time_mix_r",
    }
    tensors = {}
    for key, value in weights_of(name, dtype).items():
        parts = [words.get(part, letters.get(part, part)) for part in key.removeprefix("rwkv.").split(".")]
        tensors[".".join(parts)] = torch.from_numpy(value).to(dtype)
    return tensors


def write_blinkdl(path: Path, name: str, dtype: torch.dtype) -> None:
    """A .pth file as BlinkDL releases it: one dict of tensors."""
    torch.save(blinkdl_tensors(name, dtype), path)


def write_state_spaces(path: Path, name: str, **changes: Any) -> dict[str, torch.Tensor]:
    """A checkpoint as state-spaces releases it: config.json and pytorch_model.bin. Returns its tensors."""
    config = library_model(name).config
    path.mkdir()
    written: Values = {
        "d_model": config.hidden_size,
        "n_layer": config.num_hidden_layers,
        "vocab_size": VOCABULARY - 3,
        "ssm_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    (path / "config.json").write_text(json.dumps(written | changes))
    tensors = {
        key.replace("embeddings", "embedding"): tensor
        for key, tensor in library_model(name).state_dict().items()
    }
    torch.save(tensors, path / "pytorch_model.bin")
    return tensors


def neox_tokenizer_file(path: Path) -> None:
    """A byte-level BPE like GPT-NeoX's, `<|endoftext|>` at id 0, in 256 ids."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=250, special_tokens=["<|endoftext|>", "<|padding|>"], show_progress=False
    )
    backend.train_from_iterator(["the grass is green. the sky is blue. 0123456789"], trainer)
    backend.save(str(path))


def world_vocabulary(pieces: list[bytes]) -> str:
    """A vocabulary file as RWKV's World models have it: bytes first, then longer pieces."""
    lines = []
    for token, piece in enumerate([*(bytes([b]) for b in range(256)), *pieces], 1):
        try:
            literal = repr(piece.decode())
        except UnicodeDecodeError:
            literal = repr(piece)
        lines.append(f"{token} {literal} {len(piece)}\n")
    return "".join(lines)
