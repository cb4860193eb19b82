"""A recorded reply as the API's answer, whole or streamed, in bytes. No I/O, no clock.

Follows https://platform.openai.com/docs/api-reference/chat/object and
https://platform.openai.com/docs/api-reference/chat-streaming. The recorded bytes are not decoded, only cut into pieces.
"""

import random
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice, zip_longest
from typing import Any

from mockchat.core import calls, message, wire
from mockchat.core.index import Reply
from mockchat.server.http import in_blocks
from mockchat.server.request import ChatRequest

STREAM_END = b"data: [DONE]\n\n"

_PART = re.compile(rb" ?[^ \\\x80-\xff]{1,16}|\\(?:u[0-9a-f]{4}|.)| ?(?:[\xc0-\xff][\x80-\xbf]+){1,8}| +", re.DOTALL)
_WORD_SIZE = 12  # bytes: a text whose words are no longer on average is cut at its spaces alone
_SAMPLE_SIZE = 16384  # bytes, by which a text is judged
_PIECES_AT_ONCE = 256
_LONG = 65536  # bytes
_BEFORE_REPLY = wire.ASSISTANT + b',"content":'


def choose(request: ChatRequest, chance: Callable[[], float] = random.random) -> list[Reply]:
    """Draw `n` of the recorded replies: the same ones for the same `seed`. `chance` gives a number in [0, 1)."""
    replies, settings = request.replies, request.settings
    if len(replies) == 1:
        return [replies[0]] * settings.n
    if settings.seed is not None:
        chance = random.Random(settings.seed).random
    return [replies[int(chance() * len(replies))] for _ in range(settings.n)]


def whole(request: ChatRequest, created: int, replies: list[Reply]) -> list[bytes | memoryview]:
    """The answer to a request: a `chat.completion` object, in one part unless it is long.

    `created` is the Unix time in seconds; `replies` are those that `choose` drew. The top-level `message` is the
    answer's shape in the original program.
    """
    about = replies[0].conversation_id, created, _model(request, replies[0])
    beginning = b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[' % about
    parts: list[bytes | memoryview] = [beginning]
    for number, reply in enumerate(replies):
        before = b'%b{"index":%d,"message":{"role":"' % (b"," if number else b"", number)
        said, after = _message(reply)
        parts += (before, said, after)
    is_long = len(replies) > 1 or len(replies[0].message) > _LONG
    first, _ = _message(replies[0])
    # For a short one, a copy is faster than a memoryview.
    after_role = memoryview(first)[len(wire.ASSISTANT) :] if is_long else first[len(wire.ASSISTANT) :]
    parts += (b'],"usage":%b,"message":{"role":"Assistant"' % _usage(request, replies), after_role, b"}}")
    return parts if is_long else [b"".join(parts)]


def _message(reply: Reply) -> tuple[bytes, bytes]:
    """The message of a choice, and what follows it there."""
    if details := reply.details:
        after = b'},"logprobs":%b,"finish_reason":%b}' % (details.logprobs or b"null", details.finish_reason)
        return details.answered, after
    return reply.message, b',"refusal":null},"logprobs":null,"finish_reason":"stop"}'


def _model(request: ChatRequest, reply: Reply) -> bytes:
    """The recorded model, or else the request's, and what the recorded answer has beside it."""
    details = reply.details
    if details is None:
        return request.settings.model
    beside = ((b"service_tier", details.service_tier), (b"system_fingerprint", details.system_fingerprint))
    members = [b',"%b":%b' % (name, value) for name, value in beside if value]
    return (details.model or request.settings.model) + b"".join(members)


def stream(request: ChatRequest, created: int, replies: list[Reply]) -> Iterator[bytes]:
    """The same answer as server-sent events, as many at a time as one write should carry."""
    beginning, pieces, end = _events(request, created, replies)
    return in_blocks(chain((beginning,), pieces, (end,)))


def steps(request: ChatRequest, created: int, replies: list[Reply]) -> Iterator[bytes]:
    """The same stream, one piece of each choice at a time; the first has the events before it, the last those after."""
    step, pieces, end = _events(request, created, replies, one_at_a_time=True)
    step += next(pieces, b"")
    for piece in pieces:
        yield step
        step = piece
    yield step + end


def _events(
    request: ChatRequest, created: int, replies: list[Reply], one_at_a_time: bool = False
) -> tuple[bytes, Iterator[bytes], bytes]:
    """The events before the pieces, those of the pieces (many at a time if they may be), and those after them."""
    about = replies[0].conversation_id, created, _model(request, replies[0])
    before = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % about
    after = b'],"usage":null}\n\n' if request.settings.include_usage else b"]}\n\n"
    end_of_piece = b',"logprobs":null,"finish_reason":null}' + after
    # A block of each choice is held at once: with many choices, smaller ones.
    at_once = 8 if one_at_a_time else max(8, _PIECES_AT_ONCE // len(replies))
    first, blocks, last = [], [], []
    for number, reply in enumerate(replies):
        start = b'%b{"index":%d,"delta":' % (before, number)
        is_null = reply.details is not None and reply.details.answered.startswith(_BEFORE_REPLY + b"null")
        role = b'{"role":"assistant","content":%b,"refusal":null}' % (b"null" if is_null else b'""')
        first.append(start + role + end_of_piece)
        blocks.append(_pieces(reply, start, end_of_piece, at_once))
        reason = reply.details.finish_reason if reply.details else b'"stop"'
        last.append(b'%b{},"logprobs":null,"finish_reason":%b}%b' % (start, reason, after))
    if request.settings.include_usage:
        last.append(b'%b],"usage":%b}\n\n' % (before, _usage(request, replies)))
    pieces = blocks[0]
    if one_at_a_time or len(replies) > 1:
        pieces = map(b"".join, zip_longest(*map(_apart, blocks), fillvalue=b""))
    return b"".join(first), pieces, b"".join([*last, STREAM_END])


def _pieces(reply: Reply, start: bytes, end: bytes, at_once: int) -> Iterator[bytes]:
    """The events of a reply's pieces, some at a time; the first one has all logprobs."""
    logprobs = reply.details.logprobs if reply.details else None
    for opening, text, closing in _texts(reply):
        first = len(_BEFORE_REPLY) if text is reply.message else 0
        between = b"".join((closing, end, start, opening))
        for some in _cut(text, first, at_once, between) if text else (b"",):
            events = b"".join((start, opening, some, closing, end))
            if logprobs is not None:
                events, logprobs = events.replace(b'"logprobs":null', b'"logprobs":' + logprobs, 1), None
            yield events


def _apart(blocks: Iterator[bytes]) -> Iterator[bytes]:
    for block in blocks:
        for event in block.split(b"\n\n")[:-1]:
            yield event + b"\n\n"


def _texts(reply: Reply) -> Iterator[tuple[bytes, bytes, bytes]]:
    """A reply as (before, text, after): a JSON string literal, and what makes a delta of each of its pieces.

    Without a text, `before` is a whole delta. The text of a plain reply is its whole message in wire form, not a copy.
    """
    if reply.details is None:
        yield b'{"content":"', reply.message, b'"}'
        return
    said = message.as_object(reply.details.answered)
    for key in message.TEXTS:
        if isinstance(said.get(key), str):
            yield b'{"%b":"' % key.encode(), wire.text(said.pop(key)), b'"}'
    apart = ("role", "tool_calls", calls.LEGACY)
    if others := {key: value for key, value in said.items() if key not in apart and value is not None}:
        yield wire.json_of(others), b"", b""
    for number, call in enumerate(calls.read(said)):
        begun = call._replace(text="").as_object()
        more: dict[str, Any] = {calls.TEXT_KEYS[call.type]: ""}
        if call.type == calls.LEGACY:
            begun, more = {call.type: begun}, {call.type: more}
        else:
            begun = {"tool_calls": [{"index": number, **begun}]}
            more = {"tool_calls": [{"index": number, call.type: more}]}
        yield wire.json_of(begun), b"", b""
        opening, closing = wire.json_of(more).split(b'""')
        yield opening + b'"', wire.text(call.text), b'"' + closing


def _cut(text: bytes, start: int, at_once: int, between: bytes) -> Iterator[bytes]:
    """Cut a JSON string literal, which begins at `start`: blocks of about `at_once` pieces, joined by `between`.

    A piece is a word with the space before it. Where words are long, or there are none, as in Chinese, they are cut
    too; an escape or a character never is.
    """
    start, end = start + 1, len(text) - 1
    sample_end = min(end, start + _SAMPLE_SIZE)
    if text.count(b" ", start, sample_end) * _WORD_SIZE >= sample_end - start:
        while start < end:
            stop = text.find(b" ", start + _WORD_SIZE * at_once, end)
            stop = stop if stop > 0 else end
            yield text[start:stop].replace(b" ", between + b" ").removeprefix(between)
            start = stop
        return
    parts = _PART.finditer(text, start, end)
    while some := [part[0] for part in islice(parts, at_once)]:
        yield between.join(some)


def _usage(request: ChatRequest, replies: list[Reply]) -> bytes:
    """The recorded usage; or an estimate: a token for each four bytes of the messages' array, and of each reply."""
    if len(replies) == 1 and replies[0].details and replies[0].details.usage:
        return replies[0].details.usage
    prompt = (request.size + 3) // 4
    completed = 0
    for reply in replies:
        completed += (len(reply.message) - len(_BEFORE_REPLY) + 3) // 4
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completed, prompt + completed)
