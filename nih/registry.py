"""Names -> modules. The name of a file is its registration: `tasks/passkey.py` is `--task passkey`.

Third-party packages add names through the entry points `nih.tasks`, `nih.models` and `nih.engines`; they cannot shadow the
built-in ones. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, get_args, get_type_hints

from nih.errors import ModelError, UnknownName, UsageError

_ADAPTERS = {"rwkv": "rwkv", "mamba": "mamba", "falcon_mamba": "mamba"}
"""config.json's model_type -> adapter; every other type goes to `transformer`."""


_PACKAGES = {"tasks": "nih.tasks", "models": "nih.models", "engines": "nih.models.engines"}
"""Kind -> the package whose public modules are its built-in names."""


class ModelSource(NamedTuple):
    """Which adapter opens a model, and what it is given."""

    module: ModuleType
    source: str


def names(kind: str) -> list[str]:
    """Names of `tasks`, `models` or `engines`, built-in ones and plugins, sorted."""
    return sorted({*_builtin(kind), *_plugins(kind)})


def load(kind: str, name: str) -> ModuleType:
    """Import the module that `name` stands for. Raises UnknownName."""
    if name in _builtin(kind):
        return import_module(f"{_PACKAGES[kind]}.{_module_of(kind, name)}")
    plugins = _plugins(kind)
    if name not in plugins:
        raise UnknownName.of(kind.removesuffix("s"), name, names(kind))
    module: ModuleType = plugins[name].load()
    return module


def resolve_model(spec: str) -> ModelSource:
    """Find what `--model` means: a known name, an existing path, or a hub id, in this order. Raises UnknownName, ModelError."""
    if spec in names("engines"):
        raise ModelError(
            f"`{spec}` is an engine; type `--engine {spec}` and what it shall run after `--model`"
        )
    if spec in names("models"):
        return ModelSource(load("models", spec), spec)
    if Path(spec).expanduser().exists():
        path = Path(spec).expanduser()
        return ModelSource(load("models", _adapter_of(path)), str(path))
    if spec.count("/") == 1 and not spec.startswith((".", "/", "~")):
        return ModelSource(load("models", _adapter(_hub_config(spec))), spec)
    if "/" in spec or spec.startswith((".", "~")):
        raise ModelError(
            f"no model at `{spec}`: the path does not exist; type a folder, a file, a hub id or a name of `nih list`"
        )
    raise UnknownName.of("model", spec, names("models"), "A folder or a hub id (`owner/name`) works too")


def first_line(kind: str, name: str) -> str:
    """First line of a module's docstring, for `nih list`."""
    if (module := _module_of(kind, name)) != name:
        return f"The reference model of `{module}` for `--suite architectures`: trained on all of its tasks."
    return (load(kind, name).__doc__ or "").strip().partition("\n")[0]


def build_options(cls: type[Any], values: Mapping[str, Any], whose: str) -> Any:
    """Make a frozen options dataclass from typed-in strings or values. Raises UnknownName, UsageError."""
    assert is_dataclass(cls)
    hints = get_type_hints(cls)
    known = {field.name for field in fields(cls) if field.init}
    converted = {}
    for key, value in values.items():
        if key not in known:
            raise UnknownName.of(f"option of {whose}", key, known)
        converted[key] = _convert(value, hints[key], key)
    return cls(**converted)


def deciding(cls: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a resumed run must agree in: all but those of fields whose metadata say `decides: False`."""
    free = {field.name for field in fields(cls) if not field.metadata.get("decides", True)}
    return {key: value for key, value in values.items() if key not in free}


def option_names(cls: type[Any]) -> set[str]:
    """Names of the options that a dataclass declares and a user can type."""
    return {field.name for field in fields(cls) if field.init and field.metadata.get("typed", True)}


def further_options(module: ModuleType, pairs: Sequence[str], known: set[str]) -> set[str]:
    """Names of KEY=VALUE `pairs` that an engine takes beyond its Options; it is asked only where one is not `known`."""
    keys = {pair.partition("=")[0].removeprefix("model.") for pair in pairs} - known
    keys = {key for key in keys if "." not in key}
    return module.further_options(keys) if keys and hasattr(module, "further_options") else set()


def _convert(value: Any, hint: Any, key: str) -> Any:
    if not isinstance(value, str):
        return value
    kinds = [k for k in (get_args(hint) or (hint,)) if k is not type(None)]
    if type(None) in get_args(hint) and value.lower() == "none":
        return None
    kind = kinds[0]
    if kind is bool:
        lowered = value.lower()
        if lowered in ("true", "yes", "1", "on"):
            return True
        if lowered in ("false", "no", "0", "off"):
            return False
        raise UsageError(f"option `{key}={value}` must be true or false")
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            raise UsageError(f"option `{key}={value}` must be a number ({kind.__name__})") from None
    if isinstance(kind, str) and value not in kinds:  # the members of a Literal
        raise UsageError(f"option `{key}={value}` must be one of " + ", ".join(f"`{k}`" for k in kinds))
    return value


def _builtin(kind: str) -> set[str]:
    return _modules(kind) | set(_reference_configs() if kind == "models" else ())


def _modules(kind: str) -> set[str]:
    package = import_module(_PACKAGES[kind])
    return {
        m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_") and not m.ispkg
    }


def _reference_configs() -> dict[str, Path]:
    """Name -> config.json of the models in the box; those named like their adapter are its default weights."""
    folders = (Path(path) / "reference" for path in import_module(_PACKAGES["models"]).__path__)
    return {config.parent.name: config for folder in folders for config in folder.glob("*/config.json")}


def _module_of(kind: str, name: str) -> str:
    """Module of a built-in name: its own, or for weights in the box the adapter that their config.json asks for."""
    if kind != "models" or name in _modules(kind):
        return name
    config = _reference_configs().get(name)
    return _adapter_of(config.parent) if config else name


def _plugins(kind: str) -> dict[str, EntryPoint]:
    builtin = _builtin(kind)
    return {point.name: point for point in entry_points(group=f"nih.{kind}") if point.name not in builtin}


def _adapter_of(path: Path) -> str:
    if path.suffix == ".pth":
        return _adapter({"model_type": "rwkv"})
    if path.is_file():
        return "transformer"
    config = path / "config.json"
    if not config.is_file():
        raise ModelError(
            f"folder `{path}` holds no config.json; type the folder that `save_pretrained` wrote, or a .gguf file"
        )
    try:
        return _adapter(json.loads(config.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError(f"`{config}` cannot be read: {error}") from error


def _adapter(config: Mapping[str, Any]) -> str:
    # state-spaces' own checkpoints have no model_type, but name their mixer's shape.
    state_spaces = "model_type" not in config and "ssm_cfg" in config
    wanted = "mamba" if state_spaces else _ADAPTERS.get(str(config.get("model_type")), "transformer")
    return wanted if wanted in _builtin("models") else "transformer"


def _hub_config(repo: str) -> Mapping[str, Any]:
    from huggingface_hub import hf_hub_download

    try:
        config: Mapping[str, Any] = json.loads(
            Path(hf_hub_download(repo, "config.json")).read_text(encoding="utf-8")
        )
    except (
        Exception
    ) as error:  # the hub's client raises a dozen unrelated classes for "not there" and "no network"
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"cannot read config.json of `{repo}` from the hub ({type(error).__name__}: {reason}); "
            "check the name and the network, or type a folder"
        ) from error
    return config
