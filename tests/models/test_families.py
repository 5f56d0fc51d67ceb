"""The conformance matrix: each family through the laws, or known wrong in its library, found out and answered without sharing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from nih import evaluate, registry
from nih.models import _cache
from nih.models.transformer import Options, TransformerModel
from nih.report import write as report
from nih.store import run as store
from nih.tokenizers.byte import ByteTokenizer
from tests.support import laws, tiny
from tests.support.families import (
    ATTENTION,
    CONFIGS,
    ELSEWHERE,
    IDLE,
    RECURRENT,
    SHARING,
    UNFAITHFUL,
    YOUNGER,
)

Law = Callable[[laws.Subject], None]


def families(names: Iterable[str]) -> pytest.MarkDecorator:
    """A parameter for each name; those that the installed transformers does not have yet are skipped."""

    def absent(name: str) -> bool:
        return name in YOUNGER and not hasattr(transformers, CONFIGS[name][0])

    reason = f"transformers {transformers.__version__} has no such family"
    return pytest.mark.parametrize(
        "name", [pytest.param(n, marks=[pytest.mark.skipif(absent(n), reason=reason)]) for n in names]
    )


def each(*chosen: Law) -> pytest.MarkDecorator:
    """A parameter for each law."""
    return pytest.mark.parametrize("law", chosen, ids=lambda law: law.__name__)


@each(*(law for law in laws.LAWS if law is not laws.deadlines_end_work))
@families(name for name in CONFIGS if name not in UNFAITHFUL)
def test_laws(name: str, law: Law) -> None:
    law(tiny.subject(name))


@families(["llama", "mistral", "mamba2", "xlstm"])
def test_deadlines_end_work(name: str) -> None:
    """Time is looked at outside the models, so one family of each kind of mark will do."""
    laws.deadlines_end_work(tiny.subject(name))


@families(UNFAITHFUL)
def test_known_wrong_models_are_wrong_in_chunks_and_right_token_by_token(name: str) -> None:
    """What verification has to catch. If this fails, transformers has mended it: move the name to the laws."""
    subject = tiny.subject(name)
    ids = subject.prompt(0)
    session = tiny.session(name)
    session.extend([ids])
    assert laws.difference(session.logits(), subject.next_logits(ids)) > 100 * subject.allowed
    session.prefill_whole(ids)
    subject.same(session, ids)
    session = tiny.session(name, chunk=1)
    session.extend([ids])
    subject.same(session, ids)


@each(laws.generation_is_greedy, laws.one_go_is_the_truth)
@families(UNFAITHFUL)
def test_known_wrong_models_are_right_when_read_in_one_go(name: str, law: Law) -> None:
    """Their states are kept, marked and rewound rightly; so a prompt read whole can be answered token by token."""
    law(replace(tiny.subject(name), session=lambda: tiny.session(name, chunk=256)))


@each(laws.marks_survive_later_work, laws.questions_leave_the_state)
@families(UNFAITHFUL)
def test_known_wrong_models_can_be_marked(name: str, law: Law) -> None:
    law(replace(tiny.subject(name), session=lambda: tiny.session(name, chunk=1)))


@families(CONFIGS)
def test_every_part_of_the_state_matters(name: str) -> None:
    """Else a part that is lost, or rewound wrongly, would not show in any law."""
    subject = tiny.subject(name)
    session = subject.start()
    session.extend([subject.prompt(0)])
    mark = session.mark()
    parts = [part for part, held in _tensors(_state(session)) if held.numel()]
    assert parts
    idle = [part for part in parts if not _matters(subject, session, mark, part)]
    assert [part for part in idle if not any(re.fullmatch(known, part) for known in IDLE.get(name, {}))] == []
    assert all(any(re.fullmatch(known, part) for part in idle) for known in IDLE.get(name, {}))


def _matters(subject: laws.Subject, session: Any, mark: Any, part: str) -> bool:
    """Whether the state with one part all zero leads elsewhere: at once, or when a block of tokens is complete."""
    return any(_effect(session, mark, part, subject.prompt(1, n)) > 10 * subject.allowed for n in (1, 20))


def _effect(session: Any, mark: Any, part: str, more: Any) -> float:
    session.rewind(mark)
    session.extend([more])
    expected = session.logits()
    session.rewind(mark)
    with torch.inference_mode():
        saved = _part(session, part).clone()
        _part(session, part).zero_()
        session.extend([more])
        found = session.logits()
        session.rewind(mark)
        _part(session, part).copy_(saved)  # a mark may hold this very tensor, or only its length
    return laws.difference(found, expected)


def _part(session: Any, part: str) -> torch.Tensor:
    return dict(_tensors(_state(session)))[part]


def _state(session: Any) -> dict[str, Any]:
    """What a session of transformers' models holds, by name."""
    held: dict[str, Any] = dict(vars(session.cache))
    return held | {f"module {n}": state for n, state in enumerate(session.module_states)}


def _tensors(state: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(state, torch.Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            if not str(key).startswith("_"):
                yield from _tensors(value, f"{name}.{key}".removeprefix("."))
    elif isinstance(state, list | tuple):
        yield from _tensors(dict(enumerate(state)), name)
    elif hasattr(state, "__dict__") and not isinstance(state, type):
        yield from _tensors(vars(state), name)


@families(CONFIGS)
def test_marks_cost_what_the_architecture_demands(name: str) -> None:
    session = tiny.session(name)
    session.extend([tiny.subject(name).prompt(0)])
    expected = next((cost for cost, names in SHARING.items() if name in names), "copy-part")
    assert _cache.sharing(session.cache) == expected


@families(name for name in CONFIGS if name != "deepseek_v4")
def test_state_bytes_are_those_of_a_real_state(name: str) -> None:
    model = opened(name)
    for tokens in (1, 10, 100):
        session = tiny.session(name, chunk=40)
        session.extend([tiny.subject(name).prompt(0, tokens)])
        assert model.state_bytes(tokens) == _cache.held_bytes([session.cache, session.module_states])


def test_state_bytes_of_a_state_that_grows_in_blocks_hold_between_the_blocks() -> None:
    session = tiny.session("deepseek_v4", chunk=512)
    session.extend([tiny.subject("deepseek_v4").prompt(0, 1024)])
    assert opened("deepseek_v4").state_bytes(1024) == _cache.held_bytes(session.cache)


def opened(name: str) -> TransformerModel:
    """A model that would have to be loaded from nowhere."""
    return TransformerModel(
        "nowhere", name, Options(), tiny.config(name), torch.device("cpu"), ByteTokenizer()
    )


@families(RECURRENT)
def test_a_run_shares_where_the_library_is_right_and_reads_whole_where_it_is_not(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    stored = _run(tiny.model(name), tmp_path, monkeypatch, said)
    wrong = name in UNFAITHFUL
    assert stored.manifest.values["verification"]["state"] == ("failed" if wrong else "passed")
    assert stored.manifest.values["prefill"] == ("whole" if wrong else "shared")
    assert {row.prefill for row in stored.rows} == {"whole" if wrong else "shared"}
    assert {row.status for row in stored.rows} == {"ok"}
    assert len([line for line in said if "prefill: whole" in line]) == wrong


def test_an_xlstm_whose_library_makes_a_cache_of_another_shape_has_no_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache rounds the width of the keys up to a multiple of 64, its layers do not; xLSTM-7b's is one."""
    config = transformers.xLSTMConfig(**CONFIGS["xlstm"][1] | {"hidden_size": 64})
    auto: Any = transformers.AutoModelForCausalLM
    said: list[str] = []
    stored = _run(auto.from_config(config), tmp_path, monkeypatch, said)
    assert {(row.status, row.score) for row in stored.rows} == {("error", None)}
    assert all(row.error.startswith("RuntimeError: The expanded size of the tensor") for row in stored.rows)
    assert stored.manifest.values["verification"]["state"] == "unverified"
    assert [line for line in said if "sharing is unverified" in line] == [said[-1]]


def _run(model: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> store.StoredRun:
    """Two samples, answered by the general adapter; the drawing would take half of the time."""
    monkeypatch.setattr(registry, "_ADAPTERS", {})
    monkeypatch.setattr(report, "write", lambda *_: "not written")
    monkeypatch.chdir(folder)
    model.save_pretrained(folder / "model")
    run = evaluate(
        model="./model",
        lengths="256",
        depths="0,100",
        trials=1,
        set={"chunk": 64},
        tell=said.append,
        quiet=True,
    )
    return store.read(run.path)


_STATEFUL = re.compile(r"(conv|recurrent|ssm)_states?\b|\bclass \w*Cache\b")
"""What the source of a family with a state of its own says."""


def test_every_family_with_a_state_of_its_own_is_in_the_matrix() -> None:
    types = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() | MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()
    sources = {kind: _source(model_type_to_module_name(kind)) for kind in types}
    found = {kind for kind, source in sources.items() if _STATEFUL.search(source)}
    assert found > RECURRENT.keys() - YOUNGER
    assert found - CONFIGS.keys() - ELSEWHERE.keys() == set()
    assert len(ATTENTION) >= 10


def _source(module: str) -> str:
    folder = Path(transformers.__file__).parent / "models" / module
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("modeling_*.py"))
