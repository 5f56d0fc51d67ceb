"""Several workers: what one does, without Ray; then whole runs on a Ray of two nodes on this machine."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import pytest

from nih import evaluate
from nih.errors import ModelError, UsageError
from nih.inference.events import Chosen, Comparison, Event, Progress, Told
from nih.inference.ray_cluster import sizes
from nih.inference.wire import Wire
from nih.inference.worker import Worker, WorkerSettings
from nih.inference.worker_pool import _joined
from nih.options import RunOptions
from nih.run.job import open_again, prepare
from nih.run.plan import plan
from nih.store import run as store
from nih.store.directory import RunDirectory
from nih.store.journal import Row
from nih.types import Answer, Together
from tests.support import unsteady

Kind = TypeVar("Kind")
GRID: dict[str, Any] = {"lengths": "512-2k", "depths": "0-100:5", "trials": 2}
SAMPLES = 3 * 5 * 2
ray_needed = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; type `pip install 'nih[ray]'`"
)


def go(out: Path, lines: list[str] | None = None, **more: Any) -> store.StoredRun:
    """Run the small grid and read the folder back."""
    tell = (lines if lines is not None else []).append
    finished = evaluate(**{"model": "echo", "out": out, "tell": tell, "quiet": True, **GRID, **more})
    return store.read(finished.path)


def table(stored: store.StoredRun) -> Any:
    from nih.report.tables import cells

    return cells(stored).drop(columns="seconds")


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The model `unsteady`, here and in processes that Ray starts."""
    folder = tmp_path_factory.mktemp("plugin")
    unsteady.install(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *sys.path[1:]]))
        yield


def worker(**more: Any) -> tuple[Worker, Wire]:
    """A worker in this process, whose weights are loaded, and a shard for it."""
    job = prepare(RunOptions.of(**{"model": "echo", **GRID, **more}))
    open_model = partial(open_again, job.options, max(job.grid.lengths))
    made = Worker(WorkerSettings(open_model, False, None, os.getcwd()))
    made.start()
    return made, Wire.of(job.samples)


def of(kind: type[Kind], batches: Iterable[tuple[Event, ...]]) -> list[Kind]:
    """The events of one kind, in their order."""
    return [event for batch in batches for event in batch if isinstance(event, kind)]


def test_a_worker_answers_its_shard_once_and_verifies_some_of_it() -> None:
    made, shard = worker()
    batches = list(made.answers(1, shard, "shared", True, frozenset()))
    ids = [s.id for s in shard.samples()]
    answers, comparisons = of(Answer, batches), of(Comparison, batches)
    assert sorted(a.sample_id for a in answers) == sorted(ids)
    assert {a.status for a in answers} == {"ok"}
    (chosen,) = of(Chosen, batches)
    assert batches[0] == (chosen,), "named before anything is answered, so that a death loses no verification"
    assert {c.id for c in comparisons} == chosen.ids <= set(ids)
    assert len(chosen.ids) >= 3
    assert all(c.passed for c in comparisons)
    read = sum(done.tokens for done in of(Progress, batches) if done.work == "prefill")
    assert read == prepare(RunOptions.of(model="echo", **GRID)).plan.planned_tokens


def test_what_a_worker_sends_arrives_with_each_answer() -> None:
    made, shard = worker()
    batches = list(made.answers(1, shard, "shared", False, frozenset()))
    assert [len(of(Answer, [batch])) for batch in batches] == [1] * SAMPLES + [0]
    assert all(isinstance(batch[-1], Answer) for batch in batches[:-1])


def test_a_stopped_worker_ends_after_the_answer_under_way() -> None:
    made, shard = worker()
    batches = made.answers(5, shard, "chunks", False, frozenset())
    assert of(Answer, [next(batches)])
    made.stop(4)
    assert of(Answer, [next(batches)]), "an older ticket stops nothing"
    made.stop(5)
    assert list(batches) == []
    assert len(of(Answer, made.answers(5, shard, "chunks", False, frozenset()))) == 1, (
        "stopped before it began"
    )
    assert len(of(Answer, made.answers(6, shard, "chunks", False, frozenset()))) == SAMPLES


def test_a_worker_tells_once_what_a_run_alone_would_write_and_say() -> None:
    """What is in run.json without workers comes with the answers, and so does what the user would read on stderr."""
    made, shard = worker(model="rwkv", device="cpu", lengths="320,512", trials=1)
    logging.getLogger("nih.models").warning("slower than %s", "needed")
    logging.getLogger("nih.models").info("nothing to tell")
    logging.getLogger("elsewhere").warning("not ours")
    batches = list(made.answers(1, shard, "shared", True, frozenset()))
    assert made.answerer is not None
    told = of(Told, batches)
    assert [said for one in told for said in one.warnings] == ["slower than needed"]
    assert told[-1].report == made.answerer.report()
    assert {"threads", "rows"} <= set(told[-1].report)
    assert told[-1].report["rows"]["answers"] == len(shard.samples())
    assert all(a != b for a, b in pairwise(told)), "nothing is told twice"
    assert not of(Told, made.answers(2, Wire.of([]), "shared", False, frozenset()))


def test_what_workers_report_is_summed_or_stands_by_worker() -> None:
    one = {"threads": {"threads": 1, "why": "a"}, "rows": Together(2, 7, 4, 1)._asdict()}
    two = {"threads": {"threads": 2, "why": "b"}, "rows": Together(1, 5, 5, 0)._asdict()}
    assert _joined({1: one, 2: {}, 3: two}) == {
        "threads": {"workers": {"1": one["threads"], "3": two["threads"]}},
        "rows": {"batches": 3, "answers": 12, "most": 5, "alone": 1},
    }
    assert _joined({1: {}}) == {}


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources}


def test_workers_get_a_gpu_each_or_equal_cores() -> None:
    gpus = [node(CPU=8.0, GPU=4.0), node(CPU=8.0, GPU=2.0), {"Alive": False, "Resources": {"GPU": 8.0}}]
    assert sizes(gpus, None, "auto") == (6, {"num_cpus": 1, "num_gpus": 1})
    assert sizes(gpus, 3, "cuda") == (3, {"num_cpus": 1, "num_gpus": 1})
    assert sizes(gpus, 2, "cpu") == (2, {"num_cpus": 8, "num_gpus": 0})
    cores = [node(CPU=8.0), node(CPU=3.0)]
    assert sizes(cores, None, "auto") == (2, {"num_cpus": 4, "num_gpus": 0})
    assert sizes(cores, 3, "auto") == (3, {"num_cpus": 3, "num_gpus": 0})
    assert sizes(cores, 11, "auto") == (11, {"num_cpus": 1, "num_gpus": 0})
    for nodes, count, device in (
        (gpus, 7, "auto"),
        (cores, 1, "cuda"),
        (cores, None, "cuda"),
        (cores, 12, "auto"),
    ):
        with pytest.raises(UsageError, match="workers need"):
            sizes(nodes, count, device)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"workers": 0}, "at least 1"),
        ({"workers": 2, "engine": "vllm"}, "leave --workers out"),
        ({"ray": "auto", "engine": "openai"}, "leave --ray out"),
        ({"workers": 2, "device": "cuda:1"}, "--device cuda"),
        ({"workers": 2, "cost": True}, "run without --workers"),
    ],
)
def test_what_workers_cannot_do_is_refused(more: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        RunOptions.of(model="echo", **more)


def test_without_ray_one_sentence_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"pip install 'nih\[ray\]'"):
        go(tmp_path / "r", workers=2)


def test_the_plan_tells_what_the_split_costs() -> None:
    told = plan(prepare(RunOptions.of(model="echo", workers=3, **GRID)))
    workers = told["workers"]
    assert workers["asked"] == workers["shares"] == 3
    assert workers["planned_tokens_one"] == told["planned_tokens"] < workers["planned_tokens_split"]
    assert workers["planned_tokens_split"] < told["naive_tokens"]
    assert "workers" not in plan(prepare(RunOptions.of(model="echo", **GRID)))


@contextmanager
def two_nodes() -> Iterator[str]:
    """Address of a Ray of two nodes with a core each, on this machine."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS": "0"}.items():
        os.environ.setdefault(name, value)
    from ray.cluster_utils import Cluster

    node_args = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 80 << 20, "include_dashboard": False}
    made: Any = Cluster(initialize_head=True, head_node_args=node_args)
    try:
        made.add_node(num_cpus=1, num_gpus=0, object_store_memory=80 << 20)
        made.wait_for_nodes()
        yield str(made.address)
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def cluster(plugin: None) -> Iterator[str]:
    with two_nodes() as address:
        yield address


@ray_needed
def test_two_nodes_answer_as_one_process_does(tmp_path: Path, cluster: str) -> None:
    lines: list[str] = []
    alone = go(tmp_path / "one", model="rwkv", device="cpu")
    spread = go(tmp_path / "two", lines, model="rwkv", device="cpu", ray=cluster)
    assert table(spread).equals(table(alone))
    assert set(spread.manifest.values) == set(alone.manifest.values) | {"workers"}
    for kind, value in alone.manifest.values.items():
        if isinstance(value, dict) and kind != "verification":
            assert set(spread.manifest.values[kind]) == set(value), kind
    ((here,), (there,)) = (run.manifest.values["rows"] for run in (alone, spread))
    assert set(here) == set(there) and here["answers"] == there["answers"]
    (threads,) = spread.manifest.values["threads"]
    assert set(threads["workers"]) == {"1", "2"}
    assert len(spread.rows) == len({r.id for r in spread.rows}) == SAMPLES
    manifest = spread.manifest
    assert manifest.values["verification"]["state"] == "passed"
    assert "every worker" in manifest.values["verification"]["by"]
    assert manifest.values["identity"]["weights"] == alone.manifest.values["identity"]["weights"]
    (sitting,) = manifest.values["workers"]
    assert [m["died"] for m in sitting["members"]] == [None, None]
    assert sum(m["answered"] for m in sitting["members"]) == SAMPLES
    assert (
        sitting["planned_tokens_one"]
        == alone.manifest.values["planned_tokens"]
        < sitting["planned_tokens_split"]
    )
    assert any(f"{sitting['planned_tokens_split']:,} planned tokens" in line for line in lines)
    assert manifest.values["times"]["prefill_seconds"] > 0
    assert manifest.values["times"]["load_seconds"] > 0


class Killer:
    """Takes what a run says; kills (SIGKILL) one of its workers when the journal has some lines."""

    def __init__(self, journal: Path) -> None:
        self.journal, self.lines = journal, list[str]()
        self.thread: threading.Thread | None = None

    def append(self, line: str) -> None:
        self.lines.append(line)
        found = re.search(r"worker \d+ on .* \(pid (\d+)\)", line)
        if found and self.thread is None:
            self.thread = threading.Thread(target=self._kill, args=(int(found[1]),))
            self.thread.start()

    def _kill(self, pid: int) -> None:
        deadline = time.monotonic() + 60
        while not self.journal.exists() or self.journal.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)


@ray_needed
def test_a_killed_worker_loses_nothing(tmp_path: Path, cluster: str) -> None:
    killer = Killer(tmp_path / "killed" / "samples.jsonl")
    finished = evaluate(
        model="echo",
        out=tmp_path / "killed",
        tell=killer.append,
        quiet=True,
        ray=cluster,
        set={"delay": 0.1},
        **GRID,
    )
    stored = store.read(finished.path)
    assert finished.exit_state == "done"
    assert len(stored.rows) == len({r.id for r in stored.rows}) == SAMPLES
    assert {r.score for r in stored.rows} == {1.0}
    assert stored.manifest.values["verification"]["state"] == "passed"
    died = [m["died"] for m in stored.manifest.values["workers"][0]["members"]]
    assert sorted(map(bool, died)) == [False, True]
    assert any("go to another worker" in line for line in killer.lines)
    assert table(stored).equals(table(go(tmp_path / "one")))


def interrupt_after(monkeypatch: pytest.MonkeyPatch, rows: int) -> Callable[[], None]:
    """Let Ctrl-C be pressed when so many rows are written; returns what lets go of the key."""
    append, left = RunDirectory.append, [rows]

    def counted(self: RunDirectory, row: Row) -> None:
        append(self, row)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "append", counted)
    return lambda: monkeypatch.setattr(RunDirectory, "append", append)


@ray_needed
def test_begun_on_two_workers_and_resumed_on_one_ends_the_same(
    tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = interrupt_after(monkeypatch, 7)
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "r", ray=cluster, workers=2)
    let_go()
    begun = store.read(tmp_path / "r")
    assert begun.manifest.values["exit_state"] == "interrupted"
    assert len(begun.rows) == 7
    (sitting,) = begun.manifest.values["workers"]
    assert len(sitting["members"]) == 2
    resumed = go(tmp_path / "r")
    assert resumed.manifest.values["exit_state"] == "done"
    assert resumed.manifest.values["verification"]["state"] == "passed"
    assert len(resumed.rows) == len({r.id for r in resumed.rows}) == SAMPLES
    assert table(resumed).equals(table(go(tmp_path / "one")))


@ray_needed
def test_where_sharing_fails_all_workers_read_prompts_whole(tmp_path: Path, cluster: str) -> None:
    lines: list[str] = []
    stored = go(tmp_path / "r", lines, model="unsteady", ray=cluster, set={"unlike": True})
    assert stored.manifest.values["verification"]["state"] == "failed"
    assert stored.manifest.values["prefill"] == "whole"
    latest = {r.id: r for r in stored.rows}
    assert len(latest) == SAMPLES
    assert {(r.prefill, r.score) for r in latest.values()} == {("whole", 1.0)}
    assert sum("every prompt is now read in one call" in line for line in lines) == 1


@ray_needed
def test_a_sample_that_kills_its_workers_is_an_error_and_the_rest_is_answered(
    tmp_path: Path, cluster: str
) -> None:
    job = prepare(RunOptions.of(model="unsteady", **GRID))
    position = len(job.samples[0].prompt)
    fatal = {s.id for s in job.samples if len(s.prompt) == position}
    more = {"lengths": "512-2k", "depths": "50", "trials": 1}
    assert len(fatal) == 10
    lines: list[str] = []
    stored = go(tmp_path / "r", lines, model="unsteady", ray=cluster, set={"killed": position}, **more)
    statuses = {r.length: r.status for r in stored.rows}
    assert statuses == {512: "error", 1024: "ok", 2048: "ok"}
    (failed,) = [r for r in stored.rows if r.status == "error"]
    assert failed.error == "2 workers died over it"
    assert stored.manifest.values["exit_state"] == "incomplete"
    assert any("starting another" in line for line in lines)


@ray_needed
def test_what_a_worker_cannot_open_is_one_sentence(tmp_path: Path, cluster: str) -> None:
    with pytest.raises(ModelError, match="model `unsteady` has no weights; type another"):
        go(tmp_path / "r", model="unsteady", ray=cluster, set={"absent": True})


@ray_needed
@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", r"cannot join Ray at `127\.0\.0\.1:1`.*ray start --head"),
        ("ray://localhost:10001", "type `--ray auto`"),
    ],
)
def test_a_ray_that_is_not_there_is_one_sentence(tmp_path: Path, address: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        go(tmp_path / "r", ray=address)
