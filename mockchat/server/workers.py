"""The server under gunicorn: several processes that share the recordings.

- Before gunicorn forks (`--preload`), a process of its own reads the recordings into a file in memory that the workers
  share. If gunicorn's process reads them, each worker takes 35 MB more, even with the heap trimmed before the fork.
- `AppRunner._make_server` is not documented: no documented runner of aiohttp's can have another protocol.
"""

import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from gc import freeze
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NoReturn

from aiohttp import web
from aiohttp.log import server_logger
from aiohttp.worker import GunicornUVLoopWebWorker

from mockchat.core import mapped, program, recordings
from mockchat.core.index import ResponseIndex
from mockchat.server import options
from mockchat.server.app import ChatServer
from mockchat.server.route import ChatCompletions

_APP_LOAD_ERROR = 4  # gunicorn does not start a worker again that ends with this status.
_COMMAND = """{}: gunicorn "mockchat.server.workers:create_app('FILE')" -k mockchat.server.workers.Worker --preload"""
# gunicorn imports the module of its worker class before the application's.
_WSGI_WORKERS = ("sync", "gthread", "ggevent", "geventlet", "gtornado", "gasgi")

MakeRunner = Callable[..., Awaitable[web.AppRunner]]


class Worker(GunicornUVLoopWebWorker):
    """aiohttp's worker, with gunicorn's `--graceful-timeout` for the server."""

    wsgi: MakeRunner

    def run(self) -> None:
        if getattr(self.wsgi, "__name__", "") == create_app.__name__:
            _end(_COMMAND.format("create_app must be called"))
        self.wsgi = partial(self.wsgi, graceful_timeout=self.cfg.graceful_timeout)
        super().run()


def create_app(data: str | Path | Sequence[str | Path] = (), **given: object) -> MakeRunner:
    """The application for gunicorn, with the worker class `Worker` or one of aiohttp's. It answers as server.py does.

    `data` is a file of recordings or several; `given` are the options of server.py that shape the answers, named as
    there: `api_key=["a", "b"], ttft_ms=50`. Where it can't run, a line says why and gunicorn ends (`SystemExit`).
    """
    if any(f"gunicorn.workers.{name}" in sys.modules for name in _WSGI_WORKERS):
        _end(_COMMAND.format("it needs its own worker class"))
    program.allow_descriptors()
    try:
        chosen = options.from_keywords(given)
        route_options = options.of_route(chosen)
        files = [recordings.named(name) for name in ([data] if isinstance(data, str | Path) else data)]
        index = read_shared(files or [recordings.default()], stitch=not chosen.no_stitch, ignore=chosen.ignore)
    except program.ProgramError as error:
        _end(str(error))
    except KeyboardInterrupt:
        raise SystemExit(program.INTERRUPTED) from None

    async def make_runner(graceful_timeout: float = 30.0) -> web.AppRunner:
        server = ChatServer(ChatCompletions(index, **route_options))
        return Runner(server, shutdown_timeout=0.95 * graceful_timeout)  # Then gunicorn kills.

    return make_runner


def _end(problem: str) -> NoReturn:
    print(f"create_app: {problem}", file=sys.stderr)
    raise SystemExit(_APP_LOAD_ERROR) from None


def read_shared(paths: Sequence[Path], *, stitch: bool = True, ignore: Sequence[str] = ()) -> ResponseIndex:
    """The index that `recordings.load` makes, in memory that forked processes share: no lookup copies a page.

    For a moment it takes twice the files' size. Raises `ProgramError`.
    """
    with os.fdopen(os.memfd_create("messages"), "w+b") if sys.platform == "linux" else TemporaryFile() as file:
        try:
            with ProcessPoolExecutor(1, get_context("fork")) as reader:
                index = reader.submit(_read_into, file.fileno(), paths, stitch, ignore).result()
        except BrokenProcessPool:
            raise program.ProgramError("the reader of the recordings was killed: is there too little memory?") from None
        mapped.map_file(index, file)
    freeze()
    return index


def _read_into(descriptor: int, paths: Sequence[Path], stitch: bool, ignore: Sequence[str]) -> ResponseIndex:
    index = recordings.load(paths, stitch=stitch, ignore=ignore)[1]
    with open(descriptor, "wb", closefd=False) as file:
        mapped.share(index, file)
    return index


class Runner(web.AppRunner):
    """aiohttp's runner, as its worker class for gunicorn uses it, of a `ChatServer`."""

    def __init__(self, server: ChatServer, shutdown_timeout: float) -> None:
        super().__init__(web.Application(), shutdown_timeout=shutdown_timeout)
        self._chat_server = server

    async def _make_server(self) -> Any:
        self.app.freeze()  # Its shutdown, which does nothing here, asks for that.
        return self._chat_server

    async def cleanup(self) -> None:
        await super().cleanup()
        if cut := self._chat_server.cut:
            server_logger.warning("Connections cut before they were finished: %d (see --graceful-timeout)", cut)
