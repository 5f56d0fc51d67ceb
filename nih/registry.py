"""Names -> modules. The name of a file is its registration: `tasks/passkey.py` is `--task passkey`.

Third-party packages add names through the entry points `nih.tasks`, `nih.models`, `nih.engines` and `nih.scores`; they cannot shadow
the built-in ones. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from nih.errors import ModelError, UnknownName
from nih.reading import MOST_BYTES_OF_CONFIG, parse_json, read_bytes

_ADAPTERS = {
    "aft": "aft",
    "rwkv": "rwkv",
    "rwkv5": "rwkv",
    "rwkv6": "rwkv",
    "rwkv7": "rwkv",
    "rwkv7_fla": "rwkv",
    "mamba": "mamba",
    "falcon_mamba": "mamba",
    "mamba2": "mamba2",
    "s4d": "s4d",
}
"""config.json's model_type -> adapter; every other type goes to `transformer`."""
_STATE_SPACES = {"Mamba2": "mamba2"}
"""The same by the layer that state-spaces' own config.json names; every other one goes to `mamba`."""


_PACKAGES = {
    "tasks": "nih.tasks",
    "models": "nih.models",
    "engines": "nih.models.engines",
    "scores": "nih.scores",
}
"""Kind -> the package whose public modules are its built-in names."""


class ModelSource(NamedTuple):
    """Which adapter opens a model, and what it is given."""

    module: ModuleType
    source: str


def names(kind: str) -> list[str]:
    """Return the names of `tasks`, `models`, `engines` or `scores`, built-in ones and plugins, sorted."""
    return sorted({*_builtin(kind), *_plugins(kind)})


def load(kind: str, name: str) -> ModuleType:
    """Import the module that `name` stands for. Raises UnknownName."""
    if name in _builtin(kind):
        return import_module(module_name(kind, name))
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


def module_name(kind: str, name: str) -> str:
    """Return the module that a known name stands for, without importing it."""
    if name in _builtin(kind):
        return f"{_PACKAGES[kind]}.{_module_of(kind, name)}"
    return _plugins(kind)[name].module


def further_options(module: ModuleType, pairs: Sequence[str], known: set[str]) -> set[str]:
    """Names of KEY=VALUE `pairs` that an engine takes beyond its Options; it is asked only where one is not `known`."""
    keys = {pair.partition("=")[0].removeprefix("model.") for pair in pairs} - known
    keys = {key for key in keys if "." not in key}
    return module.further_options(keys) if keys and hasattr(module, "further_options") else set()


def _builtin(kind: str) -> set[str]:
    return _modules(kind) | set(_reference_configs() if kind == "models" else ())


def _modules(kind: str) -> set[str]:
    found = pkgutil.iter_modules(_folders(kind))
    return {m.name for m in found if not m.name.startswith("_") and not m.ispkg}


def _folders(kind: str) -> list[str]:
    """The folders of a kind's package, which is not imported."""
    spec = find_spec(_PACKAGES[kind])
    return list((spec.submodule_search_locations if spec else None) or ())


def _reference_configs() -> dict[str, Path]:
    """Name -> config.json of the models in the box; those named like their adapter are its default weights."""
    folders = (Path(path) / "reference" for path in _folders("models"))
    weights = (path for folder in folders for path in folder.glob("*/model*.safetensors"))
    return {path.parent.name: path.with_name("config.json") for path in weights}


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
        return _adapter(parse_json(read_bytes(config, MOST_BYTES_OF_CONFIG)))
    except (OSError, ValueError) as error:
        raise ModelError(f"`{config}` cannot be read: {error}") from error


def _adapter(config: Mapping[str, Any]) -> str:
    wanted = _ADAPTERS.get(str(config.get("model_type")), "transformer")
    if "model_type" not in config and "ssm_cfg" in config:
        # state-spaces' own checkpoints have no model_type, but name their mixer.
        mixer = config["ssm_cfg"]
        layer = mixer.get("layer") if isinstance(mixer, Mapping) else None
        wanted = _STATE_SPACES.get(str(layer), "mamba")
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
