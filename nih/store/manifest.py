"""The manifest, `run.json`: what a run measured, with what, on which machine, and how it ended."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from nih.errors import StoreError
from nih.reading import MOST_BYTES_OF_CONFIG, json_problem, parse_strict_json, read_bytes
from nih.store.environment import commit, machine, now, versions
from nih.store.files import MANIFEST, write_atomic
from nih.store.redact import redact, without_secrets
from nih.store.settings import settings_hash, short
from nih.types import MOST_SAMPLES, MOST_STEPS, Grid, Trials
from nih.version import __version__

SCHEMA = 2
"""What is written: 2 knows the status `no_answer`. Folders of schema 1 are read alike, for they have no such sample."""
_READ = (1, SCHEMA)
THRESHOLD = 0.856
"""Accuracy that counts as finding: RULER's bar (Hsieh et al. 2024, arXiv 2404.06654, section 4: Llama2-7B at 4k)."""


@dataclass(frozen=True)
class Stopping:
    """When a cell of an adaptive run needed no more samples: its interval was narrow, or on one side of the threshold."""

    half_width: float
    threshold: float


class Certify(NamedTuple):
    """What a run with `--certify` keeps of it."""

    threshold: float
    not_asked: frozenset[int]
    """Lengths that were left out."""
    tokens: tuple[int, int] | None
    """Planned tokens of the rounds that were asked, and of all rounds; None until the run has ended."""


class StoredTask(NamedTuple):
    """A task as the manifest describes it."""

    name: str
    options: Mapping[str, Any]
    score: str
    grid: Grid | None
    """Its own grid, in a suite."""
    haystack: Mapping[str, Any] | None
    """Its own haystack, in a suite."""
    rows: int | None = None
    """Of a file of prompts, the number of rows that are asked; None for prompts of a grid."""
    floors: Mapping[str, float] = MappingProxyType({})
    """What is scored without finding what is asked for, by how; from 0 to 1."""

    @property
    def floor_words(self) -> str:
        """Its floors in words, the highest first; "" if it has none."""
        ranked = sorted(self.floors.items(), key=lambda item: -item[1])
        return ", ".join(f"{value:.2f} by {how}" for how, value in ranked)


@dataclass(frozen=True)
class Manifest:
    """A typed view of run.json. Keys that this version does not know are kept when it is written back."""

    values: Mapping[str, Any]
    """The JSON object."""

    def changed(self, **changes: Any) -> Manifest:
        """Return the manifest with `changes` (JSON values) merged in."""
        return Manifest({**self.values, **changes})

    # What was asked

    @property
    def model(self) -> str:
        """The model as it was typed; "" if nothing is known of it."""
        return str(self.values.get("model", ""))

    @cached_property
    def tasks(self) -> tuple[StoredTask, ...]:
        """The tasks, in their order."""
        return tuple(
            StoredTask(
                task["name"],
                task.get("options", {}),
                task["score"],
                _grid(task["grid"]) if "grid" in task else None,
                task.get("haystack"),
                int(task["rows"]["asked"]) if "rows" in task else None,
                _floors(task.get("floors", {})),
            )
            for task in self.values.get("tasks", [])
        )

    @property
    def samples(self) -> int | None:
        """Number of samples of the plan; None where the run ended before it was made."""
        count = self.values.get("samples")
        if count is not None and type(count) is not int:
            raise TypeError("not a number of samples")
        return count

    @cached_property
    def score_versions(self) -> Mapping[str, int]:
        """The version of each score that the run was judged by; versions before they were counted are 1."""
        return {str(name): int(version) for name, version in self.values.get("score_versions", {}).items()}

    @cached_property
    def grid(self) -> Grid:
        """All lengths and depths of the run; empty if nothing is known of them."""
        return _grid(self.values.get("grid") or {})

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that decides the samples and the generation."""
        return dict(self.values.get("settings", {}))

    @property
    def chat(self) -> bool:
        """Whether prompts were put into the model's chat template."""
        return bool(self.settings.get("chat"))

    @property
    def chat_options(self) -> Mapping[str, Any]:
        """Options of the chat template."""
        return dict(self.settings.get("chat_options", {}))

    @property
    def chat_frame(self) -> Mapping[str, Any]:
        """What the chat template wrote; empty for runs without one, and for those of before it was kept."""
        return dict(self.values.get("chat_frame") or {})

    @property
    def chat_moment(self) -> datetime.datetime | None:
        """The time that the chat template told, in local time; where the run does not say, when its first sitting began."""
        told = self.chat_frame.get("date")
        if told is not None:
            return datetime.datetime.fromisoformat(told)
        first = self.began
        return datetime.datetime.fromisoformat(first).astimezone().replace(tzinfo=None) if first else None

    @property
    def began(self) -> str | None:
        """When its first sitting began, as run.json spells it; None if it does not say."""
        return next(iter(self.values.get("earlier", [])), self.values).get("started")

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of samples in the journal that are none of the run's: a template or a text has changed since they were asked."""
        return frozenset(self.values.get("left_out", ()))

    @property
    def system(self) -> str:
        """The system message; "" if there was none."""
        return str(self.settings.get("system", ""))

    @property
    def max_new_tokens(self) -> int | None:
        """Tokens reserved for the answer; None if the task decided."""
        return self.settings.get("max_new_tokens")

    @property
    def limit(self) -> int | None:
        """Number of samples that `--limit` cut the run to; None for the whole grid."""
        return self.settings.get("limit")

    @property
    def options(self) -> Mapping[str, Any]:
        """The options of the command line."""
        return dict(self.values.get("options", {}))

    @property
    def retrieve(self) -> str | None:
        """What found the passages that were read, as it was typed; None if whole contexts were read."""
        found = self.settings.get("retrieve")
        return None if found is None else str(found)

    @property
    def passages(self) -> Mapping[str, Any]:
        """How contexts were cut, and the fingerprint of what found their passages; empty if whole contexts were read."""
        return dict(self.settings.get("passages") or {})

    @property
    def retrieval(self) -> Mapping[str, Any]:
        """What found the passages, and the seconds that it took; empty if whole contexts were read."""
        found = dict(self.values.get("retrieval") or {})
        return {**found, "seconds": float(found["seconds"])} if "seconds" in found else found

    @property
    def threshold(self) -> float:
        """Accuracy that counts for effective length; the default for runs that state none."""
        return float(self.options.get("threshold", THRESHOLD))

    @property
    def stopping(self) -> Stopping | None:
        """The rule of a run that was made with `--adaptive`; None for fixed trials."""
        rule = self.values.get("adaptive")
        return Stopping(float(rule["half_width"]), float(rule["threshold"])) if rule else None

    @property
    def is_adaptive(self) -> bool:
        """Whether the run chose its numbers of trials by the answers."""
        return bool(self.options.get("adaptive")) or self.stopping is not None

    @cached_property
    def certify(self) -> Certify | None:
        """What a run with `--certify` keeps of it; None for other runs."""
        kept = self.values.get("certify")
        if kept is None:
            return None
        threshold, tokens = float(kept["threshold"]), kept.get("tokens")
        if not 0 < threshold <= 1:
            raise ValueError("not an accuracy")
        counts = None if tokens is None else (int(tokens["asked"]), int(tokens["planned"]))
        return Certify(threshold, frozenset(int(length) for length in kept.get("not_asked", ())), counts)

    @property
    def seed(self) -> int | None:
        """Seed of the prompts."""
        return self.values.get("seed")

    @property
    def haystack(self) -> str | None:
        """Name of the haystack."""
        return _within(self.values, "haystack", "name")

    @property
    def haystack_fingerprint(self) -> str | None:
        """Hash of the haystack's text."""
        return _within(self.values, "haystack", "fingerprint")

    @property
    def one_haystack(self) -> bool:
        """Whether all depths of a trial share one haystack."""
        return bool(self.values.get("one_haystack"))

    @property
    def suite(self) -> Mapping[str, Any] | None:
        """The suite, as JSON values; None for a run of one task."""
        return self.values.get("suite")

    # What answered

    @property
    def tokenizer(self) -> str | None:
        """Fingerprint of the tokenizer."""
        return _within(self.values, "tokenizer", "fingerprint")

    @property
    def training_length(self) -> int | None:
        """Tokens of the longest training example, if known."""
        return self.values.get("training_length")

    @property
    def weights(self) -> str | None:
        """Hash of the weights that answered."""
        return _within(self.values, "identity", "weights")

    @property
    def nih_version(self) -> str | None:
        """Version of nih that answered last."""
        return _within(self.values, "nih", "version")

    @property
    def prefill(self) -> str:
        """How prompts were read; `unknown` for a run that does not say."""
        return str(self.values.get("prefill", "unknown"))

    @property
    def verification(self) -> str | None:
        """How the verification of prefix sharing ended: `passed`, `failed`, ...; None if it was not reached."""
        return _within(self.values, "verification", "state")

    @property
    def machines(self) -> tuple[Mapping[str, Any], ...]:
        """The different machines that the run was made on, with the device that answered; empty if unknown."""
        if not self.values.get("machine"):
            return ()
        device = _within(self.values, "identity", "device_name")
        found: list[Mapping[str, Any]] = []
        for sitting in (*self.values.get("earlier", []), self.values):
            place = {**(sitting.get("machine") or {}), "device": device}
            if place not in found:
                found.append(place)
        return tuple(found)

    @property
    def other_versions(self) -> tuple[str, ...]:
        """What earlier sittings ran under other versions of: `torch 2.1, now 2.2`."""
        now = {"python": self.values.get("python"), **(self.values.get("packages") or {})}
        found: dict[str, None] = {}
        for sitting in self.values.get("earlier", []):
            then = {"python": sitting.get("python"), **(sitting.get("packages") or {})}
            # A sitting of before versions were kept says nothing.
            told = then if then["python"] else {}
            for name in sorted(told.keys() | now.keys()) if told else ():
                if then.get(name) != now.get(name):
                    found[f"{name} {then.get(name) or 'absent'}, now {now.get(name) or 'absent'}"] = None
        return tuple(found)

    # How it went

    @property
    def exit_state(self) -> str:
        """`running`, `done`, `interrupted`, `incomplete` or `failed`; "" if unknown."""
        return str(self.values.get("exit_state", ""))

    @property
    def times(self) -> Mapping[str, float]:
        """Seconds that the run took so far, by what they were spent on."""
        return dict(self.values.get("times", {}))

    @property
    def naive_tokens(self) -> int:
        """Tokens of all prompts."""
        return int(self.values.get("naive_tokens", 0))

    def reports(self, kind: str) -> list[Mapping[str, Any]]:
        """Return what the engine, the workers or the threads reported, a report per sitting; `kind` names them."""
        return list(self.values.get(kind, []))


def _within(values: Mapping[str, Any], key: str, name: str) -> str | None:
    found = (values.get(key) or {}).get(name)
    return None if found is None else str(found)


def _floors(values: Mapping[str, Any]) -> Mapping[str, float]:
    floors = {str(how): float(value) for how, value in values.items()}
    if not all(0 <= value <= 1 for value in floors.values()):
        raise ValueError("a floor is no score from 0 to 1")
    return floors


def _grid(values: Mapping[str, Any]) -> Grid:
    trials = values.get("trials") or {"base": 0}
    grid = Grid(
        tuple(int(length) for length in values.get("lengths", [])),
        tuple(float(depth) for depth in values.get("depths", [])),
        Trials(int(trials["base"]), tuple((int(n), int(k)) for n, k in trials.get("steps", []))),
    )
    # Cells are listed one by one, so that a few bytes could ask for any amount of memory.
    if max(len(grid.lengths), len(grid.depths)) > MOST_STEPS or grid.samples > MOST_SAMPLES:
        raise ValueError("a grid that no run has")
    return grid


def new_manifest(settings: Mapping[str, Any]) -> Manifest:
    """Return the manifest of a run that begins now."""
    values = {"schema": SCHEMA, "settings": settings, "settings_hash": settings_hash(settings)}
    return Manifest(values | _invocation())


def resumed(manifest: Manifest) -> Manifest:
    """Return the manifest with this process at its top level and the earlier ones under `earlier`, in the schema of now."""
    kept = ("nih", "command", "python", "packages", "machine", "started", "ended", "exit_state")
    past = {key: manifest.values.get(key) for key in kept}
    return manifest.changed(
        schema=SCHEMA, **_invocation(), earlier=[*manifest.values.get("earlier", []), past]
    )


def _invocation() -> dict[str, Any]:
    """Return what is known of this process before a model is loaded."""
    return {
        "nih": {"version": __version__, "commit": commit()},
        "command": redact(_typed()),
        "python": platform.python_version(),
        "packages": versions(),
        "platform": platform.platform(),
        "machine": machine(),
        "started": now(),
        "ended": None,
        "exit_state": "running",
    }


def _typed() -> list[str]:
    """Return the command line as it is typed again, without the folder that this program lies in."""
    name = Path(sys.argv[0]).name
    return ["nih" if name == "__main__.py" else name, *sys.argv[1:]]


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a run folder. Raises StoreError."""
    if not folder.is_dir():
        raise StoreError(f"there is no run folder `{folder}`; type the folder that `nih run` printed")
    path = folder / MANIFEST
    try:
        values = parse_strict_json(read_bytes(path, MOST_BYTES_OF_CONFIG, follow=False))
    except FileNotFoundError as error:
        raise StoreError(f"`{folder}` is not a run folder: it has no `{MANIFEST}`") from error
    except OSError as error:
        raise StoreError(f"cannot read `{path}`: {error.strerror or error}") from error
    except ValueError as error:
        raise StoreError(f"`{path}` is damaged: {json_problem(error)}") from error
    schema = values.get("schema") if isinstance(values, dict) else None
    if type(schema) is not int or schema not in _READ:
        raise StoreError(
            f"`{path}` has schema `{short(schema)}` and nih {__version__} reads schemas 1 to {SCHEMA}; "
            "use the version of nih that wrote it, or a newer one"
        )
    manifest = Manifest(values)
    for name in _VIEWS:
        try:
            getattr(manifest, name)
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise StoreError(f"`{path}` is damaged: its `{name}` cannot be read") from error
    return manifest


_VIEWS = tuple(name for name, view in vars(Manifest).items() if isinstance(view, property | cached_property))
"""All views: what one of them cannot read is told when the manifest is read, not later."""


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace a run folder's manifest in one step, without secrets. Raises StoreError."""
    text = json.dumps(without_secrets(manifest.values), indent=2, allow_nan=False)
    write_atomic(folder / MANIFEST, text.encode() + b"\n")
