"""Start-up and shutdown of the route's server: as a program, in a test, and under gunicorn.

It stands on aiohttp's low-level server (https://docs.aiohttp.org/en/stable/web_lowlevel.html): no router, no
middleware.
"""

import asyncio
import errno
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from aiohttp import web
from aiohttp.log import server_logger

from mockchat import options
from mockchat.core import recordings
from mockchat.core.dataset import DatasetError
from mockchat.options import CommandError
from mockchat.server.connection import REQUEST_TIMEOUT, SHUTDOWN_TIMEOUT, ChatServer, allow_descriptors
from mockchat.server.route import ChatCompletions

try:
    import uvloop

    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
except ImportError:  # There is no uvloop on Windows.
    new_loop = asyncio.new_event_loop

_HANDOVER = 0.2  # seconds
_INTERRUPTED = 130
_APP_LOAD_ERROR = 4  # gunicorn's: a worker that ends with it is not started again, as it would be for ever.


class ListenError(Exception):
    """The address can't be had; the text is one line that says why and what to do."""


async def serve(
    chat: ChatCompletions,
    host: str,
    port: int,
    ready: Callable[[str], object],
    *,
    request_timeout: float = REQUEST_TIMEOUT,
    shutdown_timeout: float = SHUTDOWN_TIMEOUT,
) -> int:
    """Serve until SIGINT or SIGTERM; then finish what has begun, for `shutdown_timeout` seconds or until another.

    `ready` is called with the base URL once connections are accepted; the rest is as in `listening`. Returns how many
    connections had to be cut.
    """
    server = ChatServer(chat, request_timeout)
    stop = asyncio.Event()

    def end() -> None:
        if stop.is_set():
            server.abort()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end)
    async with listening(server, host, port, shutdown_timeout) as base_url:
        ready(base_url)
        await stop.wait()
    return server.cut


@asynccontextmanager
async def listening(server: ChatServer, host: str, port: int, shutdown_timeout: float) -> AsyncIterator[str]:
    """Serve as long as the context lasts, and then finish what has begun, for `shutdown_timeout` seconds.

    `port` 0 picks a free one; gives the base URL. Raises `ListenError`.
    """
    runner = web.ServerRunner(server, shutdown_timeout=shutdown_timeout)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port, backlog=1024).start()
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or error
            remedy = "; try --port 0" if getattr(error, "errno", 0) in (errno.EADDRINUSE, errno.EACCES) else ""
            raise ListenError(f"can't listen on {host!r}, port {port}: {reason}{remedy}") from None
        address, port, *_ = runner.addresses[0]
        yield f"http://{f'[{address}]' if ':' in address else address}:{port}/v1"
    finally:
        await runner.cleanup()


class _WorkerServer(ChatServer):
    """A server that another one replaces, so that its clients should not notice that it goes."""

    def pre_shutdown(self) -> None:
        self.route.closing = True

    async def shutdown(self, timeout: float | None = None) -> None:
        await self.drain(_HANDOVER)  # The clients that are busy get an answer that asks them to connect anew.
        super().pre_shutdown()
        await super().shutdown(timeout)
        if self.cut:
            server_logger.warning("Connections cut before they were finished: %d (see --graceful-timeout)", self.cut)


def application(make_chat: Callable[[], ChatCompletions], request_timeout: float = REQUEST_TIMEOUT) -> web.Application:
    """What aiohttp's runners serve, with connections of our own; `make_chat` is called in the process that serves."""
    found = web.Application()
    # What an AppRunner asks for the connections. No public way leads to others than aiohttp's.
    vars(found)["_make_handler"] = lambda **_: _WorkerServer(make_chat(), request_timeout)
    return found


def create_app(data: str | Path | Sequence[str | Path] = (), **given: object) -> web.Application:
    """What gunicorn's aiohttp worker serves: all that server.py answers, on as many cores as there are workers.

    `data` is a file of recordings or several; `given` are options of server.py that are not about its socket, named as
    there: `api_key=["a", "b"], no_stitch=True`. Where it can't run, a line says why, and gunicorn ends (`SystemExit`).
    """
    allow_descriptors()
    try:
        chosen = options.of_answering({"data": data, **given})
        make_chat = partial(ChatCompletions, **options.of_route(chosen))
        index = recordings.load_shared(chosen.data or [recordings.default()], stitch=not chosen.no_stitch)
        return application(partial(make_chat, index), chosen.request_timeout)
    except (CommandError, DatasetError) as error:
        print(f"create_app: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        raise SystemExit(_INTERRUPTED) from None
    raise SystemExit(_APP_LOAD_ERROR)
