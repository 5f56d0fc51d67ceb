"""The fixture `nih_gate`: a suite of another project fails when a layer is perturbed, and passes otherwise."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import nih
from nih import evaluate
from nih.models.reference import weights
from nih.pytest_plugin import NihGate
from tests.support import vocabularies

ROOT = Path(__file__).parents[2]
SUITE = Path(__file__).parents[1] / "data" / "engine_suite"
REFERENCE = Path(nih.__file__).parent / "models/reference/rwkv"
POINTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][
    "pytest11"
]
LAYER = "rwkv.blocks.1.attention.time_decay"
"""Memory of this layer fades exp(4) times faster."""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of packages where nih is installed, as far as its entry points go."""
    folder = tmp_path / "site" / "nih-0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: nih\nVersion: 0\n")
    lines = [f"{name} = {module}" for name, module in POINTS.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[pytest11]", *lines, ""]))
    return folder.parent


def run_suite(tmp_path: Path, site: Path, model: str) -> subprocess.CompletedProcess[str]:
    """Type `pytest` in a copy of the suite, as its owner would."""
    copy = Path(shutil.copytree(SUITE, tmp_path / f"suite-{Path(model).name}"))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))} | {
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
        "MODEL": model,
    }
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--basetemp", str(copy / "tmp")]
    return subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)


def test_a_suite_fails_when_a_layer_is_perturbed_and_passes_otherwise(
    tmp_path: Path, installed: Path
) -> None:
    perturbed = Path(shutil.copytree(REFERENCE, tmp_path / "perturbed"))
    tensors = weights.read(REFERENCE)
    tensors[LAYER] += 4
    weights.write(tensors, perturbed)
    good = run_suite(tmp_path, installed, "rwkv")
    assert good.returncode == 0, good.stdout + good.stderr
    bad = run_suite(tmp_path, installed, str(perturbed))
    assert bad.returncode == 1 and "FAIL  overall" in bad.stdout and "gate failed: overall" in bad.stdout
    assert "1 failed" in bad.stdout and "Traceback" not in bad.stdout


def test_the_plugin_imports_nothing_of_weight() -> None:
    heavy = ["torch", "pandas", "numpy", "scipy", "matplotlib", "transformers", "typer", "rich"]
    code = (
        f"import sys, pytest\nbefore = set(sys.modules)\nimport {POINTS['nih']}\n"
        f"assert not [m for m in {heavy!r} if m in sys.modules], sys.modules\n"
        "print(*sorted(m for m in set(sys.modules) - before if m.split('.')[0] == 'nih'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["nih", "nih.pytest_plugin", "nih.version"]


# The fixture itself, on a model without weights


@pytest.fixture
def gate(tmp_path: Path) -> NihGate:
    return NihGate(lambda: tmp_path / "measured")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline of `echo`, which answers right."""
    return evaluate(
        model="echo",
        lengths="512",
        depths="0,100",
        trials=30,
        haystack="prose",
        out=tmp_path_factory.mktemp("plugin") / "base",
        quiet=True,
    ).path


def test_it_asks_what_the_baseline_was_asked(gate: NihGate, base: Path, tmp_path: Path) -> None:
    outcome = gate(base, within=0.06)
    assert not outcome.failed and outcome.run == tmp_path / "measured"
    assert [v.rule for v in outcome.verdicts][-1] == "within"


def test_like_says_what_to_ask_of_a_table(gate: NihGate, base: Path) -> None:
    assert not gate(base / "cells.csv", like=base).failed
    with pytest.raises(pytest.fail.Exception, match="add `like=` with a run folder"):
        gate(base / "cells.csv")


def test_a_run_that_was_made_before_is_judged_as_it_is(gate: NihGate, base: Path, tmp_path: Path) -> None:
    assert gate(base, run=base).run == base and not (tmp_path / "measured").exists()
    with pytest.raises(pytest.fail.Exception, match="`like=`, `model=` would measure anew"):
        gate(base, run=base, like=base, model="echo")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 1}, "seed is `1` here and `0` there"),
        ({"modle": "echo"}, "modle"),
        ({"within": 0.001}, "cannot show a drop below 0.001"),
        ({"model": "org/model"}, "org/model"),
        ({"max_drop": 2}, "--max-drop 2"),
        ({"max_drop": "much"}, "`max_drop=much` must be a number"),
        ({"alpha": None}, "`alpha=None` must be a number"),
        ({"within": True}, "`within=True` must be a number"),
        ({"max_slowdown": float("nan")}, "`max_slowdown=nan` must be a finite number"),
        ({"like": 3}, "`like=3` is no path"),
        ({"like": ""}, "`like=''` is no path"),
        ({"run": ""}, "`run=''` is no path"),
        ({"set": "a"}, "--set `a` is not KEY=VALUE"),
        ({"set": [1]}, "--set .* must be text or a list of texts"),
    ],
)
def test_what_cannot_be_judged_fails_in_one_sentence(
    gate: NihGate, base: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(pytest.fail.Exception, match=said) as caught:
        gate(base, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and caught.value.pytrace is False


@pytest.mark.parametrize("baseline", [None, 3, "", b"base", ["base"]])
def test_a_baseline_that_is_no_path_is_refused(gate: NihGate, baseline: Any) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"`baseline=.*` is no path; give a run folder"):
        gate(baseline)


def test_a_relative_baseline_is_looked_for_where_pytest_was_started(
    gate: NihGate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pytest.fail.Exception) as caught:
        gate("base")
    assert (
        f'counts from `{tmp_path}`, where pytest was started, so write `Path(__file__).with_name("base")`'
        in str(caught.value)
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "nosuch"}, "unknown score `nosuch`"),
        ({"within": 0.001}, "cannot show a drop below 0.001"),
        ({"certify": True, "trials": 30}, "leave it out"),
        ({"trials": 31}, "trials is `31` here and `30` there; leave out the options that differ"),
        ({"seed": 1}, "seed is `1` here and `0` there"),
        ({"lengths": "256"}, r"lengths is `\[256\]` here and `\[512\]` there"),
        ({"depths": "0"}, "depths is"),
        ({"limit": 10}, "limit is `10` here and not set there"),
        ({"haystack": "noise"}, "haystack is `noise` here and `prose` there"),
        ({"task": "fact"}, "task is"),
        ({"max_new_tokens": 7}, "tokens of the answer is `7` here and not set there"),
        ({"set": {"task.digits": 9}}, "task options is"),
    ],
)
def test_what_no_answer_could_mend_is_said_before_the_model_is_asked(
    options: dict[str, Any], said: str, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "measured"
    with pytest.raises(pytest.fail.Exception, match=said):
        NihGate(lambda: out)(base, model="echo", **options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"score": "exact"}, "`score=exact` needs the samples of both sides"),
        ({"within": 0.06}, "`within=0.06` needs the samples of both sides"),
        ({"trials": 31}, "31 trials here and 30 there at passkey, 512 tokens, depth 0"),
        ({"lengths": "256"}, r"lengths is `\[256\]` here and `\[512\]` there"),
    ],
)
def test_what_a_table_cannot_be_held_against_is_said_before_the_model_is_asked(
    options: dict[str, Any], said: str, base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "measured"
    with pytest.raises(pytest.fail.Exception, match=said):
        NihGate(lambda: out)(base / "cells.csv", like=base, **options)
    assert not out.exists()


def test_a_prompt_that_changed_is_said_before_the_model_is_asked(base: Path, tmp_path: Path) -> None:
    """Same settings and another id, as a changed template leaves them."""
    changed, out = Path(shutil.copytree(base, tmp_path / "changed")), tmp_path / "measured"
    first, *rest = (changed / "samples.jsonl").read_text().splitlines(keepends=True)
    row = json.loads(first)
    (changed / "samples.jsonl").write_text(json.dumps({**row, "id": row["id"][::-1]}) + "\n" + "".join(rest))
    with pytest.raises(
        pytest.fail.Exception, match=r"has other prompts than baseline .*first: passkey, 512 tokens"
    ):
        NihGate(lambda: out)(changed)
    assert not out.exists()


def test_within_over_another_tokenizer_is_refused_before_the_model_is_asked(
    base: Path, tmp_path: Path
) -> None:
    out = tmp_path / "measured"
    vocabularies.chatting("{{ messages }}").save_pretrained(tmp_path / "words")
    gate = NihGate(lambda: out)
    with pytest.raises(pytest.fail.Exception, match="the tokenizer differs from that of baseline"):
        gate(base, tokenizer=tmp_path / "words", within=0.06)
    assert not out.exists()


def test_a_score_for_both_sides_lets_their_own_differ(gate: NihGate, base: Path) -> None:
    assert not gate(base, score="exact").failed


def test_a_damaged_baseline_is_said_before_the_model_is_asked(
    gate: NihGate, base: Path, tmp_path: Path
) -> None:
    cut = Path(shutil.copytree(base, tmp_path / "cut"))
    lines = (cut / "samples.jsonl").read_text().splitlines(keepends=True)
    (cut / "samples.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(pytest.fail.Exception, match="lacks 1 of its 60 samples"):
        gate(cut, model="echo")
    assert not (tmp_path / "measured").exists()


def test_options_are_taken_as_python_has_them(gate: NihGate, base: Path) -> None:
    """A model's folder is a `Path`, and `set` a mapping, a text or a list, as for `evaluate`."""
    outcome = gate(base, model=REFERENCE, set={"model.chunk": 256}, run=None)
    assert outcome.model == str(REFERENCE)


def test_a_fault_is_told_once_and_fixtures_of_any_scope_may_ask(tmp_path: Path, installed: Path) -> None:
    (tmp_path / "test_scopes.py").write_text(
        "import pytest\n"
        "@pytest.fixture(scope='module')\n"
        "def measured(nih_gate): return nih_gate('nowhere')\n"
        "def test_it(measured): pass\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "COV_"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rN", "test_scopes.py"],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 error" in done.stdout and done.stdout.count("error: there is no baseline `nowhere`") == 1
    assert "another exception" not in done.stdout
