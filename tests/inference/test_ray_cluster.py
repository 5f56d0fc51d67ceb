"""What a Ray that we start offers to others: nothing beyond this machine, and nothing without a word drawn for it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from nih.inference.ray_cluster import connect


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
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "known")
    tokens = set()
    for _ in range(2):
        ray = Ray()
        assert connect(ray, address)
        assert ray.asked["_node_ip_address"] == "127.0.0.1" and not ray.asked["include_dashboard"]
        assert ray.asked["mode"] == "token" and len(ray.asked["token"]) == 64
        tokens.add(ray.asked["token"])
    assert len(tokens) == 2
