"""Count what a checkout of nih is made of: `python -m tests.repo.rooms [CHECKOUT]`.

A room is a folder or file right below `nih/`, or one of the linked folders (tasks, models, kernels). In a checkout where all
modules lie side by side, each module is a room.

files, lines        Python files of the package (links followed once), and their lines
arrows              pairs of rooms of which one imports the other, at top level, in functions or for type checkers
upward arrows       arrows that run up when the rooms stand on floors such that few do; none if there is no circle
look-ups            `row["id"]`, `manifest.get("grid")` and the like, outside `store` and `bench` (whose rows are measurements)
row schemas         displays, classes and calls outside docstrings that name at least eight columns of a journal row
longest             class and function, in lines
duplicated blocks   pairs of places that share at least six consecutive lines, imports and single brackets apart
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

LINKED = ("tasks", "models", "kernels")
COLUMNS = frozenset(
    "id attempt task length depth actual_depth trial tokens needle around question expected answer score status error "
    "nll greedy prefill_tokens seconds".split()
)
KEYS = COLUMNS.union(
    "score_name answer_prefix needle_at needles target schema settings settings_hash nih command python packages platform machine "
    "started ended exit_state options model tasks grid suite seed identity naive_tokens planned_tokens prefill verification seconds "
    "times training_length threshold adaptive tokenizer engine workers report cost".split()
)
"""Columns of a row and keys of a manifest."""
LOOKED_UP = {"row", "rows", "manifest", "m", "r", "first", "other", "baseline", "candidate"}
"""Names under which rows and manifests go."""
WINDOW = 6


class Length(NamedTuple):
    """A class or function and its lines."""

    lines: int
    name: str


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, for every module of the package."""
    own = [p for p in (root / "nih").rglob("*.py") if p.relative_to(root / "nih").parts[0] not in LINKED]
    named = {".".join(p.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): p for p in own}
    for folder in LINKED:
        for path in (root / folder).rglob("*.py"):
            named[".".join(("nih", *path.relative_to(root).with_suffix("").parts))] = path
    return dict(sorted(named.items()))


def room(module: str) -> str:
    """The room of a module; `nih` is the package itself."""
    return module.split(".")[1] if "." in module else module


def imports(tree: ast.AST, known: dict[str, Path]) -> Iterator[str]:
    """Modules of nih that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split(".")[0] == "nih")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nih":
            base = node.module or ""
            yield from (f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names)


def arrows(trees: dict[str, ast.Module], known: dict[str, Path]) -> dict[str, set[str]]:
    """Room -> other rooms that it imports. The trainer of the reference models is a script, not a part of `models`."""
    found: dict[str, set[str]] = {room(module): set() for module in known}
    for module, tree in trees.items():
        if not module.startswith("nih.models.reference."):
            found[room(module)] |= {room(target) for target in imports(tree, known)} - {room(module)}
    return found


def floors(graph: dict[str, set[str]]) -> list[str]:
    """Rooms from the top down, such that few arrows run up (the greedy order of Eades, Lin and Smyth 1993)."""
    above: list[str] = []
    below: list[str] = []
    left = {name: set(targets) for name, targets in sorted(graph.items())}
    while left:
        used = {name: sum(name in targets for targets in left.values()) for name in left}
        ends = [name for name in left if not left[name]]
        if ends:
            taken = ends[0]
            below.append(taken)
        else:
            taken = max(left, key=lambda name: (not used[name], len(left[name]) - used[name]))
            above.append(taken)
        left = {name: targets - {taken} for name, targets in left.items() if name != taken}
    return above + below[::-1]


def upward(graph: dict[str, set[str]]) -> list[tuple[str, str]]:
    """Arrows to a room on a floor above."""
    floor = {name: at for at, name in enumerate(floors(graph))}
    return [(name, target) for name in floor for target in sorted(graph[name]) if floor[target] < floor[name]]


def look_ups(tree: ast.Module) -> Iterator[str]:
    """Keys that are looked up by a constant string in a row or a manifest."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=held, slice=ast.Constant(value=str(key))):
                pass
            case ast.Call(
                func=ast.Attribute(value=held, attr="get"), args=[ast.Constant(value=str(key)), *_]
            ):
                pass
            case _:
                continue
        name = held.attr if isinstance(held, ast.Attribute) else held.id if isinstance(held, ast.Name) else ""
        if key in KEYS and (name in LOOKED_UP or name.endswith(("_row", "manifest"))):
            yield key


def names_columns(node: ast.AST) -> bool:
    """Whether a display, a class or a call names eight columns of a row or more."""
    match node:
        case ast.Dict(keys=keys):
            told = [k.value for k in keys if isinstance(k, ast.Constant)]
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            told = [p.value for p in parts if isinstance(p, ast.Constant)]
        case ast.ClassDef(body=body):
            told = [
                s.target.id for s in body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)
            ]
        case ast.Call(keywords=keywords):
            told = [k.arg for k in keywords if k.arg]
        case ast.Constant(value=str(text)) if "\n" not in text:
            told = [*text.replace(",", " ").split()]
        case _:
            return False
    return len(COLUMNS.intersection(t for t in told if isinstance(t, str))) >= 8


def longest(trees: dict[str, ast.Module], *kinds: type[ast.AST]) -> Length:
    """The longest definition of these kinds."""
    return max(
        Length((node.end_lineno or 0) - node.lineno + 1, f"{module}.{node.name}")
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, kinds) and isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    )


def duplicates(known: dict[str, Path]) -> int:
    """Pairs of places that share at least six consecutive lines; a longer stretch counts once."""
    held = {
        module: [
            line
            for text in path.read_text(encoding="utf-8").splitlines()
            if len(line := text.strip()) > 2 and not line.startswith(("import ", "from ", "#"))
        ]
        for module, path in known.items()
    }
    places: dict[tuple[str, ...], list[tuple[str, int]]] = defaultdict(list)
    for module, lines in held.items():
        for at in range(len(lines) - WINDOW + 1):
            places[tuple(lines[at : at + WINDOW])].append((module, at))
    return sum(
        not (one[1] and other[1] and held[one[0]][one[1] - 1] == held[other[0]][other[1] - 1])
        for same in places.values()
        for one, other in combinations(same, 2)
    )


def count(root: Path) -> dict[str, str]:
    """What there is to print of a checkout."""
    known = modules(root)
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in known.items()}
    graph = arrows(trees, known)
    back = upward(graph)
    outside = {m: tree for m, tree in trees.items() if not room(m).startswith(("store", "bench"))}
    where = [(module, key) for module, tree in outside.items() for key in look_ups(tree)]
    schemas = sorted(m for m, tree in trees.items() for node in ast.walk(tree) if names_columns(node))
    lines = {m: len(path.read_text(encoding="utf-8").splitlines()) for m, path in known.items()}
    of_class = longest(trees, ast.ClassDef)
    of_function = longest(trees, ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        "files": str(len(known)),
        "lines": f"{sum(lines.values())} (the longest file: {max(lines.values())}, {max(lines, key=lambda m: lines[m])})",
        "rooms": str(len(graph)),
        "arrows": str(sum(map(len, graph.values()))),
        "upward arrows": f"{len(back)} {' '.join(f'{a}->{b}' for a, b in back)}".rstrip(),
        "look-ups": f"{len(where)} in {len({module for module, _ in where})} modules",
        "row schemas": f"{len(schemas)} {' '.join(schemas)}",
        "longest class": f"{of_class.lines} {of_class.name}",
        "longest function": f"{of_function.lines} {of_function.name}",
        "duplicated blocks": str(duplicates(known)),
    }


if __name__ == "__main__":
    for name, value in count(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()).items():
        print(f"{name:18} {value}")
