"""One way of answering a grid, in a process of its own: `python -m nih.bench.engines_worker JSON`, also in vLLM's environment.

The JSON is {"kind": "nih" | "vllm" | "generate", "options": {...}, "out": "..."}. The file `out` then holds {"taken": {...}}, the
fields of nih.bench.engines.Taken, or {"usage": "..."}, what the user must mend.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nih.bench.engines import library_source
from nih.bench.sweep import generated
from nih.errors import EngineError, ModelError, UsageError, reason
from nih.inference.answerer import LocalAnswerer, Request
from nih.inference.engine import EngineAnswerer
from nih.options import RunOptions
from nih.protocols import Engine
from nih.run.job import Job, prepare
from nih.threads import let_threads_sleep
from nih.types import Answer
from nih.version import __version__


@dataclass
class Clock:
    """Seconds from its making on, of the wall and of all threads of this process."""

    wall: float = field(default_factory=time.perf_counter)
    cpu: float = field(default_factory=time.process_time)

    def read(self) -> dict[str, float]:
        """Return what has passed."""
        return {"seconds": time.perf_counter() - self.wall, "cpu_seconds": time.process_time() - self.cpu}


def main(order: str) -> None:
    """Do what the order says."""
    asked = json.loads(order)
    if asked["kind"] == "nih":
        let_threads_sleep()
    try:
        told: dict[str, Any] = {"taken": take(asked["kind"], asked["options"])}
    except UsageError as error:
        told = {"usage": str(error)}
    Path(asked["out"]).write_text(json.dumps(told), encoding="utf-8")


def take(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the grid of the options, and return the fields of Taken. Raises UsageError of all kinds."""
    job = prepare(RunOptions.of(**options))
    taken = by_generate(job) if kind == "generate" else by_answerer(job)
    import torch

    if kind == "vllm" and os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "1":
        taken["cpu_seconds"] = None  # other processes did the work
    return {**taken, "threads": torch.get_num_threads()}


def by_answerer(job: Job) -> dict[str, Any]:
    """Answer as `nih run --share always` does: the walk, or vLLM's scheduler. Raises EngineError, ModelError."""
    answerer = (
        EngineAnswerer(job.model, job.likelihood, None, lambda line: print(line, file=sys.stderr))
        if isinstance(job.model, Engine)
        else LocalAnswerer(job.model, job.likelihood, None, job.thinking_ends)
    )
    answers: dict[str, str] = {}
    with closing(answerer):
        identity = answerer.start().identity
        with closing(answerer.answers(Request(job.plan.samples, "shared"))) as events:
            next(events)  # the workload, before any work
            clock = Clock()
            for event in events:
                if isinstance(event, Answer):
                    answers[event.sample_id] = _text(event)
            passed = clock.read()
    return {
        **passed,
        "load_seconds": answerer.load_seconds,
        "device": identity.get("device", "cpu"),
        "dtype": identity.get("dtype", ""),
        "version": identity.get("engine_version", __version__),
        "answers": answers,
    }


def _text(answer: Answer) -> str:
    if answer.status != "ok":
        raise EngineError(
            f"sample `{answer.sample_id}` has no answer ({answer.status}: {answer.error or 'no reason given'}), so seconds would say "
            "nothing; ask for lengths that fit"
        )
    return answer.text


def by_generate(job: Job) -> dict[str, Any]:
    """Answer by `generate` of transformers' own model, loaded afresh, prompt by prompt. Raises ModelError."""
    import transformers

    start = time.perf_counter()
    library = _library(job)
    load_seconds = time.perf_counter() - start
    samples, answers = job.plan.samples, {}
    clock = Clock()
    for sample in samples:
        answers[sample.id] = generated(library, job.model.tokenizer, sample)
    return {
        **clock.read(),
        "load_seconds": load_seconds,
        "device": library.device.type,
        "dtype": str(library.dtype).removeprefix("torch."),
        "version": transformers.__version__,
        "answers": answers,
    }


def _library(job: Job) -> Any:
    """Return transformers' model of the weights that our session would have, in the same dtype, without anything of ours."""
    import torch
    from transformers import AutoModelForCausalLM

    where = library_source(job.model)
    identity = job.model.identity()
    auto: Any = AutoModelForCausalLM
    try:
        model = auto.from_pretrained(
            where, revision=getattr(job.model, "commit", None), dtype=getattr(torch, identity["dtype"])
        )
    # Whatever a model's own code raises: files, memory, classes that transformers does not know.
    except Exception as error:
        raise ModelError(
            f"transformers cannot load `{job.options.model}` ({reason(error)}); type --no-generate"
        ) from error
    return model.to(identity["device"]).eval()


if __name__ == "__main__":
    main(sys.argv[1])
