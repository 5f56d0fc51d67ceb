"""The door to Ray: start one or join one, and how many workers its machines have room for."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Sequence
from typing import Any

from nih.errors import UsageError

_STORE_BYTES = 256 << 20
"""Shared memory of a Ray that we start ourselves; it holds token ids only."""
_PORT_SECONDS = 10.0


def import_ray() -> Any:
    """Return the package. Raises UsageError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError("--workers and --ray need Ray; type `pip install 'nih[ray]'`") from error
    return ray


def connect(ray: Any, address: str | None) -> bool:
    """Start a Ray on this machine, or join one. Returns whether it is ours to leave. Raises UsageError."""
    if ray.is_initialized():
        return False
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address in (None, "local"):
        # Ray runs what anyone who reaches its ports sends; so only this machine may, and only who knows a word drawn now.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **quiet,
        )
        return True
    assert address is not None
    if address.startswith("ray://"):
        raise UsageError(
            f"--ray `{address}` is a Ray client's address; type `--ray auto` on a machine of the cluster, or its head's "
            "`HOST:6379`"
        )
    try:
        _check_port(address)
        ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UsageError(
            f"cannot join Ray at `{address}` ({reason}); start one with `ray start --head`, and type its `HOST:6379` or `auto`"
        ) from error
    return True


def _check_port(address: str) -> None:
    """Raise OSError where nobody listens at `HOST:PORT`: Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _PORT_SECONDS).close()


def sizes(nodes: Sequence[dict[str, Any]], count: int | None, device: str) -> tuple[int, dict[str, float]]:
    """Return the number of workers and what each needs, from the machines that Ray has. Raises UsageError.

    Without a count there is a worker for each GPU, or where there is none, for each machine.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = sum(int(resources.get("GPU", 0)) for resources in alive)
    if device == "cuda" or (device == "auto" and gpus):
        count = count or gpus
        if not 0 < count <= gpus:
            raise UsageError(
                f"{max(count, 1)} workers need a GPU each and Ray has {gpus}; type a smaller --workers, or `--device cpu`"
            )
        return count, {"num_cpus": 1, "num_gpus": 1}
    cores = [int(resources.get("CPU", 0)) for resources in alive]
    count = count or len(alive)
    if count > sum(cores):
        raise UsageError(
            f"{count} workers need a core each and Ray has {sum(cores)}; type `--workers {max(sum(cores), 1)}`"
        )
    each = next(n for n in range(max(cores), 0, -1) if sum(c // n for c in cores) >= count)
    return count, {"num_cpus": each, "num_gpus": 0}
