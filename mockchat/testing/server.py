"""The server in a test: a real one, on a free port, in a thread of its own.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ujson
from multidict import CIMultiDict, CIMultiDictProxy

from mockchat.core import dataset, entries, recordings
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.core.program import new_loop
from mockchat.server import app, options
from mockchat.server.app import ChatServer
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.http import Answer, HttpRequest
from mockchat.server.request import ChatRequest, read_request
from mockchat.server.route import FAULT_TOLD, ChatCompletions
from mockchat.server.simulation import BY_HEADER, Fault
from mockchat.testing.replies import GivenReplies

# A file of recordings; or one conversation, as a list of messages or as an entry of such a file has it.
Recording = str | os.PathLike[str] | Sequence[Mapping[str, Any]] | Mapping[str, Any] | Conversation
Recordings = str | os.PathLike[str] | Sequence[Recording]

_OTHER_OPTIONS = ("no_stitch", "strict")
_NOT_STRICT = "where that is meant: mockchat.strict = False, or @pytest.mark.mockchat(strict=False)"


@dataclass(frozen=True, slots=True)
class Request:
    """A request, and what became of it.

    `body` is its JSON, None where it was none; `status` is the answer's, 0 where a fault that was asked for left it
    without one, or without its end. `error` says why it was refused, if it was: of a miss that is the diagnosis, where
    the history left the recordings and how.
    """

    body: Any
    headers: Mapping[str, str]
    status: int = 200
    error: str | None = None
    is_miss: bool = False


class _WatchedChat(ChatCompletions):
    """Takes down each request and its answer, before the client hears of it."""

    def __init__(self, index: ResponseIndex, **options: Any) -> None:
        super().__init__(index, **options)
        self.requests: list[Request] = []
        self.replies = GivenReplies()
        self._read = self._read_or_reply
        self._offered = False

    def _read_or_reply(self, body: bytes, index: ResponseIndex) -> ChatRequest:
        try:
            return read_request(body, index)
        except NotRecorded as missed:
            if not self.replies:
                raise
            self._offered = True
            return self.replies.offer(body, missed)

    def answer(self, request: HttpRequest, body: bytes) -> Answer:
        self._offered = False
        answer = super().answer(request, body)
        if self._offered and answer.fault is None:
            self.replies.use_up()
        try:
            parsed = ujson.loads(body)
        except ValueError:
            parsed = None
        headers = request.headers
        if "Content-Length" in headers:
            known = CIMultiDict(headers)
            known["Content-Length"] = str(len(body))  # On a kept connection it may be that of an earlier request.
            headers = CIMultiDictProxy(known)
        self._take_down(parsed, headers, answer)
        return answer

    def refuse(self, request: HttpRequest, error: ApiError) -> Answer:
        answer = super().refuse(request, error)
        self._take_down(None, request.headers, answer)
        return answer

    def _take_down(self, body: Any, headers: Mapping[str, str], answer: Answer) -> None:
        error, is_miss = None, isinstance(answer.error, NotRecorded)
        if answer.status == 0:
            error = f"{FAULT_TOLD}: {answer.fault}"
        elif answer.error is not None:
            error = ujson.loads(answer.error.body())["error"]["message"]
            if is_miss and self.replies.count:
                error += f"; replies were given, {self.replies.count} in all, and are used up"
        self.requests.append(Request(body, headers, answer.status, error, is_miss))


class MockServer:
    """A server that is running; made by `serve`. Clients need its `base_url`, and a key, such as `api_key`.

    While `strict` is true, `check` finds fault with requests that missed and replies that were not asked for; with
    pytest, so does the end of each test.
    """

    def __init__(self, data: Recordings, /, *, no_stitch: bool = False, strict: bool = True, **given: object) -> None:
        self.strict = strict
        chosen = options.from_keywords(given, beside=_OTHER_OPTIONS)
        chosen.fault = [*(chosen.fault or ()), Fault(BY_HEADER)]
        self._stitch = not no_stitch
        self._index = recordings.index_of(read(data, stitch=self._stitch), chosen.ignore)
        self._chat = _WatchedChat(self._index, **options.of_route(chosen))
        self._request_timeout = chosen.request_timeout
        self._loop: asyncio.AbstractEventLoop
        self._stop = asyncio.Event()
        self.base_url = ""
        self.api_key: str = [*chosen.api_key, "any"][0]

    @property
    def requests(self) -> list[Request]:
        """What was asked so far, in order."""
        return self._chat.requests

    @property
    def misses(self) -> list[Request]:
        """Those of the requests whose history was not recorded."""
        return [request for request in self.requests if request.is_miss]

    def load(self, data: Recordings) -> None:
        """Answer from these recordings too from now on; they are given as to `serve`. Raises `DatasetError`."""
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
        """Answer so the next request whose history is not recorded; further replies answer further ones, in order.

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
            told = "1 request is" if missed == 1 else f"{missed} requests are"
            raise AssertionError(f"{told} not recorded ({_NOT_STRICT})\n{self.report()}")
        if left := self._chat.replies.described():
            told = "1 reply was" if len(left) == 1 else f"{len(left)} replies were"
            raise AssertionError(f"{told} not asked for ({_NOT_STRICT}): {', '.join(left)}")

    def report(self) -> str:
        """Each request that was refused and why, a line each; empty where there was none."""
        refused = [(number, request) for number, request in enumerate(self.requests) if request.error]
        return "\n".join([f"requests[{number}]: {request.status}, {request.error}" for number, request in refused])

    def _run(self, started: "Future[None]") -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            server = ChatServer(self._chat, self._request_timeout)
            async with app.listening(server, "127.0.0.1", 0, shutdown_timeout=0) as self.base_url:
                started.set_result(None)
                await self._stop.wait()

        try:
            with asyncio.Runner(loop_factory=new_loop) as runner:
                runner.run(main())
        except Exception as error:
            if started.done():
                raise
            started.set_exception(error)


def read(data: Recordings, *, stitch: bool = True) -> list[Conversation]:
    """The conversations of recordings in any of the forms that `serve` takes; raises `DatasetError`."""
    given: Sequence[Recording] = [data] if isinstance(data, str | os.PathLike) else data
    conversations = []
    for number, recording in enumerate(given):
        if isinstance(recording, Conversation):
            conversations.append(recording)
        elif isinstance(recording, str | os.PathLike):
            conversations += dataset.load(Path(recording), stitch=stitch).conversations
        elif isinstance(recording, Mapping) and "role" in recording:
            raise DatasetError(f"recording {number} is a message: give a list of conversations, each a list of them")
        else:
            entry = recording if isinstance(recording, Mapping) else {"messages": list(recording)}
            conversations.append(entries.conversation(entry, f"recording {number}"))
    return conversations


@contextmanager
def serve(
    data: Recordings = (), *, no_stitch: bool = False, strict: bool = True, **options: object
) -> Iterator[MockServer]:
    """Serve recordings on a free port of this machine as long as the context lasts.

    `data` is a file or several (in any form that the server reads), or recordings as they are: a list of conversations,
    each a list of messages `{"role": …, "content": …}`. `options` are those of server.py that shape the answers, named
    as there: `fault="503=first:2", ttft_ms=50, api_key=["a", "b"]`. In any case a request may name a fault in its
    header `X-Mockchat-Fault`. `strict` is what `MockServer.check` goes by, which you call yourself here. What is under
    way at the end is cut. Raises `DatasetError` for recordings that can't be
    read, and `ProgramError` for options.
    """
    with running(MockServer(data, no_stitch=no_stitch, strict=strict, **options)) as server:
        yield server


@contextmanager
def running(server: MockServer) -> Iterator[MockServer]:
    """Run a server as long as the context lasts."""
    started: Future[None] = Future()
    thread = threading.Thread(target=server._run, args=(started,), name="mockchat", daemon=True)
    thread.start()
    started.result()
    try:
        yield server
    finally:
        server._loop.call_soon_threadsafe(server._stop.set)
        thread.join()
