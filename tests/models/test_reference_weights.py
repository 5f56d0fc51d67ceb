"""Files of the models in the box: whole, small, and read as they were written."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nih.errors import ModelError
from nih.models.reference import weights

ROOT = Path(__file__).parents[2]


def tensors(megabytes: float) -> dict[str, Tensor]:
    """Return tensors of 4 kB, of two types, that take so much room."""
    draw = torch.Generator().manual_seed(0)
    count = int(megabytes * 250)
    wide = {f"layer.{i}.wide": torch.randn(1000, generator=draw) for i in range(count // 2)}
    half = {f"layer.{i}.half": torch.randn(2000, generator=draw).bfloat16() for i in range(count // 2)}
    return wide | half


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("megabytes", [0.1, 1.9, 2.2, 6.5])
def test_what_is_read_is_what_was_written_and_no_file_is_large(megabytes: float, tmp_path: Path) -> None:
    had = tensors(megabytes)
    weights.write(had, tmp_path)
    assert same(weights.read(tmp_path), had)
    assert all(path.stat().st_size < 1.05 * weights.MOST_BYTES for path in tmp_path.iterdir())
    assert ("model.safetensors" in files(tmp_path)) == (megabytes < 2)


@pytest.mark.parametrize(("first", "second"), [(3.0, 0.1), (0.1, 3.0), (7.0, 3.0)])
def test_nothing_of_the_weights_before_is_left(first: float, second: float, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights.write(tensors(first), tmp_path)
    weights.write(tensors(second), tmp_path)
    assert same(weights.read(tmp_path), tensors(second))
    weights.write(tensors(second), tmp_path / "new")
    assert files(tmp_path) == sorted(["config.json", "new", *files(tmp_path / "new")])


def test_a_shard_that_is_lacking_is_named(tmp_path: Path) -> None:
    weights.write(tensors(3.0), tmp_path)
    named = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    lost = max(set(named.values()))
    (tmp_path / lost).unlink()
    with pytest.raises(ModelError, match=f"lacks the weight file `{lost}`"):
        weights.read(tmp_path)


def test_no_file_of_the_repository_is_over_two_megabytes() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no repository of git, so what belongs to it is not known")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    large = {str(path): path.stat().st_size for path in paths if path.is_file() and path.stat().st_size > 2e6}
    assert not large
