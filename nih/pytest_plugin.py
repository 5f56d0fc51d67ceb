"""`nih gate` inside pytest: the fixture `nih_gate` asks a model what a baseline was asked, and fails the test if it finds less.

pytest imports this file, by its entry point, in every session where nih is installed. So it imports nothing of weight: what measures
and judges is imported when the fixture is called.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from nih.gate.rules import Outcome


class NihGate:
    """What the fixture `nih_gate` gives a test: call it with a baseline."""

    def __init__(self, new_folder: Callable[[], Path]) -> None:
        self._new_folder = new_folder

    def __call__(
        self,
        baseline: Path | str,
        *,
        run: Path | str | None = None,
        like: Path | str | None = None,
        max_drop: float = 0.05,
        alpha: float = 0.05,
        max_slowdown: float | None = None,
        within: float | None = None,
        score: str | None = None,
        **options: Any,
    ) -> Outcome:
        """Measure, judge as `nih gate` does, and fail the test with the rules' lines if a rule fails; return the outcome otherwise.

        `baseline` is a run folder, or its cells.csv. What is measured takes all options of `like` (default: the baseline), but for
        `options`, which are those of `nih run`: `nih_gate("baseline", model="path/to/model", dtype="bfloat16")`. `run` is a run folder
        that is judged as it is, in place of a measurement. What the command line would call wrong usage fails the test in one sentence.
        """
        from nih.errors import NihError
        from nih.gate import output
        from nih.gate.rules import Limits, gate

        try:
            limits = Limits(max_drop, alpha, max_slowdown, within)
            measured = (
                self._measured(Path(baseline), like, options) if run is None else _given(run, like, options)
            )
            outcome = gate(measured, Path(baseline), limits, score)
        except NihError as error:
            pytest.fail(f"error: {error}", pytrace=False)
        told = [
            *(f"warning: {note}" for note in outcome.notes),
            *output.lines(outcome),
            output.headline(outcome),
        ]
        print(*told, sep="\n")
        if outcome.failed:
            pytest.fail("\n".join(told), pytrace=False)
        return outcome

    def _measured(self, baseline: Path, like: Path | str | None, options: dict[str, Any]) -> Path:
        from nih.errors import UsageError
        from nih.run.evaluate import evaluate
        from nih.run.like import like as options_of

        if like is None and not baseline.is_dir():
            raise UsageError(
                f"baseline `{baseline}` is not a run folder, so it does not say what to ask; add `like=` with a run folder"
            )
        typed = {"out": str(self._new_folder()), **options}
        return evaluate(options_of(Path(like or baseline), typed), tell=print, quiet=True).path


def _given(run: Path | str, like: Path | str | None, options: dict[str, Any]) -> Path:
    from nih.errors import UsageError

    if like is not None or options:
        named = ", ".join(f"`{name}=`" for name in ("like", *options) if name != "like" or like is not None)
        raise UsageError(f"`run=` is judged as it is, and {named} would measure anew; leave out one of them")
    return Path(run)


@pytest.fixture
def nih_gate(tmp_path_factory: pytest.TempPathFactory) -> NihGate:
    """Measure a model as a baseline was measured, and fail the test if it finds less: `nih_gate("baseline", model="MODEL")`."""
    return NihGate(lambda: tmp_path_factory.mktemp("nih"))
