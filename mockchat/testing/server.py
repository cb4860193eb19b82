"""A server for tests: on a free port, in a thread of its own.

    with serve([[{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]]) as server:
        client = OpenAI(base_url=server.base_url, api_key="any")
        ...
        assert server.requests[0].body["temperature"] == 0

With pytest, the fixture `mockchat` of `mockchat.testing.pytest_plugin` is such a server: there, all tests of a process
have one thread and one port.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple

from mockchat.core import dataset, entries, recordings, wire
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.server import app, options
from mockchat.server.app import ChatServer
from mockchat.server.errors import ApiError
from mockchat.server.http import HttpRequest
from mockchat.server.record_file import RecordFile
from mockchat.server.route import ChatCompletions
from mockchat.server.simulation import BY_HEADER, Fault
from mockchat.testing.replies import ReplyFunction, Request
from mockchat.testing.watched import WatchedChat, WatchedUpstream

# A file of recordings; or one conversation, as a list of messages or as an entry of such a file has it.
Recording = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Conversation
Recordings = str | os.PathLike[str] | Sequence[Recording]

_FINISHING = 60.0  # seconds for answers that are still being recorded
_POLL = 0.01  # seconds
_TURNS = 5  # of the loop, in which what has been sent is read
_NOT_STRICT = "where that is meant: mockchat.strict = False, or @pytest.mark.mockchat(strict=False)"


class Recorder(NamedTuple):
    """Records: the base URL of the server to ask, and the file for its answers."""

    upstream: str
    file: RecordFile


class MockServer:
    """A running server, made by `serve`. Clients need its `base_url`, and a key, such as `api_key`.

    While `strict` is true, `check` fails for requests that missed and replies that were not asked for; with pytest, so
    does the end of each test. Where it `expects_requests`, it fails without any too.
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
        self.expects_requests = False
        self.hint = "(Nothing is recorded: load recordings, or say what is answered with reply(...))"
        chosen = options.from_keywords(given, beside=["strict"])
        chosen.fault.append(Fault(BY_HEADER))
        self._stitch = not chosen.no_stitch
        self._index = ResponseIndex(read(data, stitch=self._stitch), chosen.ignore)
        self.route = WatchedChat(self._index, **options.of_route(chosen))
        self.upstream: WatchedUpstream | None = None
        if recorder:
            self.upstream = self.route.upstream = WatchedUpstream(recorder.upstream, self._index, recorder.file)
        self.listener: Listener | None = None
        self.base_url = ""
        self.api_key: str = [*chosen.api_key, (recorder and os.environ.get("OPENAI_API_KEY")) or "any"][0]

    @property
    def requests(self) -> list[Request]:
        """The requests so far, in order."""
        return self.route.requests

    @property
    def misses(self) -> list[Request]:
        """The requests whose history was not recorded."""
        return [request for request in self.requests if request.is_miss]

    def used(self, conversations: Sequence[Conversation]) -> set[int]:
        """The numbers of the conversations that may have been an answer: one of their histories was asked."""
        compared = self._index.compared
        return {
            place
            for place, each in enumerate(conversations)
            if any(compared(wire.join(each.messages[:number])) in self.route.asked for number in each.replies)
        }

    def load(self, data: Recordings) -> None:
        """Add recordings, given as to `serve`; they come before the others. Raises `DatasetError`."""
        conversations = read(data, stitch=self._stitch)
        if self.listener is None:
            raise RuntimeError("the server has stopped: there is nothing to load into")
        self.listener.run(lambda: self.route.load(conversations))

    def reply(
        self,
        text: str | ReplyFunction | None = None,
        *,
        tool_calls: Sequence[Mapping[str, Any]] | Mapping[str, Any] | None = None,
        refusal: str | None = None,
        reasoning: str | None = None,
        status: int | None = None,
        finish_reason: str | None = None,
        usage: Mapping[str, Any] | None = None,
    ) -> None:
        """Queue an answer to the next request, recorded or not; replies are used up in order.

        `tool_calls` are as the API has them, or `{"name": …, "arguments": …}` alone; their arguments are a string or a
        dictionary, and they need no ids. `reasoning` is answered as `reasoning_content`. With a `status` (400 to 599)
        the answer is an error, of which `text` is the message.

        A function in place of the text is called with each request that no earlier reply answers, in the server's
        thread. It returns a text, a dictionary of these arguments, or None where it has no answer. Raises
        `ProgramError`.
        """
        said = {"text": text, "tool_calls": tool_calls, "refusal": refusal, "reasoning": reasoning}
        ending = {"status": status, "finish_reason": finish_reason, "usage": usage}
        self.route.replies.add(said | ending)

    def check(self) -> None:
        """Raise `AssertionError` where a request missed or a reply was not asked for, unless `strict` is false."""
        if not self.strict:
            return
        if self.expects_requests and not self.requests:
            told = "nothing asked this server: a client that was made before the test goes elsewhere"
            raise AssertionError(f"{told} ({_NOT_STRICT})")
        if missed := len(self.misses):
            subject = "1 request is" if missed == 1 else f"{missed} requests are"
            raise AssertionError(f"{subject} not recorded ({_NOT_STRICT})\n{self.report()}")
        if left := self.route.replies.unused():
            subject = "1 reply was" if len(left) == 1 else f"{len(left)} replies were"
            raise AssertionError(f"{subject} not asked for ({_NOT_STRICT}): {', '.join(left)}")

    def report(self) -> str:
        """A line for each request that was refused, with the reason."""
        refused = [(number, request) for number, request in enumerate(self.requests) if request.error]
        lines = [f"requests[{number}]: {request.status}, {request.error}" for number, request in refused]
        return "\n".join([*lines, self.hint] if self.misses and not self._index.recordings else lines)


class _NoTest(ChatCompletions):
    """Refuses what is asked between two tests."""

    def check(self, request: HttpRequest, size: int) -> None:
        raise ApiError(404, "No test with the fixture mockchat is running: add mockchat, or mockchat_env, to this test")


class Listener:
    """A thread that listens on a port while the context lasts; one `MockServer` after the other answers there."""

    base_url: str

    def __init__(self) -> None:
        self._nobody = _NoTest(ResponseIndex(()))
        self._nobody.writer.closing = True
        self._server = ChatServer(self._nobody)
        self._loop: asyncio.AbstractEventLoop
        self._stop = asyncio.Event()
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="mockchat", daemon=True)

    def __enter__(self) -> "Listener":
        self._thread.start()
        self._started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def run(self, function: Callable[[], object]) -> None:
        """Call a function in the thread, which alone changes an index."""

        async def call() -> None:
            function()

        if threading.current_thread() is self._thread:
            function()
        else:
            asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    @contextmanager
    def serving(self, server: MockServer) -> Iterator[MockServer]:
        """Have a server answer while the context lasts."""
        server.base_url, server.listener = self.base_url, self
        self._server.route = server.route  # A connection keeps the one that it began with.
        try:
            yield server
        finally:
            server.listener = None
            if self._thread.is_alive():  # It is not in a process that the test forked.
                asyncio.run_coroutine_threadsafe(self._end(server.route), self._loop).result()

    async def _end(self, route: WatchedChat) -> None:
        """Finish what is being recorded. What is being answered goes on: a client that is cut off would ask again."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        end = time.monotonic() + _FINISHING
        while route.busy and time.monotonic() < end:
            await asyncio.sleep(_POLL)
        self._server.route = self._nobody
        await route.close()
        route.upstream = None

    def _run(self) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            async with app.listening(self._server, "127.0.0.1", 0, 0) as self.base_url:
                self._started.set_result(None)
                await self._stop.wait()

        try:
            # With uvloop, a process that the test forks would crash at its end.
            with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
                runner.run(main())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)


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
    server = MockServer(data, strict=strict, **options)
    with Listener() as listener, listener.serving(server):
        yield server
