"""What a stored run says is data: building its prompts again runs no code, reaches no hub, and reads only what the run read."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from nih import evaluate
from nih.errors import NihError, SettingsDiffer, UsageError
from nih.prompts import haystack
from nih.report.write import report
from nih.run.like import like
from nih.run.show import show
from nih.store.run import read


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def made(path: Path, **options: Any) -> Path:
    asked = {"model": "echo", "lengths": "512", "depths": "0,100", "trials": 1, **options}
    return evaluate(out=path, quiet=True, **asked).path


def stored(run: Path, **options: Any) -> str:
    """Change the options that a run says it was made with; return an id of it."""
    manifest = json.loads((run / "run.json").read_text())
    manifest["options"] |= options
    (run / "run.json").write_text(json.dumps(manifest))
    return read(run).rows[0].id


@pytest.mark.parametrize(
    ("options", "typed"),
    [
        ({"model": "owner/name"}, "--model owner/name"),
        ({"model": "gpt2"}, "--model gpt2"),
        ({"tokenizer": "owner/name"}, "--tokenizer owner/name"),
        ({"tokenizer": "gpt2"}, "--tokenizer gpt2"),
        ({"tokenizer": "cl100k_base"}, "--tokenizer cl100k_base"),
        ({"haystack": "hf:owner/name"}, "--haystack hf:owner/name"),
        ({"set": ["trust_remote_code=true"]}, "--set trust_remote_code=true"),
        ({"set": ["model.trust_remote_code=1"]}, "--set model.trust_remote_code=1"),
        ({"engine": "vllm", "model": "owner/name"}, "--model owner/name"),
        ({"engine": "vllm", "set": ["worker_cls=evil.Worker"]}, "--set worker_cls=evil.Worker"),
        ({"engine": "vllm", "set": ['speculative_config={"model": "a/b"}']}, "--set speculative_config="),
        ({"engine": "openai", "base_url": "http://a.b/v1", "model": "owner/name"}, "--model owner/name"),
    ],
)
def test_nothing_from_elsewhere_is_opened_unless_it_is_typed(
    options: dict[str, Any], typed: str, tmp_path: Path
) -> None:
    run = made(tmp_path / "run")
    sample = stored(run, **options)
    for work in (lambda: show(run, sample), lambda: like(run, {})):
        with pytest.raises(UsageError, match="type again") as caught:
            work()
        assert typed in str(caught.value)
    report(run)


def test_code_that_lies_in_the_run_folder_does_not_run(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    evil = run / "model"
    evil.mkdir()
    mark = tmp_path / "ran"
    (evil / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass C: pass\n")
    auto = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C", "AutoTokenizer": ["evil.C", "evil.C"]}
    (evil / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (evil / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "C", "auto_map": auto}))
    for options in (
        {"model": str(evil)},
        {"tokenizer": str(evil)},
        {"model": str(evil), "set": ["trust_remote_code=true"]},
    ):
        sample = stored(run, **{"model": "echo", "tokenizer": None, "set": [], **options})
        with pytest.raises(NihError):
            show(run, sample)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["secret.txt", "secret.jsonl", "secret.md"])
def test_a_local_file_is_shown_only_if_it_is_what_the_run_read(tmp_path: Path, name: str) -> None:
    run = made(tmp_path / "run")
    secret = tmp_path / name
    secret.write_text('"hunter2 is the password of the vault. It opens at noon."\n' * 60)
    for options in ({"haystack": str(secret)}, {"task": f"jsonl:{secret}"}):
        sample = stored(run, **{"haystack": None, "task": "passkey", **options})
        with pytest.raises(NihError) as caught:
            show(run, sample)
        assert "hunter2" not in str(caught.value)


def test_a_haystack_that_is_the_same_is_read(tmp_path: Path) -> None:
    text = tmp_path / "own.txt"
    text.write_text("The river is wide. The bridge is old. " * 60)
    run = made(tmp_path / "run", haystack=str(text))
    row, shown = show(run, read(run).rows[0].id)
    assert "The bridge is old." in shown and row["status"] == "ok"
    text.write_text("The river is wide. The bridge is new. " * 60)
    haystack._read.cache_clear()
    with pytest.raises(SettingsDiffer, match=r"is not what .* read"):
        show(run, read(run).rows[0].id)


def test_what_is_typed_is_opened(tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    sample = stored(run, model="owner/name")
    assert show(run, sample, {"model": "echo"})[0]["id"] == sample
