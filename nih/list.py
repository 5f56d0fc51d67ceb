"""What can be typed: models, engines, tasks, suites, scores and haystacks, each with the first paragraph of its description.

Docstrings are read from the files and nothing is imported, because importing all models takes seconds.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from nih.options import HAYSTACKS
from nih.registry import module_name, names
from nih.run.suite import about
from nih.run.suite import names as suites


def listed() -> Iterator[str]:
    """Yield a line per name: its kind, the name, and what it is."""
    rows = [
        (kind, name, docstring(kind, name)) for kind in ("models", "engines", "tasks") for name in names(kind)
    ]
    rows += [("suites", name, about(name)) for name in suites()]
    rows += [("scores", name, docstring("scores", name)) for name in names("scores")]
    rows += [("haystacks", name, text) for name, text in HAYSTACKS.items()]
    kinds, labels = (max(len(row[column]) for row in rows) for column in (0, 1))
    for kind, name, text in rows:
        yield f"{kind.removesuffix('s'):{kinds}} {name:{labels}} {text}".rstrip()


def docstring(kind: str, name: str) -> str:
    """Return the first paragraph of a module's docstring as one line; "" if its file cannot be read.

    Weights in the box have no module of their own.
    """
    module = module_name(kind, name)
    if kind == "models" and module.startswith("nih.models.") and module != f"nih.models.{name}":
        adapter = module.rpartition(".")[2]
        if not name.endswith("-mix"):
            return f"The reference model {name} of `{adapter}`: trained on `--task passkey`."
        return f"The reference model of `{adapter}` for `--suite architectures`: trained on all of its tasks."
    try:
        spec = find_spec(module)
        source = Path(spec.origin or "").read_text(encoding="utf-8") if spec else ""
        text = ast.get_docstring(ast.parse(source)) or ""
    except (OSError, ValueError, SyntaxError, ImportError):
        text = ""
    return " ".join(text.partition("\n\n")[0].split())
