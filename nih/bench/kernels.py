"""Measure the speed of the kernels against transformers' own paths and naive loops, side by side in one run.

Every way is first held against the float64 truth; where one of ours is wrong, nothing else is printed. `of ideal` compares a time with the
least possible traffic: each input read once and each output written once, at the rate of a plain copy that is measured in the same run on the
same threads (bytes read and written). `of copy` counts the traffic of the way itself, which the CUDA form of WKV4 reads twice. Above 100 %
the data came from a cache. On a GPU a time is the device's alone: replays of a captured graph over as many input sets as exceed its cache.
"""

from __future__ import annotations

import csv
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nih.bench import attention, elements, linear
from nih.bench.kernel_ops import OPS, Case, Inputs, Way
from nih.bench.shares import shares
from nih.errors import KernelError
from nih.kernels import backend
from nih.models._device import pick_device
from nih.models._graphs import capture
from nih.store.files import check_file, make_folder, writing

Print = Callable[[str], None]
Row = dict[str, Any]
Write = Callable[[Sequence[Row]], None]

CPU_ONLY = {module.NAME: module for module in (attention, linear, elements)}
"""Kernels without a state and without a form for GPUs, which have tables of their own."""

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""Largest error of an output, in units of the truth where that is above 1; the halves' is their rounding."""
CHECKED = 2100
"""Steps that are held against the float64 loop."""
CPU_CASES = (
    Case("wkv4", 1, 4096, 512),
    Case("selective_scan", 1, 4096, 512),
    Case("causal_conv1d", 1, 4096, 512),
    Case("rwkv7", 1, 4096, 768),
    Case("mamba2", 1, 4096, 768),
    Case("wkv4", 1, 4096, 512, torch.bfloat16),
    Case("selective_scan", 1, 4096, 512, torch.bfloat16),
    Case("wkv4", 1, 1 << 20, 16),
    Case("selective_scan", 1, 1 << 20, 16),
)
CUDA_CASES = (
    *(
        Case("wkv4", 1, T, C, dtype)
        for C in (768, 2048, 4096)
        for T in (1 << 12, 1 << 13, 1 << 17)
        for dtype in (torch.float32, torch.bfloat16)
    ),
    *(
        Case("selective_scan", 1, T, D, torch.bfloat16)
        for D in (1536, 5120)
        for T in (1 << 10, 1 << 12, 1 << 13, 1 << 17)
    ),
    *(Case("selective_scan", 8, 1 << 13, D, torch.bfloat16) for D in (1536, 5120)),
    Case("causal_conv1d", 1, 1 << 15, 4096, torch.bfloat16),
    *(Case("rwkv7", B, 1 << 12, 4096, torch.bfloat16) for B in (1, 8)),
    *(Case("mamba2", B, 1 << 13, 5120, torch.bfloat16) for B in (1, 8)),
)
PATIENCE = 5.0
"""Seconds after which a way is not measured again."""
LONGEST_LOOP = {"cpu": 1 << 15, "cuda": 1 << 12}
"""Steps above which ways that loop over time in Python are left out."""
_CHUNK = 1024
"""A multiple of every op's chunk."""
_TEST = "run `pytest tests/kernels/test_kernels.py`"


def main(
    device: str = "auto",
    rounds: int = 5,
    out: Path | None = None,
    only: str | None = None,
    show: Print = print,
) -> None:
    """Measure the ops on one device and print a table per case; on a CPU with one thread, then with all of torch's.

    `only` names the one op to measure. `out` also receives the rows as CSV, case by case, those of `CPU_ONLY` left out. Raises
    KernelError, before any speed is printed, if a form of ours is wrong.
    """
    device = str(pick_device(device))
    if only is not None and only not in (*OPS, *CPU_ONLY):
        raise KernelError(f"`--only {only}` names no op; give one of `{'|'.join((*OPS, *CPU_ONLY))}`")
    if only in CPU_ONLY and device != "cpu":
        raise KernelError(f"`--only {only}` is a kernel for CPUs; add `--device cpu`")
    cases = [case for case in (CPU_CASES if device == "cpu" else CUDA_CASES) if only in (None, case.op)]
    if out is not None:
        check_file(out, "--out")
    stateless = [op for name, op in CPU_ONLY.items() if device == "cpu" and only in (None, name)]
    with torch.no_grad(), _table(out) as write:
        sound = {case: check(case, device, show) for case in cases}
        for op in stateless:
            op.check()
        show(_machine(device))
        for count in sorted({1, torch.get_num_threads()}) if device == "cpu" else [torch.get_num_threads()]:
            with _threads(count):
                copy = copy_bandwidth(device)
                show(f"\ncopy bandwidth {copy / 1e9:.1f} GB/s with {count} thread{'s' * (count > 1)}")
                for case in cases:
                    write(measure(case, sound[case], device, rounds, copy, show))
                for op in stateless:
                    op.measure(rounds, show)


# Correctness


def check(case: Case, device: str, show: Print) -> list[str]:
    """Return the names of the ways whose outputs are the truth's; wrong ones of other people are reported and left out.

    Raises KernelError if a form of ours is wrong.
    """
    op = OPS[case.op]
    inputs = op.inputs(case, device)
    few = op.part(inputs, 0, CHECKED)
    truth, _ = op.truth(**few)
    sound = []
    for way in op.ways(case, device):
        y, _ = way.run(few)
        error = float(((y.double() - truth).abs() / truth.abs().clamp(min=1.0)).max())
        if error <= TOLERANCE[case.dtype]:
            sound.append(way.name)
        elif way.name.startswith("nih"):
            raise KernelError(
                f"`{way.name}` is wrong by {error:.2g} at {case}, so no speed is printed; {_TEST}"
            )
        else:
            show(f"{case}: {way.name} is left out, its outputs are wrong by {error:.2g}")
    if not _cut_is_invisible(case, inputs):
        raise KernelError(f"a cut at a chunk changes {case}, so no speed is printed; {_TEST}")
    return sound


def _cut_is_invisible(case: Case, inputs: Inputs) -> bool:
    """Say whether, at full length, the second half equals a call that goes on from the first half's state."""
    op, half = OPS[case.op], case.T // 2 // _CHUNK * _CHUNK
    y, _ = op.ours(**inputs)
    _, state = op.ours(**op.part(inputs, 0, half))
    rest, _ = op.ours(**op.part(inputs, half, None), state=state)
    return torch.equal(rest, y[:, half:])


# Measuring


def measure(
    case: Case, sound: Sequence[str], device: str, rounds: int, copy: float, show: Print
) -> list[Row]:
    """Time the sound ways of one case in turns, and print them; the best of the rounds counts."""
    op = OPS[case.op]
    show(f"\n{case}, {torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)}")
    ways = [way for way in op.ways(case, device) if way.name in sound and _fits(way, case, device, show)]
    inputs = op.inputs(case, device)
    for _ in range(rounds):
        for way in list(ways):
            try:
                if sum(way.seconds) < PATIENCE:
                    way.seconds.append(seconds(way, case, inputs, device))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                ways.remove(way)
                show(f"  {way.name} is left out: it runs out of memory")
    rows = [_row(case, way, ways, copy, device) for way in ways]
    show(f"  {'way':34} {'ms':>10} {'of ideal':>9} {'of copy':>8} {'x ours':>9} {'x transformers':>15}")
    for row in rows:
        show(_line(row))
    if device == "cpu" and (parts := shares(case)):
        show(f"  a forward pass of its layers: {parts}")
    return rows


def _fits(way: Way, case: Case, device: str, show: Print) -> bool:
    """Say whether a way can be measured at this size, and show why not."""
    if way.loop and LONGEST_LOOP[device] < case.T:
        show(f"  {way.name} is left out: it loops over time in Python, above {LONGEST_LOOP[device]} steps")
        return False
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else 1 << 33
    if way.intermediates(case) > free // 2:
        show(f"  {way.name} is left out: its intermediates take {way.intermediates(case) / 2**30:.0f} GiB")
        return False
    return True


def seconds(way: Way, case: Case, inputs: Inputs, device: str) -> float:
    """Return the seconds of one call: the device's alone where a graph can hold it, else the best of five by the clock."""
    if device == "cuda" and way.graph:
        return graph_seconds([lambda x=x: way.run(x) for x in input_sets(case, inputs)])  # type: ignore[misc]
    return min(_once(lambda: way.run(inputs), device) for _ in range(1 if way.loop else 5))


def input_sets(case: Case, inputs: Inputs) -> list[Inputs]:
    """Return as many copies of the inputs as exceed twice the GPU's cache, so that no replay finds its inputs there."""
    op = OPS[case.op]
    cache = 2 * torch.cuda.get_device_properties().L2_cache_size
    count = max(1, min(16, -(-cache // op.moved(case))))
    timed = [{k: inputs[k].clone() for k in op.timed} for _ in range(count - 1)]
    return [inputs, *(inputs | copies for copies in timed)]


def graph_seconds(calls: Sequence[Callable[[], object]], replays: int = 20) -> float:
    """Return the device's seconds of one of the calls: the median over replays of a CUDA graph that holds all of them."""

    def work() -> None:
        # Nothing is kept, so that the memory of one call's results serves the next.
        for call in calls:
            call()

    replay, _ = capture(work)
    replay()
    return statistics.median(_once(replay, "cuda") for _ in range(replays)) / len(calls)


def _once(run: Callable[[], object], device: str) -> float:
    if device != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def copy_bandwidth(device: str) -> float:
    """Return the bytes per second that a plain copy reads and writes, best of ten; its buffers exceed any cache."""
    size = 1 << (30 if device == "cuda" else 27)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    return 2 * size / min(_once(lambda: target.copy_(source), device) for _ in range(10))


# The table


def _row(case: Case, way: Way, ways: Sequence[Way], copy: float, device: str) -> Row:
    op = OPS[case.op]
    spent, own = min(way.seconds), op.moved(case, way.passes)
    theirs = next((other for other in ways if other.name == "transformers"), None)
    return {
        "op": case.op,
        "B": case.B,
        "T": case.T,
        "C": case.C,
        "dtype": str(case.dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "way": way.name,
        "ms": spent * 1e3,
        "ideal_ms": ideal_seconds(case, copy) * 1e3,
        "of_ideal": ideal_seconds(case, copy) / spent,
        "MB": own / 1e6,
        "GB/s": own / spent / 1e9,
        "of_copy": own / spent / copy,
        "of_functions": function_seconds(case) / spent if device == "cuda" else None,
        "ours_is": spent / min(ways[0].seconds),
        "transformers_is": min(theirs.seconds) / spent if theirs else None,
    }


def ideal_seconds(case: Case, copy: float) -> float:
    """Return the seconds of the least traffic: each input read once, each output written once."""
    return OPS[case.op].moved(case) / copy


def function_seconds(case: Case) -> float:
    """Return the seconds that the current GPU takes at least for a case's exponentials and quotients, 16 per clock and multiprocessor."""
    gpu = torch.cuda.get_device_properties()
    clock = getattr(gpu, "clock_rate", 1_980_000) * 1e3
    count = case.B * case.T * case.C * OPS[case.op].functions
    return float(count / (16 * gpu.multi_processor_count * clock))


def _line(row: Row) -> str:
    """Lay out a row. `x ours`: its time over ours; `x transformers`: how many times faster than transformers it is."""
    theirs = f"{row['transformers_is']:14.2f}x" if row["transformers_is"] else f"{'-':>15}"
    functions = f"  {row['of_functions']:.0%} of the special functions' rate" if row["of_functions"] else ""
    return (
        f"  {row['way']:34} {row['ms']:10.3f} {row['of_ideal']:9.1%} {row['of_copy']:8.1%} "
        f"{row['ours_is']:8.2f}x {theirs}{functions}"
    )


def _machine(device: str) -> str:
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {backend.choose('cuda').why}"
    return f"CPU, torch {torch.__version__}, {backend.choose('cpu').why}"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _table(out: Path | None) -> Iterator[Write]:
    """Give a function that appends rows to a CSV file as they come, or nowhere."""
    if out is None:
        yield lambda rows: None
        return
    make_folder(out.parent)
    with writing(out), out.open("w", newline="", encoding="utf-8") as file:

        def write(rows: Sequence[Row]) -> None:
            writer = csv.DictWriter(file, rows[0])
            if not file.tell():
                writer.writeheader()
            writer.writerows(rows)
            file.flush()

        yield write
