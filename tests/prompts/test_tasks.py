"""Every task, haystack and tokeniser: exact length, needles where they are said to be, answers that the prompt itself tells and
that guessing does not find."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nih import evaluate
from nih.coerce import build
from nih.errors import HaystackError, PromptError, UsageError
from nih.inference.prefix_plan import build_plan, common_prefix
from nih.prompts.builder import Builder, _worded
from nih.prompts.chat import frame_of
from nih.prompts.grid import parse
from nih.prompts.haystack import open_source
from nih.protocols import OwnHaystack, Packs, SharedDraws
from nih.registry import load, names
from nih.scores import find, ordered
from nih.store import run as store
from nih.tasks import verbatim
from nih.types import Cell, Sample
from tests.support.readers import READERS
from tests.support.vocabularies import TOKENIZERS, tokenizer

CASES: list[tuple[str, dict[str, Any]]] = [
    ("aggregate", {}),
    ("aggregate", {"placement": "near"}),
    ("chain", {}),
    ("chain", {"ask": "value", "chains": 3, "hops": 2}),
    ("count", {}),
    ("distractor", {}),
    ("fact", {"distractors": 3}),
    ("inference", {}),
    ("kv", {}),
    ("multikey", {}),
    ("multikey", {"keys": 3, "key": "numbers", "value": "words", "placement": "near"}),
    ("multikey", {"keys": 1, "value": "uuids"}),
    ("multiquery", {"placement": "at=20,80"}),
    ("multivalue", {}),
    ("needles", {}),
    ("needles", {"key": "uuids", "value": "uuids"}),
    ("order", {}),
    ("paraphrase", {}),
    ("passkey", {}),
    ("copy", {}),
    ("induction", {}),
    ("mqar", {}),
    ("mqar", {"pairs": 26, "queries": 3, "placement": "near"}),
    ("mrcr", {}),
    ("mrcr", {"needles": 4, "style": True}),
    ("graphwalks", {}),
    ("graphwalks", {"ask": "bfs", "placement": "at=20,60"}),
    ("listops", {}),
    ("needlechain", {}),
    ("needlechain", {"order": "chaotic"}),
    ("ruler2", {}),
    ("ruler2", {"ask": "all"}),
    ("ruler2", {"ask": "nth"}),
    ("ruler2", {"ask": "document"}),
    ("tally", {}),
    ("threads", {}),
    ("threads", {"threads": 2, "direction": "backward"}),
    ("threads", {"ask": "marked"}),
    ("verbatim", {}),
]
CASES += [(name, {}) for name in names("tasks") if name not in {case for case, _ in CASES}]
PROBES = {"copy", "induction", "mqar"}
WORDED = [i for i, (name, _) in enumerate(CASES) if name not in PROBES]
TURNED = {"mrcr"}
"""Conversations, whose last turn asks."""
WHOLE = {"listops", "needlechain", "tally"}
"""Tasks that ask about the whole text, and have no needles."""
LEAST = {"mrcr": 3900, "ruler2": 1800}
"""Lengths in bytes from which tasks are sure to fit, where that is more than 1,500."""
PACKED = ["fact", "graphwalks", "kv", "mqar", "multikey", "needles"]
LONGEST = 4000


def make(
    task: str,
    options: dict[str, Any],
    name: str = "byte",
    haystack: str = "prose",
    chat: bool = False,
    **more: Any,
) -> Builder:
    """A builder of one case; a task with a haystack of its own gets that one."""
    module = load("tasks", task)
    built = module.task(build(module.Options, options, f"option of task `{task}`"))
    source = built.source() if isinstance(built, OwnHaystack) else open_source(haystack)
    coder = tokenizer(name)
    return Builder(
        task=built,
        task_key=f"{task}{options}",
        tokenizer=coder,
        source=source,
        frame=frame_of(coder, chat, "", {}),
        **more,
    )


@cache
def builder(case: int, name: str = "byte", haystack: str = "prose", question: str = "end") -> Builder:
    return make(*CASES[case], name, haystack, question=question)


def text_of(made: Builder, sample: Sample) -> str:
    return made.tokenizer.decode(sample.prompt.ids())


def score(made: Builder, sample: Sample, answer: str) -> float:
    return find(made.task.score).of(answer, None, None, sample.expected)


def test_every_task_has_a_case_and_a_reader() -> None:
    assert {name for name, _ in CASES} == set(READERS) == set(names("tasks"))
    assert {name for name, _ in CASES if isinstance(make(name, {}).task, Packs)} == set(PACKED)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(range(len(CASES))),
    st.sampled_from(["noise", "prose"]),
    st.sampled_from(["end", "start", "both"]),
    st.integers(1500, LONGEST),
    st.floats(0, 100),
    st.integers(0, 3),
)
def test_a_reader_of_the_prompt_answers_it_and_the_length_is_exact(
    name: str, case: int, haystack: str, question: str, length: int, depth: float, trial: int
) -> None:
    if CASES[case][0] in PROBES:
        name = "byte"
    if CASES[case][0] in PROBES | TURNED:
        question = "end"
    length = max(length, LEAST.get(CASES[case][0], 0))
    made = builder(case, name, haystack, question)
    sample = made.sample(Cell(length, depth), trial, LONGEST)
    assert len(sample.prompt) + sample.room == length
    text = text_of(made, sample)
    assert score(made, sample, READERS[made.task.name](text).answer) == 1
    assert text.endswith(sample.answer_prefix)
    if question != "end":
        before = made.tokenizer.decode(sample.prompt.ids()[: sample.needle_at])
        assert sample.question in before and text.count(sample.question) == (2 if question == "both" else 1)
    assert score(made, sample, sample.question) == 0
    assert score(made, sample, f"{sample.question} {sample.answer_prefix}") == 0
    assert score(made, sample, sample.continuation) == 1
    assert len(sample.continuation.encode()) <= sample.room + 1, "the answer fits, in bytes, beside its space"


@pytest.mark.parametrize("question", ["end", "start", "both"])
def test_a_chat_template_holds_context_and_question_and_leaves_the_prefix_to_the_assistant(
    question: str,
) -> None:
    for case in WORDED:
        if CASES[case][0] in TURNED and question != "end":
            continue
        made = make(*CASES[case], "chat", chat=True, question=question)
        length = max(2000, LEAST.get(CASES[case][0], 0))
        sample = made.sample(Cell(length, 70.0), 0)
        assert len(sample.prompt) + sample.room == length
        text = text_of(made, sample)
        assert score(made, sample, READERS[made.task.name](text).answer) == 1
        assert text.endswith(f"[/INST]{sample.answer_prefix}")
        assert text.rindex(sample.question) < text.index("[/INST]")


def inserted(made: Builder, sample: Sample) -> list[tuple[int, int, float]]:
    """Edge in the haystack, tokens, and depth of each needle of a prompt, after a look at the prompt itself."""
    ids = sample.prompt.ids()
    lead = made.task.needle(Random(0)).lead
    placed = sample.needles or ((sample.needle, sample.needle_at, sample.actual_depth),)
    found = []
    before = sum(map(len, made._outside(made._needle(sample.cell, sample.trial, _hay(made, sample))).ahead))
    for text, at, depth in placed:
        hidden = made.tokenizer.encode(lead + text)
        assert np.array_equal(ids[at : at + len(hidden)], hidden)
        found.append((at - before, len(hidden), depth))
        before += len(hidden)
    return found


def _hay(made: Builder, sample: Sample) -> Any:
    return made._haystack(sample.trial, LONGEST)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(range(len(CASES))),
    st.sampled_from(["noise", "prose"]),
    st.integers(1500, LONGEST),
    st.floats(0, 100),
)
def test_needles_stand_where_they_are_said_to_be(
    name: str, case: int, haystack: str, length: int, depth: float
) -> None:
    made = builder(case, "byte" if CASES[case][0] in PROBES else name, haystack)
    length = max(length, LEAST.get(CASES[case][0], 0))
    sample = made.sample(Cell(length, depth), 1, LONGEST)
    needles = inserted(made, sample)
    hay = _hay(made, sample)
    inside = sum(tokens for _, tokens, _ in needles)
    outside = max(made._outside(n).tokens for n in _worded((made._needle(sample.cell, 1, hay),)))
    body = length - sample.room - inside - outside
    if made.source.whole:
        body = int(hay.edges[hay.edges <= body].max())
    edges = hay.edges[hay.edges <= body]
    for edge, _, said in needles:
        assert edge in edges
        assert said == pytest.approx(100 * edge / body)
    target = depth / 100 * body
    asked = sample.actual_depth / 100 * body
    if made.task.name == "verbatim":
        return  # its places are lines that stand nowhere else
    assert abs(asked - target) == pytest.approx(np.abs(edges - target).min())
    ids = sample.prompt.ids()
    hidden = made.tokenizer.encode(made.task.needle(Random(0)).lead + sample.needle)
    assert np.array_equal(ids[sample.needle_at : sample.needle_at + len(hidden)], hidden)


def test_placement_puts_the_others_where_it_says() -> None:
    for depth in (0.0, 50.0, 100.0):
        cell = Cell(3000, depth)
        spread = make("multikey", {"keys": 11}).sample(cell, 0)
        others = [n.depth for n in spread.needles if n.text != spread.needle]
        assert all(abs(d - (10 * i + 5)) < 10 for i, d in enumerate(others))
        at = make("multikey", {"keys": 3, "placement": "at=25,75"}).sample(cell, 0)
        others = [n.depth for n in at.needles if n.text != at.needle]
        assert [round(d / 25) * 25 for d in others] == [25, 75] and all(abs(d % 50 - 25) < 5 for d in others)
        near = make("multikey", {"keys": 5, "placement": "near"}).sample(cell, 0)
        assert max(abs(n.depth - near.actual_depth) for n in near.needles) < 15
        apart = {n.at for n in near.needles}
        assert len(apart) == 5


@pytest.mark.parametrize("bad", ["", "spreads", "at=", "at=10;20", "at=120", "at=-1", "near,"])
def test_a_bad_placement_is_one_sentence(bad: str) -> None:
    with pytest.raises(UsageError, match="spread"):
        make("multikey", {"placement": bad})


@pytest.mark.parametrize("case", range(len(CASES)), ids=[f"{n}-{i}" for i, (n, _) in enumerate(CASES)])
def test_the_most_frequent_candidate_scores_at_chance(case: int) -> None:
    made = builder(case)
    rng = Random(7)
    gained = variance = 0.0
    own = made.task.name == "mrcr"
    for sample in made.samples(parse("4k" if own else "3k", "0-100:11", 3 if own else 12)):
        counted = Counter(READERS[made.task.name](text_of(made, sample)).candidates)
        most = max(counted.values())
        guess = rng.choice(sorted(c for c, n in counted.items() if n == most))
        scores = [score(made, sample, c) for c in counted]
        gained += score(made, sample, guess) - math.fsum(scores) / len(scores)
        variance += float(np.var(scores))
    if made.task.name == "aggregate":
        assert gained > 0, "what is frequent is the answer here"
    else:
        assert abs(gained) <= 4 * math.sqrt(variance)


def test_prompts_of_one_length_and_trial_share_what_stands_before_the_asked_needle() -> None:
    for case, (name, _) in enumerate(CASES):
        made = builder(case)
        if name in ("count", "order", "fact") or CASES[case][1].get("placement") == "near":
            continue  # their other needles differ from depth to depth
        samples = [made.sample(Cell(LONGEST, d), 0) for d in (30.0, 60.0, 90.0)]
        for first, second in ((0, 1), (1, 2)):
            assert common_prefix(samples[first].prompt, samples[second].prompt) >= samples[first].needle_at
        same = {(s.question, s.expected) for s in samples}
        assert len(same) > 1 or name in WHOLE | {"aggregate", "threads"}, name
    naive = build_plan(builder(9).samples(parse("4k", "0-100:11", 2)))
    assert naive.planned_tokens < 0.7 * naive.naive_tokens


@pytest.mark.parametrize("task", PACKED)
def test_packed_prompts_are_equal_up_to_the_question(task: str) -> None:
    grid = parse("4k", "0-100:11", 2)
    made = make(task, {}, packed=grid.depths)
    assert isinstance(made.task, Packs)
    others = len(made.task.pack(Random(0), 11)[0].others)
    for trial in range(2):
        samples = [s for s in made.samples(grid) if s.trial == trial]
        assert len({s.question for s in samples}) == 11
        longest = max(len(s.question) + len(s.answer_prefix) for s in samples)
        for s in samples:
            assert len(s.prompt) + s.room == 4096
            assert len(s.needles) == 11 + others and [n.text for n in s.needles] == [
                n.text for n in samples[0].needles
            ]
            assert score(made, s, READERS[task](text_of(made, s)).answer) == 1
            assert common_prefix(s.prompt, samples[0].prompt) >= 4096 - s.room - longest - 8
            assert abs(s.actual_depth - s.cell.depth) < 5
    assert made.label == f"{task} (multi-key, 11 packed)"


@pytest.mark.parametrize(
    ("task", "before"),
    [("multikey", "da13913c37bb4d64"), ("mqar", "e27d9a5c9ca197f7"), ("fact", "739db7cad1fb187d")],
)
def test_one_depth_packs_nothing_and_keeps_the_id_it_had(task: str, before: str) -> None:
    """`before`: from when it was labelled `(multi-key, 1 packed)`."""
    made = make(task, {}, packed=(50.0,))
    sample = made.sample(Cell(1024, 50.0), 0)
    assert made.label == sample.task == task
    assert sample.id == before
    alone = make(task, {}).sample(Cell(1024, 50.0), 0)
    assert len(sample.needles) == len(alone.needles), "as many others as without --packed"


@pytest.mark.parametrize("task", sorted({name for name, _ in CASES} - set(PACKED)))
def test_what_cannot_be_packed_says_so(task: str) -> None:
    with pytest.raises(UsageError, match="cannot be packed"):
        make(task, {}, packed=(0.0, 50.0))


def test_packing_excludes_a_question_at_the_start() -> None:
    with pytest.raises(UsageError, match="--question"):
        make("multikey", {}, packed=(0.0, 50.0), question="start")


@pytest.mark.parametrize("task", sorted(PROBES))
def test_probes_are_for_models_that_read_bytes(task: str) -> None:
    with pytest.raises(HaystackError, match=f"task `{task}` .* reads bytes"):
        make(task, {}, "unigram").sample(Cell(1024, 50.0), 0)
    with pytest.raises(UsageError, match="--question"):
        make(task, {}, question="both")


def run(path: Path, **more: Any) -> store.StoredRun:
    finished = evaluate(out=str(path), quiet=True, tell=lambda _: None, **more)
    return store.read(finished.path)


@pytest.mark.parametrize(("model", "grid"), [("echo", "1k-4k"), ("rwkv", "1k")])
def test_packed_answers_equal_those_asked_one_by_one_from_scratch(
    model: str, grid: str, tmp_path: Path
) -> None:
    asked = {"model": model, "task": "multikey", "lengths": grid, "depths": "0-100:11", "trials": 1}
    if model == "rwkv":
        asked |= {"device": "cpu"}
    packed = run(tmp_path / "packed", packed=True, **asked)
    alone = run(tmp_path / "alone", packed=True, share="never", **asked)
    answers = [{r.id: r.answer for r in r_.rows} for r_ in (packed, alone)]
    assert answers[0] == answers[1] and len(answers[0]) == len(packed.rows)
    assert packed.manifest.values["verification"]["state"] == "passed"
    assert {r.prefill for r in packed.rows} == {"shared"}
    assert {r.prefill for r in alone.rows} == {"chunks"}
    if model == "echo":
        assert {r.score for r in packed.rows} == {1.0}


def test_packed_runs_plan_a_fifth_of_the_tokens_and_are_labelled_in_every_output(tmp_path: Path) -> None:
    asked = {"model": "echo", "task": "multikey", "lengths": "1k-8k", "depths": "0-100:11", "trials": 2}
    single, packed = run(tmp_path / "one", **asked), run(tmp_path / "many", packed=True, **asked)
    assert packed.manifest.values["planned_tokens"] * 5 <= single.manifest.values["planned_tokens"]
    label = "multikey (multi-key, 11 packed)"
    (settings_,) = packed.manifest.values["tasks"]
    assert settings_["name"] == label and settings_["packed"] == 11
    assert {r.task for r in packed.rows} == {label}
    for name in ("cells.csv", "samples.csv", "heatmap.svg", "report.html"):
        assert label in (packed.path / name).read_text(), name
    assert all(len(r.needles) == 11 for r in packed.rows)
    from nih.run.show import show

    row, text = show(packed.path, packed.rows[5].id)
    assert row["id"] == packed.rows[5].id and all(n[0] in text for n in row["needles"])


def test_the_place_of_the_question_is_part_of_the_settings_unless_it_is_the_end(tmp_path: Path) -> None:
    asked = {"model": "echo", "lengths": "1k", "depths": "0,100", "trials": 1}
    first, last = run(tmp_path / "s", question="start", **asked), run(tmp_path / "e", **asked)
    assert (
        first.manifest.values["settings"]["question"] == "start"
        and "question" not in last.manifest.values["settings"]
    )
    assert not {r.id for r in first.rows} & {r.id for r in last.rows}
    assert {r.task for r in first.rows} == {"passkey (question first)"}
    assert {r.score for r in first.rows} == {1.0}
    # The question of passkey is always the same, so prompts share their haystack behind it.
    assert first.manifest.values["planned_tokens"] < first.manifest.values["naive_tokens"]


def test_the_prompt_bench_times_every_task_and_says_why_it_leaves_one_out() -> None:
    from nih.bench.prompts import prompts

    lines: list[str] = []
    assert set(prompts("echo", "4k", lines.append)) == set(names("tasks"))
    assert len(lines) == 1 + len(names("tasks"))
    short: list[str] = []
    timed = prompts("echo", "64", short.append)
    assert set(timed) < set(names("tasks")) and any("too short for task `kv`" in line for line in short)


FUNCTION_WORDS = set(
    "a an the of in on at to is are was were who whose which what when some kind one next and or".split()
)


def test_paraphrases_share_no_content_word_with_their_questions() -> None:
    made = make("paraphrase", {})
    drawn = [made.task.needle(Random(i)) for i in range(2000)]
    assert len({n.question for n in drawn}) >= 60
    for needle in drawn:
        stems = [
            {w[:5] for w in re.findall(r"\w+", text.lower()) if w not in FUNCTION_WORDS}
            for text in (needle.text, f"{needle.question} {needle.answer_prefix}")
        ]
        assert not stems[0] & stems[1]


def test_kv_is_valid_json_at_every_length() -> None:
    made = make("kv", {})
    sizes = set()
    for length in range(1000, 1200):
        text = text_of(made, made.sample(Cell(length, 50.0), 0, LONGEST))
        pairs = json.loads(text[text.index("{") : text.index("}") + 1])
        sizes.add(len(pairs))
    assert len(sizes) in (3, 4) and min(sizes) > 5


def test_near_duplicates_differ_from_the_needle_in_one_word_and_the_code() -> None:
    made = make("distractor", {"distractors": 12})
    for seed in range(50):
        needle = made.task.needle(Random(seed))
        for other in needle.others:
            pairs = list(zip(needle.text.split(), other.split(), strict=True))
            assert sum(a != b for a, b in pairs) == 2 and pairs[-1][0] != pairs[-1][1]


def test_counts_are_all_as_likely_and_orders_follow_the_text() -> None:
    task = make("count", {}).task
    assert isinstance(task, SharedDraws)
    counted = Counter(task.draw(Random(1), Random(i)).expected[0] for i in range(4000))
    assert set(counted) == {str(n) for n in range(2, 10)}
    assert max(counted.values()) < 1.25 * min(counted.values())
    made = make("order", {"items": 6})
    for depth in (0.0, 40.0, 100.0):
        sample = made.sample(Cell(4000, depth), 0)
        text = text_of(made, sample)
        assert list(sample.expected) == sorted(sample.expected, key=lambda name: text.index(f"is {name}."))


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("multikey", {"keys": 0}),
        ("chain", {"hops": 0}),
        ("count", {"least": 5, "most": 4}),
        ("copy", {"tokens": 0}),
        ("mqar", {"pairs": 4, "queries": 5}),
        ("induction", {"vocabulary": 40}),
        ("paraphrase", {"distractors": 40}),
        ("aggregate", {"times": 3}),
    ],
)
def test_an_option_out_of_range_is_one_sentence(task: str, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--set") as caught:
        make(task, options)
    assert "\n" not in str(caught.value)


def test_a_haystack_cannot_be_chosen_for_a_task_that_makes_its_own(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave out --haystack"):
        run(tmp_path / "r", model="echo", task="kv", haystack="noise")


def test_a_new_version_of_a_task_gives_new_ids() -> None:
    made = make("multikey", {})
    cell = Cell(1024, 50.0)
    old = made.sample(cell, 0)
    object.__setattr__(made.task, "version", 2)
    new = made.sample(cell, 0)
    assert new.id != old.id and np.array_equal(new.prompt.ids(), old.prompt.ids())


def identities() -> list[str]:
    """Two sample ids of each case, with bytes."""
    return [
        " ".join(s.id for s in make(name, options).samples(parse("4k" if name in LEAST else "2k", "0,50", 1)))
        for name, options in CASES
    ]


def test_ids_are_as_recorded_and_the_same_in_another_process() -> None:
    code = "from tests.prompts.test_tasks import identities; print(*identities(), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "3", "PATH": ""}
    )  # fmt: skip
    assert done.stdout.splitlines() == identities() == RECORDED


RECORDED = [
    "8757bb5a53b3a41d eb8e2779d586bf8c",
    "a703f6cac431daa7 982d594613134d0b",
    "00655a502ebeda09 3fa376148941aa25",
    "770d23f5449304bb a68f511d4438e051",
    "b2824f4329511ff4 5fbd38abac49f593",
    "7c1034273dffa015 b374c636c6c36604",
    "bc9ca99b812cf6a6 08c557c1db689978",
    "808e5e0871d9be26 08a844007ffb70de",
    "6ea1cbde042c2101 8a17806109ed99fe",
    "3e59fe1487df192a c84447ff471b3d62",
    "c31b5f53648b9a47 3022082280e5ac64",
    "a4f0120cc303afc2 6c553f0988e23ecd",
    "e9942cf349e962f8 be4018edf9e6ea87",
    "a1468a2b1d1fecb0 4dd67a9912b4e6bd",
    "f5c9e55c9ccbf389 4a471933d7ec1ac2",
    "2d17bb7e3c1512df be46556310f7122e",
    "8fb02cde74ac927b ed879e941fbaa0b6",
    "538004446b173a0c 5987be7a20601b81",
    "c0775e7de02cd1e0 0f915455741de50c",
    "97bfdbaac8991300 f2db4383980317c5",
    "2544b8a2c73cee3a 724afab5b942a085",
    "e84d210a0a84b29b adf6175ab371cd30",
    "b1d0326dab46043e b6721267762a9f08",
    "45e0587bee87a047 b94d1b020fcac243",
    "6f04b98a137ca843 d4ddfc2f4546737b",
    "f1dcfd3b2549f886 b1ec817743109090",
    "f32b0cb66893f2a5 eb694fa87e11346f",
    "59e061248760049f",
    "4be160b61139d526",
    "cdeaf6a36781faa3",
    "c3db0db4c4ff0909 8bf78aeacb232ff1",
    "322abeadf19692c5 8d539d6e59718b08",
    "bcae95e5cf43bd63 be491ef05968beea",
    "3ed30fbafde1811c 8150aefd1fee0ed0",
    "8ea219ef1c686962",
    "13b4c21b9b78cd4a 464918f3e477129b",
    "df8ce648e4a13c76 3241e5ff20834d01",
    "f794152deba16fc4 b295f24ae5e0f0fa",
    "8f6d19dce66a4967 d547b87ea4b4b3d8",
]
"""By case. They must not change between versions of Python, numpy or nih unless a task's `version` does."""


@pytest.mark.parametrize("case", range(25, len(CASES)), ids=lambda i: f"{CASES[i][0]}-{i}")
def test_tasks_of_cards_run_from_their_shortest_length_to_8k(case: int) -> None:
    made = make(*CASES[case])
    for length in (*range(64, 4000, 48), 4000):
        try:
            sample = made.sample(Cell(length, 50.0), 0)
            break
        except PromptError as error:
            assert f"task `{made.task.name}`" in str(error) and "--lengths" in str(error)
            assert "\n" not in str(error)
    for each in (sample, made.sample(Cell(8192, 50.0), 0)):
        assert len(each.prompt) + each.room == each.cell.length
        assert score(made, each, READERS[made.task.name](text_of(made, each)).answer) == 1


def test_what_guesses_score_in_copy_is_what_is_said() -> None:
    """README, the task and the suite say 0.30."""
    rng = Random(0)
    letters = "abcdefghijklmnop"
    guesses = [
        ordered.score("".join(rng.choices(letters, k=16)), rng.choices(letters, k=16)) for _ in range(3000)
    ]
    assert np.mean(guesses) == pytest.approx(0.30, abs=0.01)


def test_verbatim_refuses_more_files_than_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of them, as the folder happens to list them, would be another text elsewhere. Hidden files do not count."""
    (tmp_path / ".git").mkdir()
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(f"line {i}\n")
        (tmp_path / ".git" / f"{i}.txt").write_text("hidden\n")
    monkeypatch.setattr(verbatim, "_MOST_FILES", 3)
    assert verbatim._read(tmp_path) == ["line 0\n", "line 1\n", "line 2\n"]
    monkeypatch.setattr(verbatim, "_MOST_FILES", 2)
    with pytest.raises(HaystackError, match="more than 2 files"):
        verbatim._read(tmp_path)
