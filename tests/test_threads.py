"""The number of threads follows what a process may use: quotas and affinity as they are read, and what is measured."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nih import threads
from nih.threads import Allowance, Threads, allowance, choose

V1 = "31 23 0:28 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"


def tree(root: Path, mounts: str, own: str, files: dict[str, str]) -> Path:
    """A fake file system: /proc of this process, and files below /sys/fs/cgroup."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text(mounts)
    (root / "proc/self/cgroup").write_text(own)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_no_cgroup_is_no_quota(tmp_path: Path) -> None:
    assert allowance(tmp_path).quota is None


def test_this_machine_can_be_read() -> None:
    assert allowance().cpus >= 1


@pytest.mark.parametrize(
    ("text", "quota"),
    [
        ("max 100000", None),
        ("50000 100000", 0.5),
        ("50000\t100000\n", 0.5),
        ("1000 1000000", 0.001),
        ("150000", 1.5),
        ("", None),
        ("x y", None),
        ("50000 0", None),
        ("-5 100000", None),
        ("50000 100000 7", None),
        ("1_0 1_0", None),
        ("\u0663 1", None),
        ("\0", None),
        (f"{'9' * 400} 1", None),
        (f"{'9' * 5000} 100000", None),
    ],
)
def test_version_2(tmp_path: Path, text: str, quota: float | None) -> None:
    root = tree(tmp_path, V2, "0::/job\n", {"job/cpu.max": text})
    assert allowance(root).quota == quota


@pytest.mark.parametrize(("allowed", "quota"), [("-1", None), ("100000", 1.0), ("25000", 0.25), ("0", None)])
def test_version_1(tmp_path: Path, allowed: str, quota: float | None) -> None:
    files = {"cpu/job/cpu.cfs_quota_us": allowed, "cpu/job/cpu.cfs_period_us": "100000"}
    assert allowance(tree(tmp_path, V1, "3:cpuacct,cpu:/job\n0::/\n", files)).quota == quota


@given(st.lists(st.one_of(st.none(), st.integers(1000, 800_000)), min_size=1, max_size=5), st.booleans())
def test_the_smallest_quota_of_nested_groups_counts(quotas: list[int | None], second: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        files, path = {}, ""
        for quota in quotas:
            path += "/g"
            if second:
                files[f".{path}/cpu.max"] = f"{'max' if quota is None else quota} 100000"
            else:
                files[f"cpu{path}/cpu.cfs_quota_us"] = str(-1 if quota is None else quota)
                files[f"cpu{path}/cpu.cfs_period_us"] = "100000"
        root = tree(
            Path(scratch), V2 if second else V1, f"0::{path}\n" if second else f"1:cpu:{path}\n", files
        )
        expected = min((q / 100_000 for q in quotas if q is not None), default=None)
        assert allowance(root).quota == expected


@pytest.mark.parametrize("own", ["/docker/abc/inner", "/elsewhere", "/../..", "/"])
def test_a_container_that_sees_a_part_of_the_hierarchy(tmp_path: Path, own: str) -> None:
    """The mount shows /docker/abc as its root; a path outside it can only be the mount's own group."""
    mounts = "31 23 0:28 /docker/abc /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    root = tree(
        tmp_path, mounts, f"0::{own}\n", {"cpu.max": "100000 100000", "inner/cpu.max": "50000 100000"}
    )
    assert allowance(root).quota == (0.5 if own.endswith("inner") else 1.0)


@pytest.mark.parametrize("escaped", ["a\\040b", "a\\043b", "a\\012b", "a\\134b", "a\\134043b"])
def test_a_mount_point_is_read_as_mountinfo_writes_it(tmp_path: Path, escaped: str) -> None:
    point = escaped.encode().decode("unicode_escape")
    mounts = f"31 23 0:28 / /sys/fs/cgroup/{escaped} rw shared:3 - cgroup2 cgroup2 rw\n"
    root = tree(tmp_path, mounts, "0::/\n", {f"{point}/cpu.max": "50000 100000"})
    assert allowance(root).quota == 0.5


@pytest.mark.parametrize("own", ["/a\0b", "/" + "a" * 5000, "/a" * 3000, "/a (deleted)"])
def test_a_group_that_cannot_be_looked_at_leaves_those_above_it(tmp_path: Path, own: str) -> None:
    root = tree(tmp_path, V2, f"0::{own}\n", {"cpu.max": "50000 100000"})
    assert allowance(root).quota == 0.5


@pytest.mark.parametrize(
    "mounts", ["x\n - \n- - -\n1 2 3 4 5 -\n", "1 2 3 / /a\0b - cgroup2\n", "1 2 3 4 5 - cgroup\n"]
)
def test_a_mountinfo_of_garbage_is_no_quota(tmp_path: Path, mounts: str) -> None:
    assert allowance(tree(tmp_path, mounts, "::\n0::/\n1:cpu:/\n", {})).quota is None


def test_both_versions_at_once(tmp_path: Path) -> None:
    mounts = V1 + "38 31 0:35 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    files = {
        "cpu/cpu.cfs_quota_us": "-1",
        "unified/cpu.max": "max 100000",
        "cpu/a/cpu.cfs_quota_us": "200000",
        "cpu/a/cpu.cfs_period_us": "100000",
    }
    assert allowance(tree(tmp_path, mounts, "1:cpu:/a\n0::/\n", files)).quota == 2.0


@pytest.mark.parametrize(
    ("cpus", "quota", "most"),
    [(8, None, 8), (8, 2.0, 2), (8, 0.5, 1), (8, 1.2, 1), (8, 1.5, 2), (2, 64.0, 2), (1, None, 1)],
)
def test_most_threads(cpus: int, quota: float | None, most: int) -> None:
    assert Allowance(cpus, quota).threads == most


@given(st.integers(1, 64), st.dictionaries(st.integers(1, 64), st.floats(0.1, 10)), st.integers(1, 64))
def test_what_is_chosen_is_allowed_and_not_clearly_slower(
    cpus: int, speed: dict[int, float], present: int
) -> None:
    chosen = choose(Allowance(cpus, None), lambda count: speed.get(count, 1.0), present)
    assert 1 <= chosen.threads <= cpus
    if chosen.measured:
        assert chosen.measured[chosen.threads] <= 1.16 * min(chosen.measured.values()) + 1e-3


def test_a_small_gain_changes_nothing() -> None:
    def nearly(count: int) -> float:
        return 1.0 if count == 1 else 1.05

    assert choose(Allowance(4, None), nearly, 4).threads == 4
    assert choose(Allowance(4, None), nearly, 1).threads == 1


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No variable fixes the threads, two cores are allowed, and torch's number is put back afterwards."""
    for name in threads.FIXED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "allowance", lambda: Allowance(2, None))
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("free")
def test_threads_follow_the_load_and_are_measured_only_now_and_then() -> None:
    now, busy, asked = [0.0], [False], []

    def measure(count: int) -> float:
        asked.append(count)
        return {1: 1.0, 2: 3.0 if busy[0] else 0.6}[count]

    own = Threads(measure, lambda: now[0])
    assert own.settle() == 2 == torch.get_num_threads()
    asked.clear()
    own.reconsider()
    assert not asked
    busy[0], now[0] = True, 60.0
    own.reconsider()
    assert asked and torch.get_num_threads() == 1
    busy[0], now[0] = False, 120.0
    own.reconsider()
    assert torch.get_num_threads() == 2 and own.report()["changes"] == 2


@pytest.mark.usefixtures("free")
def test_omp_num_threads_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    torch.set_num_threads(3)
    own = Threads(lambda count: pytest.fail("nothing is to be measured"))
    assert own.settle() == 3
    own.reconsider()
    assert torch.get_num_threads() == 3 and "OMP_NUM_THREADS" in own.report()["why"]


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("name", threads.FIXED)
@pytest.mark.parametrize("typed", ["abc", "0", "-3", "1.5", " ", "2,", "2,x", "\u0663", "9" * 20])
def test_a_value_that_openmp_ignores_fixes_nothing(
    typed: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, typed)
    own = Threads(lambda count: {1: 1.0, 2: 5.0}[count])
    assert own.settle() == 1 == torch.get_num_threads()
    assert f"`{name}` does not count, because it is no number of threads" in own.report()["why"]


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize("typed", ["2", " 2 ", "2,1"])
def test_a_value_that_openmp_takes_fixes_the_threads(typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", typed)
    own = Threads(lambda count: pytest.fail("nothing is to be measured"))
    assert own.settle() == torch.get_num_threads()


def test_a_forked_process_neither_measures_nor_waits_for_threads_that_it_has_not() -> None:
    torch.set_num_threads(2)
    torch.ones(512, 512) @ torch.ones(512, 512)  # makes the parent's threads
    child = os.fork()
    if not child:
        settled = threads.THREADS.settle()
        threads.THREADS.reconsider()
        total = float((torch.ones(512, 512) @ torch.ones(512, 512)).sum())
        os._exit(0 if (settled, torch.get_num_threads(), total) == (1, 1, 512.0**3) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
