"""The route of a test's server: it keeps each request, and answers what the test gave before what is recorded.

A request is in the list before its client receives the answer.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from multidict import CIMultiDict

from mockchat.core import wire
from mockchat.core.diagnosis import Diagnosis
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex
from mockchat.core.matching import matching
from mockchat.core.text import around
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.http import ABORTED, Answer, AnswerWriter, HttpRequest
from mockchat.server.memory import Memory
from mockchat.server.paths import PATH
from mockchat.server.record_file import RecordFile
from mockchat.server.request import ChatRequest, read_request, read_settings
from mockchat.server.route import FAULT_TOLD, ChatCompletions
from mockchat.server.upstream import Upstream, _Exchange
from mockchat.testing.replies import FunctionFailed, Given, GivenError, Request


class WatchedChat(ChatCompletions):
    """Answers from the replies that were given, then from what was loaded, then from the index.

    Of several replies recorded after a history, the first time gets the first one in the order of the files, the next
    time the next one, and so on; the last one stays. With an upstream, it is asked in place of staying.
    """

    def __init__(self, index: ResponseIndex, **options: Any) -> None:
        super().__init__(index, **options, grows=True)
        self.upstream: WatchedUpstream | None = None
        self.is_open = False  # Only while a test runs.
        self.requests: list[Request] = []
        self.given: list[Given] = []
        self._loaded = ResponseIndex((), index.ignore)
        # How often there was an answer from a given reply, or to a history from what is loaded (True) or recorded.
        self.times: Counter[Given | tuple[bytes, bool]] = Counter()
        self._source: Given | tuple[bytes, bool] | None = None  # Of the reply that was chosen last.

    def load(self, conversations: Sequence[Conversation]) -> None:
        """Add recordings, which come before the others."""
        for conversation in conversations:
            self._index.add(conversation)
            self._loaded.add(conversation)

    def answer(self, request: HttpRequest, body: bytes) -> "Answer | asyncio.Future[Answer]":
        try:
            parsed = wire.loads(body)
        except ValueError:
            parsed = None
        headers = CIMultiDict(request.headers)
        if "Content-Length" in headers:  # On a kept connection it may be that of an earlier request.
            headers["Content-Length"] = str(len(body))
        asked, self._source = Request(parsed, headers), None
        try:
            self.check(request, len(body))
        except ApiError as error:
            return self._keep(asked, request, self.writer.error(request, error))
        answer = self._answer(request, body, partial(self._choose, asked))
        if self._source and not (isinstance(answer, Answer) and answer.fault):
            self.times[self._source] += 1
        if isinstance(answer, Answer):
            return self._keep(asked, request, answer)
        answer.add_done_callback(partial(self._complete, request, len(self.requests)))
        self.requests.append(asked)
        return answer

    def check(self, request: HttpRequest, size: int) -> None:
        if not self.is_open:
            problem = "No test with the fixture mockchat is running: add mockchat, or mockchat_env, to this test"
            raise ApiError(HTTPStatus.NOT_FOUND, problem)
        super().check(request, size)

    def refuse(self, request: HttpRequest, error: ApiError) -> Answer:
        return self._keep(Request(None, request.headers), request, super().refuse(request, error))

    def _choose(self, asked: Request, body: bytes, index: ResponseIndex) -> ChatRequest:
        """Read a request and choose its reply; raises as `read_request` does, and `GivenError`."""
        missed = None
        try:
            read = read_request(body, index)
        except NotRecorded as error:
            missed, size = error, wire.array_size(error.history)
            read = ChatRequest((), error.history, size, read_settings(asked.body))
        for given in self.given:
            self._source = given
            if (given.function or not self.times[given]) and (reply := given.answer(asked)):
                return read._replace(replies=[reply])
        loaded = matching(self._loaded.replies(read.history), asked.body, index.match)
        replies = loaded or matching(read.replies, asked.body, index.match)
        self._source = read.history, bool(loaded)
        times = self.times[self._source]
        if missed:
            raise missed
        if self.upstream and self.upstream.is_asked() and not loaded and times >= len(replies):
            raise NotRecorded(lambda: Diagnosis("messages", "its recorded replies were all given"), read.history)
        return read._replace(replies=[replies[min(times, len(replies) - 1)]])

    def _keep(self, asked: Request, request: HttpRequest, answer: Answer) -> Answer:
        self.requests.append(self._outcome(asked, request, answer))
        return answer

    def _complete(self, request: HttpRequest, number: int, answered: "asyncio.Future[Answer]") -> None:
        """Set the outcome of a request that is answered later."""
        if not answered.cancelled():
            self.requests[number] = self._outcome(self.requests[number], request, answered.result())

    def _outcome(self, asked: Request, request: HttpRequest, answer: Answer) -> Request:
        missed = answer.error if isinstance(answer.error, NotRecorded) else None
        error = str(answer.error) if answer.error else None
        if answer.status == ABORTED:
            error = f"{FAULT_TOLD}: {answer.fault}"
        elif missed:
            error = f"{missed}: {missed.diagnosis.text}"
            if not self._index.recordings and missed.history:
                last = wire.split(missed.history)[-1]
                error += f"; asked was {around(wire.content_of(last), 0)} ({wire.role_of(last)})"
            if self.given:
                error += f"; replies were given, {len(self.given)} in all: none is left for it"
        is_unknown = answer.status == HTTPStatus.NOT_FOUND and request.path != PATH
        is_miss = is_unknown or isinstance(answer.error, NotRecorded | FunctionFailed)
        return replace(asked, status=answer.status, error=error, is_miss=is_miss)


class WatchedUpstream(Upstream):
    """Is asked if the test is strict, but not for an error that it gave. Records each answer, to equal requests too."""

    def __init__(self, base_url: str, file: RecordFile, index: ResponseIndex, is_asked: Callable[[], bool]) -> None:
        super().__init__(base_url, index, file)
        self.is_asked = is_asked
        self.failed: dict[bytes, bool] = {}  # By body: whether the last exchange failed.

    def answer(
        self, writer: AnswerWriter, memory: Memory, request: HttpRequest, body: bytes, problem: ApiError
    ) -> "Answer | asyncio.Future[Answer]":
        if isinstance(problem, GivenError) or not self.is_asked():
            return writer.error(request, problem)
        return super().answer(writer, memory, request, body, problem)

    async def _ask(self, exchange: _Exchange, is_readable: bool) -> Conversation | None:
        try:
            return await super()._ask(exchange, is_readable)
        finally:
            self.failed[exchange.body] = exchange.status != 200 or exchange.error is not None

    def _is_new(self, history: bytes, asked: dict[str, Any]) -> bool:
        return True
