"""The loop of a run: plan, answer, verify, score, append. What has an answer is left alone, so a run resumes."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from nih.errors import SettingsDiffer
from nih.inference.answerer import Answerer, LocalAnswerer, PrefillMode, Ready, Request
from nih.inference.engine import EngineAnswerer
from nih.inference.events import Comparison, Progress, Workload
from nih.inference.progress import Bar
from nih.inference.verify import Findings, choose
from nih.inference.worker import WorkerSettings
from nih.inference.worker_pool import WorkerPool
from nih.inference.workers import Workers
from nih.prompts.grid import format_length
from nih.protocols import Engine
from nih.run.job import Job, open_again
from nih.run.record import Prefill, describe, row_of
from nih.store.directory import RunDirectory
from nih.store.environment import now
from nih.types import UNANSWERED, Answer, Sample

Say = Callable[[str], None]


class Loop:
    """One sitting at a run: what is left is answered, verified and appended."""

    def __init__(self, job: Job, directory: RunDirectory, say: Say, quiet: bool, started: float) -> None:
        """`started` is the time, by `time.perf_counter`, from which the seconds of the run count: before the job was prepared."""
        self.job = job
        self.directory = directory
        self.say = say
        self.quiet = quiet
        self.times = Times(started, time.perf_counter() - started, dict(directory.manifest.times))
        self.answerer = _answerer(job, say)
        self.samples = {s.id: s for s in job.samples}

    def run(self) -> str:
        """Answer what has no answer yet. Returns the exit state, which run.json then holds, whatever ended the sitting."""
        try:
            with ExitStack() as stack:
                stack.callback(self.answerer.close)
                stack.callback(self._write_report)
                self._fill()
        except BaseException as error:
            self._end("interrupted" if isinstance(error, KeyboardInterrupt) else "failed")
            raise
        rows = self.directory.rows
        unanswered = any(row.status in UNANSWERED for row in rows.values() if row.id in self.samples)
        return self._end("incomplete" if unanswered else "done")

    @property
    def sharing_failed(self) -> bool:
        """Whether prompts must be read in one call each."""
        return self.job.engine is None and self.directory.manifest.verification == "failed"

    def _fill(self) -> None:
        """Mark what is over the limit, and answer what is open. The weights are loaded only if a sample is."""
        job = self.job
        self._leave_out()
        if job.engine and self._is_finished:
            self.say(f"resuming {self.directory.path}: all samples are answered")
            return
        self._describe()
        # The limit of an engine may be known from its start on.
        ready = self._start() if job.engine else None
        plan = job.plan
        sums = {"naive_tokens": plan.naive_tokens, "planned_tokens": plan.planned_tokens}
        if self.sharing_failed:
            sums["planned_tokens"] = plan.naive_tokens
        self.directory.write_manifest(limit=job.model.limit, samples=len(job.samples), **sums)
        self._mark_over_limit()
        if self._ask(ready) and job.engine:
            self._verify_engine()

    @property
    def _is_finished(self) -> bool:
        """Whether there is nothing to ask."""
        return not any(map(self._is_open, self.job.samples))

    def _ask(self, ready: Ready | None) -> bool:
        """Answer what is open. Returns whether anything was."""
        pending = [s for s in self.job.plan.samples if self._is_open(s)]
        self._tell_of_earlier(pending)
        if pending or (self._is_unverified and self.job.plan.samples):
            self._answer(pending, ready or self._start())
        return bool(pending)

    def _tell_of_earlier(self, pending: list[Sample]) -> None:
        """Say how much earlier sittings have answered, and whether it was under other versions."""
        planned = len(self.job.plan.samples)
        if self.directory.rows and len(pending) < planned:
            self.say(
                f"resuming {self.directory.path}: {planned - len(pending)} of {planned} samples are answered"
            )
        if pending:
            self._check_passages()
        if pending and self.directory.rows and (changed := self.directory.manifest.other_versions):
            self.say(
                f"warning: earlier answers of {self.directory.path} were given under other versions ({'; '.join(changed)}), and "
                "answers may differ; to ask everything anew, type --fresh"
            )

    def _verify_engine(self) -> None:
        """Ask some samples again with the engine's cache out of play, once per run, and say what came of it."""
        done = self.directory.manifest.verification in ("verified", "failed")
        if done or self.job.options.share == "always" or not isinstance(self.answerer, EngineAnswerer):
            return
        start = time.perf_counter()
        answered = [row.id for row in self.directory.rows.values() if row.status == "ok"]
        found = self.answerer.verify(self.job.plan, answered)
        self.times.work["verify"] += time.perf_counter() - start
        self.directory.write_manifest(verification=found)
        self.say(_cache_verdict(found))

    def _leave_out(self) -> None:
        """Name the rows of the journal that are none of the run's samples any more, so that nothing counts them."""
        stale = [id for id in self.directory.rows if id not in self.samples]
        if stale or self.directory.manifest.left_out:
            self.directory.write_manifest(left_out=stale)
        if stale:
            self.say(
                f"warning: {len(stale)} answers in {self.directory.path} are to prompts that this run no longer asks, because the template, "
                "the tokenizer, the text or nih has changed; they are left out, and their prompts are asked as they are now"
            )

    def _check_passages(self) -> None:
        """Refuse to go on where answers were given to other passages than are found now: ids do not tell, for they are those of contexts.

        Raises SettingsDiffer.
        """
        for row in self.directory.rows.values():
            sample = self.samples.get(row.id)
            read = sample.retrieved.prompt_read if sample and sample.retrieved else ""
            if row.prompt_read not in ("", read):
                raise SettingsDiffer(
                    f"`{self.directory.path}` holds answers to other passages than `--retrieve {self.job.options.retrieve}` finds now (first: "
                    f"sample `{row.id}`); use the versions that run.json names, or type --fresh"
                )

    def _answer(self, pending: list[Sample], ready: Ready) -> None:
        """Answer what is open and verify sharing, once per run; where that fails, read every prompt in one call."""
        if self.sharing_failed:
            self.say(
                "sharing failed its verification before: prompts are read in one call each (`prefill: whole`)"
            )
            self._listen(Request(tuple(pending), "whole"), Findings())
            return
        mode = self._mode
        chosen = self._choose(ready.chunk)
        # A run that was killed before it was verified answers these once more: their logits are gone.
        again = [s for s in chosen if not self._is_open(s)]
        verify, answered = frozenset(s.id for s in chosen), frozenset(s.id for s in again)
        findings = Findings(by=ready.verified_by)
        self._listen(Request((*pending, *again), mode, verify, answered), findings)
        if findings.failed:
            self._fall_back(findings, findings.failed)
            self._listen(Request(self.job.plan.samples, "whole"), Findings())
        elif chosen:
            self.directory.write_manifest(prefill=mode, verification=findings.result())
            if findings.state == "unverified":
                self.say(
                    "no sample could be answered from scratch in one call, so sharing is unverified (see run.json)"
                )

    def _listen(self, request: Request, findings: Findings) -> None:
        """Append answers as they come; stop at the first answer after a comparison has failed."""
        prefill: Prefill = "engine" if self.job.engine else request.mode
        with closing(self.answerer.answers(request)) as events:
            workload = next(events)
            assert isinstance(workload, Workload), "the workload comes first"
            with closing(Bar(workload, quiet=self.quiet)) as bar:
                for event in events:
                    if isinstance(event, Progress):
                        self.times.work[event.work] += event.seconds
                        bar.step(event)
                    elif isinstance(event, Comparison):
                        findings.comparisons.append(event)
                    elif isinstance(event, Answer):
                        if self._is_open(self.samples[event.sample_id]):
                            self._append(event, prefill)
                        if findings.failed:
                            return

    @property
    def _mode(self) -> PrefillMode:
        """How prompts are read as long as verification has not failed."""
        return "chunks" if self.job.options.share == "never" else "shared"

    def _choose(self, chunk: int | None) -> tuple[Sample, ...]:
        """Choose the samples that verify sharing, once per run; none if it was verified, or is not to be."""
        if not self._verifies(chunk) or chunk is None or self.directory.manifest.verification == "passed":
            return ()
        return tuple(self.job.plan.samples[i] for i in choose(self.job.plan, chunk))

    def _verifies(self, chunk: int | None) -> bool:
        """Return whether sharing is to be verified; if not, run.json says why."""
        if chunk is None:
            self.directory.write_manifest(prefill="engine")
            if not self.directory.manifest.verification:
                not_yet = (
                    "--share always" if self.job.options.share == "always" else "the run has not come to it"
                )
                self.directory.write_manifest(verification={"state": "not asked", "why": not_yet})
            return False
        if self.job.options.share == "always":
            why = {"state": "not asked", "why": "--share always"}
            self.directory.write_manifest(prefill="shared", verification=why)
            return False
        return True

    @property
    def _is_unverified(self) -> bool:
        """Whether sharing is to be verified and never was: a run can be killed between its last answer and that."""
        asked = self.job.engine is None and self.job.options.share != "always"
        return asked and self.directory.manifest.verification is None

    def _is_open(self, sample: Sample) -> bool:
        """Whether a sample has no answer, or only one that was made before sharing failed its verification."""
        row = self.directory.rows.get(sample.id)
        if row is None or row.failed:
            return True
        if row.status == self.job.options.retry:
            return True
        if row.status == "over_limit":
            # A session's limit is known, so what fits now was never tried; an engine's refusal counts until it is overruled.
            return self.job.engine is None or self.job.options.beyond_limit
        return self.sharing_failed and row.prefill != "whole"

    def _mark_over_limit(self) -> None:
        job = self.job
        why = f"longer than the model's {job.model.limit} positions"
        left_out = [s for s in job.samples if not job.fits(s)]
        for sample in left_out:
            if sample.id not in self.directory.rows:
                self._append(Answer(sample.id, "over_limit", error=why), "none")
        if left_out:
            self.say(
                f"{len(left_out)} of {len(job.samples)} samples are {why}: `over_limit` (run them with --beyond-limit)"
            )

    def _fall_back(self, findings: Findings, worst: Comparison) -> None:
        """Say that sharing changed an answer or its logits, and that every prompt is now read in one call, answered ones too."""
        self.say(_warning(self.job.options.model, worst))
        self.directory.write_manifest(
            prefill="whole",
            verification=findings.result(),
            planned_tokens=self.job.plan.naive_tokens,
        )

    def _start(self) -> Ready:
        """Load the weights; refuse to go on with others than those that began the run."""
        ready = self.answerer.start()
        known = self.directory.manifest.weights
        weights = ready.identity.get("weights")
        if known is not None and known != weights:
            raise SettingsDiffer(
                f"run folder `{self.directory.path}` was begun with other weights ({known}) than "
                f"`{self.job.options.model}` has now ({weights}); type --fresh or another --out"
            )
        self.directory.write_manifest(identity=dict(ready.identity))
        return ready

    def _describe(self) -> None:
        described = describe(self.job)
        if self.directory.rows:
            # Rows of before keep the score of then.
            earlier = self.directory.manifest.score_versions
            versions = described["score_versions"]
            described["score_versions"] = {name: min(v, earlier.get(name, 1)) for name, v in versions.items()}
        for note in described.get("notes", ()):
            self.say(note)
        self.directory.write_manifest(**described)

    def _write_report(self) -> None:
        """Add what the answerer reports of this sitting to the manifest."""
        for kind, report in self.answerer.report().items():
            self.directory.write_manifest(**{kind: [*self.directory.manifest.reports(kind), report]})

    def _end(self, state: str) -> str:
        """Write how this sitting ended; seconds add up over sittings."""
        times = self.times.total(self.answerer.load_seconds)
        self.directory.write_manifest(exit_state=state, times=times, seconds=times["seconds"], ended=now())
        return state

    def _append(self, answer: Answer, prefill: Prefill) -> None:
        sample = self.samples[answer.sample_id]
        attempt = self.directory.next_attempt(sample.id)
        self.directory.append(row_of(self.job, sample, answer, attempt, prefill))


@dataclass
class Times:
    """Seconds of a run, which add up over its sittings."""

    started: float
    """When this sitting began, by `time.perf_counter`."""
    prepare_seconds: float
    """What it took until there were prompts: mostly libraries that are imported."""
    before: Mapping[str, float]
    """Of earlier sittings, as run.json has them."""
    work: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Of this sitting, by kind of work."""

    def total(self, load_seconds: float) -> dict[str, float]:
        """Return what run.json says now."""
        spent = {
            "seconds": time.perf_counter() - self.started,
            "prepare_seconds": self.prepare_seconds,
            "load_seconds": load_seconds,
            **{f"{kind}_seconds": self.work[kind] for kind in ("prefill", "generate", "verify")},
        }
        return {key: round(self.before.get(key, 0.0) + value, 3) for key, value in spent.items()}


def _answerer(job: Job, say: Say) -> Answerer:
    """Choose what answers: an engine, Ray workers, or a session in this process."""
    options = job.options
    if isinstance(job.model, Engine):
        return EngineAnswerer(job.model, job.likelihood, options.timeout, say)
    if not options.spread:
        return LocalAnswerer(job.model, job.likelihood, options.timeout, job.thinking_ends)
    open_model = partial(open_again, options, max(job.grid.lengths))
    settings = WorkerSettings(open_model, job.likelihood, options.timeout, os.getcwd(), job.thinking_ends)
    tokenizer = job.model.tokenizer.fingerprint
    return WorkerPool(Workers(settings, options.workers, options.ray, options.device, tokenizer, say))


def _cache_verdict(found: Mapping[str, Any]) -> str:
    """Say in one sentence whether the engine's cache changes answers."""
    if found["state"] == "failed":
        return f"warning: the engine's cache changes answers: {found['why']}; start it without a prefix cache, and run again with --fresh"
    return f"the engine's cache: {found['state']}, {found['why']}"


def _warning(model: str, worst: Comparison) -> str:
    return (
        f"warning: model `{model}` answers differently when its prompt is read in pieces "
        f"(logits differ by {worst.difference:.3g}, allowed {worst.allowed:.3g}, answer {'equal' if worst.same_answer else 'changed'}, "
        f"{format_length(worst.tokens)} tokens): every prompt is now read in one call, nothing is shared (`prefill: whole`)"
    )
