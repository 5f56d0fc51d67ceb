"""Sharing is verified on real models: one that is right in chunks, and one whose library is known to be wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from nih import evaluate, registry
from nih.inference.verify import rounding_noise
from nih.run.show import rebuild
from nih.store import run as store
from tests.support.tiny import model, session


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model saved as its library saves it, opened by the general adapter whatever its type."""
    monkeypatch.setattr(registry, "_ADAPTERS", {})
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model"
    model(request.param).save_pretrained(path)
    return path


def go(folder: Path, said: list[str], share: str = "auto", score: str | None = None) -> store.StoredRun:
    run = evaluate(
        model=str(folder),
        lengths="400,700",
        depths="0,50,100",
        trials=2,
        share=share,
        score=score,
        set={"chunk": 64},
        tell=said.append,
        quiet=True,
    )
    return store.read(run.path)


def one_go_answers(stored: store.StoredRun, folder: Path) -> dict[str, str]:
    """What transformers says to each prompt: one forward call, then its own decoding step by step."""
    auto: Any = AutoModelForCausalLM
    library = auto.from_pretrained(folder).eval()
    texts = {}
    for row in stored.rows:
        _, sample, job = rebuild(stored, row.id)
        ids = torch.from_numpy(sample.prompt.ids().astype(np.int64))[None]
        out = library.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sample.room,
            do_sample=False,
            eos_token_id=-1,
            pad_token_id=0,
        )
        text = job.model.tokenizer.decode(out[0, ids.shape[1] :].numpy())
        texts[row.id] = text.split(sample.stop[0])[0]
    return texts


@pytest.mark.parametrize("folder", ["llama"], indirect=True)
def test_a_right_model_shares_and_says_what_transformers_says(folder: Path) -> None:
    said: list[str] = []
    stored = go(folder, said)
    assert stored.manifest.values["prefill"] == "shared" and not said
    result = stored.manifest.values["verification"]
    assert result["state"] == "passed" and len(result["samples"]) == 3
    assert all(0 <= c["difference"] <= c["allowed"] and c["same_answer"] for c in result["samples"])
    assert {r.id: r.answer for r in stored.rows} == one_go_answers(stored, folder)


@pytest.mark.parametrize("folder", ["mamba"], indirect=True)
@pytest.mark.parametrize("share", ["auto", "never"])
def test_transformers_mamba_is_found_wrong_in_chunks_and_answered_whole(folder: Path, share: str) -> None:
    said: list[str] = []
    stored = go(folder, said, share)
    assert stored.manifest.values["prefill"] == "whole" and "prefill: whole" in said[-1]
    result = stored.manifest.values["verification"]
    worst = max(c["difference"] for c in result["samples"])
    assert result["state"] == "failed" and worst > result["allowed"]
    assert {r.prefill for r in stored.rows} == {"whole"}
    assert {r.id: r.answer for r in stored.rows} == one_go_answers(stored, folder)


@pytest.mark.parametrize("folder", ["mamba"], indirect=True)
def test_unverified_sharing_rates_answers_wrongly_in_that_model(folder: Path) -> None:
    trusted, verified = (go(folder, [], share, score="likelihood") for share in ("always", "auto"))
    assert trusted.manifest.values["verification"] == {"state": "not asked", "why": "--share always"}
    assert verified.manifest.values["prefill"] == "whole"
    truth = {r.id: r.nll for r in verified.rows if r.nll is not None}
    errors = [abs(r.nll - truth[r.id]) for r in trusted.rows if r.nll is not None]
    assert len(truth) == len(errors) == len(trusted.rows)
    assert max(errors) > 0.01, "else the tests above would prove nothing"


def test_noise_is_never_zero() -> None:
    assert rounding_noise(session("llama"), np.arange(64, dtype=np.int32)) > 0
