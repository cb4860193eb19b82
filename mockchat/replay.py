"""The requester's engine: ask for every recorded reply, verify every answer, count.

Follows https://platform.openai.com/docs/api-reference/chat/create as a client.
"""

import asyncio
import re
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import aiohttp
import ujson

from mockchat import wire
from mockchat.dataset import Conversation
from mockchat.diagnosis import common_length, difference
from mockchat.index import ResponseIndex

NOT_FOUND, MISMATCHED, ERROR = KINDS = ("not_found", "mismatched", "error")
TIMEOUT = 60.0  # seconds


class Question(NamedTuple):
    """A request to make: the place of the reply it asks for, its body, and the replies that are right."""

    conversation_id: str
    message_index: int
    body: bytes
    expected: list[bytes]


class Failure(NamedTuple):
    """A request that was not answered as recorded; `kind` is one of `KINDS`, `detail` is for people."""

    conversation_id: str
    message_index: int
    kind: str
    detail: str


@dataclass(slots=True)
class Result:
    """What a run found: times are in seconds, latencies those of the requests that were answered.

    `first_tokens` are the times to the first token of the requests that were answered by a stream.
    """

    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
    first_tokens: "array[float]" = field(default_factory=lambda: array("d"))
    elapsed: float = 0.0
    interrupted: bool = False

    @property
    def requests(self) -> int:
        """The number of requests that ended, one way or the other."""
        return self.passed + len(self.failures)

    def count(self, kind: str) -> int:
        """The number of failures of a kind."""
        return sum(failure.kind == kind for failure in self.failures)


def questions(
    conversations: Iterable[Conversation], index: ResponseIndex, model: str | None = None, stream: bool = False
) -> Iterator[Question]:
    """One question for every assistant message, in order; `model` and `stream` are sent if given."""
    after = b"" if model is None else b',"model":%b' % wire.text(model)
    after += b',"stream":true}' if stream else b"}"
    for conversation in conversations:
        prefix = 0
        for number, message in enumerate(conversation.messages):
            if wire.is_assistant(message):
                body = b'{"messages":%b%b' % (wire.join(conversation.messages[:number]), after)
                expected = [reply.message for reply in index.replies(prefix)]
                yield Question(conversation.id, number, body, expected)
            prefix = index.step(prefix, message)


async def replay(
    asked: Iterable[Question],
    base_url: str,
    *,
    concurrency: int,
    keep_going: bool = False,
    api_key: str | None = None,
    timeout: float = TIMEOUT,
    stream: bool = False,
) -> Result:
    """Send the questions, at most `concurrency` at a time, and verify the answers (streams, if they ask for them).

    Stops at the first failure unless told to keep going. Cancelled, it returns what was done so far, as interrupted.
    """
    result = Result()
    semaphore = asyncio.Semaphore(concurrency)
    tasks: set[asyncio.Task[None]] = set()
    url = base_url.rstrip("/") + "/chat/completions"
    headers = {"Content-Type": "application/json", "Accept": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"

    def done() -> bool:
        return bool(result.failures) and not keep_going

    async def ask(question: Question) -> None:
        sent = time.perf_counter()
        try:
            async with session.post(url, data=question.body, allow_redirects=False) as response:
                blocks = [(time.perf_counter(), block) async for block in response.content.iter_any()]
            result.latencies.append(time.perf_counter() - sent)
            answer = b"".join([block for _, block in blocks])
            problem = verify(response.status, answer, question.expected, stream=stream)
            if stream and problem is None:
                result.first_tokens.append(_first_token(blocks, answer) - sent)
        except Exception as error:  # Whatever it is, the request failed: an answer is verified or it is a failure.
            problem = ERROR, explain(error, timeout)
        finally:
            semaphore.release()
        if problem is None:
            result.passed += 1
        elif not done():
            result.failures.append(Failure(question.conversation_id, question.message_index, *problem))

    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=timeout),
        headers=headers,
    ) as session:
        started = time.perf_counter()
        try:
            for question in asked:
                await semaphore.acquire()
                if done():
                    break
                task = asyncio.create_task(ask(question))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            while tasks and not done():
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            result.interrupted = True
        result.elapsed = time.perf_counter() - started
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return result


def verify(status: int, answer: bytes, expected: list[bytes], *, stream: bool = False) -> tuple[str, str] | None:
    """Compare an answer with the recorded replies; None if it is one of them, else the kind of failure and why."""
    if status != 200:
        return (NOT_FOUND if status == 404 else ERROR), f"status {status}: {_error_message(answer)}"
    try:
        content = streamed_content(answer) if stream else _content(answer)
    except _BadAnswer as error:
        return ERROR, str(error)
    if wire.message("assistant", content) in expected:
        return None
    recorded = [wire.content_of(message) for message in expected]
    closest = max(recorded, key=lambda text: common_length(content, text))
    return MISMATCHED, difference(content, closest, "got")


class _BadAnswer(Exception):
    """An answer that is none of the API's; the text says why."""


def _content(answer: bytes) -> str:
    """The reply in an answer of OpenAI's shape, or of the original program's."""
    match _parse(answer):
        case {"choices": [{"message": {"content": str(content)}}, *_]} | {"message": {"content": str(content)}}:
            return content
    raise _BadAnswer(f"the answer has no choices[0].message.content: {_excerpt(answer)}")


def streamed_content(answer: bytes) -> str:
    """The reply in a stream of `chat.completion.chunk` objects, of its first choice: the deltas joined.

    Follows https://platform.openai.com/docs/api-reference/chat-streaming.
    """
    deltas = []
    finished = done = False
    for _, data in _events(answer):
        if data == b"[DONE]":
            done = True
            break
        chunk = _parse(data)
        match chunk:
            case {"error": _}:
                raise _BadAnswer(f"the stream broke off with an error: {_error_message(data)}")
            case {"choices": [{"index": 0, "delta": delta, **rest}, *_]}:
                finished = finished or rest.get("finish_reason") is not None
                if isinstance(delta, dict) and isinstance(delta.get("content"), str):
                    deltas.append(delta["content"])
    if not (done and finished):
        missing = "[DONE]" if finished else "a finish_reason"
        raise _BadAnswer(f"the stream ended without {missing}: {_excerpt(answer[-200:])}")
    return "".join(deltas)


def _events(answer: bytes) -> Iterator[tuple[int, bytes]]:
    """The data of each server-sent event, and the position at which the event is complete."""
    for event in _EVENT.finditer(answer):
        data = [line[5:].strip() for line in event[1].splitlines() if line.startswith(b"data:")]
        if data:
            yield event.end(), b"\n".join(data)


_EVENT = re.compile(rb"(.+?)(?:\r?\n){2}", re.DOTALL)


def _first_token(blocks: list[tuple[float, bytes]], answer: bytes) -> float:
    """When the first delta with text was there; the end of the answer if it is empty."""
    complete = next((end for end, data in _events(answer) if _HAS_TEXT.search(data)), len(answer))
    ends = accumulate(len(block) for _, block in blocks)
    return next(moment for (moment, _), end in zip(blocks, ends, strict=True) if end >= complete)


_HAS_TEXT = re.compile(rb'"delta"\s*:\s*\{[^}]*"content"\s*:\s*"[^"]')


def _parse(data: bytes) -> object:
    try:
        parsed: object = ujson.loads(data)
    except ValueError:
        raise _BadAnswer(f"the answer is not JSON: {_excerpt(data)}") from None
    return parsed


def explain(error: Exception, timeout: float) -> str:
    """What a request that got no answer died of, and what to check."""
    match error:
        case TimeoutError():
            return f"no answer within {timeout:g} s"
        case aiohttp.ClientConnectorError():
            return f"no connection to {error.host}:{error.port} ({error.strerror}): is the server running there?"
        case aiohttp.ServerDisconnectedError():
            return "the server closed the connection before it answered"
        case aiohttp.ClientPayloadError():
            return "the answer was cut off or is damaged"
    return f"the connection failed, or the answer is no HTTP: {_excerpt(str(error) or type(error).__name__)}"


def _error_message(answer: bytes) -> str:
    try:
        match ujson.loads(answer):
            case {"error": {"message": str(message)}}:
                return _excerpt(message)
    except ValueError:
        pass
    return _excerpt(answer)


def _excerpt(text: str | bytes) -> str:
    """The beginning of what a server sent, as it can be printed."""
    if isinstance(text, bytes):
        text = text[:2000].decode(errors="replace")
    short = text if len(text) <= 1000 else text[:1000] + "…"
    return short if short.isprintable() and short else ascii(short)
