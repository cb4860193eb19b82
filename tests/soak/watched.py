"""server.py, which also measures how long it holds its event loop: by processor time, whatever else the machine does.

Takes server.py's arguments. At its end, the last line that it prints is the longest hold in milliseconds.
"""

import functools
import sys
import time
from collections.abc import Callable
from typing import Any

from mockchat.server import cli
from mockchat.server.connection import Connection

CALLED_BY_THE_LOOP = (
    "connection_made",
    "data_received",
    "eof_received",
    "resume_writing",
    "connection_lost",
    "_resume",
    "_answered",
    "_wake",
    "enforce_limits",
)
longest = 0


def timed(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(*arguments: Any) -> Any:
        global longest
        start = time.thread_time_ns()
        try:
            return method(*arguments)
        finally:
            longest = max(longest, time.thread_time_ns() - start)

    return wrapper


def main() -> int:
    for name in CALLED_BY_THE_LOOP:
        setattr(Connection, name, timed(getattr(Connection, name)))
    status = cli.main()
    print(longest / 1e6)
    return status


if __name__ == "__main__":
    sys.exit(main())
