"""Runs a coroutine in a thread of its own and hands its results over as an iterator.

The calling thread may already run an event loop (a notebook's), and stays free for Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_CANCEL_AGAIN = 1.0
"""Seconds between two attempts to end what runs in the background."""


class _End:
    """The last thing in the queue."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


def from_background(run: Callable[[Callable[[T], None]], Coroutine[Any, Any, None]]) -> Iterator[T]:
    """Yield what `run` passes to the function that it is called with, as it comes; then raise what `run` raises.

    The coroutine is cancelled when the iterator is closed. An interrupt cancels it too, and is raised after what came before it.
    """
    came: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    loop = asyncio.new_event_loop()
    task = loop.create_task(run(came.put))
    thread = threading.Thread(target=_drive, args=(loop, task, came), name="nih-requests", daemon=True)
    thread.start()

    def stop() -> None:
        # Again and again, because a library may swallow a cancellation that comes at a bad moment.
        while thread.is_alive():
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(task.cancel)
            thread.join(_CANCEL_AGAIN)

    try:
        yield from _until_end(came)
    except KeyboardInterrupt:
        stop()
        yield from _until_end(came)
        raise
    finally:
        stop()


def _until_end(came: queue.SimpleQueue[T | _End]) -> Iterator[T]:
    while not isinstance(item := came.get(), _End):
        yield item
    if item.error is not None:
        raise item.error


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], came: queue.SimpleQueue[Any]) -> None:
    error: BaseException | None = None
    try:
        loop.run_until_complete(task)
    except asyncio.CancelledError:
        pass
    except BaseException as caught:  # it is raised where the iterator is read
        error = caught
    came.put(_End(error))
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()
