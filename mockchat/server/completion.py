"""A recorded reply as the API's answer, whole or streamed, in bytes. No I/O, no clock.

Follows https://platform.openai.com/docs/api-reference/chat/object and, for streams,
https://platform.openai.com/docs/api-reference/chat-streaming. The reply's bytes are the recorded ones: they are put
into the answer as they are, and cut into a stream's pieces without being decoded.
"""

import random
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice, zip_longest

from mockchat.core import calls, message, wire
from mockchat.core.index import Reply
from mockchat.server.http import in_blocks
from mockchat.server.request import ChatRequest


def choose(request: ChatRequest, chance: Callable[[], float] = random.random) -> list[Reply]:
    """`n` of the recorded replies, drawn by chance (from 0 to 1): always the same ones for the same `seed`."""
    replies, settings = request.replies, request.settings
    if len(replies) == 1:
        return [replies[0]] * settings.n
    if settings.seed is not None:
        chance = random.Random(settings.seed).random
    return [replies[int(chance() * len(replies))] for _ in range(settings.n)]


def whole(request: ChatRequest, created: int, replies: list[Reply] | None = None) -> list[bytes | memoryview]:
    """The answer to a request: a `chat.completion` object, in one part unless it is long.

    `created` is the Unix time in seconds; `replies` are those that `choose` drew, if it has been asked. The top-level
    `message` is the answer's shape in the original program.
    """
    replies = replies or choose(request)
    about = replies[0].conversation_id, created, _model(request, replies[0])
    parts: list[bytes | memoryview] = [_BEFORE_CHOICES % about]
    for number, reply in enumerate(replies):
        parts += (_BEFORE_MESSAGE % (b"," if number else b"", number), _answered(reply), _after_message(reply))
    is_long = len(replies) > 1 or len(replies[0].message) > _LONG
    content = _answered(replies[0])
    # A short one is sooner copied than looked into.
    after_role = memoryview(content)[len(wire.ASSISTANT) :] if is_long else content[len(wire.ASSISTANT) :]
    parts += (_AFTER_CHOICES % _usage(request, replies), after_role, b"}}")
    return parts if is_long else [b"".join(parts)]


def _answered(reply: Reply) -> bytes:
    return reply.message if reply.details is None else reply.details.answered


def _after_message(reply: Reply) -> bytes:
    if reply.details is None:
        return b',"refusal":null},"logprobs":null,"finish_reason":"stop"}'
    return b'},"logprobs":%b,"finish_reason":%b}' % (reply.details.logprobs or b"null", reply.details.finish_reason)


def _model(request: ChatRequest, reply: Reply) -> bytes:
    """The recorded model, or else the request's, and what the recorded answer has beside it."""
    details = reply.details
    if details is None:
        return request.settings.model
    beside = ((b"service_tier", details.service_tier), (b"system_fingerprint", details.system_fingerprint))
    members = [b',"%b":%b' % (name, value) for name, value in beside if value]
    return (details.model or request.settings.model) + b"".join(members)


_BEFORE_CHOICES = b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":['
_BEFORE_MESSAGE = b'%b{"index":%d,"message":{"role":"'
_AFTER_CHOICES = b'],"usage":%b,"message":{"role":"Assistant"'


def stream(request: ChatRequest, created: int, replies: list[Reply] | None = None) -> Iterator[bytes]:
    """The answer to a request as server-sent events, as many at a time as one write should carry.

    They are `chat.completion.chunk` objects, the role first, then the reply in pieces like tokens, then the reason why
    it ended, the usage if asked for, and `[DONE]`. Several choices are interleaved. The arguments are those of `whole`.
    The last block ends with `STREAM_END`.
    """
    beginning, pieces, end = _events(request, created, replies or choose(request))
    return in_blocks(chain((beginning,), pieces, (end,)))


def steps(request: ChatRequest, created: int, replies: list[Reply]) -> Iterator[bytes]:
    """The same stream as a model writes it: one piece (of each choice) at a time.

    What comes before the first piece goes with it, and what comes after the last with that.
    """
    beginning, pieces, end = _events(request, created, replies, one_at_a_time=True)
    step = beginning + next(pieces, b"")
    for piece in pieces:
        yield step
        step = piece
    yield step + end


STREAM_END = b"data: [DONE]\n\n"


def _events(
    request: ChatRequest, created: int, replies: list[Reply], one_at_a_time: bool = False
) -> tuple[bytes, Iterator[bytes], bytes]:
    """The events before the pieces, those of the pieces (many at a time if they may be), and those after them."""
    about = replies[0].conversation_id, created, _model(request, replies[0])
    before = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % about
    after = b'],"usage":null}\n\n' if request.settings.include_usage else b"]}\n\n"
    end_of_piece = _END_OF_PIECE + after
    # Of many choices each has only some pieces ready.
    at_once = 8 if one_at_a_time else max(8, _PIECES_AT_ONCE // len(replies))
    starts = [before + _START_OF_PIECE % number for number in range(len(replies))]
    first = [b"".join((start, _first_delta(reply), end_of_piece)) for start, reply in zip(starts, replies, strict=True)]
    end = [before + _LAST_CHOICE % (number, _finish_reason(reply)) + after for number, reply in enumerate(replies)]
    if request.settings.include_usage:
        end.append(before + b'],"usage":%b}\n\n' % _usage(request, replies))
    pieces, *others = [
        _pieces(reply, start, end_of_piece, at_once) for reply, start in zip(replies, starts, strict=True)
    ]
    if one_at_a_time or others:
        pieces = map(b"".join, zip_longest(*map(_apart, (pieces, *others)), fillvalue=b""))
    return b"".join(first), pieces, b"".join([*end, STREAM_END])


def _pieces(reply: Reply, start: bytes, end: bytes, at_once: int) -> Iterator[bytes]:
    """The events of a reply's pieces, some at a time; the first one has all logprobs."""
    logprobs = reply.details.logprobs if reply.details else None
    for opening, text, closing in _texts(reply):
        first = len(_BEFORE_REPLY) if text is reply.message else 0  # It may be long, and is not copied.
        between = b"".join((closing, end, start, opening))
        for some in _cut(text, first, at_once, between) if text else (b"",):
            events = b"".join((start, opening, some, closing, end))
            if logprobs is not None:
                events, logprobs = events.replace(b'"logprobs":null', b'"logprobs":' + logprobs, 1), None
            yield events


def _apart(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """The events of these blocks, one at a time."""
    for block in blocks:
        for event in block.split(b"\n\n")[:-1]:
            yield event + b"\n\n"


def _finish_reason(reply: Reply) -> bytes:
    return reply.details.finish_reason if reply.details else b'"stop"'


def _first_delta(reply: Reply) -> bytes:
    """What comes before the first piece: the role, and that there is no text, where it is null."""
    is_null = reply.details is not None and reply.details.answered.startswith(_BEFORE_REPLY + b"null")
    return b'{"role":"assistant","content":%b,"refusal":null}' % (b"null" if is_null else b'""')


def _texts(reply: Reply) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The texts of a reply as JSON string literals, each with the delta around a piece; deltas that have no text.

    The text of a reply that is only that is the whole message in wire form.
    """
    if reply.details is None:
        yield b'{"content":"', reply.message, b'"}'
        return
    said = message.as_object(reply.details.answered)
    called = calls.read(said)
    for key in message.TEXTS:
        if isinstance(said.get(key), str):
            text = said.pop(key)
            yield b'{"%b":"' % key.encode(), wire.text(text), b'"}'
    others = {key: value for key, value in said.items() if key not in _NOT_IN_A_DELTA and value is not None}
    if others:
        yield wire.json_of(others), b"", b""
    for number, call in enumerate(called):
        kind, text_key = call.type.encode(), calls.TEXT_KEYS[call.type].encode()
        without_text = wire.json_of(calls.Call(call.id, call.type, call.name, "").as_object())
        if call.type == calls.LEGACY:
            yield b'{"%b":%b}' % (kind, without_text), b"", b""
            opening, closing = b'{"%b":{"%b":"' % (kind, text_key), b'"}}'
        else:
            yield b'{"tool_calls":[{"index":%d,%b]}' % (number, without_text[1:]), b"", b""
            opening, closing = b'{"tool_calls":[{"index":%d,"%b":{"%b":"' % (number, kind, text_key), b'"}}]}'
        yield opening, wire.text(call.text), closing


_NOT_IN_A_DELTA = frozenset(("role", "tool_calls", calls.LEGACY))


def _cut(text: bytes, start: int, at_once: int, between: bytes) -> Iterator[bytes]:
    """The JSON string literal from `start` to the end, with `between` its pieces, about so many at a time.

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
    if end - start < _WORD_SIZE * at_once:
        yield between.join(_PART.findall(text, start, end))
        return
    parts = _PART.finditer(text, start, end)
    while some := [part[0] for part in islice(parts, at_once)]:
        yield between.join(some)


_PART = re.compile(rb" ?[^ \\\x80-\xff]{1,16}|\\(?:u[0-9a-f]{4}|.)| ?(?:[\xc0-\xff][\x80-\xbf]+){1,8}| +", re.DOTALL)
_WORD_SIZE = 12  # bytes: a text whose words are no longer on average is cut at its spaces alone
_SAMPLE_SIZE = 16384  # bytes, by which a text is judged
_PIECES_AT_ONCE = 256
_LONG = 65536  # bytes
_START_OF_PIECE = b'{"index":%d,"delta":'
_END_OF_PIECE = b',"logprobs":null,"finish_reason":null}'
_LAST_CHOICE = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":%b}'


def _usage(request: ChatRequest, replies: list[Reply]) -> bytes:
    """What was recorded; or an estimate that is the same everywhere: four bytes of the wire form a token, rounded up.

    Of the messages' array for the prompt, and of each reply's content and calls for the completion; never 0.
    """
    if len(replies) == 1 and replies[0].details and replies[0].details.usage:
        return replies[0].details.usage
    prompt = _tokens(request.size)
    completed = 0
    for reply in replies:
        completed += _tokens(len(reply.message) - len(_BEFORE_REPLY))
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completed, prompt + completed)


_BEFORE_REPLY = wire.ASSISTANT + b',"content":'


def _tokens(size: int) -> int:
    return -(-size // 4)
