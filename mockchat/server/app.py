"""The server: its connections, and the signals that stop it.

To stop, it refuses new connections. Every answer from then on asks its client to reconnect (`Connection: close`), so
busy clients go elsewhere without losing a request. Idle connections are closed a moment later. What has begun may
finish until the timeout; connections that are left then are cut.
"""

import asyncio
import errno
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp.log import server_logger

from mockchat.core.program import ProgramError, on_stop_signals
from mockchat.server.connection import Connection
from mockchat.server.log import Log
from mockchat.server.route import ChatCompletions

SHUTDOWN_TIMEOUT = 5.0  # seconds
_HANDOVER = 0.2  # seconds in which a busy client sends another request, whose answer asks it to reconnect
_BACKLOG = 1024  # connections that wait to be accepted
_INTERVAL = 1.0  # seconds between checks of the time limits
_POLL = 0.01  # seconds between checks while stopping


class ChatServer:
    """Serves one route. It is a protocol factory for `loop.create_server`: calling it makes a connection."""

    def __init__(self, route: ChatCompletions, log: Log | None = None) -> None:
        self.route = route
        self.log = log
        self.requests_count = 0
        self.connections: set[Connection] = set()
        self.cut = 0  # Connections, and exchanges with an upstream, that were not finished.
        self._watching: asyncio.TimerHandle | None = None
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._is_hurried = False

    def __call__(self) -> Connection:
        return Connection(self)

    def opened(self, connection: Connection, descriptor: int) -> None:
        self.connections.add(connection)
        if descriptor + 1 >= self._descriptors:
            server_logger.warning(
                "All %d file descriptors are in use: connections are refused until others close (see ulimit -n)",
                self._descriptors,
            )
            self._descriptors = sys.maxsize  # Warn once.
        if self._watching is None:
            self._watching = asyncio.get_running_loop().call_later(_INTERVAL, self._watch)

    def _watch(self) -> None:
        now = time.monotonic()
        for connection in list(self.connections):
            connection.enforce_limits(now)
        if self.log is not None:
            self.log.flush()
        is_idle = not self.connections
        self._watching = None if is_idle else asyncio.get_running_loop().call_later(_INTERVAL, self._watch)

    def pre_shutdown(self) -> None:
        """Do nothing; a runner of aiohttp's calls it before `shutdown`."""

    async def shutdown(self, timeout: float) -> None:
        """Finish what has begun, for `timeout` seconds at most, and cut the rest."""
        self.route.writer.closing = True
        await asyncio.sleep(0)  # What has been accepted becomes a connection.
        await self._drain(min(_HANDOVER, timeout))
        self.finish()
        await self._drain(timeout)
        if given_up := await self.route.close():
            self.cut += given_up
            await self._drain(0.1)  # Let waiting clients receive the error.
        self.abort()
        await asyncio.sleep(0)  # The sockets close.

    def finish(self) -> None:
        """Close idle connections now, and the others once what has begun on them is finished."""
        self.route.writer.closing = True
        for connection in list(self.connections):
            connection.finish()

    async def _drain(self, timeout: float) -> None:
        end = time.monotonic() + timeout
        while (self.connections or self.route.busy) and not self._is_hurried and time.monotonic() < end:
            await asyncio.sleep(_POLL)

    def abort(self) -> None:
        self._is_hurried = True
        self.cut += len(self.connections)
        for connection in list(self.connections):
            connection.abort()


async def serve(
    server: ChatServer, host: str, port: int, ready: Callable[[str], object], *, shutdown_timeout: float
) -> None:
    """Serve as `listening` does until SIGINT or SIGTERM; a second one stops at once. `ready` gets the base URL."""
    stopped = asyncio.Event()

    def stop() -> None:
        if stopped.is_set():
            server.abort()
        stopped.set()

    on_stop_signals(stop)
    async with listening(server, host, port, shutdown_timeout) as base_url:
        ready(base_url)
        await stopped.wait()


@asynccontextmanager
async def listening(server: ChatServer, host: str, port: int, shutdown_timeout: float) -> AsyncIterator[str]:
    """Serve as long as the context lasts, and then stop within `shutdown_timeout` seconds.

    `port` 0 picks a free one; gives the base URL. Raises `ProgramError` if it can't listen there.
    """
    try:
        listener = await asyncio.get_running_loop().create_server(server, host, port, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = "; try --port 0" if getattr(error, "errno", 0) in (errno.EADDRINUSE, errno.EACCES) else ""
        raise ProgramError(f"can't listen on {host!r}, port {port}: {reason}{remedy}") from None
    try:
        address, port, *_ = listener.sockets[0].getsockname()
        yield f"http://{f'[{address}]' if ':' in address else address}:{port}/v1"
    finally:
        await _close(listener)
        await server.shutdown(shutdown_timeout)


async def _close(listener: asyncio.Server) -> None:
    """Stop accepting. asyncio's own loop would never close what it accepts while the listener closes."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, asyncio.SelectorEventLoop):
        for socket in listener.sockets:
            loop.remove_reader(socket.fileno())
        for _ in range(3):
            await asyncio.sleep(0)  # What has been accepted becomes a connection.
    listener.close()
