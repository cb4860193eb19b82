"""The route of a test's server: it keeps each request, and answers what the test gave before what is recorded.

A request is in the list before its client receives the answer.
"""

import asyncio
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ujson
from multidict import CIMultiDict, CIMultiDictProxy

from mockchat.core import wire
from mockchat.core.diagnosis import Diagnosis
from mockchat.core.entries import Conversation
from mockchat.core.index import Replies, Reply, ResponseIndex
from mockchat.core.matching import matching
from mockchat.core.text import around
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.http import ABORTED, Answer, AnswerWriter, HttpRequest
from mockchat.server.memory import Memory
from mockchat.server.paths import PATH
from mockchat.server.request import ChatRequest, read_request, read_settings
from mockchat.server.route import FAULT_TOLD, ChatCompletions, Read
from mockchat.server.upstream import Upstream
from mockchat.testing.replies import FunctionFailed, GivenError, GivenReplies, Request


class WatchedChat(ChatCompletions):
    """Answers from the replies that were given, then from what was loaded, then from the index.

    Of several replies recorded after a history, the first time gets the first one in the order of the files, the next
    time the next one, and so on; the last one stays. With an upstream, it is asked in place of staying.
    """

    def __init__(self, index: ResponseIndex, **options: Any) -> None:
        super().__init__(index, **options, grows=True)
        self.requests: list[Request] = []
        self.replies = GivenReplies()
        self._loaded = ResponseIndex((), index.ignore)
        self._times: Counter[tuple[bytes, bool]] = Counter()  # How often a history was answered; whether it is loaded.
        self._request = Request(None, {})
        self._use: Callable[[], object] | None = None  # Uses up the reply that was read last.

    def load(self, conversations: Sequence[Conversation]) -> None:
        """Add recordings, which come before the others."""
        for conversation in conversations:
            self._index.add(conversation)
            self._loaded.add(conversation)

    def _find(self, body: bytes, index: ResponseIndex) -> ChatRequest:
        """Read a request and choose its reply; raises as `read_request` does, and `GivenError`."""
        missed = None
        try:
            asked = read_request(body, index)
        except NotRecorded as error:
            missed, size = error, wire.array_size(error.history)
            asked = ChatRequest((), error.history, size, read_settings(wire.loads(body)))
        if given := self.replies.find(self._request):
            self._use = functools.partial(self.replies.use_up, given)
            if not isinstance(given.reply, Reply):
                assert given.reply
                raise given.reply
            return asked._replace(replies=[given.reply])
        history = asked.history
        loaded = self._loaded.replies(history)
        if index.match:
            loaded = matching(loaded, self._request.body, index.match)
        key = history, bool(loaded)
        self._use = functools.partial(self._times.update, [key])
        replies = loaded or asked.replies
        if missed or (self.upstream and not loaded and self._times[key] >= len(replies)):
            raise missed or NotRecorded(lambda: _USED_UP, history)
        ordered = replies.in_file_order() if isinstance(replies, Replies) else replies
        return asked._replace(replies=[ordered[min(self._times[key], len(ordered) - 1)]])

    def answer(self, request: HttpRequest, body: bytes) -> "Answer | asyncio.Future[Answer]":
        try:
            parsed = ujson.loads(body)
        except ValueError:
            parsed = None
        headers = request.headers
        if "Content-Length" in headers:
            known = CIMultiDict(headers)
            known["Content-Length"] = str(len(body))  # On a kept connection it may be that of an earlier request.
            headers = CIMultiDictProxy(known)
        self._request, self._use = Request(parsed, headers), None
        answer = super().answer(request, body)
        if self._use and not (isinstance(answer, Answer) and answer.fault):
            self._use()
        if isinstance(answer, Answer):
            self._keep(parsed, headers, answer, request.path)
        else:
            self.requests.append(Request(parsed, headers, 0))
            answer.add_done_callback(functools.partial(self._correct, len(self.requests) - 1))
        return answer

    def _answer(
        self, request: HttpRequest, body: bytes, read: Read, arrived: float | None = None
    ) -> "Answer | asyncio.Future[Answer]":
        return super()._answer(request, body, self._find, arrived)

    def _correct(self, number: int, answered: "asyncio.Future[Answer]") -> None:
        """Set the status and the error of an answer that comes later."""
        if not answered.cancelled():
            answer = answered.result()
            error = str(answer.error) if answer.error else None
            self.requests[number] = replace(self.requests[number], status=answer.status, error=error)

    def refuse(self, request: HttpRequest, error: ApiError) -> Answer:
        answer = super().refuse(request, error)
        self._keep(None, request.headers, answer, request.path)
        return answer

    def _keep(self, body: Any, headers: Mapping[str, str], answer: Answer, path: str) -> None:
        """Add a request to the list."""
        error, is_unknown = None, answer.status == 404 and path != PATH
        if answer.status == ABORTED:
            error = f"{FAULT_TOLD}: {answer.fault}"
        elif answer.error is not None:
            error = ujson.loads(answer.error.body())["error"]["message"]
            if isinstance(answer.error, NotRecorded):
                error += self._more(answer.error)
        is_miss = is_unknown or isinstance(answer.error, NotRecorded | FunctionFailed)
        self.requests.append(Request(body, headers, answer.status, error, is_miss))

    def _more(self, missed: NotRecorded) -> str:
        """What else there is to say of a miss."""
        more = ""
        if not self._index.recordings and missed.history:
            last = wire.split(missed.history)[-1]
            more += f"; asked was {around(wire.content_of(last), 0)} ({wire.role_of(last)})"
        if self.replies.count:
            more += f"; replies were given, {self.replies.count} in all: none is left for it"
        return more


class WatchedUpstream(Upstream):
    """Is not asked for an error that a test gave; records each answer, for an equal question is asked on purpose."""

    def answer(
        self, writer: AnswerWriter, memory: Memory, request: HttpRequest, body: bytes, problem: ApiError
    ) -> "Answer | asyncio.Future[Answer]":
        if isinstance(problem, GivenError):
            return writer.error(request, problem)
        return super().answer(writer, memory, request, body, problem)

    def _is_new(self, history: bytes, asked: dict[str, Any]) -> bool:
        return True


_USED_UP = Diagnosis("messages", "each of its recorded replies was given already")
