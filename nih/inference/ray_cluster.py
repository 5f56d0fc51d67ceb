"""The door to Ray: start one or join one, and how many workers its machines have room for."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from nih.errors import UsageError

_STORE_BYTES = 256 << 20
"""Shared memory of a Ray that we start ourselves; it holds token ids only."""
_PORT_SECONDS = 10.0
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
_SETTINGS = 4
"""Type of the frame with which a server of HTTP/2 begins (RFC 9113, section 3.4)."""
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])
"""How a client begins; Ray speaks gRPC, which is HTTP/2."""


def import_ray(address: str | None) -> Any:
    """Return the package, ready for `connect` to this address. Raises UsageError where it is not installed.

    Ray reads its environment when it is imported, so the token of a Ray of our own must be there before.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if _is_ours(address) and "ray" not in sys.modules:
        # Ray runs what anyone who reaches its ports sends; so only this machine may, and only who knows a word drawn now.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray
    except ImportError as error:
        raise UsageError("--workers and --ray need Ray; type `pip install 'nih[ray]'`") from error
    return ray


def connect(ray: Any, address: str | None) -> bool:
    """Start a Ray on this machine, or join one. Returns whether it is ours to leave. Raises UsageError."""
    if ray.is_initialized():
        return False
    with _own_handlers():
        if _is_ours(address):
            _start(ray)
        else:
            assert address is not None
            _join(ray, address)
    return True


def _is_ours(address: str | None) -> bool:
    return address in (None, "local")


def _start(ray: Any) -> None:
    if os.environ.get("RAY_AUTH_MODE") != "token" or not os.environ.get("RAY_AUTH_TOKEN"):
        raise UsageError(
            "this process imported Ray before a token could protect it; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN before "
            "`import ray`, or call `ray.init` yourself"
        )
    try:
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=_STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **_QUIET,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"Ray does not start on this machine ({_first_line(error)}); it needs a temporary folder that can be written "
            "(TMPDIR) and free memory; or leave out --workers"
        ) from error


def _join(ray: Any, address: str) -> None:
    if address.startswith("ray://"):
        raise UsageError(
            f"--ray `{address}` is a Ray client's address; type `--ray auto` on a machine of the cluster, or its head's "
            "`HOST:6379`"
        )
    try:
        _check_port(address)
        ray.init(address=address, **_QUIET)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"cannot join Ray at `{address}` ({_first_line(error)}); start one with `ray start --head`, and type its "
            "`HOST:6379` or `auto`"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Let a signal to end mean what it means without Ray, which would end with a code and a stack of its own.

    Workers are let go on the way out, and the shell is told what it would be told of any program.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        # None is a handler that Python did not install and cannot put back.
        if before is not None:
            signal.signal(signal.SIGTERM, _leave if before is signal.SIG_DFL else before)


def _leave(number: int, _: Any) -> None:
    raise SystemExit(128 + number)


def _check_port(address: str) -> None:
    """Raise OSError where nobody listens at `HOST:PORT`, or not in Ray's protocol: Ray itself would try for many minutes."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        return
    with socket.create_connection((host.strip("[]"), int(port)), _PORT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return
        connection.settimeout(_PORT_SECONDS)
        connection.sendall(_HTTP2_PREFACE)
        try:
            said = connection.recv(9)
        except TimeoutError:
            said = b""
    if len(said) < 4 or said[3] != _SETTINGS:
        raise OSError("whoever listens there is not Ray")


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
