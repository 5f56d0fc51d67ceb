"""Rows of KV caches decoded together say what each says alone, in any company, within their memory, and verification watches."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nih import evaluate
from nih.errors import OutOfMemory
from nih.inference.asker import Asker
from nih.inference.verify import FACTOR, teacher_forced
from nih.models import _kv_rows, transformer
from nih.models._cache import GrowingLayer
from nih.models._rows import tie_of
from nih.models.transformer import CachedSession, Options
from nih.store.run import read
from tests.support import tiny

FAMILIES = ["llama", "qwen3", "gpt_neox", "gpt2"]
"""Grouped queries, normed queries, parallel layers, learned positions."""
GRID: dict[str, Any] = {
    "lengths": "320,512",
    "depths": "0,50,100",
    "trials": 4,
    "max_new_tokens": 12,
    "device": "cpu",
}
REFERENCE = "transformer"


def opened(name: str, folder: Path, dtype: Any = "float32") -> CachedSession:
    """A session as a run has it: on the model in the box, or a random one of a family."""
    if name == REFERENCE:
        return transformer.open_model(name, name, Options(device="cpu", dtype=dtype)).session()
    tiny.model(name).save_pretrained(folder)
    options = Options(device="cpu", dtype=dtype, tokenizer="byte", chunk=tiny.CHUNK)
    return transformer.open_model(str(folder), name, options).session()


def texts(count: int, seed: int = 0) -> list[Any]:
    """Random texts, several of them of one length."""
    drawn = np.random.default_rng(seed)
    lengths = [3, 17, 17, 17, 64, 40, 5, 17, 90, 64, 33, 8, 17, 2, 64, 51][:count]
    return [drawn.integers(1, 99, length).astype(np.int32) for length in lengths]


def held(session: CachedSession, read: list[Any], room: int = 12) -> list[Any]:
    """Marks behind texts."""
    found = []
    for ids in read:
        session.reset()
        session.extend([ids])
        found.append(session.hold(room))
    return found


def logits_of_rows(session: CachedSession, marks: list[Any], steps: int) -> list[list[Any]]:
    """What each row sees before each of its tokens but the first."""
    seen: list[list[Any]] = [[] for _ in marks]
    forward = session._forward_rows

    def watched(ids: Any, state: Any, live: Any) -> Any:
        logits, after = forward(ids, state, live)
        for row, kept in enumerate(seen):
            kept.append(logits[row].clone())
        return logits, after

    session._forward_rows = watched  # type: ignore[method-assign]  # for this call
    session._guarded(lambda: session._decode(marks, [steps] * len(marks), [lambda *_: False] * len(marks)))
    session._forward_rows = forward  # type: ignore[method-assign]  # as it was
    return seen


@pytest.mark.parametrize("name", [*FAMILIES, REFERENCE])
def test_rows_say_what_each_says_alone(name: str, tmp_path: Path) -> None:
    session = opened(name, tmp_path)
    marks = held(session, texts(16))
    rooms = [1 + i % 12 for i in range(16)]
    stops: list[tuple[str, ...]] = [(), (" ",), ("a", "\n"), ()] * 4
    together = session.generate_rows(marks, rooms, stops)
    for mark, room, stop, made in zip(marks, rooms, stops, together, strict=True):
        session.rewind(mark)
        assert session.generate(room, stop) == made


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*FAMILIES, REFERENCE])
def test_no_bit_of_a_row_depends_on_its_company(name: str, dtype: str, tmp_path: Path) -> None:
    """Alone, in any place, and with any neighbours: every logit at every token."""
    session = opened(name, tmp_path, dtype)
    marks = held(session, texts(16))
    alone = [logits_of_rows(session, [mark], 6)[0] for mark in marks]
    for seed, count in ((0, 16), (1, 16), (2, 9)):
        order = np.random.default_rng(seed).permutation(16)[:count]
        for index, seen in zip(order, logits_of_rows(session, [marks[i] for i in order], 6), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(alone[index], seen, strict=True))


@pytest.mark.parametrize("name", ["llama", REFERENCE])
def test_in_half_precision_every_token_of_a_row_is_the_best_within_rounding(
    name: str, tmp_path: Path
) -> None:
    """Held against the prompt read in one call and the answer read token by token, as verification does."""
    session = opened(name, tmp_path, "bfloat16")
    read = texts(16)
    for ids, made in zip(read, session.generate_rows(held(session, read), [12] * 16, [()] * 16), strict=True):
        session.prefill_whole(ids)
        scale = np.abs(session.logits()).max()
        behind = teacher_forced(session, np.array(made.ids, np.int32), best=True)
        assert max(behind, default=0.0) <= FACTOR["bfloat16"] * 2.0**-7 * scale


def test_half_precision_ties_only_where_logits_are_equal(tmp_path: Path) -> None:
    assert opened(REFERENCE, tmp_path).tie == tie_of(torch.float32)
    assert opened(REFERENCE, tmp_path, "bfloat16").tie == 0.0


def test_near_ties_are_decoded_alone_and_told(tmp_path: Path) -> None:
    session = opened("llama", tmp_path)
    marks = held(session, texts(6))
    made = session.generate_rows(marks, [6] * 6, [()] * 6)
    assert session.together == (1, 6, 6, 0)
    session.tie = float("inf")
    assert session.generate_rows(marks, [6] * 6, [()] * 6) == made
    assert session.together == (2, 12, 6, 6)


@pytest.mark.parametrize("name", FAMILIES)
def test_held_rows_and_the_session_leave_each_other_as_they_were(name: str, tmp_path: Path) -> None:
    """Rows outlive a rewind and a reset, and what the session has read outlives rows."""
    session = opened(name, tmp_path)
    first, second, other = texts(5)[2:]
    session.extend([first])
    fork = session.mark()
    session.extend([second])
    row, here = session.hold(9), session.logits()
    said = session.generate(9, ())
    session.rewind(fork)
    session.extend([other])
    now, position = session.logits(), session.position
    assert session.generate_rows([row, row], [9, 4], [(), ()])[0] == said
    assert session.position == position and np.array_equal(session.logits(), now)
    session.rewind(row)
    assert session.generate(9, ()) == said and np.array_equal(session.logits(), here)
    session.rewind(fork)
    session.extend([other])
    assert np.array_equal(session.logits(), now)
    session.reset()
    session.rewind(row)
    assert session.generate(9, ()) == said


def test_what_comes_after_a_row_was_rewound_to_is_rewound_too(tmp_path: Path) -> None:
    session = opened("llama", tmp_path)
    first, second = texts(5)[3:]
    session.extend([first])
    row = session.hold(5)
    session.rewind(row)
    inner = session.mark()
    session.extend([second])
    outer, expected = session.mark(), session.logits()
    session.rewind(inner)
    assert session.generate(5, ()) == session.generate_rows([row], [5], [()])[0]
    session.extend([second])
    assert np.array_equal(session.logits(), expected) and session.position == outer.position


def test_a_row_may_think_until_it_is_over(tmp_path: Path) -> None:
    session = opened("llama", tmp_path)
    marks = held(session, texts(3), room=20)
    overs = [lambda ids, ended, most=most: len(ids) >= most for most in (1, 7, 20)]
    made = session.generate_rows(marks, [20] * 3, overs)
    assert [len(m.ids) for m in made] == [1, 7, 20]
    for mark, over, said in zip(marks, overs, made, strict=True):
        session.rewind(mark)
        assert session.generate_until(20, over) == said


@pytest.mark.parametrize("name", ["mistral", "gemma3_text", "deepseek_v3", "mamba2"])
def test_other_caches_do_not_wait(name: str, tmp_path: Path) -> None:
    session = opened(name, tmp_path)
    session.extend([texts(2)[1]])
    assert not session.waits(30)


def test_only_what_gains_by_waiting_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first token needs no step, and a copy of a long prompt costs more than a few steps."""
    session = opened("llama", tmp_path)
    session.extend([texts(5)[4]])
    assert session.waits(12) and not session.waits(1)
    session._weight_bytes = _kv_rows.COPIES * session._bytes_at(session.position + 2)
    monkeypatch.setattr(transformer, "PER_LAYER", 0)
    assert session.waits(3) and not session.waits(2)


@pytest.mark.parametrize("count", [2, 5, 16])
def test_held_rows_stay_within_their_memory(count: int, tmp_path: Path) -> None:
    """As the walk asks: as many as fit and no more, whatever their lengths."""
    session = opened("llama", tmp_path)
    session.extend([texts(9)[8]])
    session.most_held = count * session._bytes_at(session.position + 12)
    marks: list[Any] = []
    for ids in texts(16) * 3:
        session.reset()
        session.extend([ids])
        assert session.waits(12)
        if marks and not session.fits(marks, 12):
            assert len(marks) >= min(count, session.sizes[-1]) or len(ids) > 64
            marks = []
        marks.append(session.hold(12))
        buffers = [(layer._key_buffer, layer._value_buffer) for m in marks for layer in m.state.held.layers]
        assert sum(x.nbytes for pair in buffers for x in pair) <= session.most_held
        assert len(marks) <= session.sizes[-1]
    session.most_held = 2 * session._bytes_at(session.position + 12) - 1
    assert not session.waits(12)


def run(path: Path, **options: Any) -> Any:
    return read(evaluate(out=path, quiet=True, **({"model": REFERENCE} | GRID | options)).path)


def answers(folder: Any) -> dict[str, Any]:
    return {row.id: row.answer for row in folder.rows}


BATCHES: list[set[str]] = []
"""Samples of the run `known` that were asked together."""


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of rows."""
    ask_together = Asker.ask_together

    def told(self: Asker, rows: Any, samples: Any, marks: Any) -> Any:
        BATCHES.append({s.id for s in samples})
        return ask_together(self, rows, samples, marks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Asker, "ask_together", told)
        return run(tmp_path_factory.mktemp("known") / "run")


def test_a_verified_sample_comes_from_a_full_batch(known: Any) -> None:
    verified = {c["id"] for c in known.manifest.values["verification"]["samples"]}
    assert [len(batch) for batch in BATCHES] == [16, len(known.rows) - 16]
    assert BATCHES[0] & verified


def test_a_run_of_rows_answers_as_a_run_without(
    known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sample ids, planned tokens, answers and verification are those of a walk that answers one by one."""
    monkeypatch.setattr("nih.inference.asker.Asker.rows", None)
    alone = run(tmp_path / "alone")
    assert answers(known) == answers(alone)
    for key in ("planned_tokens", "naive_tokens", "settings_hash", "prefill"):
        assert known.manifest.values[key] == alone.manifest.values[key]
    assert known.manifest.values["verification"]["state"] == "passed"
    (told,) = known.manifest.values["rows"]
    assert told["answers"] == len(known.rows) and told["most"] == 16 and "rows" not in alone.manifest.values


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_resumed_run_has_the_same_answers(dtype: str, tmp_path: Path) -> None:
    """Other samples then share a batch."""
    whole = run(tmp_path / "run", dtype=dtype)
    assert whole.manifest.values["verification"]["state"] == "passed"
    for kept in (1, 7, 17):
        cut = tmp_path / f"cut{kept}"
        shutil.copytree(tmp_path / "run", cut)
        journal = cut / "samples.jsonl"
        journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:kept]))
        assert answers(run(cut, dtype=dtype)) == answers(whole)


def forget_the_newest(layer: Any, query: Any, scaling: Any) -> Any:
    """A row cache that loses what was said last."""
    out = torch.zeros_like(query)
    for row, length in layer._rows.lengths:
        keys, values = layer._layers[row].first(length)
        out[row] = _kv_rows.from_one_token(query[row : row + 1], keys, values, scaling)[0]
    return out


def swap_the_rows(layer: Any, query: Any, scaling: Any) -> Any:
    """A row cache that hands each row the keys and values of the next."""
    out = torch.zeros_like(query)
    lengths = layer._rows.lengths
    for (row, _), (other, length) in zip(lengths, [*lengths[1:], lengths[0]], strict=True):
        keys, values = layer._layers[other].first(length + 1)
        out[row] = _kv_rows.from_one_token(query[row : row + 1], keys, values, scaling)[0]
    return out


@pytest.mark.parametrize(
    ("wrong", "dtype"),
    [(forget_the_newest, "float32"), (swap_the_rows, "float32"), (swap_the_rows, "bfloat16")],
)
def test_verification_catches_wrong_rows(
    wrong: Any, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the probe at loading lets them pass; everything is then answered anew, as it should be.

    The model is random, because what a trained one has just said may not matter to it. What one lost token changes in its logits is
    less than bfloat16 rounds; there the probe sees it.
    """
    config = copy.deepcopy(tiny.config("llama"))
    config.vocab_size = 260
    tiny.random_model(config, 0).save_pretrained(tmp_path / "model")
    options = {"model": str(tmp_path / "model"), "tokenizer": "byte", "lengths": "320", "trials": 2}
    right = run(tmp_path / "right", dtype=dtype, **options)
    assert right.manifest.values["verification"]["state"] == "passed" and right.manifest.values["rows"]
    monkeypatch.setattr(CachedSession, "probe_rows", lambda self, dtype: 0.0)
    monkeypatch.setattr(_kv_rows._Layer, "attend", wrong)
    found = run(tmp_path / "run", dtype=dtype, **options)
    assert found.manifest.values["verification"]["state"] == "failed"
    assert found.manifest.values["prefill"] == "whole"


@pytest.mark.parametrize("wrong", [forget_the_newest, swap_the_rows])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_probe_catches_wrong_rows(
    wrong: Any, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_kv_rows._Layer, "attend", wrong)
    session = opened("llama", tmp_path, dtype)
    session.extend([texts(3)[2]])
    assert not session.waits(30) and "decodes one answer after the other" in caplog.text


def test_where_rows_find_no_memory_samples_are_answered_alone(
    known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_many(self: CachedSession, *_: Any) -> Any:
        self.reset()
        raise OutOfMemory("no room for so many rows")

    monkeypatch.setattr(CachedSession, "generate_rows", too_many)
    assert answers(run(tmp_path / "run")) == answers(known)


def test_where_a_row_finds_no_memory_nothing_waits_any_more(
    known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roomy, calls = GrowingLayer.roomy, [0]

    def scarce(self: GrowingLayer, room: int) -> GrowingLayer:
        calls[0] += 1
        if room > 1 and calls[0] > 40:
            raise MemoryError("no room for a row")
        return roomy(self, room)

    monkeypatch.setattr(GrowingLayer, "roomy", scarce)
    found = run(tmp_path / "run")
    assert answers(found) == answers(known)
    (told,) = found.manifest.values["rows"]
    assert 0 < told["answers"] < len(known.rows)


def test_a_prompt_that_finds_no_memory_beside_rows_is_read_again(
    known: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples do not fail for the rows' sake."""
    forward, refused = CachedSession._forward, []

    def scarce(self: CachedSession, ids: Any, keep: int) -> Any:
        if self.together.batches == 0 and self.position > 300 and len(refused) < 2 and self._stride > 1:
            refused.append(self.position)
            raise MemoryError("no room for a prompt")
        return forward(self, ids, keep)

    monkeypatch.setattr(CachedSession, "_forward", scarce)
    found = run(tmp_path / "run")
    assert refused and answers(found) == answers(known)
