"""A server for tests: on a free port, in a thread of its own.

With pytest, the fixture `mockchat` is such a server; there, all tests of a process have one thread and one port.
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mockchat.core import dataset, entries, recordings
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.core.program import ProgramError
from mockchat.server import app, options
from mockchat.server.errors import NOT_RECORDED
from mockchat.server.record_file import RecordFile
from mockchat.server.simulation import BY_HEADER, Fault
from mockchat.testing.watched import Given, ReplyFunction, Request, WatchedChat, WatchedUpstream

# A file of recordings; or one conversation, as a list of messages or as an entry of such a file has it.
Recording = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any]
Recordings = Recording | Sequence[Recording]

_FINISHING = 60.0  # seconds for answers that are still being recorded
_NOT_STRICT = "where that is meant: mockchat.strict = False, or @pytest.mark.mockchat(strict=False)"


class MockServer:
    """A running server, made by `serve`. Clients need its `base_url`, and a key, such as `api_key`.

    `requests` are those so far, in order. While `strict` is false, `check` passes and the upstream is not asked.
    """

    base_url: str
    loop: asyncio.AbstractEventLoop  # In whose thread it answers.

    def __init__(
        self, data: Recordings, record: tuple[str, RecordFile] | None = None, /, *, strict: bool = True, **given: object
    ) -> None:
        self.strict = strict
        self.expects_requests = False  # If true, `check` fails where there were none.
        self.hint = ""  # Ends the report of misses.
        chosen = options.from_keywords(given, beside=["data", "strict"])
        chosen.fault.append(Fault(BY_HEADER))
        self._stitch = not chosen.no_stitch
        index = ResponseIndex(_read(data, self._stitch), chosen.ignore)
        self.route = WatchedChat(index, **options.of_route(chosen))
        self.requests: list[Request] = self.route.requests
        if record:
            self.route.upstream = WatchedUpstream(*record, index, lambda: self.strict)
        self.api_key: str = [*chosen.api_key, (record and os.environ.get("OPENAI_API_KEY")) or "any"][0]

    @property
    def misses(self) -> list[Request]:
        return [request for request in self.requests if request.is_miss]

    def load(self, data: Recordings) -> None:
        """Add recordings, given as to `serve`; they come before the others. Raises `DatasetError`."""
        self.loop.call_soon_threadsafe(self.route.load, _read(data, self._stitch))

    def reply(
        self,
        text: str | ReplyFunction | None = None,
        *,
        tool_calls: Sequence[dict[str, Any]] | dict[str, Any] | None = None,
        refusal: str | None = None,
        reasoning: str | None = None,
        status: int | None = None,
        finish_reason: str | None = None,
        usage: dict[str, Any] | None = None,
    ) -> None:
        """Queue an answer to the next request, recorded or not; replies are used up in order. Raises `ProgramError`.

        `tool_calls` are as the API has them, or `{"name": …, "arguments": …}` alone; their arguments are a string or a
        dictionary, and they need no ids. With a `status` (400 to 599) the answer is an error with this text. A function
        in place of the text is called with each request that no earlier reply answers, in the server's thread.
        It returns a text, a dictionary of these arguments, or None where it has no answer.
        """
        said = {"text": text, "tool_calls": tool_calls, "refusal": refusal, "reasoning": reasoning}
        given = said | {"status": status, "finish_reason": finish_reason, "usage": usage}
        arguments = {name: value for name, value in given.items() if value is not None}
        self.route.given.append(Given(f"reply_{len(self.route.given)}", arguments))

    def check(self) -> None:
        """Raise `AssertionError` if a request missed or failed at the upstream, or a reply was not asked for."""
        problem = ""
        if self.expects_requests and not self.requests:
            problem = "nothing asked this server: did the program make its client before the test? Then it needs "
            problem += "`mockchat_env = true` or `mockchat_url`. Or has the client another base_url?"
        elif self.misses:
            problem = f"requests that missed: {len(self.misses)}"
        elif self.route.upstream and (failed := sum(self.route.upstream.failed.values())):
            problem = f"requests that failed at the upstream, and are not recorded: {failed}"
        elif left := [given.described for given in self.route.given if not self.route.times[given]]:
            problem = f"replies that nothing asked for: {'; '.join(left)}"
        if problem and self.strict:
            raise AssertionError(f"{problem} ({_NOT_STRICT})\n{self.report()}".rstrip())

    def report(self) -> str:
        """A line for each request that was refused, with the reason."""
        lines = [f"requests[{n}]: {each.status}, {each.error}" for n, each in enumerate(self.requests) if each.error]
        told = "\n".join(lines)
        return f"{told}\n{self.hint}".rstrip() if f", {NOT_RECORDED}" in told else told


class Listener:
    """A thread that listens on a port until it is closed; one `MockServer` after the other answers there."""

    def __init__(self) -> None:
        self._server = app.ChatServer(WatchedChat(ResponseIndex(())))
        self._server.route.writer.closing = True
        self._loop = asyncio.new_event_loop()  # With uvloop, a process that the test forks would crash at its end.
        self._thread = threading.Thread(target=self._loop.run_forever, name="mockchat", daemon=True)
        self._thread.start()
        self._listening = AsyncExitStack()
        try:
            listening = self._listening.enter_async_context(app.listening(self._server, "127.0.0.1", 0, 0))
            self.base_url = asyncio.run_coroutine_threadsafe(listening, self._loop).result()
        except ProgramError:
            self.close()
            raise

    def close(self) -> None:
        """Stop listening, and cut every connection."""
        if self._thread.is_alive():  # It is not in a process that the test forked.
            asyncio.run_coroutine_threadsafe(self._listening.aclose(), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    @contextmanager
    def serving(self, server: MockServer) -> Iterator[MockServer]:
        server.base_url, server.loop = self.base_url, self._loop
        server.route.is_open = True
        self._server.route = server.route  # A connection keeps the one that it began with.
        try:
            yield server
        finally:
            if self._thread.is_alive():
                asyncio.run_coroutine_threadsafe(self._end(server.route), self._loop).result()

    async def _end(self, route: WatchedChat) -> None:
        """Finish what is being recorded. What is being answered goes on: a client that is cut off would ask again."""
        for _ in range(5):
            await asyncio.sleep(0)  # What has been sent is read.
        end = time.monotonic() + _FINISHING
        while route.busy and time.monotonic() < end:
            await asyncio.sleep(0.01)
        route.is_open = False
        await route.close()


def _read(data: Any, stitch: bool) -> list[Conversation]:
    conversations = []
    for number, recording in enumerate([data] if isinstance(data, str | os.PathLike | Mapping) else data):
        if isinstance(recording, str | os.PathLike):
            path = recordings.named(recording)
            version = (path.stat().st_mtime_ns, path.stat().st_size) if os.path.exists(path) else None
            conversations += _load(path, stitch, version)
        elif isinstance(recording, Mapping) and "role" in recording:
            raise DatasetError(f"recording {number} is a message: give a list of conversations, each a list of them")
        else:
            entry = recording if isinstance(recording, Mapping) else {"messages": list(recording)}
            conversations.append(entries.conversation(entry, f"recording {number}"))
    return conversations


@lru_cache(maxsize=16)  # Each test of a project reads the same files.
def _load(path: Path, stitch: bool, version: object) -> list[Conversation]:
    return dataset.load(path, stitch=stitch).conversations


@contextmanager
def serve(data: Recordings = (), *, strict: bool = True, **options: object) -> Iterator[MockServer]:
    """Serve recordings on a free port of this machine while the context lasts; then cut what is being answered.

    `data` is a file or several, or a list of conversations, each a list of messages `{"role": …, "content": …}`.
    `options` are those of server.py that shape the answers, named as there: `fault="503=first:2", api_key=["a", "b"]`.
    A request may always name a fault in its header `X-Mockchat-Fault`. Call `MockServer.check` yourself. Raises
    `DatasetError` for bad recordings, and `ProgramError` for bad options.
    """
    server = MockServer(data, strict=strict, **options)
    with closing(Listener()) as listener, listener.serving(server):
        yield server
