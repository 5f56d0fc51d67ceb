"""The command line: each command parses, calls one function, and renders. Frameworks are imported inside the commands.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 gate failed, 2 wrong usage, 3 finished but some
samples have no score, 130 interrupted (the same command resumes).
"""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer

from nih import __version__
from nih.errors import NihError
from nih.settings import RunOptions

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


def _with_run_options(command: Callable[[RunOptions], None]) -> Callable[..., None]:
    """Give a command the fields of RunOptions as its options."""
    hints = get_type_hints(RunOptions)
    parameters = []
    for field in fields(RunOptions):
        kind: Any = hints[field.name]
        kind = {"set": list[str], "share": str, "question": str}.get(field.name, kind)
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

    from nih import terminal
    from nih.run import evaluate

    finished = evaluate(options, tell=_say)
    Console(stderr=True).print(terminal.heatmap(finished.cells))
    typer.echo(str(finished.path))
    if finished.exit_state == "incomplete":
        _say("some samples have no score (oom, timeout or error); the same command tries them again")
        raise typer.Exit(3)


@app.command("plan")
@_plain
@_with_run_options
def plan(options: RunOptions) -> None:
    """Say what a run would cost, without loading the model."""
    from nih.run import cost, prepare

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
    from nih.run import shown

    row, text = shown(folder, sample)
    if prompt:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        return
    from nih.terminal import sanitize

    typer.echo(sanitize(json.dumps({**row, "prompt": text}, indent=2, ensure_ascii=False)))


@app.command("report")
@_plain
def report(
    folder: RunFolder,
    score: Annotated[str | None, typer.Option(help="Score again with this score, without the model")] = None,
) -> None:
    """Draw tables, heatmap and page again from the journal."""
    from nih import store
    from nih.report import write

    store.annotate(folder, report=write(folder, score))
    typer.echo(str(folder))


@app.command("list")
@_plain
def list_() -> None:
    """List models, tasks, scores and haystacks."""
    from nih.haystack import BUILTIN
    from nih.registry import first_line, names
    from nih.score import SCORES

    for kind in ("models", "tasks"):
        for name in names(kind):
            typer.echo(f"{kind[:-1]:9} {name:12} {first_line(kind, name)}")
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
    from nih.bench import sweep

    sweep(
        RunOptions.of(model=model, lengths=lengths, depths=depths, trials=trials), generate, typer.echo, _say
    )


@bench_app.command("startup")
@_plain
def bench_startup() -> None:
    """Seconds of `nih --help`."""
    from nih.bench import startup

    startup(typer.echo)


@bench_app.command("kernels")
@_plain
def bench_kernels() -> None:
    """Kernels against transformers' own paths, after a correctness check."""
    from nih.bench_kernels import main as measure

    measure()


@bench_app.command("prompts")
@_plain
def bench_prompts(
    model: Annotated[str, typer.Option(help="Whose tokeniser; `echo` counts bytes")] = "echo",
    length: Annotated[str, typer.Option(help="Tokens of each prompt")] = "1m",
) -> None:
    """Tokens a second of every task's prompts."""
    from nih.bench_prompts import prompts

    prompts(model, length, typer.echo)


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="nih")
