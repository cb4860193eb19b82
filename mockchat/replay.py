"""The requester's engine: ask for every recorded reply, verify every answer, count.

Follows https://platform.openai.com/docs/api-reference/chat/create as a client.
"""

import asyncio
import time
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import aiohttp
import ujson

from mockchat import wire
from mockchat.dataset import Conversation
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
    """What a run found: times are in seconds, latencies those of the requests that were answered."""

    passed: int = 0
    failures: list[Failure] = field(default_factory=list)
    latencies: "array[float]" = field(default_factory=lambda: array("d"))
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
    conversations: Iterable[Conversation], index: ResponseIndex, model: str | None = None
) -> Iterator[Question]:
    """One question for every assistant message, in order; `model` is sent if given."""
    after = b"}" if model is None else b',"model":%b}' % wire.text(model)
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
) -> Result:
    """Send the questions, at most `concurrency` at a time, and verify the answers.

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
                answer = await response.read()
            result.latencies.append(time.perf_counter() - sent)
            problem = verify(response.status, answer, question.expected)
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


def verify(status: int, answer: bytes, expected: list[bytes]) -> tuple[str, str] | None:
    """Compare an answer with the recorded replies; None if it is one of them, else the kind of failure and why."""
    if status != 200:
        return (NOT_FOUND if status == 404 else ERROR), f"status {status}: {_error_message(answer)}"
    try:
        data = ujson.loads(answer)
    except ValueError:
        return ERROR, f"the answer is not JSON: {_excerpt(answer.decode(errors='replace'))}"
    content = _content(data)
    if content is None:
        return ERROR, f"the answer has no choices[0].message.content: {_excerpt(answer.decode(errors='replace'))}"
    if wire.message("assistant", content) in expected:
        return None
    return MISMATCHED, difference(content, [wire.content_of(message) for message in expected])


def difference(content: str, expected: list[str]) -> str:
    """Where a text leaves the closest of the expected ones, with 30 characters either side of both."""
    closest = max(expected, key=lambda text: _common(content, text))
    position = _common(content, closest)
    around = slice(max(0, position - 30), position + 30)
    return f"differs at character {position}: got {content[around]!a}, expected {closest[around]!a}"


def _common(one: str, other: str) -> int:
    """The number of characters with which both begin."""
    different = (number for number, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1])
    return next(different, min(len(one), len(other)))


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


def _content(data: object) -> str | None:
    """The reply in an answer of OpenAI's shape, or of the original program's."""
    match data:
        case {"choices": [{"message": {"content": str(content)}}, *_]} | {"message": {"content": str(content)}}:
            return content
    return None


def _error_message(answer: bytes) -> str:
    try:
        match ujson.loads(answer):
            case {"error": {"message": str(message)}}:
                return _excerpt(message)
    except ValueError:
        pass
    return _excerpt(answer.decode(errors="replace"))


def _excerpt(text: str) -> str:
    short = text if len(text) <= 500 else text[:500] + "…"
    return short if short.isprintable() and short else ascii(short)
