"""The route of a test's server: it keeps each request, and answers what the test gave before what is recorded.

- A reply is made as a recorded one is, so the server answers it in the same way: whole, streamed, or with delays.
- Each reply is used once, in order. A fault in its place does not use it up.
- A function stays. It is called with each request that no reply before it answers.
"""

import asyncio
import inspect
import itertools
import reprlib
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from multidict import CIMultiDict

from mockchat.core import entries, wire
from mockchat.core.diagnosis import Diagnosis
from mockchat.core.entries import Conversation, EntryError
from mockchat.core.index import Reply, ResponseIndex
from mockchat.core.matching import matching
from mockchat.core.program import ProgramError
from mockchat.server.errors import PATH, ApiError, NotRecorded
from mockchat.server.http import ABORTED, Answer, AnswerWriter, HttpRequest
from mockchat.server.memory import Memory
from mockchat.server.record_file import RecordFile
from mockchat.server.request import ChatRequest, read_request, read_settings
from mockchat.server.route import FAULT_TOLD, ChatCompletions
from mockchat.server.upstream import Upstream, _Exchange

# Arguments of `MockServer.reply`, and the keys that those which are texts have in a message.
_TEXTS = {"text": "content", "refusal": "refusal", "reasoning": "reasoning_content"}
_ARGUMENTS = (*_TEXTS, "tool_calls", "status", "finish_reason", "usage")


@dataclass(slots=True)
class Request:
    """A request and its outcome.

    `body` is its JSON, or None. `status` is 0 where a simulated fault left the answer out or cut it off. `error` says
    why it was refused. `is_miss`: nothing is recorded for it, its path is unknown, or a function failed.
    """

    path: str
    headers: Mapping[str, str]
    body: Any = None
    status: int = 0
    error: str | None = None
    is_miss: bool = False


# Returns what `MockServer.reply` takes: a text or a dictionary of its arguments; None for "not mine".
ReplyFunction = Callable[[Request], str | dict[str, Any] | None]


class GivenError(ApiError):
    """An error that a test gave as a reply."""


class FunctionFailed(GivenError):
    """A function raised an exception, or returned something else than a reply."""


class Given:
    """A reply, or a function that makes some. `name` is unique in a test, no argument is None. Raises as `reply`."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        text = arguments.get("text")
        self.function: ReplyFunction | None = text if callable(text) else None
        self._names = (f"{name}_{number}" for number in itertools.count())
        if self.function is None:
            self._reply = _made(next(self._names), arguments)
            self.described = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in arguments.items())
        elif len(arguments) > 1:
            raise ProgramError("reply: a function returns all that there is to answer: give nothing beside it")
        elif inspect.iscoroutinefunction(text):
            raise ProgramError("reply: the function must not be async: it is called in the server's thread")
        else:
            self.described = f"the function {getattr(text, '__name__', text)}"

    def answer(self, request: Request) -> Reply | None:
        """The reply to a request, or None. Raises `GivenError` if that is the reply, and `FunctionFailed`."""
        reply = self._reply if self.function is None else self._call(self.function, request)
        if isinstance(reply, GivenError):
            raise reply
        return reply

    def _call(self, function: ReplyFunction, request: Request) -> Reply | GivenError | None:
        place = ""
        try:
            returned = function(request)
            if returned is None:
                return None
            return _made(next(self._names), returned if isinstance(returned, dict) else {"text": returned})
        except BaseException as error:  # As `pytest.fail` and `sys.exit` raise it: it would end the thread.
            problem = str(error) if isinstance(error, ProgramError) else f"{type(error).__name__}: {error}"
            for frame, line in traceback.walk_tb(error.__traceback__):
                is_ours = frame.f_globals.get("__name__", "").startswith("mockchat.")
                if not (is_ours or "__tracebackhide__" in frame.f_locals):  # As in `pytest.fail`.
                    place = f" at {frame.f_code.co_filename}:{line}"
            raise FunctionFailed(400, f"{self.described} failed{place}: {problem}") from None


def _made(name: str, given: dict[str, Any]) -> Reply | GivenError:
    """Make a reply, whose id is `name`."""
    if unknown := [each for each in given if each not in _ARGUMENTS]:
        raise ProgramError(f"reply: there is no {unknown[0]!r}: give one of {', '.join(_ARGUMENTS)}")
    said = {key: given[name] for name, key in _TEXTS.items() if given.get(name) is not None}
    status, calls = given.get("status"), given.get("tool_calls")
    if status is not None:
        if given.keys() - {"status", "text"}:
            raise ProgramError("reply: a status is an error's, which has a text at most")
        if type(status) is not int or not 400 <= status < 600:
            raise ProgramError(f"reply: status must be a whole number from 400 to 599, not {status!r}")
        return GivenError(status, said.get("content", f"{FAULT_TOLD}: status {status}"))
    if calls:
        calls = [calls] if isinstance(calls, dict) else calls
        said["tool_calls"] = [_tool_call(call, f"call_{name}_{place}") for place, call in enumerate(calls)]
    if not said:
        raise ProgramError("reply: give a text, tool_calls, a refusal, reasoning or a status")
    try:
        read, _ = entries.read(given | {"messages": [{"role": "assistant", "content": None} | said]}, name)
    except EntryError as error:
        hint = "" if isinstance(given.get("text", ""), str) else "; for JSON give json.dumps(...)"
        raise ProgramError(f"reply: {str(error).removeprefix('message 0: ')}{hint}") from None
    return Reply(wire.first(read.recording), wire.text(name), read.details.get(0))


def _tool_call(call: Any, call_id: str) -> Any:
    """A tool call as the API has it; it may be given as its name and arguments alone."""
    if isinstance(call, dict) and "name" in call:
        if unknown := call.keys() - {"name", "arguments", "id", "type"}:
            raise ProgramError(f"reply: there is no {unknown.pop()!r} in a tool call: give name, arguments, id")
        function = {"name": call["name"], "arguments": call.get("arguments", {})}
        return {"id": call.get("id", call_id), "function": function}
    return {"id": call_id} | call if isinstance(call, dict) else call


class WatchedChat(ChatCompletions):
    """Answers from the replies that were given, then from what was loaded, then from the index.

    Several replies recorded after a history are answered one after the other, in the order of the files. Then the last
    one repeats; with an upstream, that is asked instead. A request is in the list before its client has the answer.
    """

    def __init__(self, index: ResponseIndex, **options: Any) -> None:
        super().__init__(index, **options)
        self.upstream: WatchedUpstream | None = None
        self.is_open = False  # Only while a test runs.
        self.requests: list[Request] = []
        self.given: list[Given] = []
        self._loaded = ResponseIndex((), index.ignore)
        # Answers so far, by what they came from: a given reply, or a history and whether it was loaded (True) or
        # recorded (False). None: neither, as for a bad request.
        self.times: Counter[Given | tuple[bytes, bool] | None] = Counter()
        self._source: Given | tuple[bytes, bool] | None = None  # Of the reply that was chosen last.

    def load(self, conversations: Sequence[Conversation]) -> None:
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
        asked, self._source = Request(request.path, headers, parsed), None
        try:
            self.check(request, len(body))
            answer = self._answer(request, body, partial(self._choose, asked, body))
        except ApiError as error:
            answer = self.writer.error(request, error)
        if not (isinstance(answer, Answer) and answer.fault):
            self.times[self._source] += 1
        if isinstance(answer, Answer):
            self._finish(asked, answer)
        else:
            answer.add_done_callback(lambda done: done.cancelled() or self._finish(asked, done.result()))
        self.requests.append(asked)
        return answer

    def check(self, request: HttpRequest, size: int) -> None:
        if not self.is_open:
            problem = "No test with the fixture mockchat is running: add mockchat, or mockchat_env, to this test"
            raise ApiError(HTTPStatus.NOT_FOUND, problem)
        super().check(request, size)

    def refuse(self, request: HttpRequest, error: ApiError) -> Answer:
        answer = super().refuse(request, error)
        self.requests.append(self._finish(Request(request.path, request.headers), answer))
        return answer

    def _choose(self, asked: Request, body: bytes) -> ChatRequest:
        """Read a request and choose its reply; raises as `read_request` does, and `GivenError`."""
        missed = None
        try:
            read = read_request(body, self._index)
        except NotRecorded as error:
            missed, size = error, wire.array_size(error.history)
            read = ChatRequest((), error.history, size, read_settings(asked.body))
        for given in self.given:
            self._source = given
            if (given.function or not self.times[given]) and (reply := given.answer(asked)):
                return read._replace(replies=[reply])
        loaded = matching(self._loaded.replies(read.history), asked.body, self._index.match)
        replies = loaded or matching(read.replies, asked.body, self._index.match)
        self._source = read.history, bool(loaded)
        times = self.times[self._source]
        if missed:
            raise missed
        if self.upstream and self.upstream.is_asked() and not loaded and times >= len(replies):
            raise NotRecorded(lambda: Diagnosis("messages", "its recorded replies were all given"), read.history)
        return read._replace(replies=[replies[min(times, len(replies) - 1)]])

    def _finish(self, asked: Request, answer: Answer) -> Request:
        status, error = answer.status, answer.error
        is_unknown = status == HTTPStatus.NOT_FOUND and asked.path != PATH
        asked.is_miss = is_unknown or isinstance(error, NotRecorded | FunctionFailed)
        asked.status, asked.error = status, str(error) if error else None
        if status == ABORTED:
            asked.error = f"{FAULT_TOLD}: {answer.fault}"
        elif isinstance(error, NotRecorded):
            left = f"; replies were given, {len(self.given)} in all: none is left for it" if self.given else ""
            asked.error = f"{error}: {error.diagnosis().text}{left}"
        return asked


class WatchedUpstream(Upstream):
    """An upstream that is asked only in strict tests, and not for an error that the test gave. Records every answer."""

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
