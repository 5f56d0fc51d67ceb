"""`nih gate --plan`: the trials that it names have the power that it says, and the rules say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nih.errors import UsageError
from nih.gate.noninferiority import Pairs
from nih.gate.plan import ENOUGH, plan
from nih.gate.rules import Group, Limits, _groups, decide, power, share_of_alpha
from nih.store.journal import Row
from nih.store.run import read
from nih.types import Cell
from tests.gate.test_gate import folder, nih_gate, rows
from tests.support.journal_rows import grid

TRIALS = 8
FACTS: dict[str, Any] = {"grid": grid((1024, 2048), (0.0, 50.0), TRIALS), "haystack": {"name": "prose"}}


def sometimes_wrong(row: Row) -> dict[str, Any]:
    """A model that finds three of four at 2k."""
    wrong = row.length == 2048 and row.trial % 4 == 0
    return {"score": 0.0, "answer": " no"} if wrong else {}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return folder(tmp_path / "base", rows(sometimes_wrong, TRIALS), **FACTS)


def groups(rng: np.random.Generator, trials: int, drop: float, anew: bool) -> list[Group]:
    """Samples of the baseline's cells and of a run that really lost `drop` everywhere, as the gate's rules see them."""
    sides: list[tuple[Any, Any]] = []
    for accuracy in (1.0, 0.75):
        before = rng.random((2 * trials,)) < accuracy
        if anew:
            after = rng.random((2 * trials,)) < accuracy - drop
        else:
            after = before & (rng.random((2 * trials,)) >= drop / accuracy)
        sides.append((after.astype(float), before.astype(float)))
    ours, theirs = (np.concatenate(side) for side in zip(*sides, strict=True))
    names = tuple(str(sample // 2) for sample in range(2 * trials))
    lengths = [Group(str(i), *side, True, haystacks=names) for i, side in enumerate(sides)]
    return [Group("overall", ours, theirs, True, haystacks=2 * names), *lengths]


@pytest.mark.parametrize("anew", [False, True])
def test_the_trials_that_are_named_catch_the_drop(base: Path, anew: bool) -> None:
    """At least as often as is said, because Holm's later steps are milder than the first, by which power is counted."""
    need = next(need for need in plan(base, 0.1).needs if need.rule == "overall")
    trials = need.needed[anew]
    assert trials is not None
    rng = np.random.default_rng(0)
    caught = [decide(groups(rng, trials, 0.1, anew), 0.05, 0.05)[0].fails for _ in range(300)]
    assert np.mean(caught) >= ENOUGH - 0.06  # two and a half standard errors
    fewer = [decide(groups(rng, trials // 2, 0.1, anew), 0.05, 0.05)[0].fails for _ in range(300)]
    assert np.mean(fewer) < np.mean(caught)


def test_the_trials_for_within_show_it(base: Path) -> None:
    (need,) = (n for n in plan(base, 0.1, max_drop=0.05, within=0.05).needs if n.rule == "within")
    least, most = need.needed
    assert least is not None and most is not None and least < most
    assert Pairs(np.zeros(4 * least), list(map(str, range(4 * least))), 0.05).shows(0.05)
    rng, shown = np.random.default_rng(0), 0
    for _ in range(100):
        run, before = (rng.random((2, most, 2)) < np.array([1.0, 0.75])[:, None, None] for _ in range(2))
        drops = before.astype(float) - run
        shown += Pairs(
            drops.transpose(1, 0, 2).ravel(), np.repeat(np.arange(most), 4).astype(str).tolist(), 0.05
        ).shows(0.05)
    assert shown >= 100 * ENOUGH - 11


def test_power_now_is_that_of_the_gates_own_lines(base: Path) -> None:
    """Where a second run has said how many answers change: none here."""
    run = read(base)
    found = plan(base, 0.15, max_drop=0.05, again=base)
    own = _groups(run, run, True)
    assert [need.rule for need in found.needs] == [group.rule for group in own]
    for need, group in zip(found.needs, own, strict=True):
        told = power(group, Limits(0.05), share_of_alpha(need.rule == "overall", len(own), bool(group.sizes)))
        assert need.now.calm == need.now.free == pytest.approx(told[1])
        assert need.trials == TRIALS and need.accuracy == group.base.mean()
        cells = {
            Cell(r.length, r.depth) for r in run.rows if need.rule in ("overall", f"{r.length // 1024}k")
        }
        assert need.per_trial == len(cells)


def test_more_changes_need_more_trials(base: Path, tmp_path: Path) -> None:
    second = folder(
        tmp_path / "second",
        rows(lambda r: {"score": 0.0, "answer": " no"} if r.trial in (3, 4) else sometimes_wrong(r), TRIALS),
        **FACTS,
    )
    quiet, noisy = (plan(base, 0.15, max_drop=0.05, again=other).needs for other in (base, second))
    for calm, free in zip(quiet, noisy, strict=True):
        assert (calm.needed[0] or 0) <= (free.needed[0] or 1 << 20) and free.needed[0] == free.needed[1]


def test_the_command_says_it_in_lines(base: Path) -> None:
    done = nih_gate("--plan", base, "--drop", 0.1, "--within", 0.05)
    assert done.exit_code == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["overall", "1k", "2k", "within"]
    assert "a real drop of 0.1" in done.stderr and "--max-drop 0.05" in done.stderr
    line = done.stdout.splitlines()[1]
    assert "accuracy 1.000, 2 samples per trial" in line and "with 8 trials, needs" in line


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--drop", "0.05", "--max-drop", "0.05"], "type a --max-drop below 0.05"),
        (["--drop", "0"], "--drop 0 is not between"),
        (["--drop", "3"], "--drop 3 is not between"),
        (["--junit", "file.xml"], "--junit means nothing with --plan"),
        (["--max-slowdown", "2"], "--max-slowdown means nothing with --plan"),
        (["--within", "2"], "--within 2 is not between"),
    ],
)
def test_what_cannot_be_planned_is_a_sentence(base: Path, words: list[str], said: str) -> None:
    done = nih_gate("--plan", base, *words)
    assert done.exit_code == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_a_gate_without_a_baseline_says_what_to_type(base: Path) -> None:
    done = nih_gate(base)
    assert done.exit_code == 2 and f"`nih gate {base} --baseline BASELINE`" in done.stderr
    done = nih_gate(base, "--baseline", base, "--drop", 0.1)
    assert done.exit_code == 2 and "--drop belongs to --plan" in done.stderr


def test_a_baseline_without_scores_or_with_less_than_its_plan_is_refused(base: Path, tmp_path: Path) -> None:
    empty = folder(tmp_path / "empty", rows(lambda _: {"status": "oom"}, TRIALS), **FACTS)
    with pytest.raises(UsageError, match="no scored samples"):
        plan(empty)
    cut = folder(tmp_path / "cut", rows(trials=TRIALS)[1:], **FACTS)
    with pytest.raises(UsageError, match="lacks 1 of"):
        plan(cut)
