"""A server for tests: on a free port, in a thread of its own.

    with serve([[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]]) as server:
        client = OpenAI(base_url=server.base_url, api_key="any")
        ...
        assert server.requests[0].body["temperature"] == 0

With pytest, the fixture `mockchat` of `mockchat.testing.pytest_plugin` is such a server.
"""

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

from mockchat.core import dataset, entries, recordings
from mockchat.core.entries import Conversation, DatasetError
from mockchat.server import app, options
from mockchat.server.app import ChatServer
from mockchat.server.record_file import RecordFile
from mockchat.server.simulation import BY_HEADER, Fault
from mockchat.testing import unused
from mockchat.testing.watched import Request, WatchedChat, WatchedUpstream

# A file of recordings; or one conversation, as a list of messages or as an entry of such a file has it.
Recording = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Conversation
Recordings = str | os.PathLike[str] | Sequence[Recording]

_FINISHING = 60.0  # seconds for answers that are still being recorded
_NOT_STRICT = "where that is meant: mockchat.strict = False, or @pytest.mark.mockchat(strict=False)"


class Recorder(NamedTuple):
    """Records: the base URL of the server to ask, and the file for its answers."""

    upstream: str
    file: RecordFile


class MockServer:
    """A running server, made by `serve`. Clients need its `base_url`, and a key, such as `api_key`.

    While `strict` is true, `check` fails for requests that missed and replies that were not asked for; with pytest, so
    does the end of each test.
    """

    def __init__(
        self,
        data: Recordings,
        recorder: Recorder | None = None,
        /,
        *,
        strict: bool = True,
        **given: object,
    ) -> None:
        self.strict = strict
        chosen = options.from_keywords(given, beside=["strict"])
        chosen.fault.append(Fault(BY_HEADER))
        self._stitch = not chosen.no_stitch
        self._index = recordings.index_of(read(data, stitch=self._stitch), chosen.ignore)
        self._chat = WatchedChat(self._index, **options.of_route(chosen))
        self.upstream: WatchedUpstream | None = None
        if recorder:
            self.upstream = self._chat.upstream = WatchedUpstream(recorder.upstream, self._index, recorder.file)
        self._loop: asyncio.AbstractEventLoop
        self._stop = asyncio.Event()
        self.base_url = ""
        self.api_key: str = [*chosen.api_key, (recorder and os.environ.get("OPENAI_API_KEY")) or "any"][0]

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in order."""
        return self._chat.requests

    @property
    def misses(self) -> list[Request]:
        """The requests whose history was not recorded."""
        return [request for request in self.requests if request.is_miss]

    def used(self, conversations: Sequence[Conversation]) -> set[int]:
        """The numbers of the conversations of which a reply was asked for."""
        return unused.used(conversations, self._index, self._chat.asked)

    def load(self, data: Recordings) -> None:
        """Add recordings, given as to `serve`. Raises `DatasetError`."""
        conversations = read(data, stitch=self._stitch)
        if not self._loop.is_running():
            raise RuntimeError("the server has stopped: there is nothing to load into")

        async def add() -> None:
            for conversation in conversations:
                self._index.add(conversation)

        asyncio.run_coroutine_threadsafe(add(), self._loop).result()

    def reply(
        self,
        text: str | None = None,
        *,
        tool_calls: Sequence[Mapping[str, Any]] | None = None,
        status: int | None = None,
        finish_reason: str | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> None:
        """Queue an answer to a request whose history is not recorded; replies are used up in order.

        `tool_calls` are as the API has them, their arguments as a string or as they are; they need no ids. With a
        `status` (400 to 599) the answer is an error, of which `text` is the message. Raises `ProgramError`.
        """
        ending = {"finish_reason": finish_reason, "usage": None if usage is None else dict(usage)}
        self._chat.replies.add(text, tool_calls, status, ending)

    def check(self) -> None:
        """Raise `AssertionError` where a request missed or a reply was not asked for, unless `strict` is false."""
        if not self.strict:
            return
        if missed := len(self.misses):
            subject = "1 request is" if missed == 1 else f"{missed} requests are"
            raise AssertionError(f"{subject} not recorded ({_NOT_STRICT})\n{self.report()}")
        if left := self._chat.replies.described():
            subject = "1 reply was" if len(left) == 1 else f"{len(left)} replies were"
            raise AssertionError(f"{subject} not asked for ({_NOT_STRICT}): {', '.join(left)}")

    def report(self) -> str:
        """A line for each request that was refused, with the reason."""
        refused = [(number, request) for number, request in enumerate(self.requests) if request.error]
        return "\n".join([f"requests[{number}]: {request.status}, {request.error}" for number, request in refused])

    def _run(self, started: "Future[None]") -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            server = ChatServer(self._chat)
            finishing = _FINISHING if self.upstream else 0
            async with app.listening(server, "127.0.0.1", 0, finishing) as self.base_url:
                started.set_result(None)
                await self._stop.wait()

        try:
            # With uvloop, a process that the test forks would crash at its end.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(main())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)


def read(data: Recordings, *, stitch: bool = True) -> list[Conversation]:
    """The conversations of recordings in any of the forms that `serve` takes; raises `DatasetError`."""
    if isinstance(data, Mapping):
        raise DatasetError("the recordings are a dictionary: give a list of conversations, as in [conversation]")
    given: Sequence[Recording] = [data] if isinstance(data, str | os.PathLike) else data
    conversations = []
    for number, recording in enumerate(given):
        if isinstance(recording, Conversation):
            conversations.append(recording)
        elif isinstance(recording, str | os.PathLike):
            conversations += dataset.load(recordings.named(recording), stitch=stitch).conversations
        elif isinstance(recording, Mapping) and "role" in recording:
            raise DatasetError(f"recording {number} is a message: give a list of conversations, each a list of them")
        else:
            entry = recording if isinstance(recording, Mapping) else {"messages": list(recording)}
            conversations.append(entries.conversation(entry, f"recording {number}"))
    return conversations


@contextmanager
def serve(data: Recordings = (), *, strict: bool = True, **options: object) -> Iterator[MockServer]:
    """Serve recordings on a free port of this machine while the context lasts.

    `data` is a file or several (in any form that the server reads), or recordings as they are: a list of conversations,
    each a list of messages `{"role": …, "content": …}`. `options` are those of server.py that shape the answers, named
    as there: `fault="503=first:2", ttft_ms=50, api_key=["a", "b"]`. In any case a request may name a fault in its
    header `X-Mockchat-Fault`. `strict` is for `MockServer.check`, which you call yourself here. Requests that are open
    at the end are cut off. Raises `DatasetError` for bad recordings, and `ProgramError` for bad options.
    """
    with running(MockServer(data, strict=strict, **options)) as server:
        yield server


@contextmanager
def running(server: MockServer) -> Iterator[MockServer]:
    """Run a server while the context lasts."""
    started: Future[None] = Future()
    thread = threading.Thread(target=server._run, args=(started,), name="mockchat", daemon=True)
    thread.start()
    started.result()
    try:
        yield server
    finally:
        server._loop.call_soon_threadsafe(server._stop.set)
        thread.join()
