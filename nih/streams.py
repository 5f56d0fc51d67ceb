"""The standard streams of a command: what happens where nobody can read them, because they are closed, full or a broken pipe.

Data goes to stdout, so what cannot be written there ends the command. Messages go to stderr, and a run whose messages
nobody can read is still a run.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
from typing import Any

from nih.errors import NihError, UsageError


class ReaderGone(NihError):
    """Whoever read the standard output through a pipe has gone."""


class _Stream:
    """A text stream whose failures `_failed` decides on."""

    def __init__(self, stream: Any, descriptor: int) -> None:
        self._stream = stream
        self._descriptor = descriptor
        self._broken: OSError | None = None

    def write(self, text: str) -> int:
        """Write `text`, and return its characters."""
        if self._broken is not None:
            # Once more, because whoever met the first failure may have been a probe that catches everything.
            self._failed(self._broken)
        else:
            self._guarded("write", text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what was written."""
        if self._broken is None:
            self._guarded("flush")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _guarded(self, method: str, *args: str) -> None:
        try:
            getattr(self._stream, method)(*args)
        except OSError as error:
            self._broken = error
            # The interpreter flushes once more when it ends, and must find nothing to complain of.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._descriptor)
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        """Decide what a failure means; here nothing, and all that follows is swallowed."""


class _Output(_Stream):
    def _failed(self, error: OSError) -> None:
        if error.errno == errno.EPIPE:
            raise ReaderGone("the reader of the pipe has gone") from error
        raise UsageError(
            f"the standard output cannot be written ({error.strerror}); send it to a file or a pipe with room"
        ) from error


class _Closed:
    """Stands for a standard output that was closed before the command began."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Raise the error that writing to a closed descriptor gives."""
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def flush(self) -> None:
        """Do nothing, because nothing was written."""

    def isatty(self) -> bool:
        """Return False."""
        return False

    def fileno(self) -> int:
        """Return the descriptor, which leads nowhere."""
        return 1


def guard_streams() -> None:
    """Put both streams behind their guards, and occupy the descriptors of closed ones.

    The next file that is opened would otherwise get the number of stderr, and messages of libraries would end in a journal.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    output: Any = _Output(sys.stdout or _Closed(), 1)
    messages: Any = _Stream(sys.stderr or io.StringIO(), 2)
    sys.stdout, sys.stderr = output, messages
