"""RoPE whose factors depend on the text's length, and ALiBi beyond the config's: what a session says is what a model without a cache says."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import transformers as _transformers

from nih.inference.asker import Asker
from nih.inference.events import Comparison
from nih.inference.verify import Verifier
from nih.inference.walk import Walk
from nih.models._hf_config import position_limit
from nih.models._rope import ChangingRope, changing_rope
from nih.models.transformer import CachedSession, open_model
from nih.models.transformer import Options as ModelOptions
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Answer, Cell, Prompt, Sample, TokenIds

transformers: Any = _transformers
SWITCH = 40
VOCABULARY = 256
EQUAL = 2e-5
"""Difference that rounding explains, in parts of the largest logit."""
_SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0] * 4,
    "long_factor": [1.0, 3.0, 9.0, 30.0],
    "factor": 8.0,
    "original_max_position_embeddings": SWITCH,
}
_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
_LONG = {"max_position_embeddings": 8 * SWITCH, "original_max_position_embeddings": SWITCH}
_PLAIN = {"rope_type": "default", "rope_theta": 1e4}
CONFIGS: dict[str, Callable[[], Any]] = {
    "phi3": lambda: transformers.Phi3Config(**_SHAPE, **_LONG, rope_parameters=_LONGROPE),
    "phi3, sliding": lambda: transformers.Phi3Config(
        **_SHAPE, **_LONG, rope_parameters=_LONGROPE, sliding_window=24
    ),
    "llama, longrope": lambda: transformers.LlamaConfig(
        **_SHAPE, max_position_embeddings=8 * SWITCH, rope_parameters=_LONGROPE
    ),
    "llama, dynamic": lambda: transformers.LlamaConfig(
        **_SHAPE, max_position_embeddings=SWITCH, rope_parameters=_DYNAMIC
    ),
    "qwen2, dynamic": lambda: transformers.Qwen2Config(
        **_SHAPE, max_position_embeddings=SWITCH, rope_parameters=_DYNAMIC
    ),
    "gemma3, dynamic": lambda: transformers.Gemma3TextConfig(
        **_SHAPE,
        head_dim=8,
        max_position_embeddings=SWITCH,
        sliding_window=16,
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={"full_attention": _DYNAMIC, "sliding_attention": _PLAIN},
    ),
}


@cache
def fresh(name: str) -> Any:
    """A tiny model that nobody has used; to be copied."""
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(6)
    return made


def session(name: str, chunk: int = 16) -> CachedSession:
    return CachedSession(copy.deepcopy(fresh(name)), ByteTokenizer(), torch.device("cpu"), frozenset(), chunk)


def truth(name: str, ids: TokenIds) -> npt.NDArray[np.float32]:
    """Logits (V,) of a model that has read nothing else, without a cache."""
    with torch.no_grad():
        output = copy.deepcopy(fresh(name))(
            input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False
        )
    logits: npt.NDArray[np.float32] = output.logits[0, -1].numpy()
    return logits


def greedy(name: str, ids: TokenIds, count: int) -> list[int]:
    said: list[int] = []
    for _ in range(count):
        said.append(int(truth(name, np.append(ids, said).astype(np.int32)).argmax()))
    return said


def text(seed: int, tokens: int) -> TokenIds:
    return np.random.default_rng(seed).integers(1, VOCABULARY, tokens).astype(np.int32)


def same(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> None:
    assert np.abs(a - b).max() <= EQUAL * np.abs(b).max()


@pytest.mark.parametrize("name", CONFIGS)
def test_the_factors_matter(name: str) -> None:
    """A cache that keeps what other factors turned gives other logits, so that the laws below have something to see."""
    ids = text(1, SWITCH + 1)
    plain = session(name)
    plain._rope = None
    plain.extend([ids[:SWITCH]])
    plain.extend([ids[SWITCH:]])
    found = truth(name, ids)
    assert np.abs(plain.logits() - found).max() > 20 * EQUAL * np.abs(found).max()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("cuts", [(10, 30, 45, 70), (39, 40, 41, 42), (64,), (1, 2, 90)])
def test_however_a_text_is_cut_it_is_read_as_in_one_go(name: str, cuts: tuple[int, ...]) -> None:
    ids, reading = text(2, cuts[-1]), session(name)
    for start, stop in zip((0, *cuts), cuts, strict=False):
        reading.extend([ids[start:stop]])
        same(reading.logits(), truth(name, ids[:stop]))
    reading.prefill_whole(ids)
    same(reading.logits(), truth(name, ids))


@pytest.mark.parametrize("name", CONFIGS)
def test_marks_on_both_sides_of_the_switch_can_be_rewound_to(name: str) -> None:
    reading, ids = session(name), text(3, 30)
    reading.extend([ids])
    low = reading.mark()
    for seed, ends in enumerate([(60, 66), (36,), (41, 43), (35, 39), (80,), (33,)]):
        reading.rewind(low)
        same(reading.logits(), truth(name, ids))
        own = np.concatenate((ids, text(seed, ends[-1] - 30)))
        at = 30
        for stop in ends:
            reading.extend([own[at:stop]])
            high, at = reading.mark(), stop
            same(reading.logits(), truth(name, own[:stop]))
        for other in (text(70 + seed, 3), text(90 + seed, 9)):
            reading.rewind(high)
            reading.extend([other])
            same(reading.logits(), truth(name, np.concatenate((own, other))))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("before", [SWITCH - 5, SWITCH, SWITCH + 9])
def test_answers_are_those_of_a_model_without_a_cache(name: str, before: int) -> None:
    reading, ids = session(name), text(4, before)
    reading.extend([ids])
    said = greedy(name, ids, 9)
    for _ in range(2):
        assert list(reading.generate(9, ()).ids) == said
        rated = reading.likelihood(np.array(said, np.int32))
        assert rated.greedy and reading.position == before
        one_by_one = [
            torch.log_softmax(torch.from_numpy(truth(name, np.append(ids, said[:i]).astype(np.int32))), -1)
            for i in range(9)
        ]
        expected = [-float(row[token]) for row, token in zip(one_by_one, said, strict=True)]
        assert np.allclose(rated.nll, expected, atol=2e-4)
    same(reading.logits(), truth(name, ids))


def test_the_answers_are_those_of_generate_where_it_reads_anew() -> None:
    ids = text(5, SWITCH - 4)
    model = copy.deepcopy(fresh("phi3"))
    asked = torch.from_numpy(ids.astype(np.int64))[None]
    made = model.generate(asked, max_new_tokens=12, do_sample=False, eos_token_id=None)[
        0, len(ids) :
    ].tolist()
    reading = session("phi3")
    reading.extend([ids])
    assert list(reading.generate(12, ()).ids) == made


def test_a_long_text_shares_its_beginning_with_others() -> None:
    """Behind the switch of LongRoPE, all that a rewound text reads is its own."""
    reading, ids = session("phi3"), text(6, 90)
    read: list[int] = []
    reading._model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    reading.extend([ids])
    mark = reading.mark(20)
    for seed in range(3):
        reading.rewind(mark)
        read.clear()
        reading.extend([text(seed, 60)])
        assert sum(read) == 60


def _sample(prompt: TokenIds) -> Sample:
    return Sample("s", "t", Cell(64, 0), 0, Prompt((prompt,)), 12, (), 0, "n", 0, "n", "q", ("1",))


@pytest.mark.parametrize("name", ["phi3", "llama, dynamic"])
def test_verification_sees_a_cache_that_kept_other_factors(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verdict() -> list[bool]:
        asker = Asker(session(name), ByteTokenizer(), False, None)
        sample = _sample(text(7, SWITCH - 3))
        walk = Walk(asker, Verifier(asker, "float32", {"s": sample}))
        events = list(walk.shared([sample]))
        assert any(isinstance(e, Answer) and e.status == "ok" for e in events)
        return [e.passed for e in events if isinstance(e, Comparison)]

    assert verdict() == [True]
    monkeypatch.setattr(CachedSession, "_under_one_rope", lambda self, ids: (ids, self._position))
    assert verdict() == [False]


def test_a_folder_says_where_its_factors_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, expected in (
        ("phi3", {"changes_behind": SWITCH}),
        ("llama, dynamic", {"grows_behind": SWITCH}),
    ):
        folder = tmp_path / name.partition(",")[0]
        fresh(name).save_pretrained(folder)
        model = open_model(str(folder), str(folder), ModelOptions(tokenizer="byte"))
        assert model.identity()["rope"] == expected
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            model.session()
        assert str(SWITCH) in caplog.text and "anew" in caplog.text


def test_where_the_factors_change() -> None:
    def of(**values: Any) -> ChangingRope | None:
        return changing_rope(type("Config", (), values))

    old = {"type": "su", "short_factor": [1], "long_factor": [2]}
    assert of(rope_scaling=old, original_max_position_embeddings=4096) == ChangingRope(4096, None)
    assert of(rope_scaling={"type": "dynamic", "factor": 2}, max_position_embeddings=2048) == ChangingRope(
        None, 2048
    )
    both = {"full_attention": _LONGROPE, "sliding_attention": _DYNAMIC}
    assert of(rope_parameters=both, max_position_embeddings=99) == ChangingRope(SWITCH, 99)
    for kind in ("default", "linear", "yarn", "llama3"):
        assert of(rope_parameters={"rope_type": kind, "factor": 2.0}, max_position_embeddings=99) is None
    assert of() is None


def falcon(**more: Any) -> Any:
    """A tiny Falcon with ALiBi."""
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.FalconConfig(**sizes, alibi=True, max_position_embeddings=SWITCH, **more)


ALIBI: dict[str, Callable[[], Any]] = {
    "bloom": lambda: transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, seq_length=SWITCH
    ),
    "mpt": lambda: transformers.MptConfig(
        vocab_size=VOCABULARY, d_model=32, n_layers=2, n_heads=4, max_seq_len=SWITCH
    ),
    "falcon": lambda: falcon(),
    "falcon, heads apart": lambda: falcon(multi_query=False),
}


@pytest.mark.parametrize("name", ALIBI)
def test_alibi_goes_on_beyond_the_length_of_training(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(ALIBI[name](), dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    made.save_pretrained(tmp_path)
    model = open_model(str(tmp_path), "m", ModelOptions(tokenizer="byte", chunk=16))
    assert model.limit is None and model.training_length == SWITCH
    reading, ids = model.session(), text(8, 5 * SWITCH)
    reading.extend([ids[:20]])
    mark = reading.mark()
    reading.extend([ids[20:]])
    pieces = reading.logits()
    reading.rewind(mark)
    reading.extend([ids[20:30]])
    short = reading.logits()
    reading.prefill_whole(ids)
    whole = reading.logits()
    same(pieces, whole)
    assert model.training_length == SWITCH
    # A model whose config allows more says the same, and what came first counts.
    wide = ALIBI[name]()
    for key in ("seq_length", "max_seq_len", "max_position_embeddings"):
        if hasattr(wide, key):
            setattr(wide, key, 16 * SWITCH)
    other = transformers.AutoModelForCausalLM.from_config(wide, dtype=torch.float32).eval()
    other.load_state_dict(made.state_dict())
    with torch.no_grad():
        same(
            whole,
            other(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
            .logits[0, -1]
            .numpy(),
        )
        first = (
            other(input_ids=torch.from_numpy(ids[:30].astype(np.int64))[None], use_cache=False)
            .logits[0, -1]
            .numpy()
        )
    same(short, first)
    changed = ids.copy()
    changed[-SWITCH - 5] += 1 if changed[-SWITCH - 5] < VOCABULARY - 1 else -1
    reading.prefill_whole(changed)
    assert np.abs(reading.logits() - whole).max() > 1e-6


def test_learned_positions_keep_their_limit() -> None:
    assert position_limit(transformers.GPT2Config(n_positions=64)) == 64
    assert position_limit(transformers.FalconConfig(max_position_embeddings=64)) == 64
