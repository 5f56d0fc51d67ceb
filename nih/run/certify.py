"""`--certify`: ask lengths from short to long, each only until its answers decide.

What is asked next follows from the rows of the journal in the order of the plan, and from nothing else: a run that was interrupted goes on
as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Literal

from nih.inference.answerer import Ready, Request
from nih.inference.events import Comparison
from nih.inference.verify import Findings, choose
from nih.prompts.grid import format_length
from nih.run.loop import Loop
from nih.run.rounds import Round, forecast, rounds
from nih.stats import certify
from nih.stats.haystacks import haystack_of
from nih.store.run import StoredRun
from nih.types import Sample


class _Anew(Exception):
    """Sharing has failed its verification, so that all answers so far were asked once more and decisions start again."""


class CertifiedLoop(Loop):
    """One sitting at a run with `--certify`."""

    _asked = 0
    """Tokens of the rounds that decisions rest on."""
    _halt: Literal["", "budget", "open"] = ""
    """Why no further length is asked: the budget is spent, or an answer is lacking and may not be asked for."""
    _dry = False
    """Whether nothing may be asked for."""
    _ready: Ready | None = None

    @cached_property
    def _rounds(self) -> dict[int, list[Round]]:
        """The rounds of each length; a length over the model's limit has none."""
        found: dict[int, list[Round]] = {length: [] for length in self.job.grid.lengths}
        for each in rounds(self.job):
            found[each.length].append(each)
        return found

    @cached_property
    def _findings(self) -> Findings:
        """What verification found, in this sitting and in earlier ones."""
        kept = (self.directory.manifest.values.get("verification") or {}).get("samples", [])
        try:
            return Findings(comparisons=[Comparison(**each) for each in kept])
        except TypeError:
            # Of an engine, or of another version: lengths are verified anew.
            return Findings()

    @cached_property
    def _verifying(self) -> bool:
        """Whether sharing is to be verified, once the weights are loaded."""
        return self._ready is not None and self._verifies(self._ready.chunk)

    @property
    def _is_finished(self) -> bool:
        """Whether the rows decide all that is to be decided."""
        self._dry = True
        list(self._walk())
        self._dry = False
        # An engine may tell its limit only when it has started.
        del self._rounds
        return self._halt != "open"

    def _ask(self, ready: Ready | None) -> bool:
        """Ask round after round until everything is decided. Returns whether anything was answered."""
        self._ready, before = ready, len(self.directory.rows)
        counts = forecast(self.job, chain.from_iterable(self._rounds.values()))
        self.say(
            f"--certify reads at most {counts['at_most_tokens']:,} planned tokens, and {counts['all_right_tokens']:,} if all answers are "
            "right"
        )
        self._tell_of_earlier([s for s in self.job.plan.samples if self._is_open(s)])
        while True:
            try:
                self._conclude()
                return len(self.directory.rows) > before
            except _Anew:
                had = [s for s in self.job.plan.samples if s.id in self.directory.rows and self._is_open(s)]
                self._listen(Request(tuple(had), "whole"), Findings())

    def _conclude(self) -> None:
        """Walk over the lengths, say what is decided of each, and write what was left out."""
        left_out = []
        for length, verdict in zip(self._rounds, self._walk(), strict=True):
            if verdict is None or (self._halt == "budget" and not verdict.n):
                left_out += [length] if self._rounds[length] else []
            elif verdict.n:
                self.say(f"{format_length(length)}: {_told(verdict, self.job.options.threshold)}")
        if self._halt == "budget":
            self.say(
                f"the budget of {self.job.options.certify_budget:,} tokens has no room for another round; the same command with a larger "
                "--certify-budget goes on"
            )
        if left_out:
            why = (
                "the budget is spent" if self._halt == "budget" else "two shorter lengths in a row are below"
            )
            self.say(f"{', '.join(map(format_length, left_out))}: not asked, because {why}")
        tokens = {"asked": self._asked, "planned": self.directory.manifest.values["planned_tokens"]}
        kept = self.directory.manifest.values["certify"]
        self.directory.write_manifest(certify={**kept, "not_asked": left_out, "tokens": tokens})

    def _walk(self) -> Iterator[certify.Verdict | None]:
        """Yield what is decided of each length; None of those that are not asked."""
        self._asked, self._halt, below = 0, "", 0
        for length in self._rounds:
            if self._halt or below == certify.IN_A_ROW:
                yield None
                continue
            verdict = certify.decide(self._answers(length), self.job.options.threshold, len(self._rounds))
            below = below + 1 if verdict.decision == "below" else 0
            yield verdict

    def _answers(self, length: int) -> Iterator[certify.Round]:
        """Yield the rounds of a length, each once it is answered."""
        budget, named = self.job.options.certify_budget, haystack_of(self._stored)
        for count, each in enumerate(self._rounds[length]):
            cost = each.plan.naive_tokens if self.sharing_failed else each.plan.planned_tokens
            if budget is not None and self._asked + cost > budget:
                self._halt = "budget"
                return
            if self._dry and any(map(self._is_open, each.plan.samples)):
                self._halt = "open"
                return
            if not self._dry:
                self._answer_round(each, verify=not count)
            self._asked += cost
            rows = [self.directory.rows[sample.id] for sample in each.plan.samples]
            yield certify.round_of(self._stored, rows, named)

    @property
    def _stored(self) -> StoredRun:
        """The run as a report would read it, without its rows."""
        return StoredRun(self.directory.path, self.directory.manifest, ())

    def _answer_round(self, each: Round, verify: bool) -> None:
        """Answer what is open of a round, and with `verify` some of it a second time from scratch. Raises _Anew if sharing fails there."""
        pending = tuple(s for s in each.plan.samples if self._is_open(s))
        verify = (
            verify and self.job.engine is None and not self.sharing_failed and not self._is_verified(each)
        )
        if not pending and not verify:
            return
        ready = self._ready = self._ready or self._start()
        if self.sharing_failed:
            self._listen(Request(pending, "whole"), Findings())
            return
        chosen = self._chosen(each, ready.chunk) if self._verifying and verify else ()
        again = [s for s in chosen if not self._is_open(s)]
        if not pending and not again:
            return
        ids, answered = frozenset(s.id for s in chosen), frozenset(s.id for s in again)
        self._listen(Request((*pending, *again), self._mode, ids, answered), self._findings)
        if self._findings.failed:
            self._fall_back(self._findings, self._findings.failed)
            raise _Anew
        if chosen:
            self.directory.write_manifest(prefill=self._mode, verification=self._findings.result())

    def _is_verified(self, each: Round) -> bool:
        """Whether a sample of this length has been answered from scratch."""
        compared = {found.id for found in self._findings.comparisons}
        return any(s.id in compared for own in self._rounds[each.length] for s in own.plan.samples)

    def _chosen(self, each: Round, chunk: int | None) -> Sequence[Sample]:
        """Choose the samples of a round that verify sharing: as in a full run at the first length, and one at each longer one.

        The one is the last that a full run would choose, which has been rewound to, behind chunks, more often than those before.
        """
        assert chunk is not None, "an engine's sharing is not verified here"
        chosen = [each.plan.samples[i] for i in choose(each.plan, chunk)]
        return chosen if not self._findings.comparisons else chosen[-1:]


def _told(verdict: certify.Verdict, threshold: float) -> str:
    """Return what is decided of a length, in words."""
    named = verdict.decision if verdict.decision == "undecided" else f"{verdict.decision} {threshold:g}"
    return f"{named} after {verdict.n} answers, accuracy {verdict.right / verdict.n:.2f} [{verdict.low:.2f}, {verdict.high:.2f}]"
