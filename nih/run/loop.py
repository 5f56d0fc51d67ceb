"""One sitting at a run: plan, walk, verify, score, append. What has an answer is left alone, so a run resumes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property, partial
from typing import Any, Literal

from nih.cost import measure as costs
from nih.errors import SettingsDiffer
from nih.inference.engine import submit
from nih.inference.prefix_plan import Plan, plan, verification
from nih.inference.shards import loss, split
from nih.inference.verify import Comparison, Findings, Verifier
from nih.inference.walk import Asker, Clock, Walk, one_by_one
from nih.inference.workers import Crew, Reading, Work
from nih.prompts.grid import format_length
from nih.protocols import Engine, Oracle, Session
from nih.run import adaptive
from nih.run.job import Job, grid_settings, open_again
from nih.scores import score_answer
from nih.store import run as store
from nih.types import FAILURES, UNANSWERED, Answer, Cell, Sample

Prefill = Literal["shared", "chunks", "whole", "none", "engine"]
"""How a prompt was read: along the tree, alone in chunks, alone in one call, not at all, or as an engine saw fit."""


class Runner:
    """One sitting at a run: what is left is answered, verified and appended."""

    def __init__(
        self, job: Job, directory: store.RunDirectory, say: Callable[[str], None], quiet: bool, started: float
    ) -> None:
        self.job = job
        self.directory = directory
        self.say = say
        self.quiet = quiet
        self.started = started
        self.clock = Clock()
        self.load_seconds = 0.0
        self.before: dict[str, float] = dict(directory.manifest.get("times", {}))
        self.own: dict[str, int] = {}
        """Tokens of the plan that serve a sample's cell alone, by id."""
        self.by_id = {s.id: s for s in job.samples}
        self.rounds: dict[tuple[tuple[Cell, int], ...], Plan] = {}
        self.plans: list[Plan] = []
        self.tried: set[str] = set()
        """Samples answered in this sitting, with or without a score."""
        self.verified = False
        """Whether this sitting has verified sharing, with whatever result."""
        self.crew: Crew | None = None
        self.split_cost: Counter[str] = Counter()
        """What splitting the plan among workers costs, over all rounds of this sitting."""

    def run(self) -> str:
        """Answer what has no answer yet. Returns the exit state."""
        if self.job.engine is None:
            self._describe()
            self._describe_plan()
            self._fill(self._answer) if not self.job.options.spread else self._with_workers()
        else:
            self._through(self.job.engine)
        unanswered = any(r["status"] in UNANSWERED for r in self.directory.rows.values())
        state = "incomplete" if unanswered else "done"
        self.close(state)
        return state

    def _through(self, engine: Engine) -> None:
        """Answer through an engine, which is started only if a sample is open. Its limit may be known from then on."""
        try:
            # Of an adaptive run, the rounds that follow are only known once it goes on.
            if self.job.rule is None and not any(map(self._open, self.job.samples)):
                self.say(f"resuming {self.directory.path}: all samples are answered")
                return
            self._describe()
            start = time.perf_counter()
            engine.start()
            self.load_seconds = time.perf_counter() - start
            self._describe_plan()
            self._remember_weights()
            self._fill(self._submit)
        finally:
            engine.close()

    def _submit(self, pending: list[Sample]) -> None:
        job, engine = self.job, self.job.engine
        assert engine is not None
        self.directory.write_manifest(
            prefill="engine",
            verification={"state": "not asked", "why": "an engine shares prefixes by itself"},
        )
        try:
            for answer in submit(engine, pending, job.likelihood, job.options.timeout, self.say, self.quiet):
                self._append(answer, "engine")
        finally:
            report = dict(engine.report())
            sittings = [*self.directory.manifest.get("engine", []), report]
            self.directory.write_manifest(engine=sittings)
            for warning in report.get("warnings", []):
                self.say(f"warning: {warning}")

    def _fill(self, answer: Callable[[list[Sample]], None]) -> None:
        """Mark what is over the limit, and hand on what is still open."""
        job = self.job
        for sample in job.samples:
            if not job.fits(sample) and sample.id not in self.directory.rows:
                self._append(
                    Answer(
                        sample.id, "over_limit", error=f"longer than the model's {job.model.limit} positions"
                    ),
                    "none",
                )
        planned = [s for plan_ in self.plans for s in plan_.samples]
        pending = [s for s in planned if self._open(s)]
        unverified = (
            job.engine is None
            and job.options.share != "always"
            and "verification" not in self.directory.manifest
        )
        left_out = len(job.samples) - len(job.plan.samples)
        if left_out:
            self.say(
                f"{left_out} of {len(job.samples)} samples are longer than the model's {job.model.limit} positions: "
                "`over_limit` (run them with --beyond-limit)"
            )
        if self.directory.rows and len(pending) < len(planned):
            self.say(
                f"resuming {self.directory.path}: {len(planned) - len(pending)} of {len(planned)} samples are answered"
            )
        if pending or (unverified and job.plan.samples):
            answer(pending)
        while job.rule and (pending := self._next_round()):
            answer(pending)

    def close(self, state: str) -> None:
        """Write how this sitting ended; times add up over sittings."""
        spent = {
            "seconds": time.perf_counter() - self.started,
            "load_seconds": self.load_seconds,
            "prefill_seconds": self.clock.prefill,
            "generate_seconds": self.clock.generate,
            "verify_seconds": self.clock.verify,
        }
        times = {key: round(self.before.get(key, 0.0) + value, 3) for key, value in spent.items()}
        self.directory.write_manifest(
            exit_state=state, times=times, seconds=times["seconds"], ended=store.now()
        )

    def _next_round(self) -> list[Sample]:
        """What an adaptive run asks next; nothing when it is done. The manifest says how it came to that."""
        self._lay_out()
        self.directory.write_manifest(**self._extent())
        pending = [
            s for plan_ in self.plans for s in plan_.samples if self._open(s) and s.id not in self.tried
        ]
        if pending:
            cells = len({s.cell for s in pending})
            self.say(f"round {len(self.plans)}: {len(pending)} more samples in {cells} cells")
        return pending

    def _lay_out(self) -> None:
        """Plan the rounds that follow from the answers so far; each has its own prefix tree."""
        job = self.job
        self.plans = [job.plan]
        self._register(job.plan)
        if job.rule is None:
            return
        rows = self.directory.rows.values()
        scores = {(Cell(row["length"], float(row["depth"])), row["trial"]): row["score"] for row in rows}
        cells = dict.fromkeys(s.cell for s in job.plan.samples)
        self.state = adaptive.replay(job.rule, cells, scores)
        (part,), longest = job.parts, max(job.grid.lengths)
        for batch in map(tuple, self.state.rounds[1:]):
            if batch not in self.rounds:
                self.rounds[batch] = plan(part.builder.sample(cell, trial, longest) for cell, trial in batch)
                self._register(self.rounds[batch])
            self.plans.append(self.rounds[batch])

    def _register(self, plan_: Plan) -> None:
        self.own |= zip((s.id for s in plan_.samples), plan_.own_tokens, strict=True)
        self.by_id |= {s.id: s for s in plan_.samples}

    def _extent(self) -> dict[str, Any]:
        """For the manifest: how much the run asks and reads, as far as that is known."""
        job = self.job
        later = sum(len(plan_.samples) for plan_ in self.plans[1:])
        naive = sum(plan_.naive_tokens for plan_ in self.plans)
        planned = naive if self._sharing_failed else sum(plan_.planned_tokens for plan_ in self.plans)
        extent = {"samples": len(job.samples) + later, "naive_tokens": naive, "planned_tokens": planned}
        return extent | ({"adaptive": self._decisions(job.rule)} if job.rule else {})

    def _decisions(self, rule: adaptive.Rule) -> dict[str, Any]:
        asked = Counter(cell for batch in self.state.rounds for cell, _ in batch)
        stopped = self.state.stopped
        return {
            **asdict(rule),
            "start": adaptive.START,
            "complete": self.state.complete,
            "samples": self.state.samples,
            "rounds": [
                {
                    "cells": len({s.cell for s in plan_.samples}),
                    "samples": len(plan_.samples),
                    "naive_tokens": plan_.naive_tokens,
                    "planned_tokens": plan_.planned_tokens,
                }
                for plan_ in self.plans
            ],
            "stopped": dict(sorted(Counter(stopped.values()).items())),
            "cells": [
                {"length": cell.length, "depth": cell.depth, "asked": n, "stopped": stopped.get(cell)}
                for cell, n in sorted(asked.items())
            ],
        }

    def price(self) -> None:
        """Measure what the prompts of each length cost and write cost.csv, where it is asked for and not there yet."""
        path = self.directory.path / costs.FILE
        if not self.job.options.cost or path.exists():
            return
        self.say(f"measuring the cost of {len(self.job.grid.lengths)} lengths, {costs.REPEATS} times each")
        points = costs.of_samples(
            costs.measurable(self.job.model),
            self._one_a_length(),
            self.job.fits,
            self._sharing_failed,
            self.job.options.timeout,
            self.say,
        )
        store.write_atomic(path, costs.table(costs.rows(points), costs.COST_COLUMNS))

    def _one_a_length(self) -> list[Sample]:
        """The first trial's prompt of each length with the needle in the middle, of the first task that has the length."""
        found: dict[int, Sample] = {}
        for part in self.job.parts:
            middle = part.grid.depths[len(part.grid.depths) // 2]
            for sample in self.job.samples:
                if sample.task == part.builder.label and sample.trial == 0 and sample.cell.depth == middle:
                    found.setdefault(sample.cell.length, sample)
        return [found[length] for length in sorted(found)]

    def _describe(self) -> None:
        job = self.job
        sources = {part.settings["haystack"]["name"]: part.settings["haystack"] for part in job.parts}
        several = {
            "name": ", ".join(sources),
            "fingerprint": ", ".join(s["fingerprint"] for s in sources.values()),
        }
        notes = [note for part in job.parts for note in part.notes]
        for note in notes:
            self.say(note)
        self.directory.write_manifest(
            options=asdict(job.options),
            model=job.options.model,
            tasks=[part.described for part in job.parts],
            grid=grid_settings(job.grid),
            seed=job.options.seed,
            haystack=several,
            **({"suite": job.suite.as_values()} if job.suite else {}),
            **({"notes": notes} if notes else {}),
            one_haystack=job.options.one_haystack,
            tokenizer={"name": job.model.tokenizer.name, "fingerprint": job.model.tokenizer.fingerprint},
            training_length=job.model.training_length,
            exit_state="running",
        )

    def _describe_plan(self) -> None:
        self._lay_out()
        self.directory.write_manifest(limit=self.job.model.limit, **self._extent())

    def _open(self, sample: Sample) -> bool:
        """Whether a sample has no answer, or only one that was made before sharing failed its verification."""
        row = self.directory.rows.get(sample.id)
        if row is None or row["status"] in FAILURES:
            return True
        if row["status"] == "over_limit":
            # A session's limit is known, so what fits now was never tried; an engine's refusal counts until it is overruled.
            return self.job.engine is None or self.job.options.beyond_limit
        return self._sharing_failed and row["prefill"] != "whole"

    @property
    def _sharing_failed(self) -> bool:
        return bool(self.directory.manifest.get("verification", {}).get("state") == "failed")

    def _answer(self, pending: list[Sample]) -> None:
        job = self.job
        if isinstance(job.model, Oracle):
            job.model.teach(tuple(self.by_id.values()))
        session = self._session
        asker = Asker(session, job.model.tokenizer, job.likelihood, job.options.timeout)
        walk = Walk(asker, self.clock)
        if self._sharing_failed:
            self._say_whole()
            self._collect(walk, "whole", pending)
            return
        verifier = Verifier(asker, self.clock, str(job.model.identity().get("dtype", "float32")))
        chosen = self._to_verify(session.chunk)
        verifier.samples = {s.id: s for s in chosen}
        walk.keep = frozenset(verifier.samples)
        # A run that was killed before it was verified answers these once more: their logits are gone.
        pending = pending + [s for s in chosen if not self._open(s)]
        walk.between = lambda: verifier(walk.kept)
        prefill = self._prefill
        if self._collect(walk, prefill, pending, verifier):
            self._fall_back(verifier)
            walk.keep, walk.between = frozenset(), bool
            self._collect(walk, "whole", [s for plan_ in self.plans for s in plan_.samples])
        elif chosen:
            self._conclude(prefill, verifier)

    @property
    def _prefill(self) -> Reading:
        """How prompts are read as long as sharing has not failed."""
        return "chunks" if self.job.options.share == "never" else "shared"

    def _to_verify(self, chunk: int) -> list[Sample]:
        """Samples by which sharing is verified, once a run; none if it was, or is not to be."""
        job = self.job
        if job.options.share == "always":
            self.directory.write_manifest(
                prefill="shared", verification={"state": "not asked", "why": "--share always"}
            )
            return []
        if self.verified or self.directory.manifest.get("verification", {}).get("state") == "passed":
            return []
        self.verified = True
        return [job.plan.samples[i] for i in verification(job.plan, chunk)]

    def _conclude(self, prefill: Prefill, findings: Findings) -> None:
        self.directory.write_manifest(prefill=prefill, verification=findings.result())
        if findings.state == "unverified":
            self.say(
                "no sample could be answered from scratch in one call, so sharing is unverified (see run.json)"
            )

    def _with_workers(self) -> None:
        """Answer with several workers, which start when a sample is open."""
        try:
            self._fill(self._spread)
        finally:
            if crew := self.crew:
                self.load_seconds = crew.load_seconds
                sitting = {**self.split_cost, **crew.result()}
                crew.close()
                self.directory.write_manifest(workers=[*self.directory.manifest.get("workers", []), sitting])

    def _spread(self, pending: list[Sample]) -> None:
        """What `_answer` is to one process. Each worker verifies sharing on its own device, in its own share."""
        options = self.job.options
        if self.crew is None:
            work = Work(
                partial(open_again, options, max(s.cell.length for s in self.job.samples)),
                self.job.likelihood,
                options.timeout,
                os.getcwd(),
            )
            fingerprint = self.job.model.tokenizer.fingerprint
            self.crew = Crew(work, options.workers, options.ray, options.device, fingerprint, self.say)
        hello = self.crew.first_hello()
        self._remember_weights(hello.identity)
        if self._sharing_failed:
            self._say_whole()
            self._gather(self.crew, "whole", pending)
            return
        chosen = self._to_verify(hello.chunk)
        findings = Findings(by="every worker, in its own share")
        again = [s for s in chosen if not self._open(s)]
        heard = findings if chosen else None
        if self._gather(self.crew, self._prefill, pending + again, heard, frozenset(s.id for s in again)):
            self._fall_back(findings)
            self._gather(self.crew, "whole", [s for plan_ in self.plans for s in plan_.samples])
        elif chosen:
            self._conclude(self._prefill, findings)

    def _gather(
        self,
        crew: Crew,
        prefill: Reading,
        samples: list[Sample],
        findings: Findings | None = None,
        also: frozenset[str] = frozenset(),
    ) -> bool:
        """What `_collect` is to one process: append what the workers answer. Returns True when a verification has failed."""
        from nih.inference.progress import Bar, work_alone, work_of

        todo, shared = plan(samples), prefill == "shared"
        shares = split(todo, crew.alive, shared)
        lost = loss(todo.planned_tokens if shared else todo.naive_tokens, shares)
        self.split_cost.update(lost)
        self.say(
            f"{len(shares)} shares: {lost['planned_tokens_split']:,} planned tokens, {lost['planned_tokens_one']:,} with one "
            f"worker; the largest share reads {lost['largest_share']:,}"
        )
        work = sum((work_of(plan(s.samples)) for s in shares), 0 * work_alone(todo))
        bar = Bar(work if shared else work_alone(todo), quiet=self.quiet)
        try:
            for news in crew.answers(shares, prefill, findings is not None, also):
                for kind, tokens, position, seconds in news.steps:
                    bar.step(kind, tokens, position, seconds / max(crew.alive, 1))
                self.clock.add(news.clock)
                if news.answer and self._open(self.by_id[news.answer.sample_id]):
                    self._append(news.answer, prefill)
                if findings and self._fails(findings, news.comparisons):
                    crew.halt()
                    return True
            return False
        finally:
            bar.close()

    @staticmethod
    def _fails(findings: Findings, comparisons: tuple[Comparison, ...]) -> bool:
        findings.comparisons += comparisons
        findings.allowed = max((c.allowed for c in findings.comparisons), default=None)
        return findings.failed is not None

    def _say_whole(self) -> None:
        self.say(
            "sharing failed its verification before: prompts are read in one call each (`prefill: whole`)"
        )

    @cached_property
    def _session(self) -> Session:
        """The model's session, whose weights are loaded once."""
        start = time.perf_counter()
        assert not isinstance(self.job.model, Engine)
        session = self.job.model.session()
        self.load_seconds = time.perf_counter() - start
        self._remember_weights()
        return session

    def _collect(
        self, walk: Walk, prefill: Prefill, samples: list[Sample], verifier: Verifier | None = None
    ) -> bool:
        """Append answers as they come. Returns True, at once, when the verifier has found a difference."""
        from nih.inference.progress import Bar, work_alone, work_of

        todo = plan(samples)
        shared = prefill == "shared"
        answers = walk.answers(todo) if shared else one_by_one(walk, samples, whole=prefill == "whole")
        bar = Bar(work_of(todo) if shared else work_alone(todo), quiet=self.quiet)
        walk.on_step = bar.step
        try:
            for answer in answers:
                if self._open(self.by_id[answer.sample_id]):
                    self._append(answer, prefill)
                if verifier and verifier.failed:
                    return True
            return bool(verifier and verifier.failed)
        finally:
            bar.close()

    def _fall_back(self, findings: Findings) -> None:
        """Sharing changed an answer or its logits: say that every prompt, also of what was answered, is now read in one call."""
        worst = findings.failed
        assert worst is not None
        self.say(
            f"warning: model `{self.job.options.model}` answers differently when its prompt is read in pieces "
            f"(logits differ by {worst.difference:.3g}, allowed {worst.allowed:.3g}, answer {'equal' if worst.same_answer else 'changed'}, "
            f"{format_length(worst.tokens)} tokens): every prompt is now read in one call, nothing is shared (`prefill: whole`)"
        )
        self.directory.write_manifest(
            prefill="whole",
            verification=findings.result(),
            planned_tokens=self.directory.manifest["naive_tokens"],
        )

    def _remember_weights(self, told: Mapping[str, Any] | None = None) -> None:
        """Say in the manifest what answered; refuse to go on with other weights than those that began."""
        identity = dict(self.job.model.identity() if told is None else told)
        known = self.directory.manifest.get("identity", {}).get("weights")
        if known is not None and known != identity.get("weights"):
            raise SettingsDiffer(
                f"run folder `{self.directory.path}` was begun with other weights ({known}) than "
                f"`{self.job.options.model}` has now ({identity.get('weights')}); type --fresh or another --out"
            )
        self.directory.write_manifest(identity=identity)

    def _append(self, answer: Answer, prefill: Prefill) -> None:
        sample = self.by_id[answer.sample_id]
        self.tried.add(sample.id)
        score = self.job.scores[sample.task]
        row = {
            "id": sample.id,
            "attempt": self.directory.next_attempt(sample.id),
            "task": sample.task,
            "length": sample.cell.length,
            "depth": sample.cell.depth,
            "actual_depth": round(sample.actual_depth, 4),
            "trial": sample.trial,
            "tokens": len(sample.prompt),
            "needle_at": sample.needle_at,
            "needle": sample.needle,
            "around": sample.around,
            "question": sample.question,
            "answer_prefix": sample.answer_prefix,
            "expected": list(sample.expected),
            **({"needles": [list(p) for p in sample.needles]} if sample.needles else {}),
            "answer": answer.text,
            **({"thinking": answer.thinking} if answer.thinking else {}),
            "score": score_answer(answer, sample.expected, score),
            "score_name": score,
            "status": answer.status,
            "error": answer.error,
            "nll": answer.nll,
            "greedy": answer.greedy,
            "prefill": prefill,
            "prefill_tokens": self.own.get(sample.id, 0),
            "seconds": round(answer.seconds, 6),
        }
        if answer.usage is not None:
            row |= {f"usage_{key}": value for key, value in answer.usage._asdict().items()}
        self.directory.append(row)
