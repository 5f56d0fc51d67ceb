"""The command line: each command parses, calls one function, and renders. Frameworks are imported inside the commands.

Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 gate failed, 2 wrong usage, 3 finished but some
samples have no score, 70 a defect of nih, 130 interrupted (the same command resumes), 141 the reader of a pipe has gone.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_type_hints

import typer
from typer.core import TyperCommand

from nih.coerce import Tokens, convert, flag
from nih.errors import NihError, UsageError
from nih.options import Answering, Asked, Execution, Output, RunOptions, scoped
from nih.streams import ReaderGone, guard_streams
from nih.text import sanitize
from nih.threads import let_threads_sleep
from nih.version import __version__

app = typer.Typer(
    help="Test how well a language model retrieves facts from long contexts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
bench_app = typer.Typer(help="Measure speeds as ratios, side by side in one run.", no_args_is_help=True)
app.add_typer(bench_app, name="bench")


def _path(typed: Any) -> Path:
    """Read the name of an output. An empty one is refused, because it would mean the present folder. Raises UsageError."""
    if not str(typed):
        raise UsageError("the name of an output is empty; type a file or folder, or leave the option out")
    return Path(typed)


_NAMED: dict[str, Any] = {"parser": _path, "metavar": "<path>"}
"""What reads an option that names an output, and what its help shows."""
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder")]


_DEFECT = 70
"""EX_SOFTWARE of sysexits.h."""
_CLOSED_PIPE = 141
"""What a shell reports of a program that SIGPIPE ended."""


def _say(line: str) -> None:
    # On one line: a line of its own could begin with what a CI service reads as a command.
    typer.echo(sanitize(line, lines=False), err=True)


def _fail(error: NihError) -> NoReturn:
    _say(f"error: {error}")
    raise typer.Exit(2)


def _plain(command: Callable[..., None]) -> Callable[..., None]:
    """Turn the user's errors into one sentence and exit code 2, an interrupt into 130; defects keep their traceback."""

    @functools.wraps(command)
    def wrapper(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except ReaderGone:
            raise typer.Exit(_CLOSED_PIPE) from None
        except NihError as error:
            _fail(error)
        except MemoryError:
            _fail(
                UsageError("the memory does not suffice for this; ask for shorter lengths or fewer samples")
            )
        except KeyboardInterrupt:
            _say("interrupted; the same command resumes the run")
            raise typer.Exit(130) from None

    return wrapper


class _Command(TyperCommand):
    """A command that looks for the names of the scores, plugins included, only when its help is asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from nih.registry import names

        for parameter in self.params:
            if text := getattr(parameter, "help", None):
                parameter.help = text.replace("{scores}", ", ".join(names("scores")))  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def _with_run_options(command: Callable[[RunOptions], None]) -> Callable[..., None]:
    """Give a command the fields of RunOptions as its options, and three more ways of typing them."""
    hints, bounded = get_type_hints(RunOptions), get_type_hints(RunOptions, include_extras=True)
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for group in (Asked, Answering, Execution, Output):
        for field in fields(group):
            kind, default = (list[str], []) if field.name == "set" else (hints[field.name], field.default)
            # `RunOptions.of` reads the text of a number of tokens, as it reads a length.
            counts_tokens = bounded[field.name] == Tokens | None
            flags = [flag for flag in (field.metadata.get("short"),) if flag]
            shown = typer.Option(
                f"--{field.name.replace('_', '-')}",
                *flags,
                help=field.metadata["help"],
                show_default=bool(default),
                rich_help_panel=field.metadata.get("panel", group.PANEL),
            )
            parameters.append(_keyword(field.name, str | None if counts_tokens else kind, default, shown))
    parameters += [
        _keyword(name, kind, default, typer.Option(*flags, help=text, rich_help_panel=panel))
        for name, kind, default, flags, text, panel in _FURTHER
    ]

    @functools.wraps(command)
    def wrapper(context: typer.Context, **values: Any) -> None:
        values["set"] += [*scoped("task", values.pop("task_arg")), *scoped("model", values.pop("model_arg"))]
        run = values.pop("like")
        if run is None:
            command(RunOptions.of(**values))
            return
        from nih.run.like import like

        typed = {key for key in values if _is_typed(context, key)}
        command(like(run, {key: value for key, value in values.items() if key in typed or key == "set"}))

    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
    return wrapper


_FURTHER: tuple[tuple[str, Any, Any, tuple[str, ...], str, str], ...] = (
    (
        "like",
        Path | None,
        None,
        ("--like",),
        "Take all options of this run folder, but for those that are typed",
        Asked.PANEL,
    ),
    (
        "task_arg",
        list[str],
        [],
        ("--task-arg", "-T"),
        "KEY=VALUE option of the task, as `--set task.KEY=VALUE`; repeatable",
        Asked.PANEL,
    ),
    (
        "model_arg",
        list[str],
        [],
        ("--model-arg", "-M"),
        "KEY=VALUE option of the model or engine, as `--set model.KEY=VALUE`; repeatable",
        Answering.PANEL,
    ),
)
"""Name, type, default, flags, help and panel of the options that are another way of typing those of RunOptions."""


def _keyword(name: str, kind: Any, default: Any, shown: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, shown]
    )


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"nih {__version__}")
        raise typer.Exit


@app.command("run", cls=_Command)
@_plain
@_with_run_options
def run(options: RunOptions) -> None:
    """Run an evaluation, or resume it. Prints the run folder."""
    from rich.console import Console

    from nih.report import terminal
    from nih.run.evaluate import evaluate

    finished = evaluate(options, tell=_say)
    Console(stderr=True).print(terminal.heatmap(finished.results))
    for line in finished.headline:
        _say(line)
    typer.echo(str(finished.path))
    if finished.exit_state == "incomplete":
        _say(_unanswered(row.status for row in finished.results.rows))
        raise typer.Exit(3)


def _unanswered(statuses: Iterable[str]) -> str:
    """Say which samples have no score, and what asks them again."""
    from nih.types import UNANSWERED

    counts = Counter(status for status in statuses if status in UNANSWERED)
    left = counts.pop("no_answer", 0)
    kinds = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    told = [f"{kinds}: the same command tries them again"] if counts else []
    if left:
        told.append(f"{left} no_answer: `--retry no_answer` asks them again")
    return f"some samples have no score ({'; '.join(told)})"


@app.command("plan", cls=_Command)
@_plain
@_with_run_options
def plan(options: RunOptions) -> None:
    """Count the prompts, tokens and memory of a run, without loading the model."""
    from nih.run.job import prepare
    from nih.run.plan import plan as count

    typer.echo(json.dumps(count(prepare(options)), indent=2))


_TRUSTED = "In place of what the run names: a hub id of the run is opened only if you type it"


@app.command("show")
@_plain
def show(
    folder: RunFolder,
    sample: Annotated[str, typer.Argument(help="The sample's id, or its beginning")],
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Print the prompt's text and nothing else.")
    ] = False,
    model: Annotated[str | None, typer.Option("--model", "-m", help=_TRUSTED)] = None,
    tokenizer: Annotated[str | None, typer.Option("--tokenizer", help=_TRUSTED)] = None,
    haystack: Annotated[str | None, typer.Option("--haystack", help=_TRUSTED)] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE, such as trust_remote_code")
    ] = None,
) -> None:
    """Show a sample: its prompt, built again byte for byte, and its answer."""
    from nih.run.show import show as find

    named = {"model": model, "tokenizer": tokenizer, "haystack": haystack, "set": tuple(set_ or ())}
    row, text = find(folder, sample, {key: value for key, value in named.items() if value})
    if prompt:
        sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
        return
    typer.echo(sanitize(json.dumps({**row, "prompt": text}, indent=2, ensure_ascii=False)))


_Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder; default: results/comparisons/<runs>-<hash>", **_NAMED),
]


_NoAnswer = Annotated[
    Literal["wrong"] | None,
    typer.Option(help="`wrong`: count samples whose answer is none as wrong; else they are left out"),
]


@app.command("report")
@_plain
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="A run folder; several are compared")
    ],
    score: Annotated[str | None, typer.Option(help="Score again with this score, without the model")] = None,
    no_answer: _NoAnswer = None,
    out: _Out = None,
) -> None:
    """Write the tables, heatmap and page of a run again from its journal; with several runs, as `nih compare`."""
    if len(folders) > 1:
        _compare(folders, out, score, no_answer)
        return
    if out is not None:
        raise UsageError(
            f"--out is the folder of a comparison; the report of one run goes into `{folders[0]}`"
        )
    from nih.report.write import report as draw

    draw(folders[0], score, no_answer)
    typer.echo(str(folders[0]))


@app.command("compare")
@_plain
def compare(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="RUN RUN...", help="Run folders; the first is what others are compared with"),
    ],
    score: Annotated[str | None, typer.Option(help="Score again with this score, without the model")] = None,
    no_answer: _NoAnswer = None,
    out: _Out = None,
) -> None:
    """Compare several runs with the first. Prints the folder of the comparison."""
    if len(folders) < 2:
        raise UsageError(f"`{folders[0]}` is one run; type at least two, or `nih report {folders[0]}`")
    _compare(folders, out, score, no_answer)


def _compare(
    folders: list[Path], out: Path | None, score: str | None, no_answer: Literal["wrong"] | None
) -> None:
    from nih.report.compare import compare

    folder, notes = compare(folders, out, score, no_answer)
    for note in notes:
        _say(note)
    typer.echo(str(folder))


@app.command("history")
@_plain
def history(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER...", help="Run folders of one grid, or folders that hold them"),
    ],
    score: Annotated[str | None, typer.Option(help="Score again with this score, without the model")] = None,
    no_answer: _NoAnswer = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder; default: results/histories/<run>-<hash>", **_NAMED),
    ] = None,
) -> None:
    """Draw accuracy and effective length of many runs of one grid over time. Prints the folder of the table and the picture."""
    from nih.report.history import history as draw
    from nih.report.history import terminal

    folder, found = draw(folders, out, score, no_answer)
    for note in found.notes:
        _say(f"warning: {note}")
    for line in terminal(found):
        _say(line)
    typer.echo(str(folder))


@app.command("gate")
@_plain
def gate(
    folder: RunFolder,
    baseline: Annotated[
        Path | None, typer.Option(help="Run folder, or its cells.csv, with which the run is compared")
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest loss of accuracy that passes, overall and at any length; default: 0.05, with --plan half of --drop"
        ),
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(help="Also pass only if the loss over all samples is shown to be smaller than this"),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Chance of failing a run that is not worse")] = 0.05,
    max_slowdown: Annotated[
        float | None,
        typer.Option(help="Also judge the seconds per sample: at most this many times the baseline's"),
    ] = None,
    score: Annotated[str | None, typer.Option(help="Judge both with this score, without the model")] = None,
    junit: Annotated[
        Path | None, typer.Option(help="Write JUnit XML, one test case per rule", **_NAMED)
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            help="Write Markdown; it is also added to $GITHUB_STEP_SUMMARY where that is set", **_NAMED
        ),
    ] = None,
    plan: Annotated[
        bool,
        typer.Option(
            "--plan", help="RUN is a baseline: count the trials that the rules need, and judge nothing"
        ),
    ] = False,
    drop: Annotated[
        float | None,
        typer.Option(help="With --plan, the real loss of accuracy to be caught; default: 0.05"),
    ] = None,
) -> None:
    """Fail (exit 1) if a run is worse than its baseline; with --plan, say how many trials that takes."""
    from nih.gate import output as gate_report
    from nih.gate.rules import Limits
    from nih.gate.rules import gate as compare
    from nih.store.files import check_file

    if plan:
        unused = {"--max-slowdown": max_slowdown, "--junit": junit, "--summary": summary}
        if named := [flag for flag, value in unused.items() if value is not None]:
            raise UsageError(f"{named[0]} means nothing with --plan, which judges nothing; leave it out")
        rules = {"max_drop": max_drop, "alpha": alpha, "within": within}
        _plan_gate(folder, 0.05 if drop is None else drop, rules, baseline, score)
        return
    if drop is not None:
        raise UsageError("--drop belongs to --plan; type `--max-drop` for the largest loss that passes")
    if baseline is None:
        raise UsageError(
            f"`{folder}` is judged against another run; type `nih gate {folder} --baseline BASELINE`"
        )
    step = os.environ.get("GITHUB_STEP_SUMMARY")
    files = {"--junit": junit, "--summary": summary, "GITHUB_STEP_SUMMARY": Path(step) if step else None}
    for option, path in files.items():
        if path is not None:
            check_file(path, option)
    limits = Limits(0.05 if max_drop is None else max_drop, alpha, max_slowdown, within)
    outcome = compare(folder, baseline, limits, score)
    for note in outcome.notes:
        _say(f"warning: {note}")
    for line in gate_report.lines(outcome):
        typer.echo(line)
    if junit:
        gate_report.write(junit, gate_report.junit(outcome), "--junit")
    if summary:
        gate_report.write(summary, gate_report.markdown(outcome), "--summary")
    if step:
        gate_report.append(Path(step), gate_report.markdown(outcome))
    _say(gate_report.headline(outcome))
    if outcome.failed:
        raise typer.Exit(1)


def _plan_gate(
    folder: Path, drop: float, rules: dict[str, Any], again: Path | None, score: str | None
) -> None:
    from nih.gate.plan import headline, lines, plan

    found = plan(folder, drop, **rules, again=again, score=score)
    for note in found.notes:
        _say(f"warning: {note}")
    for line in lines(found):
        typer.echo(line)
    for line in headline(found):
        _say(line)


@app.command("list")
@_plain
def list_() -> None:
    """List models, engines, tasks, suites, scores and haystacks."""
    from nih.list import listed

    for line in listed():
        typer.echo(line)


@app.command("doctor")
@_plain
def doctor() -> None:
    """Say what this installation can use: devices, kernels, packages."""
    from nih.doctor import doctor as examine

    for name, value in examine().items():
        typer.echo(f"{name:24} {value}")


@bench_app.command("sweep")
@_plain
def bench_sweep(
    model: Annotated[str, typer.Option(help="Any session model")] = "smollm2",
    lengths: str = "512-2k",
    depths: str = "0-100:5",
    trials: str = "2",
    generate: Annotated[
        bool, typer.Option(help="Also measure the `generate` of transformers, prompt by prompt")
    ] = True,
) -> None:
    """Compare shared prefixes with none, and with the `generate` of transformers."""
    from nih.bench.sweep import sweep

    sweep(
        RunOptions.of(model=model, lengths=lengths, depths=depths, trials=trials), generate, typer.echo, _say
    )


@bench_app.command("engines")
@_plain
def bench_engines(
    model: Annotated[str, typer.Option(help="A session model that the others can load too")] = "smollm2",
    lengths: Annotated[str, typer.Option(help="As for `nih run`")] = "512-2k",
    depths: Annotated[str, typer.Option(help="As for `nih run`")] = "0-100:5",
    trials: Annotated[str, typer.Option(help="As for `nih run`")] = "2",
    vllm: Annotated[
        str | None,
        typer.Option(help="The python of an environment that has vLLM and nih; default: vLLM is left out"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", "-M", help="KEY=VALUE: an engine argument of vLLM; repeatable"),
    ] = None,
    generate: Annotated[
        bool, typer.Option(help="Also measure the `generate` of transformers, prompt by prompt")
    ] = True,
    dtype: Annotated[list[str] | None, typer.Option(help="Repeatable; default: float32")] = None,
    device: Annotated[str, typer.Option(help="Of our session and of `generate`")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="For every way; default: all cores that this process may use")
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Times that each way answers all, in turn; the median counts")
    ] = 3,
    out: Annotated[Path | None, typer.Option(help="Folder for engines.csv", **_NAMED)] = None,
) -> None:
    """Compare the seconds in which nih, vLLM and the `generate` of transformers answer one grid, loading left out."""
    from nih.bench.engines import Request, engines

    request = Request(
        model,
        lengths,
        depths,
        trials,
        tuple(dtype or ("float32",)),
        device,
        vllm,
        tuple(set_ or ()),
        generate,
        repeats,
        threads,
    )
    engines(request, out, show=typer.echo, tell=_say)


@bench_app.command("prefill")
@_plain
def bench_prefill(
    model: Annotated[list[str], typer.Option(help="Any session model; repeatable")],
    lengths: Annotated[str, typer.Option(help="As for `nih run`")] = "1k-32k",
    repeats: int = 3,
    new_tokens: Annotated[
        str,
        typer.Option(help="Tokens generated after each prompt, inside the length"),
    ] = "64",
    device: str = "auto",
    dtype: str = "auto",
    up_to: Annotated[
        list[str] | None, typer.Option(help="MODEL=LENGTH: the longest length of one model; repeatable")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Most seconds for one measurement; longer lengths are not tried")
    ] = None,
    ratios: Annotated[bool, typer.Option(help="Draw ratios, not this machine's seconds")] = False,
    out: Annotated[Path, typer.Option(help="Folder of the tables and the figure", **_NAMED)] = Path(
        "results/runs/bench-prefill"
    ),
) -> None:
    """Measure the seconds and bytes of reading a prompt by length, and the exponents with which they grow."""
    from nih.bench.prefill import Request, prefill

    room = convert(new_tokens, Tokens, flag("new-tokens", new_tokens))
    request = Request(tuple(model), lengths, repeats, room, device, dtype, timeout, tuple(up_to or ()))
    prefill(request, out, ratios=ratios, show=typer.echo, tell=_say)


@bench_app.command("accuracy")
@_plain
def bench_accuracy(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs made with --cost")],
    ratios: Annotated[bool, typer.Option(help="Draw ratios, not this machine's seconds")] = False,
    out: Annotated[Path, typer.Option(help="Picture to write", **_NAMED)] = Path("accuracy-cost.png"),
) -> None:
    """Draw accuracy against seconds and against bytes, several runs in one picture."""
    from nih.report.cost import cost_against_accuracy, images
    from nih.store.files import check_file, make_folder, write_atomic

    check_file(out, "--out")
    picture = images(cost_against_accuracy(runs, ratios=ratios))["png"]
    make_folder(out.parent)
    write_atomic(out, picture)
    typer.echo(str(out))


@bench_app.command("threads")
@_plain
def bench_threads(
    model: Annotated[str, typer.Option(help="A session model that runs on the CPU")] = "rwkv",
    lengths: Annotated[str, typer.Option(help="As for `nih run`")] = "1k-4k",
    trials: Annotated[str, typer.Option(help="As for `nih run`")] = "2",
    repeats: Annotated[
        int, typer.Option(min=1, help="Runs per way and situation, in turn; the median counts")
    ] = 3,
) -> None:
    """Compare the number of threads that nih chooses with fixed ones: idle, under CPU quotas, beside busy processes."""
    from nih.bench.threads import threads
    from nih.run.job import prepare

    prepare(RunOptions.of(model=model, lengths=lengths, trials=trials, device="cpu"))
    words = ["--model", model, "--lengths", lengths, "--trials", trials, "--device", "cpu"]
    threads(words, repeats, typer.echo)


@bench_app.command("startup")
@_plain
def bench_startup() -> None:
    """Measure the seconds of `nih --help`."""
    from nih.bench.sweep import startup

    startup(typer.echo)


@bench_app.command("kernels")
@_plain
def bench_kernels(
    device: Annotated[str, typer.Option(help="`cpu`, `cuda` or `auto`")] = "auto",
    only: Annotated[str | None, typer.Option(help="The one op to measure, such as `selective_scan`")] = None,
    out: Annotated[
        Path | None, typer.Option(help="CSV file for the rows, written as they come", **_NAMED)
    ] = None,
) -> None:
    """Compare the kernels with the paths of transformers, after a correctness check."""
    from nih.bench.kernels import main as measure

    measure(device, out=out, only=only)


@bench_app.command("prompts")
@_plain
def bench_prompts(
    model: Annotated[
        str, typer.Option(help="The model whose tokenizer is used; `echo` counts bytes")
    ] = "echo",
    length: Annotated[str, typer.Option(help="Tokens of each prompt")] = "1m",
) -> None:
    """Measure the tokens per second at which the prompts of every task are made."""
    from nih.bench.prompts import prompts

    prompts(model, length, typer.echo)


def main() -> None:
    """Entry point of the console script."""
    let_threads_sleep()
    os.environ["MPLBACKEND"] = "agg"  # no window is opened, whatever the user's other programs want
    guard_streams()
    try:
        app(prog_name="nih")
    except ReaderGone:
        sys.exit(_CLOSED_PIPE)
    except NihError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except Exception:
        traceback.print_exc()
        _say(
            f"this is a defect of nih {__version__}, not of what you typed; please report it with the lines above "
            "(what was answered is kept: the same command resumes a run)"
        )
        sys.exit(_DEFECT)
