"""The server's log on stderr: a line for each request with `--log`, else the first miss and the first failure.

A line has the time, the status, the conversation and the duration. No key and no header is logged; of the messages only
what a diagnosis shows, escaped. Logging never blocks: a pipe that is not read costs lines, which are counted.
"""

import contextlib
import logging
import select
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime

from mockchat.core.text import excerpt
from mockchat.server.errors import UPSTREAM, ApiError, NotRecorded
from mockchat.server.http import Answer, Part

_LONGEST_QUEUE = 10_000  # lines
_LONGEST_LINE = 4000  # characters: a pipe that is writable takes 4,096 bytes without blocking (pipe(7))


class Log(logging.Handler):
    """Logs the answers of one server, each of them if `each`; as a `logging.Handler`, also the server's warnings."""

    def __init__(self, *, each: bool = False) -> None:
        super().__init__()
        self.each = each
        self._misses = self._errors = 0
        self._told: set[object] = set()
        self._queue: deque[str] = deque()
        self._dropped = 0

    def watch(self, answer: Answer, arrived: float) -> Answer:
        """Count an answer if it is an error, and log it when it ends; `arrived` is when its request was complete."""
        error = answer.error
        is_miss = isinstance(error, NotRecorded)
        self._misses += is_miss
        self._errors += answer.status != 200 and not is_miss
        if error is not None and not self.each and answer.fault is None:
            self._tell_first(error)
        return answer._replace(parts=self._watched(answer, arrived)) if self.each else answer

    def summary(self, requests: int) -> str:
        answered = requests - self._misses - self._errors
        others = f"not recorded {self._misses:,}, other errors {self._errors:,}"
        return f"Requests: {requests:,}; answered {answered:,}, {others}"

    def tell(self, text: str) -> None:
        lines = text.splitlines()
        room = _LONGEST_QUEUE - len(self._queue)
        self._queue += lines[:room]
        self._dropped += len(lines[room:])
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            while (self._queue or self._dropped) and is_writable(sys.stderr):
                if not self._queue:
                    self._queue.append(f"Lines dropped, as stderr was not read: {self._dropped:,}")
                    self._dropped = 0
                print(self._queue.popleft()[:_LONGEST_LINE], file=sys.stderr, flush=True)

    def emit(self, record: logging.LogRecord) -> None:
        self.tell(self.format(record))

    def _tell_first(self, error: ApiError) -> None:
        """Log the first miss, and the first failure of each status; other errors are the client's."""
        kind = error.status, error.code
        is_failure = error.status >= 500 or error.code == UPSTREAM
        if (is_failure or isinstance(error, NotRecorded)) and kind not in self._told:
            self._told.add(kind)
            self.tell(f"{error.status}: {excerpt(_why(error))} (said once; --log tells each)")

    def _watched(self, answer: Answer, arrived: float) -> Iterator[Part]:
        ended = "cut off"
        try:
            yield from answer.parts
            ended = ""
        finally:
            took = (time.monotonic() - arrived) * 1000
            clock = datetime.now().time().isoformat("milliseconds")
            what = excerpt(_why(answer.error) if answer.error else answer.id or "-")
            self.tell(f"{clock} {answer.fault or answer.status} {what} {took:.1f} ms {ended}".rstrip())


def is_writable(stream: object) -> bool:
    """Whether a stream takes a line without blocking; true if it has no file descriptor."""
    try:
        descriptor = stream.fileno()  # type: ignore[attr-defined]
        return bool(select.select([], [descriptor], [], 0)[1])
    except (AttributeError, OSError, ValueError):
        return True


def _why(error: ApiError) -> str:
    return f"not recorded: {error.diagnosis().text}" if isinstance(error, NotRecorded) else str(error)
