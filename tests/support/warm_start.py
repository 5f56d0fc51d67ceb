"""Start `nih` as a fork of a process that has imported what takes long to import.

The blocks of the documentation type `nih` about seventy times, and each start imports torch, pandas and matplotlib anew: seconds of
a processor. Only packages of others are imported beforehand. Each fork imports nih itself, from where the command's PYTHONPATH
says, so that a copy with edits runs with its edits.

    warm_start.py SOCKET                  serves until its standard input ends
    warm_start.py SOCKET ask WORDS...     is `nih WORDS...`
"""

from __future__ import annotations

import json
import os
import socket
import sys

HEAVY = (
    "torch",
    "pandas",
    "scipy.stats",
    "matplotlib.pyplot",
    "seaborn",
    "pydantic",
    "rich.table",
    "typer",
    "httpx",
)
MOST = 1 << 20
"""Bytes of a request."""


def ask(path: str, words: list[str]) -> int:
    """Have the server run `nih WORDS...` here, with this process's streams. Returns its exit code."""
    request = {"words": words, "folder": os.getcwd(), "environment": dict(os.environ)}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(path)
        socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
        return int(server.recv(MOST))


def serve(path: str) -> None:
    """Answer each request in a fork. Returns once in each of them, when all is as it is where `nih` was typed."""
    import importlib
    import selectors
    import signal

    for module in HEAVY:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door, selectors.DefaultSelector() as ready:
        door.bind(path)
        door.listen()
        ready.register(door, selectors.EVENT_READ)
        ready.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while all(key.fileobj is door for key, _ in ready.select()):
            caller, _ = door.accept()
            with caller:
                if not os.fork():
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return _become(caller)
    os._exit(0)


def _become(caller: socket.socket) -> None:
    """Be the command in a child of this process, and tell the caller how it ended."""
    request, streams, _, _ = socket.recv_fds(caller, MOST, 3)
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        caller.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    asked = json.loads(request)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    sys.path[:0] = [asked["folder"], *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["nih", *asked["words"]]


if __name__ == "__main__":
    if sys.argv[2:3] == ["ask"]:
        sys.exit(ask(sys.argv[1], sys.argv[3:]))
    serve(sys.argv[1])
    import runpy

    runpy.run_module("nih", run_name="__main__", alter_sys=True)
