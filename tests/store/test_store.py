"""The run directory: nothing lost, nothing twice, one writer, plain sentences."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
import warnings
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nih.errors import JournalDamaged, RunLocked, SettingsDiffer, StoreError
from nih.store.directory import RunDirectory, annotate, default_folder
from nih.store.files import JOURNAL, LOCK
from nih.store.journal import Row
from nih.store.manifest import Manifest
from nih.store.redact import redact, without_secrets
from nih.store.run import read
from nih.store.settings import settings_hash
from nih.types import Placed, Usage
from tests.support.journal_rows import make_run, row

SETTINGS = {"lengths": [1024, 2048], "seed": 0, "task": {"name": "passkey", "kind": "digits"}}
ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests/data"
JOINED_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")
# A pair of surrogates is one character to JSON, as it is to every decoder: no text that was decoded holds one.
hostile = st.text(st.characters()).filter(lambda text: not JOINED_SURROGATES.search(text))


def line(id: str, **changes: Any) -> bytes:
    """A line of the journal, right or wrong; `...` leaves a column out."""
    return json.dumps({k: v for k, v in (row(id).as_dict() | changes).items() if v is not ...}).encode()


def journal(path: Path) -> bytes:
    return (path / JOURNAL).read_bytes()


@given(st.lists(st.tuples(hostile, hostile, hostile), max_size=5))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_hostile_text_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str, str]]
) -> None:
    path = tmp_path_factory.mktemp("run")
    rows = [row(str(i), answer=a, around=b, expected=(c,)) for i, (a, b, c) in enumerate(texts)]
    make_run(path, rows)
    assert list(read(path).rows) == rows
    assert journal(path).isascii()
    assert journal(path).decode().splitlines() == journal(path).decode().split("\n")[:-1]


def test_line_separators_of_unicode_do_not_end_a_line(tmp_path: Path) -> None:
    make_run(tmp_path, [row(answer="a\u2028b\u2029c\x85d\x0be\x1cf\r\ng\x00")])
    assert journal(tmp_path).count(b"\n") == 1
    assert read(tmp_path).rows[0].answer == "a\u2028b\u2029c\x85d\x0be\x1cf\r\ng\x00"


def test_a_line_torn_at_any_byte_is_dropped_and_answered_again(tmp_path: Path) -> None:
    first, second = row("first"), row("second", answer="né \U0001f600 \ud800")
    make_run(tmp_path / "whole", [first, second])
    whole = journal(tmp_path / "whole")
    start = whole.index(b"\n") + 1
    path = make_run(tmp_path / "torn", [first])
    manifest = (path / "run.json").read_bytes()
    for cut in range(start + 1, len(whole)):
        (path / JOURNAL).write_bytes(whole[:cut])
        (path / "run.json").write_bytes(manifest)
        with pytest.warns(UserWarning, match="torn"):
            assert read(path).rows == (first,)
        with pytest.warns(UserWarning, match="torn"):
            run = RunDirectory.open(path, read(path).manifest.settings)
        with run:
            assert run.torn and list(run.rows) == ["first"]
            assert journal(path) == whole[:start]
            run.append(second)
        assert journal(path) == whole
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (path / JOURNAL).write_bytes(whole)
        assert read(path).rows == (first, second)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"\x00" * 8, "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (line("x", seconds=...), "no `seconds`"),
        (line("x", length="1024"), "`length` cannot be `1024`"),
        (line("x", length=True), "`length`"),
        (line("x", status="fine"), "`status` cannot be `fine`"),
        (line("x", score=1.5), "`score`"),
        (line("x", nll=float("nan")), "a number that is NaN"),
        (line("x", tokens=10**400), "an integer of 401 digits"),
        (line("x")[:-1] + b', "id": "y"}', "the key `id` twice"),
        (line("x", attempt=0), "`attempt`"),
        (line("x", status="oom", score=0.0), "has a score"),
        (line("a"), "attempt 1 of sample `a` is there twice"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_touched(tmp_path: Path, line: bytes, why: str) -> None:
    make_run(tmp_path, [row("a"), row("b")])
    lines = journal(tmp_path).split(b"\n")
    damaged = b"\n".join([lines[0], line, lines[1], b""])
    (tmp_path / JOURNAL).write_bytes(damaged)
    for attempt in (
        read,
        lambda path: RunDirectory.open(path, json.loads((path / "run.json").read_text())["settings"]),
    ):
        with pytest.raises(JournalDamaged, match="line 2 of ") as caught:
            attempt(tmp_path)
        assert why in str(caught.value)
    assert journal(tmp_path) == damaged
    assert not (tmp_path / LOCK).exists()


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["ok", "error", "oom", "timeout"])), max_size=20
    )
)
@settings(max_examples=40, deadline=None)
def test_the_highest_attempt_counts(
    tmp_path_factory: pytest.TempPathFactory, tries: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.mktemp("run")
    last: dict[str, Row] = {}
    with RunDirectory.open(path, SETTINGS) as run:
        for id, status in tries:
            made = row(id, status=status, attempt=run.next_attempt(id))
            run.append(made)
            last.pop(id, None)
            last[id] = made
        assert run.rows == last
    assert list(read(path).rows) == list(last.values())
    lines = journal(path).splitlines()
    assert len(lines) == len(tries)
    random.Random(len(tries)).shuffle(lines)
    (path / JOURNAL).write_bytes(b"".join(line + b"\n" for line in lines))
    assert {r.id: r for r in read(path).rows} == last, "whatever the order of the lines"


@pytest.mark.parametrize(
    "bad",
    [{"score": float("nan")}, {"attempt": 2}, {"nll": float("inf")}, {"length": 1.5}, {"expected": "x"}],
)
def test_a_row_against_the_contract_is_not_written(tmp_path: Path, bad: dict[str, Any]) -> None:
    with RunDirectory.open(tmp_path, SETTINGS) as run:
        with pytest.raises(ValueError):
            run.append(row(**bad))
        assert run.rows == {} and journal(tmp_path) == b""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | hostile,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile, inner, max_size=3),
    max_leaves=5,
)
COUNT = st.none() | st.integers(0, 10**6)


@given(
    st.dictionaries(st.text("xyz", min_size=1), JSON, max_size=3),
    st.none() | st.builds(Usage, COUNT, COUNT, COUNT, COUNT),
    st.lists(st.builds(Placed, hostile, st.integers(0, 9), st.floats(0, 100)), max_size=3),
    st.none() | st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_a_row_comes_back_from_its_line_with_all_it_holds(
    unknown: dict[str, Any], usage: Usage | None, needles: list[Placed], needle_at: int | None
) -> None:
    made = row(usage=usage, needles=tuple(needles), needle_at=needle_at, more=tuple(unknown.items()))
    values = json.loads(json.dumps(made.as_dict()))
    assert Row.of(values) == made and Row.of(values).as_dict() == values
    assert unknown.items() <= values.items() and ("needles" in values) == bool(needles)
    with pytest.raises(FrozenInstanceError):
        made.score = 0.0  # type: ignore[misc]


@pytest.mark.parametrize("run", sorted(ROOT.glob("results/baselines/*")), ids=lambda path: path.name)
def test_committed_journals_are_written_as_they_are(run: Path) -> None:
    lines = [json.dumps(r.as_dict(), separators=(",", ":")).encode() for r in read(run).rows]
    assert journal(run).splitlines() == lines


HOLD = """
import sys, time
from pathlib import Path
from nih.store.directory import RunDirectory
with RunDirectory.open(Path(sys.argv[1]), {"seed": 0}) as run:
    print("held", flush=True)
    time.sleep(600)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def test_one_writer_across_processes_until_kill_9(tmp_path: Path) -> None:
    holder = start(HOLD, str(tmp_path / "run"))
    try:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked) as caught:
            RunDirectory.open(tmp_path / "run", {"seed": 0})
        assert f"process {holder.pid} on {os.uname().nodename}, since 2" in str(caught.value)
        assert str(tmp_path / "run") in str(caught.value)
        with pytest.raises(RunLocked):
            annotate(tmp_path / "run", report={})
        assert read(tmp_path / "run").rows == (), "reading needs no lock"
    finally:
        holder.kill()
        holder.wait()
    assert read(tmp_path / "run").manifest.exit_state == "running", "nobody could write an end"
    with RunDirectory.open(tmp_path / "run", {"seed": 0}) as run:
        assert run.manifest.values["earlier"][0]["exit_state"] == "running"
        run.append(row())
    assert [r.id for r in read(tmp_path / "run").rows] == ["a"]


def test_one_writer_within_a_process(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, SETTINGS), pytest.raises(RunLocked, match=f"process {os.getpid()} "):
        RunDirectory.open(tmp_path, SETTINGS)
    RunDirectory.open(tmp_path, SETTINGS).close()
    assert not (tmp_path / LOCK).exists()


def test_a_lock_file_unlinked_by_its_former_holder_does_not_let_two_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunDirectory.open(tmp_path, SETTINGS)
    real = os.open

    def late_open(path: Any, flags: int, mode: int = 0o777) -> int:
        fd = real(path, flags, mode)
        if Path(path).name == LOCK:
            monkeypatch.setattr(os, "open", real)
            first.close()  # between our open and our flock
        return fd

    monkeypatch.setattr(os, "open", late_open)
    with RunDirectory.open(tmp_path, SETTINGS), pytest.raises(RunLocked):
        RunDirectory.open(tmp_path, SETTINGS)


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / LOCK).symlink_to(mine)
    with pytest.raises(StoreError, match="cannot write"):
        RunDirectory.open(tmp_path / "run", SETTINGS)
    assert mine.read_text() == "kept"


APPEND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from nih.types import Placed, Usage
from tests.support.journal_rows import row
from nih.store.directory import RunDirectory
with RunDirectory.open(Path(sys.argv[1]), {"seed": 0}) as run:
    print("started", flush=True)
    for number in range(len(run.rows), 100_000):
        run.append(row(str(number), answer="x" * (number % 3000)))
"""


@pytest.mark.filterwarnings("ignore:the last line")
def test_a_writer_killed_again_and_again_loses_no_whole_line(tmp_path: Path) -> None:
    moments = random.Random(0)
    counts = [0]
    for _ in range(4):
        writer = start(APPEND, str(tmp_path), str(Path(__file__).parents[2]))
        assert writer.stdout and writer.stdout.readline() == "started\n"
        time.sleep(moments.uniform(0.01, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        rows = read(tmp_path).rows
        assert [r.id for r in rows] == [str(n) for n in range(len(rows))], "every sample once, none left out"
        assert len(rows) >= counts[-1]
        counts.append(len(rows))
    assert counts[-1] > 0


@pytest.mark.parametrize("taken", [0, 1, 40])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_keeps_the_lines_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: int, code: int
) -> None:
    real = os.write
    with RunDirectory.open(tmp_path, SETTINGS) as run:
        run.append(row("a"))
        before = journal(tmp_path)
        left = [taken]

        def full(fd: int, data: bytes) -> int:
            if not left[0]:
                raise OSError(code, os.strerror(code))
            part, left[0] = left[0], 0
            return real(fd, data[:part])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(StoreError) as caught:
            run.append(row("b"))
        monkeypatch.setattr(os, "write", real)
        assert journal(tmp_path) == before and list(run.rows) == ["a"]
        assert JOURNAL in str(caught.value) and os.strerror(code) in str(caught.value)
        assert ("same command" in str(caught.value)) == (code != errno.EIO)
        run.append(row("b"))
    assert [r.id for r in read(tmp_path).rows] == ["a", "b"]


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from nih.types import Placed, Usage
from tests.support.journal_rows import row
from nih.errors import StoreError
from nih.store.directory import RunDirectory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = RunDirectory.open(Path(sys.argv[1]), {"seed": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    for number in range(1000):
        run.append(row(str(number)))
except StoreError as error:
    print(len(run.rows))
    print(error)
"""


def test_the_kernel_refusing_a_part_of_a_line_keeps_the_lines_before(tmp_path: Path) -> None:
    told, _ = start(LIMITED, str(tmp_path), str(Path(__file__).parents[2])).communicate(timeout=60)
    count, sentence = told.splitlines()
    assert 0 < int(count) < 1000 and "File too large" in sentence
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read(tmp_path).rows) == int(count)


def test_an_error_of_close_is_one_sentence_and_gives_up_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory.open(tmp_path, {"seed": 0})
    run.append(row("a"))
    close, journal = os.close, run._fd

    def fail(fd: int) -> None:
        close(fd)
        if fd == journal:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fail)
        with pytest.raises(StoreError, match=r"No space left on device; free some space"):
            run.close("done")
    with RunDirectory.open(tmp_path, {"seed": 0}) as again:
        assert list(again.rows) == ["a"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (Path("/proc/no-run-here"), tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StoreError, match="cannot write") as caught:
            RunDirectory.open(place, SETTINGS)
        assert "\n" not in str(caught.value) and "--out" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with pytest.raises(StoreError, match="Permission denied"):
        RunDirectory.open(tmp_path, SETTINGS)
    tmp_path.chmod(0o755)


def test_other_settings_are_named_with_both_values(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, SETTINGS | {"gone": None}).close()
    asked = {"lengths": [1024, 4096], "seed": 0, "task": {"name": "passkey", "kind": "words"}, "new": 1.5}
    manifest = (tmp_path / "run.json").read_bytes()
    with pytest.raises(SettingsDiffer) as caught:
        RunDirectory.open(tmp_path, asked)
    assert str(caught.value) == (
        f"`{tmp_path}` holds a run of other settings: gone is `null` there and not set here, "
        "lengths is `[1024, 2048]` there and `[1024, 4096]` here, new is not set there and `1.5` here, "
        "task.kind is `digits` there and `words` here; "
        "give `--out` another folder, or `--fresh` to start another run beside it"
    )
    assert (tmp_path / "run.json").read_bytes() == manifest and not (tmp_path / LOCK).exists()


@pytest.mark.parametrize("ended", [ValueError, KeyboardInterrupt])
def test_a_run_that_ended_before_its_first_answer_bars_no_other(
    ended: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(ended), RunDirectory.open(tmp_path, SETTINGS):
        raise ended
    other = {**SETTINGS, "lengths": [4096]}
    with RunDirectory.open(tmp_path, other) as run:
        assert run.manifest.settings == other and not run.manifest.values.get("earlier")
        run.append(row("a"))
    with pytest.raises(SettingsDiffer, match="lengths"):
        RunDirectory.open(tmp_path, SETTINGS)


def test_a_run_whose_journal_is_lost_is_not_taken_for_one_without_answers(tmp_path: Path) -> None:
    with RunDirectory.open(tmp_path, SETTINGS) as run:
        run.append(row("a"))
    (tmp_path / JOURNAL).write_bytes(b"")
    with pytest.raises(SettingsDiffer, match="lengths"):
        RunDirectory.open(tmp_path, {**SETTINGS, "lengths": [4096]})


def test_of_an_object_that_is_empty_on_one_side_the_values_of_the_other_are_named(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, SETTINGS | {"model_options": {"delay": 0.5}}).close()
    with pytest.raises(SettingsDiffer) as caught:
        RunDirectory.open(tmp_path, SETTINGS | {"model_options": {}})
    assert "other settings: model_options.delay is `0.5` there and not set here; give" in str(caught.value)


def test_many_or_long_differences_stay_one_short_sentence(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, {f"k{n}": "x" * 1000 for n in range(20)}).close()
    with pytest.raises(SettingsDiffer, match="and 15 more differ") as caught:
        RunDirectory.open(tmp_path, {f"k{n}": "y\x1b" * 1000 for n in range(20)})
    assert len(str(caught.value)) < 1200 and "\x1b" not in str(caught.value)


def test_the_order_of_settings_and_tuples_make_no_difference(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, {"a": [1, 2], "b": {"x": 1, "y": 2}}).close()
    RunDirectory.open(tmp_path, {"b": {"y": 2, "x": 1}, "a": (1, 2)}).close()
    assert (
        settings_hash({"a": [1], "b": 2})
        == settings_hash({"b": 2, "a": (1,)})
        != settings_hash({"a": [1], "b": 3})
    )


def test_fresh_leaves_every_earlier_run_alone(tmp_path: Path) -> None:
    path = tmp_path / "run"
    for expected in ("run", "run-2", "run-3"):
        with RunDirectory.open(path, SETTINGS, fresh=True) as run:
            run.append(row())
            assert run.path.name == expected and len(run.rows) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run-2", "run-3"]


def test_files_of_unknown_origin_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text("mine")
    with pytest.raises(StoreError, match=r"has a `samples\.jsonl` but no `run\.json`"):
        RunDirectory.open(tmp_path, SETTINGS)
    assert (tmp_path / JOURNAL).read_text() == "mine"


def test_the_manifest_tells_what_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nih", "run", "--api-key", "sesame", "--model", "m"])
    with RunDirectory.open(tmp_path, SETTINGS) as run:
        run.write_manifest(model="m", endpoint={"api_key": "sesame", "url": "https://me:sesame@host/v1"})
    manifest = read(tmp_path).manifest.values
    assert manifest["schema"] == 2 and manifest["settings"] == SETTINGS and manifest["model"] == "m"
    assert manifest["command"] == ["nih", "run", "--api-key", "[hidden]", "--model", "m"]
    assert manifest["packages"]["numpy"] and manifest["python"] and manifest["machine"]["cpu"]
    assert manifest["started"] <= manifest["ended"]
    assert not [p for p in tmp_path.iterdir() if b"sesame" in p.read_bytes()]
    commit = manifest["nih"]["commit"]
    assert commit is None or re.fullmatch(r"[0-9a-f]{40,64}\+?", commit)


@pytest.mark.parametrize(
    ("statuses", "error", "state"),
    [
        (["ok", "over_limit"], None, "done"),
        (["ok", "oom"], None, "incomplete"),
        (["ok"], KeyboardInterrupt(), "interrupted"),
        (["ok"], RuntimeError(), "incomplete"),
        ([], RuntimeError(), "failed"),
    ],
)
def test_the_exit_state(tmp_path: Path, statuses: list[str], error: BaseException | None, state: str) -> None:
    try:
        with RunDirectory.open(tmp_path, SETTINGS) as run:
            for number, status in enumerate(statuses):
                run.append(row(str(number), status=status))
            if error:
                raise error
    except (KeyboardInterrupt, RuntimeError):
        pass
    assert read(tmp_path).manifest.exit_state == state


def test_a_manifest_is_replaced_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with RunDirectory.open(tmp_path, SETTINGS) as run:
        before = (tmp_path / "run.json").read_bytes()

        def fail(fd: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            with pytest.raises(StoreError, match="No space left"):
                run.write_manifest(note="x" * 10_000)
        assert (tmp_path / "run.json").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "samples.jsonl"]


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    RunDirectory.open(tmp_path, SETTINGS).close()
    (tmp_path / ".heatmap.png.4711.tmp").write_text("half")
    (tmp_path / ".mine.tmp").write_text("kept")
    RunDirectory.open(tmp_path, SETTINGS).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [".mine.tmp", "run.json", "samples.jsonl"]


def test_annotate_merges(tmp_path: Path) -> None:
    make_run(tmp_path, [row()])
    annotate(tmp_path, report={"score": "exact"})
    assert read(tmp_path).manifest.values["report"] == {"score": "exact"} and read(tmp_path).model == "echo"
    with pytest.raises(StoreError, match="no run folder"):
        annotate(tmp_path / "nowhere", report={})


def test_folders_that_are_no_runs(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no run folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="is not a run folder"):
        read(tmp_path)
    for content in ("{", "[]", '{"schema": 3}', "{}"):
        (tmp_path / "run.json").write_text(content)
        with pytest.raises(StoreError, match=r"run\.json"):
            read(tmp_path)
        with pytest.raises(StoreError, match=r"run\.json"):
            RunDirectory.open(tmp_path, SETTINGS)
        assert (tmp_path / "run.json").read_text() == content


@pytest.mark.parametrize(
    "values",
    [
        {"tasks": 5},
        {"tasks": [{"name": "passkey"}]},
        {"grid": {"lengths": ["long"]}},
        {"grid": [1024]},
        {"options": [1]},
        {"options": {"threshold": "high"}},
        {"adaptive": {"half_width": 0.1}},
        {"machine": {"cpu": "x"}, "earlier": 7},
        {"tokenizer": "bytes"},
    ],
)
def test_a_manifest_that_cannot_be_understood_is_one_sentence(tmp_path: Path, values: dict[str, Any]) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"schema": 1, **values}))
    with pytest.raises(StoreError, match=r"run\.json` is damaged: its `\w+` cannot be read"):
        read(tmp_path)


@given(st.dictionaries(st.text("xyz", min_size=1), JSON, max_size=4), JSON)
def test_a_manifest_keeps_what_it_does_not_know(unknown: dict[str, Any], value: Any) -> None:
    before = Manifest({"schema": 1, **unknown})
    after = before.changed(model="m", x=value)
    assert after.values == {"schema": 1, **unknown, "model": "m", "x": value} and after.model == "m"
    assert list(after.values)[: len(before.values)] == list(before.values) == ["schema", *unknown]


def test_a_stored_run_of_schema_1_stays_readable() -> None:
    run = read(DATA / "run-v1")
    assert [(r.id, r.attempt, r.status) for r in run.rows] == [
        ("5d41402abc4b2a76", 1, "ok"),
        ("7d793037a0760186", 1, "ok"),
        ("acbd18db4cc2f85c", 1, "over_limit"),
        ("37b51d194a7513e4", 2, "ok"),
        ("4a8a08f09d37b737", 1, "oom"),
    ]
    assert run.model == "smollm2"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("smollm2", "smollm2"),
        ("org/Model-1.5B_x", "org-Model-1.5B_x"),
        ("/home/me/runs/step 100/", "runs-step-100"),
        ("../..", "unnamed"),
        ("a\x1b[31m\n$(x)", "a-31m-x"),
        ("x" * 300, "x" * 60),
    ],
)
def test_default_folders_are_safe_names(tmp_path: Path, model: str, name: str) -> None:
    folder = default_folder(tmp_path, model, "passkey", SETTINGS)
    assert folder == tmp_path / f"{name}-passkey-{settings_hash(SETTINGS)[:8]}"
    folder.mkdir()


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        (["--api-key", "s", "x"], ["--api-key", "[hidden]", "x"]),
        (["--api-key=s"], ["--api-key=[hidden]"]),
        (["--set", "hf_token=s"], ["--set", "hf_token=[hidden]"]),
        (["--max-new-tokens", "5", "--tokenizer", "t"], ["--max-new-tokens", "5", "--tokenizer", "t"]),
        (["--base-url", "http://u:p@h/v1"], ["--base-url", "http://[hidden]@h/v1"]),
        (["--password", "--token"], ["--password", "[hidden]"]),
        (["--set=hf_token=s"], ["--set=hf_token=[hidden]"]),
        (["--set", "chat.api_key=s"], ["--set", "chat.api_key=[hidden]"]),
        (['--set=extra={"api_key": "s", "k": 1}'], ['--set=extra={"api_key": "[hidden]", "k": 1}']),
        (["--set", "thinking_end=</t>"], ["--set", "thinking_end=</t>"]),
    ],
)
def test_secrets_stay_out_of_the_command_line(given_: list[str], shown: list[str]) -> None:
    assert redact(given_) == shown


@given(st.sampled_from(["chat.api_key", "api_key", "model.hf_token", "auth_token", "password", "x.secret"]))
def test_secrets_stay_out_of_the_options_of_a_manifest(name: str) -> None:
    stored = without_secrets(
        {"options": {"set": [f"{name}=SESAME", 'extra={"api_key":"SESAME"}', "digits=5"]}}
    )
    assert "SESAME" not in json.dumps(stored)
    assert stored["options"]["set"][2] == "digits=5"
