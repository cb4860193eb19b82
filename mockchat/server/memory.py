"""How much memory clients make the server hold, all together, and how much they may. No I/O.

What counts is what a client decides on: the part of a body that has come, a long body that waits to be read, a part of
an answer that it does not take. A request that is there at once, and answered at once, holds nothing.
"""

from aiohttp.log import server_logger

from mockchat.client import MB
from mockchat.server.errors import ApiError

MAX_MEMORY_MB = 1024


class Memory:
    """What is held, and the limit, both in bytes."""

    def __init__(self, max_mb: int = MAX_MEMORY_MB) -> None:
        self.held = 0
        self._max_mb = max_mb
        self._told = False

    @property
    def is_full(self) -> bool:
        """Whether more is held than may be; said once on the log."""
        full = self.held > self._max_mb * MB
        if full and not self._told:
            self._told = True
            server_logger.warning(
                "Clients make this server hold more than %d MB (see --max-memory-mb): bodies are refused with 503, and "
                "who does not read is cut off (said once)",
                self._max_mb,
            )
        return full


def too_much() -> ApiError:
    """The error of a client that would make the server hold more than it may."""
    return ApiError(503, "The server holds as much as it may of what clients send and do not read: try again")
