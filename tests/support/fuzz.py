"""Mutations of everything that nih reads, each held against one rule: it is read, or refused in a sentence. Nothing else may be raised."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nih import evaluate
from nih.errors import NihError
from nih.gate.baseline import open_baseline
from nih.gate.rules import gate
from nih.models._loading import read_json
from nih.models.engines._exchange import Oversized
from nih.models.engines._http import Refused, Retry, Sender, Unsupported
from nih.prompts import grid, yaml_file
from nih.prompts.haystack import open_source
from nih.prompts.open_task import open_task
from nih.prompts.rows import read_rows
from nih.report.cost import files as cost_files
from nih.run.like import like
from nih.run.suite import read_suite
from nih.stats.results import results_of
from nih.store.run import read

SLOW_SECONDS = 20.0
"""No input of a few kilobytes may take longer."""

_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1e308, -0.0, 2**31, 2**63, 10**30, "", "\x00", "\ud800", "\u202e", "NaN", "1" * 5000, [], {}, [[]], [None],
    {"a": {}}, ["a", 1], "../../etc/passwd", "a\nb", "::error::x",
)  # fmt: skip
_BYTES = (
    b"\x00",
    b"\xff",
    b"\n",
    b'"',
    b"{",
    b"}",
    b"[",
    b",",
    b":",
    b"NaN",
    b"1e999",
    b"\\ud800",
    b"9" * 400,
    b"\xed\xa0\x80",
    b"\x1f\x8b",
)


@dataclass
class Target:
    """One kind of input: an example, how to put it into a folder, and who reads it."""

    name: str
    example: bytes
    read: Callable[[Path, bytes], Any]
    is_json: bool = False


@dataclass
class Found:
    """What a campaign came to."""

    tried: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


def mutated(chance: random.Random, data: bytes, is_json: bool) -> bytes:
    """Return the data with one to four changes: of bytes, or of a value anywhere inside a JSON object."""
    if is_json and chance.random() < 0.6:
        lines = data.split(b"\n")
        at = chance.randrange(len(lines))
        try:
            lines[at] = json.dumps(_changed(chance, json.loads(lines[at]))).encode()
        except ValueError:
            pass
        else:
            return b"\n".join(lines)
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            changed[at : at + chance.randint(1, 40)] = b""
        elif kind == 1:
            changed[at:at] = chance.choice(_BYTES)
        elif kind == 2:
            changed[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 3:
            other = chance.randrange(len(changed) + 1)
            changed[at:at] = changed[other : other + chance.randint(1, 200)]
        else:
            del changed[at:]
    return bytes(changed)


def _changed(chance: random.Random, value: Any) -> Any:
    """Return a JSON value in which one value, key or element is another, missing or there twice."""
    inner = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    if not inner or chance.random() < 0.25:
        return chance.choice(_VALUES)
    key = chance.choice(inner)
    copy = dict(value) if isinstance(value, dict) else list(value)
    kind = chance.randrange(4)
    if kind == 0:
        del copy[key]
    elif kind == 1 and isinstance(copy, dict):
        copy[chance.choice(("", "a\nb", "samples", "__class__"))] = copy[key]
    else:
        copy[key] = _changed(chance, copy[key])
    return copy


def targets(folder: Path) -> list[Target]:
    """Return all kinds of input. `folder` gets the runs that they are made from."""
    asked: dict[str, Any] = {"model": "echo", "lengths": "512,1k", "depths": "0,100", "trials": 1}
    run = evaluate(out=folder / "run", quiet=True, tell=lambda _: None, **asked).path
    whole = Path(shutil.copytree(run, folder / "whole"))

    costs = b"model,length,prefill_seconds,prefill_min,prefill_max,tokens_per_second,first_token_seconds,ms_per_token,peak_bytes,status,repeats,device,threads\n"
    costs += b"echo,512,0.1,0.1,0.1,5000,0.1,1.5,1000,ok,3,cpu,1\necho,1024,0.2,0.2,0.2,5000,0.2,1.5,2000,ok,3,cpu,1\n"
    (run / "cost.csv").write_bytes(costs)

    def in_run(name: str, work: Callable[[Path], Any]) -> Callable[[Path, bytes], Any]:
        def go(_: Path, data: bytes) -> Any:
            kept = (run / name).read_bytes()
            try:
                (run / name).write_bytes(data)
                return work(run)
            finally:
                (run / name).write_bytes(kept)

        return go

    def from_file(name: str, work: Callable[[Path], Any]) -> Callable[[Path, bytes], Any]:
        def go(place: Path, data: bytes) -> Any:
            path = place / name
            path.write_bytes(data)
            return work(path)

        return go

    rows = b"".join(
        json.dumps({"prompt": f"The key is {n}. The key is", "answers": [str(n), "x"], "length": 9}).encode()
        + b"\n"
        for n in range(3)
    )
    task = b'needle: "The colour is {colour}."\nquestion: "Which?"\nanswer: "{colour}"\nwords:\n  colour: [teal, mauve]\nscore: exact\nroom: 24\n'
    suite = b"about: small\nlengths: 1k\ndepths: 0-100:3\ntrials: 1\ntasks:\n  - passkey\n  - task: multikey\n    set: {keys: 2}\n    depths: 50\n"
    text = b"The river is wide. The bridge is old.\n\nA road leads north.\n" * 4
    body = json.dumps(
        {
            "choices": [{"index": 0, "text": " 1.", "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": 1},
        }
    ).encode()
    config = b'{"model_type": "rwkv", "vocab_size": 256, "hidden_size": 64, "num_hidden_layers": 2}'
    return [
        Target("run.json, numbers", (run / "run.json").read_bytes(), in_run("run.json", lambda p: results_of(read(p))), True),
        Target("run.json, gate", (run / "run.json").read_bytes(), in_run("run.json", lambda p: gate(p, whole)), True),
        Target("run.json, baseline", (run / "run.json").read_bytes(), in_run("run.json", lambda p: gate(whole, p)), True),
        Target("run.json, --like", (run / "run.json").read_bytes(), in_run("run.json", lambda p: like(p, {})), True),
        Target("samples.jsonl, numbers", (run / "samples.jsonl").read_bytes(), in_run("samples.jsonl", lambda p: results_of(read(p))), True),
        Target("samples.jsonl, gate", (run / "samples.jsonl").read_bytes(), in_run("samples.jsonl", lambda p: gate(p, whole)), True),
        Target("cells.csv", (run / "cells.csv").read_bytes(), in_run("cells.csv", lambda p: gate(whole, p / "cells.csv"))),
        Target("cells.csv alone", (run / "cells.csv").read_bytes(), from_file("c.csv", open_baseline)),
        Target("cost.csv", costs, in_run("cost.csv", lambda p: cost_files(p, (p / "cells.csv").read_bytes()))),
        Target("lengths", b"1k-128k:15,64k", lambda _, d: grid.parse_lengths(d.decode("latin-1"))),
        Target("depths", b"0-100:11,50", lambda _, d: grid.parse_depths(d.decode("latin-1"))),
        Target("trials", b"5,64k:10", lambda _, d: grid.parse_trials(d.decode("latin-1"))),
        Target("task.yaml", task, from_file("t.yaml", lambda p: open_task(str(p)))),
        Target("suite.yaml", suite, from_file("s.yaml", lambda p: read_suite(str(p)))),
        Target("any.yaml", yaml.safe_dump({"a": [1, {"b": "2026-01-01"}]}).encode(), from_file("y.yaml", lambda p: yaml_file.read(p, "task"))),
        Target("rows.jsonl", rows, from_file("r.jsonl", read_rows), True),
        Target("rows.csv", b"prompt,answer\nThe key is 1,1\n", from_file("r.csv", read_rows)),
        Target("rows.jsonl.gz", gzip.compress(rows), from_file("r.jsonl.gz", read_rows)),
        Target("haystack.txt", text, from_file("h.txt", _opened)),
        Target("haystack.jsonl", b'{"text": "A road."}\n"Another road."\n', from_file("h.jsonl", _opened), True),
        Target("haystack.gz", gzip.compress(text), from_file("h.txt.gz", _opened)),
        Target("config.json", config, from_file("config.json", read_json), True),
        Target("response", body, lambda _, d: _responded(d), True),
    ]  # fmt: skip


def _opened(path: Path) -> None:
    from nih.prompts import haystack

    haystack._read.cache_clear()
    next(iter(open_source(str(path)).sentences(0)), None)


def _responded(data: bytes) -> Any:
    import httpx

    from nih.models.engines._response import ending, first_choice, prompt_tokens, spoken

    sender = Sender("http://h/v1", "m", "", 1, 0.0, None)

    def take(value: Any) -> Any:
        choice = first_choice(value)
        kind, _ = ending(choice)
        return spoken(choice, kind), prompt_tokens(value)

    return sender._read(httpx.Response(200, content=data), take, {})


ALLOWED = (NihError, Retry, Refused, Unsupported, Oversized)


def campaign(folder: Path, mutations: int, seed: int, seconds: float = 1e9) -> Found:
    """Try so many mutations, spread over all targets, within so many seconds."""
    import warnings

    chance, found, began = random.Random(seed), Found(), time.monotonic()
    all_targets = targets(folder)
    place = folder / "files"
    place.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(mutations):
            if time.monotonic() - began > seconds:
                break
            target = all_targets[number % len(all_targets)]
            data = mutated(chance, target.example, target.is_json)
            found.tried[target.name] += 1
            start = time.monotonic()
            try:
                target.read(place, data)
                found.accepted[target.name] += 1
            except ALLOWED as error:
                if "\n" in str(error) or len(str(error)) > 4000:
                    found.faults.append(
                        f"{target.name}: not a sentence: {str(error)[:300]!r} from {data[:400]!r}"
                    )
            except Exception as error:
                where = error.__traceback__
                while where and where.tb_next:
                    where = where.tb_next
                at = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else ""
                found.faults.append(
                    f"{target.name}: {type(error).__name__}: {str(error)[:200]} at {at} from {data[:300]!r}"
                )
            if time.monotonic() - start > SLOW_SECONDS:
                found.faults.append(
                    f"{target.name}: took {time.monotonic() - start:.0f} s, from {data[:300]!r}"
                )
    return found
