"""A recorded reply as the API's answer, whole or streamed, in bytes. No I/O, no clock.

Follows https://platform.openai.com/docs/api-reference/chat/object and, for streams,
https://platform.openai.com/docs/api-reference/chat-streaming. The reply's bytes are the recorded ones: they are put
into the answer as they are, and cut into a stream's pieces without being decoded.
"""

import random
import re
from collections.abc import Callable, Iterator
from itertools import chain, islice, zip_longest

from mockchat.core import wire
from mockchat.core.index import Reply
from mockchat.server.request import ChatRequest


def choose(request: ChatRequest, chance: Callable[[], float] = random.random) -> list[Reply]:
    """`n` of the recorded replies, drawn by chance (from 0 to 1): always the same ones for the same `seed`."""
    replies, settings = request.replies, request.settings
    if len(replies) == 1:
        return replies * settings.n
    if settings.seed is not None:
        chance = random.Random(settings.seed).random
    return [replies[int(chance() * len(replies))] for _ in range(settings.n)]


def whole(request: ChatRequest, created: int, replies: list[Reply] | None = None) -> bytes:
    """The answer to a request: a `chat.completion` object; `created` is the Unix time in seconds.

    `replies` are those that `choose` drew, if it has been asked. The top-level `message` is the answer's shape in the
    original program.
    """
    replies = replies or choose(request)
    choices = [_CHOICE % (number, reply.message) for number, reply in enumerate(replies)]
    return _COMPLETION % (
        replies[0].conversation_id,
        created,
        request.settings.model,
        b",".join(choices),
        _usage(request, replies),
        replies[0].message[len(wire.ASSISTANT) :],
    )


_CHOICE = b'{"index":%d,"message":{"role":"%b,"refusal":null},"logprobs":null,"finish_reason":"stop"}'
_COMPLETION = (
    b'{"id":%b,"object":"chat.completion","created":%d,"model":%b,"choices":[%b],"usage":%b,'
    b'"message":{"role":"Assistant"%b}}'
)


def stream(request: ChatRequest, created: int, replies: list[Reply] | None = None) -> Iterator[bytes]:
    """The answer to a request as server-sent events, as many at a time as one write should carry.

    Follows https://platform.openai.com/docs/api-reference/chat-streaming: `chat.completion.chunk` objects, the role
    first, then the reply in pieces like tokens, then the reason why it ended, the usage if asked for, and `[DONE]`.
    Several choices are interleaved. The arguments are those of `whole`. The last block ends with `STREAM_END`.
    """
    block, size = [], 0
    beginning, pieces, end = _events(request, created, replies or choose(request))
    for part in chain((beginning,), pieces):
        block.append(part)
        size += len(part)
        if size >= _WRITE_SIZE:
            yield b"".join(block)
            block, size = [], 0
    yield b"".join([*block, end])


def steps(request: ChatRequest, created: int, replies: list[Reply]) -> Iterator[bytes]:
    """The same stream as a model writes it: one piece (of each choice) at a time, `count_steps` in all.

    What comes before the first piece goes with it, and what comes after the last with that.
    """
    beginning, pieces, end = _events(request, created, replies, one_at_a_time=True)
    step = beginning + next(pieces, b"")
    for piece in pieces:
        yield step
        step = piece
    yield step + end


def count_steps(replies: list[Reply]) -> int:
    """The number of pieces of the longest reply, and 1 if that is empty."""
    return max(1, *[sum(some.count(_MARK) + 1 for some in _cut(reply.message, _PIECES_AT_ONCE)) for reply in replies])


STREAM_END = b"data: [DONE]\n\n"


def _events(
    request: ChatRequest, created: int, replies: list[Reply], one_at_a_time: bool = False
) -> tuple[bytes, Iterator[bytes], bytes]:
    """What comes first, the pieces (together where they need not be apart), and what comes last."""
    about = replies[0].conversation_id, created, request.settings.model
    before = b'data: {"id":%b,"object":"chat.completion.chunk","created":%d,"model":%b,"choices":[' % about
    after = b'],"usage":null}\n\n' if request.settings.include_usage else b"]}\n\n"

    def for_each(delta: bytes) -> list[bytes]:
        return [before + delta % number for number in range(len(replies))]

    def together(cut: Iterator[bytes], opening: bytes) -> Iterator[bytes]:
        for some in cut:
            yield from (opening, some.replace(_MARK, closing + opening), closing)

    def apart() -> Iterator[bytes]:
        pieces = [(piece for some in cut for piece in some.split(_MARK)) for cut in cuts]
        for row in zip_longest(*pieces):
            yield b"".join([openings[n] + piece + closing for n, piece in enumerate(row) if piece is not None])

    openings, closing = for_each(_PIECE_OPENING), _PIECE_CLOSING + after
    cuts = [_cut(reply.message, 8 if one_at_a_time else _PIECES_AT_ONCE) for reply in replies]
    end = [event + after for event in for_each(_LAST_DELTA)]
    if request.settings.include_usage:
        end.append(before + b'],"usage":%b}\n\n' % _usage(request, replies))
    return (
        b"".join([event + after for event in for_each(_FIRST_DELTA)]),
        apart() if one_at_a_time or len(replies) > 1 else together(cuts[0], openings[0]),
        b"".join([*end, STREAM_END]),
    )


def _cut(message: bytes, at_once: int) -> Iterator[bytes]:
    """A reply with a mark between its pieces, about so many at a time: all of a long one's would take much memory.

    A piece is a word with the space before it. Where words are long, or there are none, as in Chinese, they are cut
    too; an escape or a character never is.
    """
    start, end = len(_BEFORE_REPLY) + 1, len(message) - 1
    if message.count(b" ", start, end) * _WORD_SIZE >= end - start:
        while start < end:
            stop = message.find(b" ", start + _WORD_SIZE * at_once, end)
            stop = stop if stop > 0 else end
            yield message[start:stop].replace(b" ", _MARK + b" ").removeprefix(_MARK)
            start = stop
        return
    if end - start < _WORD_SIZE * at_once:
        yield _MARK.join(_PART.findall(message, start, end))
        return
    parts = _PART.finditer(message, start, end)
    while some := [part[0] for part in islice(parts, at_once)]:
        yield _MARK.join(some)


_MARK = b"\0"  # JSON has it in a text as an escape only.
_PART = re.compile(rb" ?[^ \\\x80-\xff]{1,16}|\\(?:u[0-9a-f]{4}|.)| ?(?:[\xc0-\xff][\x80-\xbf]+){1,8}| +", re.DOTALL)
_WORD_SIZE = 12  # bytes: a text whose words are no longer on average is cut at its spaces alone
_PIECES_AT_ONCE = 256
_WRITE_SIZE = 65536  # bytes
_FIRST_DELTA = (
    b'{"index":%d,"delta":{"role":"assistant","content":"","refusal":null},"logprobs":null,"finish_reason":null}'
)
_PIECE_OPENING = b'{"index":%d,"delta":{"content":"'
_PIECE_CLOSING = b'"},"logprobs":null,"finish_reason":null}'
_LAST_DELTA = b'{"index":%d,"delta":{},"logprobs":null,"finish_reason":"stop"}'


def _usage(request: ChatRequest, replies: list[Reply]) -> bytes:
    """An estimate that is the same everywhere: four bytes of the wire form a token, rounded up.

    Of the messages' array for the prompt, and of each reply's JSON string for the completion; never 0.
    """
    prompt = _tokens(request.history_size)
    completed = 0
    for reply in replies:
        completed += _tokens(len(reply.message) - len(_BEFORE_REPLY))
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % (prompt, completed, prompt + completed)


_BEFORE_REPLY = wire.ASSISTANT + b',"content":'


def _tokens(size: int) -> int:
    return -(-size // 4)
