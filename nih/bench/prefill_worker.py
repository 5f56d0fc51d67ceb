"""One model in a process of its own, so that its peak memory is its own and the out-of-memory killer ends no other model.

It speaks JSON, one message per line. It gets the options of a run once and answers with what it opened; then it gets a length and
answers with what the prompt of that length cost, until its input ends. A failure is a message too:

    < {"options": {...}, "timeout": null}        > {"ready": {"limit": 8192, "machine": [...], "lengths": [1024, ...]}}
    < {"length": 1024}                           > {"reading": {...}}  or  {"status": "oom", "error": "..."}
                                                 > {"usage": "..."}    for what the user must mend
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from nih.cost import measure as cost
from nih.cost.memory import gauge
from nih.errors import AnswerFailure, UsageError
from nih.options import RunOptions
from nih.run.job import prepare


def main() -> None:
    """Serve on the standard streams."""
    # The terminal sends an interrupt to every process; the parent then ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not stand between the messages

    def send(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")

    serve(map(json.loads, sys.stdin), send)


def serve(messages: Iterator[dict[str, Any]], send: Callable[[dict[str, Any]], None]) -> None:
    """Answer messages until they end."""
    try:
        first = next(messages)
        read = _opened(RunOptions.of(**first["options"]), first["timeout"], send)
        for message in messages:
            send(read(message["length"]))
    except UsageError as error:
        send({"usage": str(error)})


def _opened(
    options: RunOptions, timeout: float | None, send: Callable[[dict[str, Any]], None]
) -> Callable[[int], dict[str, Any]]:
    """Load the model, warm it up on its shortest prompt, and send `ready`. Returns a function that measures a length."""
    job = prepare(options)
    model = cost.measurable(job.model)
    session = model.session()
    watch = gauge(str(model.identity().get("device", "cpu")))
    prompts = {s.cell.length: s for s in job.samples if job.fits(s)}
    if prompts:
        cost.warm_up(
            session,
            prompts[min(prompts)],
            watch,
            lambda line: print(f"`{options.model}`: {line}", file=sys.stderr),
        )
    send(
        {
            "ready": {
                "limit": job.model.limit,
                "machine": list(cost.machine(model, watch)),
                "lengths": sorted(prompts),
            }
        }
    )

    def read(length: int) -> dict[str, Any]:
        sample = prompts[length]
        try:
            return {
                "reading": asdict(
                    cost.measure(session, sample.prompt.pieces, sample.room, watch, timeout=timeout)
                )
            }
        except AnswerFailure as failure:
            return {"status": failure.status, "error": str(failure)}

    return read


if __name__ == "__main__":
    main()
