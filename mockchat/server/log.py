"""What the server tells people about its requests: each of them if asked for, else the first miss and failure.

A line has the time, the status, what was answered and how long that took. Nothing of a key or another header is told;
of what was asked only what a diagnosis shows, escaped.
"""

import re
import sys
import time
from collections import Counter
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
        self._statuses: Counter[int] = Counter()
        self._misses = 0
        self._told: set[object] = set()

    def watch(self, answer: Answer, asked: float) -> Answer:
        """Take down an answer to what was `asked` at that moment of `time.monotonic()`; its parts tell how it ends."""
        if answer.status is None:
            return answer
        self._statuses[answer.status] += 1
        error = answer.error
        if error is not None:
            self._misses += isinstance(error, NotRecorded)
            if not self.each and answer.fault is None:
                self._tell_first(error)
        return answer._replace(parts=self._watched(answer, asked)) if self.each else answer

    def summary(self) -> str:
        """How many requests there were, and what became of them."""
        total, answered = self._statuses.total(), self._statuses[200]
        others = total - answered - self._misses
        return f"Requests: {total:,}; answered {answered:,}, not recorded {self._misses:,}, other errors {others:,}"

    def _tell_first(self, error: ApiError) -> None:
        """Tell the first miss, and the first failure of each status. What else a client does wrong, only it is told."""
        kind = error.status, error.code
        is_failure = error.status >= 500 or error.code == UPSTREAM
        if (is_failure or isinstance(error, NotRecorded)) and kind not in self._told:
            self._told.add(kind)
            print(f"{error.status}: {_why(error)} (said once; --log tells each)", file=sys.stderr, flush=True)

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
            print(line, file=sys.stderr, flush=True)


def _why(error: ApiError) -> str:
    return f"not recorded: {error.diagnosis().text}" if isinstance(error, NotRecorded) else str(error)
