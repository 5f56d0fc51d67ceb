"""Verification in three dtypes: it finds what is wrong, and nothing else."""

from __future__ import annotations

import copy
import os
from typing import Any

import numpy as np
import pytest
import torch

from nih.errors import AnswerFailure
from nih.inference.verify import FACTOR, LEAST_NOISE, Kept, Verifier, teacher_forced
from nih.models import mamba, rwkv, transformer
from nih.models._recurrent import Options
from nih.models.transformer import CachedSession
from nih.options import RunOptions
from nih.run.job import prepare
from nih.tokenizers.byte import ByteTokenizer
from nih.types import Sample
from tests.support import recurrent, tiny
from tests.support.families import UNFAITHFUL
from tests.support.faults import FAULTS, Subject, samples, verdict, with_fault

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
dtypes = pytest.mark.parametrize("dtype", DTYPES)
SEEDS = int(os.environ.get("NIH_SEEDS", "4"))
"""Random models per family and fault; CI has time for a few, `NIH_SEEDS=20` for more."""


def of_family(name: str, seed: int, dtype: str, fault: type | None = None) -> Subject:
    """A random model of a family, with weights as large as those of the laws."""
    made = tiny.random_model(name, seed).to(DTYPES[dtype])
    wide = copy.deepcopy(made).float()
    if dtype != "float32":
        tiny.widen_logits_of(made)

    def session(model: Any) -> Any:
        plain = CachedSession(model, ByteTokenizer(), torch.device("cpu"), frozenset(), 64)
        return with_fault(plain, fault) if fault else plain

    return Subject(lambda: session(made), dtype, None if dtype == "float32" else lambda: session(wide))


def in_the_box(name: str, dtype: str) -> Subject:
    """A trained model that ships with the package."""
    model: Any
    if name.startswith("transformer"):
        options = transformer.Options(device="cpu", dtype=dtype)  # type: ignore[arg-type]
        model = transformer.open_model(name, name, options)
    else:
        adapter = rwkv if name.startswith("rwkv") else mamba
        model = adapter.open_model(name, name, Options(device="cpu", dtype=dtype))  # type: ignore[arg-type]
    return Subject(model.session, dtype, model.judge)


def questions(seed: int, length: int = 150) -> list[Sample]:
    """Random prompts with a common beginning and short ends."""
    rng = np.random.default_rng([seed, length])
    ends = [rng.integers(0, 256, n).astype(np.int32) for n in (9, 14)]
    return samples(rng.integers(0, 256, length).astype(np.int32), ends)


def told(name: str, seed: int, length: int) -> list[Sample]:
    """Prompts that a trained model knows: a key in noise, asked for."""
    ids = recurrent.prompt_of(f"{name}-trained", seed, length)
    return samples(ids[:-40], [ids[-40:], ids[-37:]])


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("name", UNFAITHFUL)
def test_what_its_library_continues_wrongly_fails(name: str, dtype: str) -> None:
    passed = [s for s in range(SEEDS) if verdict(of_family(name, s, dtype), questions(s)).state != "failed"]
    assert not passed


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["llama", "mamba2"])
def test_a_wrong_state_fails(name: str, fault: type, dtype: str) -> None:
    found = [verdict(of_family(name, s, dtype, fault), questions(s)).state for s in range(SEEDS)]
    assert set(found) == {"failed"}


@pytest.mark.parametrize("name", ["jamba", "llama"])
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_a_wrong_model_fails_in_bfloat16_and_a_right_one_does_not(name: str, fault: type | None) -> None:
    found = verdict(of_family(name, 0, "bfloat16", fault), questions(0))
    assert found.state == ("passed" if name == "llama" and fault is None else "failed")
    assert found.comparisons[0].dtype == "float32", "the float32 copy is judged first"


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("name", ["llama", "gemma3_text", "mamba2", "lfm2"])
def test_right_random_models_pass(name: str, dtype: str) -> None:
    found = [
        verdict(of_family(name, seed, dtype), questions(seed, length))
        for seed in range(5)
        for length in (64, 700)
    ]
    assert {f.state for f in found} == {"passed"}


@pytest.mark.slow
@dtypes
@pytest.mark.parametrize("name", ["rwkv", "mamba", "transformer", "rwkv-mix", "mamba-mix", "transformer-mix"])
def test_right_trained_models_pass(name: str, dtype: str) -> None:
    subject = in_the_box(name, dtype)
    lengths = (64, 300, 1000, 4000) + (() if "transformer" in name else (8192,))
    found = [
        verdict(subject, told(name, seed, length))
        for length in lengths
        for seed in range(2 if length < 4000 else 1)
    ]
    assert {f.state for f in found} == {"passed"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rwkv-mix", "aft-mix"])
@pytest.mark.parametrize("chunk", [64, 1000])
def test_roundings_of_thousands_of_tokens_pass_without_a_measurement(name: str, chunk: int) -> None:
    """Pieces of other sizes add up their roundings differently, in a state that keeps them, and no probe of 64 tokens shows how much."""
    job = prepare(RunOptions.of(model=name, task="mqar", lengths="2k,4k", depths="0,75", trials=2))
    model: Any = job.model
    session = model.session()
    for ids in (sample.prompt.ids() for sample in job.plan.samples):
        session.prefill_whole(ids)
        whole = session.logits()
        session.reset()
        for start in range(0, len(ids), chunk):
            session.extend([ids[start : start + chunk]])
        passes = FACTOR["float32"] * LEAST_NOISE["float32"] * np.abs(whole).max()
        assert np.abs(session.logits() - whole).max() < passes / 2


def test_a_tie_that_falls_the_other_way_passes_and_is_counted() -> None:
    """The walk said a token whose logit is below the best by less than rounding explains."""
    subject = of_family("llama", 0, "float32")
    sample = questions(0)[0]
    session: Any = subject.session()
    session.prefill_whole(sample.prompt.ids())
    logits = session.logits()
    second, best = np.argsort(logits)[-2:]
    lead = float(logits[best] - logits[second])
    verifier = Verifier(_asker(session), "float32", {sample.id: sample})
    for factor, state in ((0.6, True), (0.4, False)):
        verifier.noise = factor * lead / FACTOR["float32"] / float(np.abs(logits).max())
        verifier.probed = 10**6
        from nih.types import Answer

        kept = Kept(Answer(sample.id, "ok", "x"), np.array([second], np.int32), logits)
        found = verifier._compare(sample, kept)
        assert (found.ties, found.same_answer, found.passed) == (1, False, state)
        assert found.behind == pytest.approx(lead)


def _asker(session: Any) -> Any:
    from nih.inference.asker import Asker

    return Asker(session, ByteTokenizer(), False, None)


def test_teacher_forcing_measures_the_step_that_is_furthest_behind() -> None:
    subject = of_family("llama", 0, "float32")
    session: Any = subject.session()
    session.extend([questions(0)[0].prompt.ids()])
    mark, said = session.mark(), np.array(session.generate(5, []).ids, np.int32)
    assert teacher_forced(session, said, best=True) == [0.0] * 5
    session.rewind(mark)
    assert min(teacher_forced(session, said, best=False)) > 0
    session.rewind(mark)
    other = said.copy()
    other[0] = (said[0] + 1) % 256
    assert teacher_forced(session, other, best=True)[0] > 0
    session.rewind(mark)
    assert teacher_forced(session, other, best=False) == []


def test_a_sample_that_does_not_fit_in_one_call_proves_nothing() -> None:
    subject = of_family("llama", 0, "float32")

    class Small(CachedSession):
        def prefill_whole(self, ids: Any) -> None:
            if len(ids) > 100:
                raise AnswerFailure("no memory")
            super().prefill_whole(ids)

    def small() -> Any:
        session: Any = subject.session()
        session.__class__ = Small
        return session

    assert verdict(Subject(small, "float32", None), questions(0)).state == "unverified"
