"""What a Ray that we start offers to others: nothing beyond this machine, and nothing without a word drawn for it."""

from __future__ import annotations

import builtins
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from nih.errors import UsageError
from nih.inference.ray_cluster import connect, import_ray


class Ray:
    """Keeps what it is started with."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    def is_initialized(self) -> bool:
        return False

    def init(self, **asked: Any) -> None:
        self.asked = {**asked, "mode": os.environ["RAY_AUTH_MODE"], "token": os.environ["RAY_AUTH_TOKEN"]}


@pytest.mark.parametrize("address", [None, "local"])
def test_a_ray_of_our_own_listens_here_only_and_wants_a_token(
    address: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = set()
    for _ in range(2):
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.setenv("RAY_AUTH_TOKEN", "known")
        monkeypatch.setitem(sys.modules, "ray", Ray())
        monkeypatch.delitem(sys.modules, "ray")
        monkeypatch.setattr("builtins.__import__", _with_ray(builtins.__import__, ray := Ray()))
        assert import_ray(address) is ray
        assert connect(ray, address)
        monkeypatch.undo()
        assert ray.asked["_node_ip_address"] == "127.0.0.1" and not ray.asked["include_dashboard"]
        assert ray.asked["mode"] == "token" and len(ray.asked["token"]) == 64
        tokens.add(ray.asked["token"])
    assert len(tokens) == 2


def _with_ray(own: Callable[..., Any], ray: Ray) -> Callable[..., Any]:
    return lambda name, *rest: ray if name == "ray" else own(name, *rest)


def test_a_ray_that_was_imported_without_a_token_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "known")
    monkeypatch.setitem(sys.modules, "ray", ray := Ray())
    with pytest.raises(UsageError, match="before `import ray`"):
        connect(import_ray(None), None)
    assert not ray.asked


@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0\0"])
def test_a_port_where_no_ray_answers_is_one_sentence(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nih.inference.ray_cluster._PORT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_answer, args=(server, says), daemon=True).start()
        with pytest.raises(UsageError, match="whoever listens there is not Ray"):
            connect(Ray(), f"127.0.0.1:{server.getsockname()[1]}")


def _answer(server: socket.socket, says: bytes) -> None:
    connection, _ = server.accept()
    connection.recv(100)
    connection.sendall(says)
    time.sleep(1)


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_workers_of_a_ray_of_our_own_answer(tmp_path: Path) -> None:
    grid = ["--lengths", "512", "--depths", "0,100", "--trials", "1", "--out", str(tmp_path / "run")]
    words = [sys.executable, "-m", "nih", "run", "--model", "rwkv", "--workers", "2", *grid]
    # Whoever ran Ray before in this process has left its words in the environment.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = (tmp_path / "run/samples.jsonl").read_text("utf-8").splitlines()
    assert len({json.loads(row)["id"] for row in rows if "id" in json.loads(row)}) == 2


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
def test_a_temporary_folder_that_ray_cannot_write_is_one_sentence(tmp_path: Path) -> None:
    grid = ["--lengths", "512", "--depths", "50", "--trials", "1", "--out", str(tmp_path / "run")]
    words = [sys.executable, "-m", "nih", "run", "--model", "rwkv", "--workers", "2", *grid]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    environment["RAY_TMPDIR"] = "/proc"
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "Ray does not start on this machine" in done.stderr
