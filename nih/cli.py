"""The command line: each command parses, calls one function, and renders. Frameworks are imported inside the commands.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 gate failed, 2 wrong usage, 3 finished but some
samples have no score, 130 interrupted (the same command resumes).
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from nih.errors import NihError, UsageError
from nih.options import RunOptions
from nih.version import __version__

app = typer.Typer(
    help="Measure what a language model still finds in a long context.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Ratios measured side by side in one run.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder")]


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _fail(error: NihError) -> NoReturn:
    _say(f"error: {error}")
    raise typer.Exit(2)


def _plain(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the user's errors into one sentence and exit code 2, an interrupt into 130; bugs keep their traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except NihError as error:
            _fail(error)
        except KeyboardInterrupt:
            _say("interrupted; the same command resumes the run")
            raise typer.Exit(130) from None

    return wrapper


_SETTLED = ("task", "lengths", "depths", "trials")
"""Options whose default depends on others."""


def _with_run_options(command: Callable[[RunOptions], None]) -> Callable[..., None]:
    """Give a command the fields of RunOptions as its options."""
    hints = get_type_hints(RunOptions)
    parameters = []
    for field in fields(RunOptions):
        kind: Any = hints[field.name]
        kind = {"set": list[str], "share": str, "question": str, **dict.fromkeys(_SETTLED, str | None)}.get(
            field.name, kind
        )
        default: Any = field.default if field.name != "set" else []
        flag = "--" + field.name.replace("_", "-")
        shown = Annotated[kind, typer.Option(flag, help=field.metadata["help"], show_default=bool(default))]
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=shown)
        )

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        command(RunOptions.of(**{**values, "set": tuple(values["set"])}))

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"nih {__version__}")
        raise typer.Exit


@app.command("run")
@_plain
@_with_run_options
def run(options: RunOptions) -> None:
    """Answer every cell of the grid, or resume; print the run's folder."""
    from rich.console import Console

    from nih.report import terminal
    from nih.run.evaluate import evaluate

    finished = evaluate(options, tell=_say)
    Console(stderr=True).print(terminal.heatmap(finished.results))
    for line in finished.headline:
        _say(line)
    typer.echo(str(finished.path))
    if finished.exit_state == "incomplete":
        _say("some samples have no score (oom, timeout or error); the same command tries them again")
        raise typer.Exit(3)


@app.command("plan")
@_plain
@_with_run_options
def plan(options: RunOptions) -> None:
    """Say what a run would cost, without loading the model."""
    from nih.run.job import prepare
    from nih.run.plan import cost

    typer.echo(json.dumps(cost(prepare(options)), indent=2))


@app.command("show")
@_plain
def show(
    folder: RunFolder,
    sample: Annotated[str, typer.Argument(help="The sample's id, or its beginning")],
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Print the prompt's text and nothing else.")
    ] = False,
) -> None:
    """Show a sample: its prompt, built again byte for byte, and what was answered."""
    from nih.run.job import shown

    row, text = shown(folder, sample)
    if prompt:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        return
    from nih.text import sanitize

    typer.echo(sanitize(json.dumps({**row, "prompt": text}, indent=2, ensure_ascii=False)))


@app.command("report")
@_plain
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Run folders; the first is compared with")
    ],
    score: Annotated[str | None, typer.Option(help="Score again with this score, without the model")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of a comparison; default: results/comparisons/<runs>-<hash>")
    ] = None,
) -> None:
    """Draw tables, heatmap and page of a run again from its journal, or compare several runs with the first."""
    if len(folders) > 1:
        _compare(folders, out, score)
        return
    if out is not None:
        raise UsageError(
            f"--out is the folder of a comparison; the report of one run goes into `{folders[0]}`"
        )
    from nih.report.write import report as draw

    draw(folders[0], score)
    typer.echo(str(folders[0]))


def _compare(folders: list[Path], out: Path | None, score: str | None) -> None:
    from nih.report.compare import compare

    folder, notes = compare(folders, out, score)
    for note in notes:
        _say(note)
    typer.echo(str(folder))


@app.command("gate")
@_plain
def gate(
    folder: RunFolder,
    baseline: Annotated[
        Path, typer.Option(help="Run folder, or its cells.csv, that the run is held against")
    ],
    max_drop: Annotated[
        float, typer.Option(help="Accuracy that may be lost, overall and at any length")
    ] = 0.05,
    alpha: Annotated[float, typer.Option(help="Chance of failing a run that is no worse")] = 0.05,
    max_slowdown: Annotated[
        float | None, typer.Option(help="Also judge seconds a sample: at most this many times the baseline's")
    ] = None,
    score: Annotated[str | None, typer.Option(help="Judge both with this score, without the model")] = None,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML, one test case a rule")] = None,
    summary: Annotated[
        Path | None,
        typer.Option(help="Write Markdown; it is also added to $GITHUB_STEP_SUMMARY where that is set"),
    ] = None,
) -> None:
    """Fail (exit 1) if a run is worse than its baseline."""
    from nih.gate import output as gate_report
    from nih.gate.rules import Limits
    from nih.gate.rules import gate as compare

    outcome = compare(folder, baseline, Limits(max_drop, alpha, max_slowdown), score)
    for note in outcome.notes:
        _say(f"warning: {note}")
    for line in gate_report.lines(outcome):
        typer.echo(line)
    if junit:
        gate_report.write(junit, gate_report.junit(outcome), "--junit")
    if summary:
        gate_report.write(summary, gate_report.markdown(outcome), "--summary")
    if step := os.environ.get("GITHUB_STEP_SUMMARY"):
        gate_report.append(Path(step), gate_report.markdown(outcome))
    _say(gate_report.headline(outcome))
    if outcome.failed:
        raise typer.Exit(1)


@app.command("list")
@_plain
def list_() -> None:
    """List models, tasks, suites, scores and haystacks."""
    from nih.prompts.haystack import BUILTIN
    from nih.registry import first_line, names
    from nih.run.suite import names as suites
    from nih.run.suite import read_suite
    from nih.scores import SCORES

    for kind in ("models", "engines", "tasks"):
        for name in names(kind):
            typer.echo(f"{kind[:-1]:9} {name:16} {first_line(kind, name)}")
    for name in suites():
        typer.echo(f"{'suite':9} {name:12} {read_suite(name).about}")
    for name, score in SCORES.items():
        typer.echo(f"{'score':9} {name:12} {(score.__doc__ or '').strip().partition(chr(10))[0]}")
    for name in BUILTIN:
        typer.echo(f"{'haystack':9} {name}")


@app.command("doctor")
@_plain
def doctor() -> None:
    """Say what this installation can use: devices, kernels, packages, models."""
    from nih.doctor import findings

    for name, value in findings().items():
        typer.echo(f"{name:24} {value}")


@bench_app.command("sweep")
@_plain
def bench_sweep(
    model: Annotated[str, typer.Option(help="Any session model")] = "smollm2",
    lengths: str = "512-2k",
    depths: str = "0-100:5",
    trials: str = "2",
    generate: Annotated[bool, typer.Option(help="Also transformers' own generate, prompt by prompt")] = True,
) -> None:
    """Shared prefixes against none, and against transformers' generate."""
    from nih.bench.sweep import sweep

    sweep(
        RunOptions.of(model=model, lengths=lengths, depths=depths, trials=trials), generate, typer.echo, _say
    )


@bench_app.command("prefill")
@_plain
def bench_prefill(
    model: Annotated[list[str], typer.Option(help="Any session model; repeatable")],
    lengths: Annotated[str, typer.Option(help="As for `nih run`")] = "1k-32k",
    repeats: int = 3,
    new_tokens: Annotated[
        int, typer.Option(help="Tokens generated after each prompt, inside the length")
    ] = 64,
    device: str = "auto",
    dtype: str = "auto",
    up_to: Annotated[
        list[str] | None, typer.Option(help="MODEL=LENGTH, the longest of one model; repeatable")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds for one reading; longer ones are not tried")
    ] = None,
    ratios: Annotated[bool, typer.Option(help="Draw ratios, not this machine's seconds")] = False,
    out: Annotated[Path, typer.Option(help="Folder for tables and figure")] = Path(
        "results/runs/bench-prefill"
    ),
) -> None:
    """Seconds and bytes of reading a prompt, by length, and the exponents with which they grow."""
    from nih.bench.prefill import Request, prefill

    request = Request(tuple(model), lengths, repeats, new_tokens, device, dtype, timeout, tuple(up_to or ()))
    prefill(request, out, ratios=ratios, show=typer.echo, tell=_say)


@bench_app.command("accuracy")
@_plain
def bench_accuracy(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs made with --cost")],
    ratios: Annotated[bool, typer.Option(help="Draw ratios, not this machine's seconds")] = False,
    out: Annotated[Path, typer.Option(help="The picture")] = Path("accuracy-cost.png"),
) -> None:
    """Accuracy against seconds and against bytes, several runs in one picture."""
    from nih.report.cost import cost_against_accuracy, images
    from nih.store.files import write_atomic

    write_atomic(out, images(cost_against_accuracy(runs, ratios=ratios))["png"])
    typer.echo(str(out))


@bench_app.command("startup")
@_plain
def bench_startup() -> None:
    """Seconds of `nih --help`."""
    from nih.bench.sweep import startup

    startup(typer.echo)


@bench_app.command("kernels")
@_plain
def bench_kernels() -> None:
    """Kernels against transformers' own paths, after a correctness check."""
    from nih.bench.kernels import main as measure

    measure()


@bench_app.command("prompts")
@_plain
def bench_prompts(
    model: Annotated[str, typer.Option(help="Whose tokeniser; `echo` counts bytes")] = "echo",
    length: Annotated[str, typer.Option(help="Tokens of each prompt")] = "1m",
) -> None:
    """Tokens a second of every task's prompts."""
    from nih.bench.prompts import prompts

    prompts(model, length, typer.echo)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="nih")
