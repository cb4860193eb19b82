"""What must hold for every input: each property is a function that raises where it does not.

The tests call them with what hypothesis makes up, `run.py` with what a fuzzer does.
"""

import asyncio
import json
import logging
import random
import re
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import ujson

from mockchat.core import wire
from mockchat.core.dataset import Dataset, load
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.index import ResponseIndex
from mockchat.core.message import ROLES
from mockchat.requester.plan import places, questions
from mockchat.requester.verify import verify, verify_stream
from mockchat.server.app import ChatServer
from mockchat.server.completion import choose, stream, whole
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.request import ChatRequest, in_full, in_place, read_request
from mockchat.server.route import ChatCompletions
from tests.fuzz.transport import Transport
from tests.helpers import SAMPLE, conversation

MAX_BODY_SIZE = 3000  # bytes


def joined(text: str) -> str:
    """The text with each pair of surrogates as the character that it means: two spellings of one text."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


class Recorded:
    """Recordings twice: as the index under test, and as a plain hash from history to (conversation id, reply)."""

    def __init__(self, conversations: Sequence[Conversation]) -> None:
        self.index = ResponseIndex(conversations)
        self.replies: dict[tuple[Any, ...], list[tuple[str, str]]] = defaultdict(list)
        for talk in conversations:
            messages = [(wire.role_of(message), joined(wire.content_of(message))) for message in talk.messages]
            for number, (role, content) in enumerate(messages):
                if role == "assistant":
                    self.replies[tuple(messages[:number])].append((joined(talk.id), content))


SAMPLED = Recorded(
    [
        *load(SAMPLE).conversations,
        conversation("one", "hi", "hello", "how are you?", "fine"),
        conversation("\ud83d\ude00\n", "hi", "hello", "bye", 'so "}] long'),
        conversation("", "system:", "user:", 'user:"},{"role":"', "assistant:\ud800"),
        conversation("\ud800", "hi", "", first="assistant"),
    ]
)

# Request bodies


def body(data: bytes, recorded: Recorded) -> int:
    """A request body is answered as a full parse and a look into a hash say, whichever way it is read.

    Gives the answer's status.
    """
    in_all = _read(in_full, data, recorded)
    short = _read(in_place, data, recorded)
    assert short is None or short == in_all
    assert _read(read_request, data, recorded) == in_all
    expected = _expected(data, recorded)
    if isinstance(in_all, ChatRequest):
        history, replies, settings = expected
        found = [(_text(reply.conversation_id), _text(wire.text_of(reply.message))) for reply in in_all.replies]
        assert sorted(found) == sorted(replies)
        array = json.dumps(history, ensure_ascii=False, separators=(",", ":"))
        assert in_all.size == len(array.encode("utf-8", "backslashreplace"))
        asked = in_all.settings._replace(model=_text(in_all.settings.model))  # type: ignore[arg-type]
        assert asked == (joined(settings[0]), *settings[1:])
        _answer(in_all, replies)
        return 200
    status, error, _ = in_all
    assert status == expected
    problem = json.loads(error.decode())["error"]
    assert sorted(problem) == ["code", "message", "param", "type"]
    assert problem["message"]
    return status


def _read(reader: Any, data: bytes, recorded: Recorded) -> Any:
    try:
        asked = reader(data, recorded.index)
        return asked and asked._replace(replies=list(asked.replies))
    except ApiError as error:
        return error.status, error.body(), error.history if isinstance(error, NotRecorded) else None


def _text(literal: bytes) -> str:
    return joined(ujson.loads(literal))


def _expected(data: bytes, recorded: Recorded) -> Any:
    """The status of an error, or the history, the replies and the settings."""
    try:
        request = ujson.loads(data)
    except ValueError:
        return 400
    match request:
        case {"messages": list(messages)}:
            history = [_message(message) for message in messages]
        case _:
            return 400
    options = {} if request.get("stream_options") is None else request["stream_options"]
    if None in history or not isinstance(options, dict):
        return 400
    defaults = ("model", "mockchat"), ("stream", False), ("include_usage", False), ("n", 1), ("seed", None)
    settings = []
    for name, default in defaults:
        value = (options if name == "include_usage" else request).get(name)
        settings.append(default if value is None else value)
        if value is not None and type(value) is not (int if name == "seed" else type(default)):
            return 400
    if len(settings[0]) > 256:
        return 400
    if not 1 <= settings[3] <= 128 or not -(2**63) <= (settings[4] or 0) < 2**63:
        return 400
    replies = recorded.replies.get(tuple((message["role"], message["content"]) for message in history))
    return (history, replies, tuple(settings)) if replies else 404


def _message(message: Any) -> dict[str, str] | None:
    match message:
        case {"role": str(name)} if name.lower() in ROLES:
            role = ROLES[name.lower()]
        case _:
            return None
    match message.get("content", "" if role in ("assistant", "tool") else 0):
        case None:
            content = ""
        case str(content):
            pass
        case list(parts):
            content = ""
            for part in parts:
                match part:
                    case {"type": "text", "text": str(text)}:
                        content += text
                    case _:
                        return None
        case _:
            return None
    return {"role": role, "content": joined(content)}


def _answer(request: ChatRequest, replies: list[tuple[str, str]]) -> None:
    """The plain answer and the streamed one are JSON and say the same, and the requester finds both right."""
    chosen = choose(request)
    plain = b"".join(whole(request, 0, chosen))
    events = b"".join(stream(request, 0, chosen))
    asked_once = request.settings.n == 1  # Further choices are a fault to the requester, which asks for none.
    assert (verify(200, plain, request.replies) is None) == asked_once
    assert (verify_stream(200, events, request.replies)[0] is None) == asked_once

    answer = json.loads(plain.decode())
    contents = [choice["message"]["content"] for choice in answer["choices"]]
    assert [choice["index"] for choice in answer["choices"]] == list(range(request.settings.n))
    assert set(contents) <= {content for _, content in replies}
    assert (answer["id"], contents[0]) in replies
    assert answer["message"] == {"role": "Assistant", "content": contents[0]}

    *chunks, done, end = events.decode().split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    deltas = dict.fromkeys(range(request.settings.n), "")
    for chunk in chunks:
        parsed = json.loads(chunk.removeprefix("data: "))
        assert (parsed["id"], parsed["model"]) == (answer["id"], answer["model"])
        for choice in parsed["choices"]:
            deltas[choice["index"]] += choice["delta"].get("content", "")
    assert [joined(delta) for delta in deltas.values()] == contents
    if request.settings.include_usage:
        assert parsed["usage"] == answer["usage"]


# Dataset files


def file(data: bytes, block_size: int, path: Path) -> None:
    """A file is refused in one line, or all of it replays clean; the size of the blocks makes no difference."""
    path.write_bytes(data)
    for stitch in (True, False):
        dataset = _load(path, stitch, len(data) + 1)
        assert _load(path, stitch, block_size) == dataset
        if dataset is None:
            continue
        recorded = Recorded(dataset.conversations)
        asked = 0
        for question in questions(places(dataset.conversations), recorded.index, None, False):
            assert question.place.conversation.messages[question.place.number] in [
                reply.message for reply in question.expected
            ]
            assert body(question.body, recorded) == 200
            asked += 1
        assert asked == dataset.replies > 0


def _load(path: Path, stitch: bool, block_size: int) -> Dataset | None:
    try:
        return load(path, stitch=stitch, block_size=block_size)
    except DatasetError as error:
        line = str(error)
        assert line.isprintable(), line
        assert line.startswith(f"{path}: "), line
        return None  # Of two faults, the one that is told may depend on the blocks.


# Connections


def connection(data: bytes, seed: int, recorded: Recorded) -> list[int]:
    """Whatever comes on a connection, nothing is logged, and what is answered does not depend on how it is cut.

    `seed` chooses the cuts, and whether the client is slow to read. Gives the statuses of the answers.
    """
    chance = random.Random(seed)
    cuts = set(chance.sample(range(len(data) + 1), min(len(data), chance.choice((0, 1, 2, 5, 40)))))
    # A request that is a piece by itself may be read without the parser.
    cuts |= {start.start() for start in re.finditer(b"POST ", data) if chance.random() < 0.7}
    pieces = [data[start:end] for start, end in pairwise([0, *sorted(cuts), len(data)]) if start < end]
    whole = answers([data], recorded)
    cut = answers(pieces, recorded, slow=seed % 2 > 0)
    # Of what comes in one piece with an upgrade to anything but a websocket, aiohttp loses what is behind it.
    assert alike(whole, cut) or b"\nupgrade" in data.lower(), (whole, cut)
    return [status for status, _, _ in whole]


def answers(pieces: list[bytes], recorded: Recorded, slow: bool = False) -> list[tuple[int, bytes, bytes]]:
    """Status, headers and body of what a client that sends these pieces is answered, but for what differs each time."""
    return _answers(_on_loop(_exchange(pieces, slow, recorded)), b"HEAD" in b"".join(pieces))


def alike(one: list[tuple[int, bytes, bytes]], other: list[tuple[int, bytes, bytes]]) -> bool:
    """Whether the answers are the same, as far as the cuts may not matter."""
    return _is_beginning(one, other) or _is_beginning(other, one)


def _on_loop(exchange: Coroutine[Any, Any, bytes]) -> bytes:
    """Run it, and leave the loop of the tests as it is, which `asyncio.run` would drop unclosed."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        return runner.run(exchange)


def _is_beginning(some: list[tuple[int, bytes, bytes]], more: list[tuple[int, bytes, bytes]]) -> bool:
    """Whether some answers are all, or all up to an error that ended the connection earlier than with `more`.

    That an error ends it may depend on the cuts: the rest of a refused body is not waited for, and aiohttp gives up
    what arrived in one piece with what is no HTTP.
    """
    if some and some[-1][0] >= 400 and b"\r\nConnection: close" in some[-1][1]:
        if b"not well-formed HTTP" in some[-1][2]:
            some = some[:-1]
        more = more[: len(some)]
    return [_lasting(answer) for answer in some] == [_lasting(answer) for answer in more]


def _lasting(answer: tuple[int, bytes, bytes]) -> tuple[int, bytes, bytes]:
    status, headers, content = answer
    return status, re.sub(rb"\nConnection: [\w-]+\r", b"", headers) if status >= 400 else headers, content


async def _exchange(pieces: list[bytes], slow: bool, recorded: Recorded) -> bytes:
    """What the server sends to a client that sends these pieces, each when it is wanted, and then no more."""
    log = _Log()
    logging.getLogger().addHandler(log)
    random.seed(0)
    try:
        protocol = ChatServer(ChatCompletions(recorded.index, MAX_BODY_SIZE))()
        transport = Transport(protocol, slow)
        protocol.connection_made(transport)
        for piece in [*pieces, b""]:
            if not transport.reading:
                await transport.take()
            if transport.closed:
                break
            assert transport.reading, "nobody wants what is sent"
            if piece:
                protocol.data_received(piece)
            elif not protocol.eof_received():
                transport.close()
        await transport.take()
        assert transport.closed, "the connection stays open after its end"
        protocol.connection_lost(None)
    finally:
        logging.getLogger().removeHandler(log)
    assert not log.lines, log.lines
    return transport.sent


class _Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


_VARYING = re.compile(rb'\nDate: [^\r]*|\nx-request-id: [^\r]*|"created":\d+')


def _answers(sent: bytes, some_have_no_body: bool) -> list[tuple[int, bytes, bytes]]:
    """The status, head and body of each answer, without what differs from time to time.

    An answer to HEAD, always an error, has no body: what follows its head is not the beginning of an object.
    """
    answers = []
    while sent:
        head, blank, sent = sent.partition(b"\r\n\r\n")
        match = re.fullmatch(rb"HTTP/1\.1 (\d{3}) [\w -]+((?:\r\n[\w-]+: [^\r\n]*)*)", head)
        assert match
        assert blank
        status, headers = int(match[1]), match[2]
        assert status in (100, 200, 400, 404, 405, 413, 415), head
        content = b""
        if some_have_no_body and b"application/json" in headers and not sent.startswith(b"{"):
            pass
        elif length := re.search(rb"\r\nContent-Length: (\d+)", headers):
            content, sent = sent[: int(length[1])], sent[int(length[1]) :]
            assert len(content) == int(length[1])
        elif b"chunked" in headers:
            size = -1
            while size:
                line, sent = sent.split(b"\r\n", 1)
                size = int(line, 16)
                content += sent[:size]
                assert sent[size : size + 2] == b"\r\n"
                sent = sent[size + 2 :]
        elif status == 200:
            content, sent = sent, b""
        if b"application/json" in headers and content:
            json.loads(content.decode())
        if status != 100:  # Is told to who has not sent the body yet.
            answers.append((status, _VARYING.sub(b"", headers), _VARYING.sub(b"", content)))
    return answers
