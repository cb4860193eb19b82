"""What the server tells people about its requests: each of them if asked for, else the first miss and failure.

A line has the time, the status, what was answered and how long that took. Nothing of a key or another header is told;
of what was asked only what a diagnosis shows, escaped.
"""

import contextlib
import re
import sys
import time
from collections.abc import Iterator

from mockchat.core.text import excerpt
from mockchat.server.errors import UPSTREAM, ApiError, NotRecorded
from mockchat.server.http import Answer, Part

# The id of an answer, plain or streamed: that of the conversation, or what an upstream made up.
_ID = re.compile(rb'\{"id": ?("(?:[^"\\]|\\.){1,200}")')


class Log:
    """Where the answers of one server are taken down; with `each`, a line is printed on stderr for each of them."""

    def __init__(self, *, each: bool = False) -> None:
        self.each = each
        self._misses = self._errors = 0
        self._told: set[object] = set()

    def watch(self, answer: Answer, asked: float) -> Answer:
        """Take down an answer to what was `asked` at that moment of `time.monotonic()`; its parts tell how it ends.

        Without `each`, those of status 200 need not be taken down.
        """
        if answer.status is None:
            return answer
        error = answer.error
        is_miss = isinstance(error, NotRecorded)
        self._misses += is_miss
        self._errors += answer.status != 200 and not is_miss
        if error is not None and not self.each and answer.fault is None:
            self._tell_first(error)
        return answer._replace(parts=self._watched(answer, asked)) if self.each else answer

    def summary(self, requests: int) -> str:
        """What became of so many requests."""
        answered = requests - self._misses - self._errors
        others = f"not recorded {self._misses:,}, other errors {self._errors:,}"
        return f"Requests: {requests:,}; answered {answered:,}, {others}"

    def _tell_first(self, error: ApiError) -> None:
        """Tell the first miss, and the first failure of each status. What else a client does wrong, only it is told."""
        kind = error.status, error.code
        is_failure = error.status >= 500 or error.code == UPSTREAM
        if (is_failure or isinstance(error, NotRecorded)) and kind not in self._told:
            self._told.add(kind)
            _print(f"{error.status}: {_why(error)} (said once; --log tells each)")

    def _watched(self, answer: Answer, asked: float) -> Iterator[Part]:
        found, ended = b"", "cut off"
        try:
            for part in answer.parts:
                if isinstance(part, bytes) and not found:
                    found = part[:2000]
                yield part
            ended = ""
        finally:
            now, took = time.time(), time.monotonic() - asked
            clock = time.strftime("%H:%M:%S", time.localtime(now))
            said = _ID.search(found)
            what = _why(answer.error) if answer.error else said[1].decode(errors="replace") if said else "-"
            status = answer.fault or answer.status
            line = f"{clock}.{int(now % 1 * 1000):03} {status} {excerpt(what)} {took * 1000:.1f} ms {ended}".rstrip()
            _print(line)


def _print(line: str) -> None:
    """Print it on stderr; who reads that may have gone, which is no reason not to answer."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _why(error: ApiError) -> str:
    return f"not recorded: {error.diagnosis().text}" if isinstance(error, NotRecorded) else str(error)
