"""The fixture `nih_gate`: a suite of another project fails when a layer is perturbed, and passes otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nih
from nih import evaluate
from nih.models.reference import weights
from nih.pytest_plugin import NihGate

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
    ],
)
def test_what_cannot_be_judged_fails_in_one_sentence(
    gate: NihGate, base: Path, options: dict[str, object], said: str
) -> None:
    with pytest.raises(pytest.fail.Exception, match=said) as caught:
        gate(base, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and caught.value.pytrace is False
