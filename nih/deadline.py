"""An end for Python code of strangers that may loop for ever, such as a chat template that came with a model."""

from __future__ import annotations

import contextlib
import ctypes
import threading
from collections.abc import Iterator


class TooLong(Exception):
    """The code did not end in the time it was given."""


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Raise TooLong inside the body if it has not ended after so many seconds.

    It stops Python code only: a call into a library that takes long is stopped when it returns.
    """
    lock = threading.Lock()
    thread = threading.get_ident()
    over = False

    def stop() -> None:
        with lock:
            if not over:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooLong))

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    except TooLong as error:
        raise TooLong(f"it takes longer than {seconds:g} s") from error
    finally:
        # The lock orders the end of the body and the exception: none comes once `over` is said.
        with lock:
            over = True
        timer.cancel()
