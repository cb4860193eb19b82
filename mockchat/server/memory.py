"""The limit of the memory that clients make the server hold. No I/O.

It counts incomplete heads and bodies, long bodies that wait for a thread, queued requests, answers that are not read,
and exchanges with an upstream. A request that arrives whole and is answered at once is not counted.
"""

from aiohttp.log import server_logger

from mockchat.client import MB

MAX_MEMORY_MB = 1024
NO_MEMORY = "The server's memory for requests and unread answers is full: try again"  # Of a 503.


class Memory:
    """The bytes held for all clients; the limit is `max_mb`."""

    def __init__(self, max_mb: int = MAX_MEMORY_MB) -> None:
        self.held = 0
        self._max_mb = max_mb
        self._told = False

    @property
    def is_full(self) -> bool:
        """Whether the limit is exceeded, which is logged once."""
        full = self.held > self._max_mb * MB
        if full and not self._told:
            self._told = True
            server_logger.warning(
                "Clients make this server hold more than %d MB (see --max-memory-mb): bodies are refused with 503, and "
                "clients that do not read are cut off (said once)",
                self._max_mb,
            )
        return full
