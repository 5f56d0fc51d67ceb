"""The architecture's arrows: which module may import which. A new module gets a row here and in the design."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT = {
    "nih": {"nih.run", "nih.report"},
    "nih.__main__": {"nih.cli"},
    "nih.types": set(),
    "nih.errors": set(),
    "nih.settings": set(),
    "nih.grid": set(),
    "nih.prose": {"nih.prose_words"},
    "nih.prose_words": set(),
    "nih.datasets": set(),
    "nih.haystack": {"nih.datasets", "nih.prose"},
    "nih.tiktoken_encoding": set(),
    "nih.tokenizer": {"nih.tiktoken_encoding"},
    "nih.rwkv_vocabulary": {"nih.tokenizer"},
    "nih.registry": set(),
    "nih.placement": {"nih.haystack"},
    "nih.prompt": {"nih.grid", "nih.haystack", "nih.placement", "nih.settings"},
    "nih.yaml_file": set(),
    "nih.suite": {"nih.settings", "nih.yaml_file"},
    "nih.prepared": {"nih.grid", "nih.prompt"},
    "nih.task_file": {"nih.prepared", "nih.registry", "nih.settings", "nih.yaml_file"},
    "nih.plan": set(),
    "nih.blocks": {"nih.plan"},
    "nih.split": {"nih.plan"},
    "nih.walk": {"nih.plan"},
    "nih.verify": {"nih.walk"},
    "nih.workers": {"nih", "nih.plan", "nih.split", "nih.verify", "nih.walk"},
    "nih.submit": {"nih.plan", "nih.progress"},
    "nih.progress": {"nih.plan"},
    "nih.score": set(),
    "nih.stats": {"nih.grid", "nih.score"},
    "nih.adaptive": {"nih.stats"},
    "nih.store": {"nih"},
    "nih.peak": set(),
    "nih.cost": {"nih.grid", "nih.peak"},
    "nih.label_places": set(),
    "nih.cost_figure": {"nih.label_places", "nih.score", "nih.terminal"},
    "nih.job": {
        "nih.adaptive",
        "nih.grid",
        "nih.haystack",
        "nih.plan",
        "nih.prepared",
        "nih.prompt",
        "nih.registry",
        "nih.score",
        "nih.settings",
        "nih.store",
        "nih.suite",
        "nih.task_file",
    },
    "nih.forecast": {"nih.job", "nih.plan", "nih.split"},
    "nih.runner": {
        "nih.adaptive",
        "nih.cost",
        "nih.grid",
        "nih.job",
        "nih.plan",
        "nih.progress",
        "nih.score",
        "nih.split",
        "nih.store",
        "nih.submit",
        "nih.verify",
        "nih.walk",
        "nih.workers",
    },
    "nih.run": {"nih.cost", "nih.job", "nih.report", "nih.runner", "nih.settings", "nih.store"},
    "nih.terminal": {"nih.score"},
    "nih.suite_report": {"nih.grid", "nih.page", "nih.stats", "nih.store", "nih.terminal"},
    "nih.suite_compare": {"nih.page", "nih.report", "nih.suite_report", "nih.terminal"},
    "nih.report": {
        "nih.cost_figure",
        "nih.grid",
        "nih.page",
        "nih.score",
        "nih.stats",
        "nih.store",
        "nih.suite_report",
        "nih.terminal",
    },
    "nih.significance": set(),
    "nih.baseline": {"nih.grid", "nih.score", "nih.store", "nih.terminal"},
    "nih.gate": {"nih.baseline", "nih.grid", "nih.significance", "nih.store", "nih.terminal"},
    "nih.gate_report": {"nih.gate", "nih.terminal"},
    "nih.difference": {"nih.score"},
    "nih.page": {"nih.difference", "nih.stats", "nih.store", "nih.terminal"},
    "nih.compare": {
        "nih.difference",
        "nih.grid",
        "nih.page",
        "nih.report",
        "nih.stats",
        "nih.store",
        "nih.suite_compare",
        "nih.terminal",
    },
    "nih.doctor": {"nih", "nih.kernels", "nih.registry"},
    "nih.bench": {"nih.job", "nih.kernels", "nih.models", "nih.settings", "nih.walk"},
    "nih.bench_kernels": {"nih.kernels"},
    "nih.bench_prefill": {"nih.cost", "nih.cost_figure", "nih.grid", "nih.store"},
    "nih.bench_worker": {"nih.cost", "nih.job", "nih.peak", "nih.settings"},
    "nih.bench_prompts": {"nih.job", "nih.registry", "nih.settings"},
}
"""Beyond the standard library and third parties; nih.types and nih.errors are open to everyone."""

FOLDERS = {
    "tasks": {"nih.haystack", "nih.score", "nih.tasks"},
    "models": {"nih.blocks", "nih.kernels", "nih.models", "nih.rwkv_vocabulary", "nih.tokenizer"},
    "kernels": {"nih.kernels"},
}
OPEN = {"nih.types", "nih.errors"}
TRAINER = {f"nih.models.reference.{name}" for name in ("mixture", "texts", "train")}
SCRIPTS = {"nih.cli"} | TRAINER
"""These import anything and are imported by nobody but the entry points; the trainer's parts import each other."""

MODULES = {
    ".".join(("nih", *path.relative_to(ROOT / "nih").with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted((ROOT / "nih").glob("*.py"))
} | {
    ".".join(("nih", *path.relative_to(ROOT).with_suffix("").parts)): path
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def imported(path: Path) -> set[str]:
    """Modules of nih that a file imports, at top level or inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrow"
            base = node.module or ""
            found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in MODULES else base for a in node.names}
    return {name for name in found if name.split(".")[0] == "nih"}


def allowed(module: str, target: str) -> bool:
    """Whether the table lets `module` import `target`."""
    if module in SCRIPTS or target in OPEN:
        return True
    folder = module.split(".")[1] if module.count(".") > 1 else ""
    rules = FOLDERS.get(folder, MAY_IMPORT.get(module, set()))
    return any(
        target == rule
        or (rule in ("nih.kernels", "nih.models", "nih.tasks") and target.startswith(rule + "."))
        for rule in rules
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_follow_the_table(module: str) -> None:
    forbidden = {t for t in imported(MODULES[module]) if t != module and not allowed(module, t)}
    assert not forbidden, f"{module} may not import {sorted(forbidden)}"


def test_every_module_has_a_row() -> None:
    own = {m for m in MODULES if m.count(".") < 2} - {
        m for m in MODULES if m.split(".")[1:2] and m.split(".")[1] in FOLDERS
    }
    assert own - SCRIPTS == set(MAY_IMPORT) & own, "a new module needs a row in MAY_IMPORT"


def test_nobody_imports_the_scripts() -> None:
    users = {m for m, path in MODULES.items() if imported(path) & SCRIPTS}
    assert users - TRAINER <= {"nih.__main__"}
    assert not any("nih.cli" in imported(MODULES[module]) for module in TRAINER)


def test_tasks_and_models_do_not_see_each_other() -> None:
    for module, path in MODULES.items():
        other = {"nih.tasks": "nih.models", "nih.models": "nih.tasks"}.get(".".join(module.split(".")[:2]))
        if other and module not in SCRIPTS:
            assert not any(t.startswith(other) for t in imported(path)), module


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_imports_no_heavy_package(arguments: list[str]) -> None:
    heavy = ["torch", "transformers", "matplotlib", "pandas", "scipy", "seaborn", "numpy"]
    code = (
        f"import sys; sys.argv = ['nih', *{arguments!r}]\nfrom nih.cli import main\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print([m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
