"""Speed as ratios, measured side by side in one run: this machine's absolute seconds mean little elsewhere."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nih.inference.asker import Asker
from nih.inference.events import Event, Progress
from nih.inference.walk import Walk
from nih.options import RunOptions
from nih.protocols import Engine, Oracle, Tokenizer
from nih.run.job import Job, prepare
from nih.types import Answer, Sample

Print = Callable[[str], None]


@dataclass
class Way:
    """One way of answering the same samples, and what it took so far."""

    name: str
    tokens: int
    prefill: float = 0.0
    """Seconds spent reading prompts."""
    wall: float = 0.0
    answers: dict[str, str] = field(default_factory=dict)

    def next(self, events: Iterator[Event]) -> Answer:
        """Go on to the next answer, by the clock."""
        start = time.perf_counter()
        for event in events:
            if isinstance(event, Progress) and event.work == "prefill":
                self.prefill += event.seconds
            elif isinstance(event, Answer):
                self.wall += time.perf_counter() - start
                self.answers[event.sample_id] = event.text
                return event
        raise RuntimeError("the walk ended without an answer")


def sweep(options: RunOptions, with_generate: bool, show: Print, say: Print) -> list[Way]:
    """Answer a grid with shared prefixes, without, and by transformers' `generate` prompt by prompt; print the ratios.

    The ways take turns sample by sample, so a machine that slows down slows all of them. All use the same loaded weights,
    dtype, threads, stop strings and answer room; the shared way is the walk that a run of this grid does, unverified.
    """
    job = prepare(options)
    if isinstance(job.model, Oracle):
        job.model.teach(job.samples)
    shared, alone, generate = (
        Way("shared prefixes (--share always)", job.plan.planned_tokens),
        Way("each prompt alone (--share never)", job.plan.naive_tokens),
        Way("transformers generate", job.plan.naive_tokens),
    )
    sharing, lone = Walk(_asker(job)), Walk(_asker(job))
    library = _library(job, sharing.asker.session) if with_generate else None
    if with_generate and library is None:
        say(f"model `{options.model}` is not one of transformers' own, so its `generate` is left out")
    _warm_up(lone, job.plan.samples)
    samples = {s.id: s for s in job.plan.samples}
    events = sharing.shared(job.plan.samples)
    for number in range(len(samples)):
        sample = samples[shared.next(events).sample_id]
        alone.next(lone.alone([sample], whole=False))
        if library is not None:
            _generate(generate, library, job, sample)
        if number % 10 == 9:
            say(f"{number + 1} of {len(samples)} samples measured")
    ways = [shared, alone] + ([generate] if library is not None else [])
    for line in table(ways):
        show(line)
    return ways


def _asker(job: Job) -> Asker:
    assert not isinstance(job.model, Engine), "a bench opens no engine"
    return Asker(job.model.session(), job.model.tokenizer, likelihood=False, timeout=None)


def table(ways: Sequence[Way]) -> list[str]:
    """Return the lines of the comparison; the ratios are each way's figure over that of the first."""
    first = ways[0]
    lines = [
        f"{'way':36} {'tokens':>9} {'prefill s':>10} {'wall s':>8} {'tokens x':>9} {'prefill x':>10} {'wall x':>7} {'same answers':>13}"
    ]
    for way in ways:
        same = sum(way.answers[i] == first.answers[i] for i in first.answers)
        prefill = f"{way.prefill:10.2f}" if way.prefill else f"{'-':>10}"
        ratio = f"{way.prefill / first.prefill:10.2f}" if way.prefill else f"{'-':>10}"
        lines.append(
            f"{way.name:36} {way.tokens:9,} {prefill} {way.wall:8.2f} {way.tokens / first.tokens:9.2f} {ratio} "
            f"{way.wall / first.wall:7.2f} {same:>6} of {len(first.answers)}"
        )
    return lines


def startup(show: Print, repeats: int = 7) -> float:
    """Print the median seconds of `nih --help` and `nih list`, beside those of an interpreter that does nothing."""
    commands = {
        "nih --help": ["-m", "nih", "--help"],
        "nih list": ["-m", "nih", "list"],
        "python -c pass": ["-c", "pass"],
    }
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            taken[name].append(time.perf_counter() - start)
    medians = {name: sorted(seconds)[repeats // 2] for name, seconds in taken.items()}
    for name, seconds in medians.items():
        show(f"{name:16} {seconds:.3f} s (median of {repeats})")
    return medians["nih --help"]


def _generate(way: Way, library: Any, job: Job, sample: Sample) -> None:
    start = time.perf_counter()
    way.answers[sample.id] = generated(library, job.model.tokenizer, sample)
    way.wall += time.perf_counter() - start


def generated(library: Any, tokenizer: Tokenizer, sample: Sample) -> str:
    """Answer by transformers' own loop, as a script that knows nothing of shared prefixes would call it."""
    import torch

    ids = torch.from_numpy(sample.prompt.ids().astype("int64"))[None].to(library.device)
    stop = StopAtText(tokenizer, ids.shape[1], sample.stop)
    with torch.inference_mode():
        out = library.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=sample.room,
            do_sample=False,
            stopping_criteria=[stop],
            pad_token_id=0,
        )
    text = tokenizer.decode(out[0, ids.shape[1] :].cpu().numpy())
    return text[: min((text.find(s) for s in sample.stop if s in text), default=len(text))]


class StopAtText:
    """The stop rule of a session, in the form that `generate` takes."""

    def __init__(self, tokenizer: Any, prompt: int, stop: Sequence[str]) -> None:
        self._tokenizer, self._prompt, self._stop = tokenizer, prompt, stop

    def __call__(self, ids: Any, scores: Any, **_: Any) -> Any:
        """Return True for a row whose new text holds a stop string."""
        import torch

        text = self._tokenizer.decode(ids[0, self._prompt :].cpu().numpy())
        return torch.tensor([any(s in text for s in self._stop)], device=ids.device)


def _library(job: Job, session: Any) -> Any:
    """Return transformers' own model over the same weights: the one that the session drives, or for our adapters one of its class."""
    if hasattr(session, "model"):
        return session.model
    folder = getattr(job.model, "folder", None)
    if folder is None:
        return None
    from transformers import AutoModelForCausalLM

    auto: Any = AutoModelForCausalLM
    return auto.from_pretrained(folder).eval()


def _warm_up(walk: Walk, samples: Sequence[Sample]) -> None:
    shortest = min(samples, key=lambda s: len(s.prompt))
    for _ in walk.alone([shortest], whole=False):
        pass
