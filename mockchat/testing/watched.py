"""What a test's server is asked and what it answers: taken down, with the replies that the test gives itself.

A request is taken down before its client hears of the answer, so what a client has heard of is there.
"""

import asyncio
import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ujson
from multidict import CIMultiDict, CIMultiDictProxy

from mockchat.core.index import ResponseIndex
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.http import ABORTED, Answer, AnswerWriter, HttpRequest
from mockchat.server.memory import Memory
from mockchat.server.request import ChatRequest, read_request
from mockchat.server.route import FAULT_TOLD, ChatCompletions, Read
from mockchat.server.upstream import Upstream
from mockchat.testing.replies import GivenError, GivenReplies


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


class WatchedChat(ChatCompletions):
    """Takes down each request and its answer, and has replies that were given for what is not recorded."""

    def __init__(self, index: ResponseIndex, **options: Any) -> None:
        super().__init__(index, **options, grows=True)
        self.requests: list[Request] = []
        self.replies = GivenReplies()
        self.asked: set[bytes] = set()  # The histories, recorded or not: what was not may be now.
        self._offered = False

    def _read_or_reply(self, body: bytes, index: ResponseIndex) -> ChatRequest:
        try:
            asked = read_request(body, index)
        except NotRecorded as missed:
            self.asked.add(missed.history)
            if not self.replies:
                raise
            self._offered = True
            return self.replies.offer(body, missed)
        self.asked.add(asked.history)
        return asked

    def answer(self, request: HttpRequest, body: bytes) -> "Answer | asyncio.Future[Answer]":
        self._offered = False
        answer = super().answer(request, body)
        if self._offered and not (isinstance(answer, Answer) and answer.fault):
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
        if isinstance(answer, Answer):
            self._take_down(parsed, headers, answer)
        else:
            self.requests.append(Request(parsed, headers, 0))
            answer.add_done_callback(functools.partial(self._correct, len(self.requests) - 1))
        return answer

    def _answer(
        self, request: HttpRequest, body: bytes, read: Read, arrived: float | None = None
    ) -> "Answer | asyncio.Future[Answer]":
        return super()._answer(request, body, self._read_or_reply, arrived)

    def _correct(self, number: int, answered: "asyncio.Future[Answer]") -> None:
        """Record the status and the error of an answer that comes later."""
        if not answered.cancelled():
            answer = answered.result()
            error = str(answer.error) if answer.error else None
            self.requests[number] = replace(self.requests[number], status=answer.status, error=error)

    def refuse(self, request: HttpRequest, error: ApiError) -> Answer:
        answer = super().refuse(request, error)
        self._take_down(None, request.headers, answer)
        return answer

    def _take_down(self, body: Any, headers: Mapping[str, str], answer: Answer) -> None:
        error, is_miss = None, isinstance(answer.error, NotRecorded)
        if answer.status == ABORTED:
            error = f"{FAULT_TOLD}: {answer.fault}"
        elif answer.error is not None:
            error = ujson.loads(answer.error.body())["error"]["message"]
            if is_miss and self.replies.count:
                error += f"; replies were given, {self.replies.count} in all, and are used up"
        self.requests.append(Request(body, headers, answer.status, error, is_miss))


class WatchedUpstream(Upstream):
    """Asks another server, but not for an error that a test gave as a reply."""

    def answer(
        self, writer: AnswerWriter, memory: Memory, request: HttpRequest, body: bytes, problem: ApiError
    ) -> "Answer | asyncio.Future[Answer]":
        if isinstance(problem, GivenError):
            return writer.error(request, problem)
        return super().answer(writer, memory, request, body, problem)
