"""A connection without a socket, on which a client reads when it is told to."""

import asyncio
from types import SimpleNamespace
from typing import Any


class Transport(asyncio.Transport):
    """The socket of a client that takes what is written: at once, or only when it is asked to."""

    def __init__(self, protocol: asyncio.Protocol, slow: bool) -> None:
        super().__init__()
        self._protocol = protocol
        self._slow = slow
        self._unread = False
        self._ended = False
        self.sent = b""
        self.reading = True
        self.closed = False

    def write(self, data: Any) -> None:
        assert not (self.closed or self._ended), "written after the end"
        self.sent += data
        if self._slow and not self._unread:
            self._unread = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._ended = True

    async def take(self) -> None:
        """Have the client read all that was written, and what is written then."""
        while self._unread:
            self._unread = False
            if not self.closed:
                self._protocol.resume_writing()
                await asyncio.sleep(0)

    def get_write_buffer_size(self) -> int:
        return int(self._unread)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return SimpleNamespace(fileno=lambda: 0)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    abort = close

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True
