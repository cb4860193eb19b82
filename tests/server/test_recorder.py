import gzip
import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.answer import BadAnswer, Completion
from mockchat.core.dataset import load
from mockchat.core.entries import Conversation, DatasetError
from mockchat.core.message import as_object
from mockchat.server.recorder import NotRecordable, append, check_request, conversation, prepare, read_answer

HI = wire.message("user", "hi")
HELLO = wire.message("assistant", "hello")
TWO = [[HI, HELLO], [HI, HELLO, wire.message("user", 'a "b" é\n'), wire.message("assistant", "")]]

OTHER = [wire.message("assistant", "unasked")]


def whole(message: Any = None, finish_reason: Any = "stop", **changes: Any) -> bytes:
    message = {"role": "assistant", "content": "hello", "refusal": None, "annotations": []} | (message or {})
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]} | changes).encode()


def streamed(*deltas: Any, finish_reason: Any = "stop", end: str = "data: [DONE]\n\n") -> bytes:
    chunks: list[Any] = [{"choices": [], "prompt_filter_results": []}]
    chunks += [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}]
    chunks += [{"choices": [], "usage": {"total_tokens": 3}}]
    return "".join([f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]).encode() + end.encode()


# What is recorded


@pytest.mark.parametrize("content", ["hello", "", 'é "\n😀 \ud800'])
def test_a_reply_is_read_from_either_kind_of_answer(content: str) -> None:
    assert read_answer(whole({"content": content}), streamed=False).content == content
    pieces = [{"role": "assistant", "content": "", "refusal": None}, *({"content": piece} for piece in content)]
    assert read_answer(streamed(*pieces), streamed=True).content == content
    assert read_answer(streamed(*pieces).replace(b"\n", b"\r\n")[:-4], streamed=True).content == content


CALLS = {"tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}
HISTORY = [{"role": "user", "content": "hi"}]


def exchange(message: Any, finish_reason: Any = "stop", **changes: Any) -> Conversation:
    """What is recorded of a plain answer to `hi`; the same as of a streamed one."""
    recorded = conversation(HISTORY, read_answer(whole(message, finish_reason, **changes), streamed=False))
    deltas = [{"role": "assistant"}, message]
    if "tool_calls" in message:
        deltas[1] = message | {"tool_calls": [call | {"index": n} for n, call in enumerate(message["tool_calls"])]}
    sent = streamed(*deltas, finish_reason=finish_reason)
    of_stream = conversation(HISTORY, read_answer(sent, streamed=True))
    assert of_stream.messages == recorded.messages
    assert of_stream.details[1]._replace(usage=None) == recorded.details[1]._replace(usage=None)
    return recorded


@pytest.mark.parametrize(
    ("message", "finish_reason", "answered"),
    [
        (CALLS | {"content": None}, "tool_calls", {"content": None, **CALLS}),
        (CALLS | {"content": "hello"}, "stop", {"content": "hello", **CALLS}),
        (
            {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
            "function_call",
            {"content": None, "function_call": {"name": "f", "arguments": "{}"}},
        ),
        ({"content": None, "refusal": "I can't"}, "stop", {"content": None, "refusal": "I can't"}),
        ({"content": "x", "reasoning_content": "hm"}, "stop", {"content": "x", "reasoning_content": "hm"}),
        ({"content": "x"}, "length", {"content": "x"}),
        ({"content": ""}, "content_filter", {"content": ""}),
    ],
)
def test_all_that_an_answer_says_is_recorded(message: Any, finish_reason: str, answered: Any) -> None:
    recorded = exchange(message, finish_reason, usage={"total_tokens": 3})
    details = recorded.details[1]
    assert as_object(details.answered) == {"role": "assistant", "refusal": None} | answered
    assert (json.loads(details.finish_reason), json.loads(details.usage or b"0")) == (
        finish_reason,
        {"total_tokens": 3},
    )


@pytest.mark.parametrize(
    ("answer", "is_stream"),
    [
        (whole({"role": "user"}), False),
        (whole({"content": 3}), False),
        (whole({"tool_calls": [{}]}), False),
        (whole(choices=[{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}] * 2), False),
        (b'{"error": {"message": "no credit left"}}', False),
        (whole({"content": "hello"}, error={"message": "cut"}), False),
        (whole({"content": "hello"}, created=float("nan")), False),
        (whole({"content": "hello"}).replace(b"hello", b"hel\tlo"), False),
        (streamed({"content": "hello"}).replace(b"data: [DONE]", b"event: error\ndata: {}\n\ndata: [DONE]"), True),
        (streamed({"content": "hello"}, end=""), True),
        (streamed({"content": "hello"}).replace(b'"index": 0', b'"index": 1'), True),
        (b'data: {"error": {"message": "overloaded"}}\n\n', True),
    ],
)
def test_answers_that_are_not_recorded(answer: bytes, is_stream: bool) -> None:
    with pytest.raises(NotRecordable):
        conversation(HISTORY, read_answer(answer, is_stream))


@pytest.mark.parametrize("answer", [b"", b"<html>", b"[]", b"{}", b'"text"', b'{"choices": []}', b'{"choices": 1}'])
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises(BadAnswer, match=r"an answer (that is not JSON|without choices)"):
        read_answer(answer, streamed=False)


@pytest.mark.parametrize("size", [0, 30, 100, len(streamed({"content": "hello"}, end="")) // 2])
def test_a_stream_that_breaks_off(size: int) -> None:
    with pytest.raises(BadAnswer, match=r"a stream that broke off in the middle|not JSON"):
        read_answer(streamed({"content": "hello"})[:size], streamed=True)


@pytest.mark.parametrize(
    ("parameters", "recordable"),
    [
        ({}, True),
        ({"n": 1, "model": "m", "tools": [{"type": "function"}], "stream": True}, True),
        ({"n": None}, True),
        ({"n": 2}, False),
        ({"messages": [{"role": "assistant", "content": None} | CALLS]}, True),
    ],
)
def test_requests_whose_answer_may_be_recorded(parameters: Any, recordable: bool) -> None:
    parameters = {"messages": [{"role": "user", "content": "hi"}]} | parameters
    if recordable:
        check_request(parameters)
    else:
        with pytest.raises(NotRecordable):
            check_request(parameters)


# The file


def record(path: Path, messages: list[bytes]) -> Conversation:
    """Record a history and its reply, which are texts, given in wire form."""
    *history, said = [as_object(message) for message in messages]
    made = conversation(history, Completion(said, "stop", alone=True))
    append(path, made)
    return made


def recorded(path: Path) -> list[list[bytes]]:
    return [found.messages for found in load(path).conversations] if path.stat().st_size else []


def test_a_line_an_exchange(tmp_path: Path) -> None:
    path = tmp_path / "f"
    assert prepare(path) is None
    assert not path.exists()
    made = [record(path, messages) for messages in TWO]
    assert load(path).conversations == made
    assert [found.messages for found in made] == TWO
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "id": made[0].id,
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}],
        "finish_reason": "stop",
    }
    assert second["messages"][1] == {"role": "assistant", "content": "hello", "weight": 0}
    assert made[1].replies == [3]
    assert second["messages"][2:] == [{"role": "user", "content": 'a "b" é\n'}, {"role": "assistant", "content": ""}]
    assert made[0].id != made[1].id
    before = path.read_bytes()
    assert prepare(path) is None
    assert path.read_bytes() == before


@given(st.lists(st.lists(st.builds(wire.message, st.sampled_from(wire.API_ROLES), st.text())), max_size=4))
def test_what_is_recorded_is_what_is_read(tmp_path_factory: Any, exchanges: list[list[bytes]]) -> None:
    path = tmp_path_factory.mktemp("recorded") / "f"
    exchanges = [[*history, wire.message("assistant", str(number))] for number, history in enumerate(exchanges)]
    made = [record(path, messages) for messages in exchanges]
    dataset = load(path) if made else None
    assert not made or (dataset and dataset.conversations == made and dataset.joined == 0)


def test_a_crash_loses_one_unfinished_line_at_most_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for messages in TWO:
        record(path, messages)
    content = path.read_bytes()
    ends = {0, content.index(b"\n") + 1, len(content)}
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        told = prepare(path)
        whole_lines = content[: size + 1].count(b"\n")  # One that lacks nothing but its end is whole.
        assert recorded(path) == TWO[:whole_lines]
        if size in ends or size + 1 in ends:
            assert told is None
        else:
            assert told is not None
            assert f"{path}: line {whole_lines + 1} was never finished" in told
        record(path, OTHER)
        assert recorded(path) == [*TWO[:whole_lines], OTHER]


@pytest.mark.parametrize(
    "content",
    [
        b'[{"messages": []}]',
        b'{\n"messages": []\n}\n',
        b'{\n"messages": []\n}',
        b'\n{"messages": []}\n',
        b"some notes",
        b'[{"id":"a","messages":[]},\n{"id":"b","messages":[]}]',
        gzip.compress(b'{"messages": []}\n', mtime=0),
    ],
)
def test_a_file_of_another_form_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="is not JSON lines"):
        prepare(path)
    assert path.read_bytes() == content


def test_a_line_that_somebody_else_left_unfinished_is_left_to_the_loader(tmp_path: Path) -> None:
    path = tmp_path / "f"
    content = b'{"messages": []}\n{"messages": [{"role": "us'
    path.write_bytes(content)
    assert prepare(path) is None
    assert path.read_bytes() == content
    with pytest.raises(DatasetError, match="cut off in the entry at line 2"):
        load(path)


def test_a_file_that_lost_its_last_line_s_end_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "f"
    first = record(path, TWO[0])
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert load(path).conversations == [first]
    second = record(path, TWO[1])
    assert load(path).conversations == [first, second]


def test_what_can_t_be_recorded_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path, told in (
        (tmp_path, "is no regular file"),
        (tmp_path / "fifo", "is no regular file"),
        (tmp_path / "nowhere" / "f", "can't be recorded into: No such file or directory"),
    ):
        with pytest.raises(DatasetError, match=told):
            prepare(path)


def test_a_full_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "f"
    record(path, TWO[0])
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="No space left"):
            record(path, TWO[1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    record(path, TWO[1])
    assert recorded(path) == TWO
