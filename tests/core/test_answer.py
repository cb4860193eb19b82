import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import answer
from mockchat.core.answer import BLANK_LINE, BadAnswer, Intact, endpoint, events, read, read_stream

MESSAGE = {"role": "assistant", "content": "hello", "refusal": None}


def whole(message: Any = MESSAGE, finish_reason: str = "stop", **changes: Any) -> bytes:
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    return json.dumps({"id": "x", "choices": [choice]} | changes, separators=(",", ":")).encode()


def chunk(delta: Any, finish_reason: str | None = None, number: int = 0) -> dict[str, Any]:
    return {"choices": [{"index": number, "delta": delta, "finish_reason": finish_reason}]}


def streamed(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    return "".join(f"data: {json.dumps(data)}\n\n" for data in chunks).encode() + end.encode()


@pytest.mark.parametrize("base_url", ["http://x/v1", "http://x/v1/", "http://x/v1//"])
def test_the_endpoint(base_url: str) -> None:
    assert endpoint(base_url) == "http://x/v1/chat/completions"


# Whole answers


def test_a_whole_answer_has_its_first_choice_s_message_and_how_it_ended() -> None:
    calls = [{"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    completion = read(whole(MESSAGE | {"content": None, "tool_calls": calls}, "tool_calls"))
    assert completion.message == MESSAGE | {"content": None, "tool_calls": calls}
    assert (completion.finish_reason, completion.flaw, completion.content) == ("tool_calls", None, None)
    assert read(whole()).content == "hello"
    both = [{"message": {"content": "one"}}, {"message": {"content": "two"}}]
    completion = read(whole(choices=both))
    assert (completion.content, completion.finish_reason, completion.flaw) == ("one", None, answer.NOT_ASKED_FOR)


def test_the_original_program_s_answer() -> None:
    completion = read(b'{"message": {"role": "Assistant", "content": "hello"}}')
    assert (completion.content, completion.finish_reason) == ("hello", None)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"", "an answer that is not JSON: ''"),
        (b"<html>\n", r"an answer that is not JSON: '<html>\n'"),
        (b"[" * 5000, "an answer that is not JSON: [["),
        (b"true", "an answer without choices[0].message: true"),
        (b'{"choices": []}', "an answer without choices[0].message: "),
        (b'{"choices": [{"message": "hello"}]}', "an answer without choices[0].message: "),
    ],
)
def test_what_is_no_answer(sent: bytes, told: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        read(sent)
    assert str(caught.value).startswith(told)
    assert str(caught.value).isprintable()
    assert not isinstance(caught.value, Intact)


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_json_that_only_lax_parsers_accept(number: str) -> None:
    with pytest.raises(Intact, match=rf"not JSON: {{\"created\": {number}}} \({number} is no finite number\)"):
        read(b'{"created": %b}' % number.encode())


def test_an_error_in_place_of_an_answer() -> None:
    with pytest.raises(Intact, match="no credit left"):
        read(b'{"error": {"message": "no credit left"}}')


texts = st.text(st.sampled_from('a", :{}[]\\nt\n\x00é'), max_size=8)


@given(texts, texts, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_a_known_text_is_told_from_all_others(known: str, sent: str, ascii_only: bool, separators: Any) -> None:
    """Where it is spelt otherwise, it is read."""
    literal = json.dumps(known, ensure_ascii=False, separators=(",", ":")).encode()
    given_answer = {
        "content": known,
        "choices": [{"message": {"role": "assistant", "content": sent, "refusal": f'"content":{literal!r}'}}],
        "message": {"content": known},
    }
    sent_answer = json.dumps(given_answer, ensure_ascii=ascii_only, separators=separators).encode()
    content = read(sent_answer, literal).content
    if content == answer.KNOWN:
        assert sent == known
    else:
        assert content == sent
        assert sent != known or separators == (", ", ": ") or ascii_only


def test_a_known_text_is_not_decoded() -> None:
    assert read(whole(), b'"hello"').content == answer.KNOWN
    assert read(whole(), b'"hell"').content == "hello"


# Streams


def test_a_stream_makes_one_message() -> None:
    chunks = [
        {"choices": [], "prompt_filter_results": []},
        chunk({"role": "assistant", "content": "", "refusal": None}),
        chunk({"content": "hel"}),
        chunk({"content": "lo", "refusal": "I "}),
        chunk({"refusal": "can't", "audio": {"id": "a"}}),
        chunk({"content": 3}),
        chunk({}, "stop"),
        {"choices": [], "usage": {"total_tokens": 3}},
    ]
    stream = read_stream(streamed(*chunks))
    assert stream.message == {
        "role": "assistant",
        "content": "hello",
        "refusal": "I can't",
        "audio": {"id": "a"},
    }
    assert (stream.finish_reason, stream.flaw, stream.whole) == ("stop", None, True)
    ends = [len(streamed(*chunks[: number + 1], end="")) for number in range(len(chunks))]
    assert stream.arrivals == [ends[2], ends[3], ends[4]]


def test_other_choices_of_a_stream_are_left_out() -> None:
    two = {"choices": [chunk({"content": "x"}, number=1)["choices"][0], chunk({"content": "lo"})["choices"][0]]}
    stream = read_stream(streamed(chunk({"content": "hel"}), chunk({"content": "y"}, "length", 1), two))
    assert (stream.content, stream.finish_reason, stream.flaw) == ("hello", None, answer.NOT_ASKED_FOR)


def test_nothing_after_done_is_read() -> None:
    stream = read_stream(streamed(chunk({"content": "hello"}, "stop")) + b"data: no JSON\n\n")
    assert (stream.content, stream.whole) == ("hello", True)


def test_a_stream_that_ends_early() -> None:
    sent = streamed(chunk({"content": "hello"}), chunk({}, "stop"))
    stream = read_stream(sent[:-1])
    assert (stream.finish_reason, stream.whole) == ("stop", False)
    assert read_stream(b"").message == {"role": "assistant", "content": ""}


def test_a_stream_that_is_none() -> None:
    with pytest.raises(BadAnswer, match="an answer that is not JSON: oops"):
        read_stream(streamed(chunk({"content": "hello"}), end="data: oops\n\n"))
    with pytest.raises(Intact, match="a stream that broke off with an error: overloaded"):
        read_stream(streamed(chunk({"content": "hello"}), {"error": {"message": "overloaded"}}))


def test_a_byte_order_mark_costs_no_event() -> None:
    sent = b"\xef\xbb\xbf" + streamed(chunk({"content": "Do not "}), chunk({"content": "press the button."}, "stop"))
    assert read_stream(sent).content == "Do not press the button."


@pytest.mark.parametrize("kind", ["tool_calls", "function_call", "custom"])
def test_streamed_arguments_are_joined_once(kind: str) -> None:
    """To join each piece took minutes: a list that grows is seen by the number of its pieces alone."""
    pieces = ["x"] * 200_000
    message = answer._Message()
    for piece in pieces:
        called = {"input" if kind == "custom" else "arguments": piece}
        call = {"index": 0, "custom" if kind == "custom" else "function": called}
        message.add({kind: called} if kind == "function_call" else {"tool_calls": [call]})
    whole = message.joined()
    called = whole["function_call"] if kind == "function_call" else next(iter(whole["tool_calls"][0].values()))
    assert next(iter(called.values())) == "".join(pieces)


def test_odd_pieces_of_calls() -> None:
    deep: Any = {}
    for _ in range(900):
        deep = {"function": deep}
    deltas: list[Any] = [
        {"id": "a", "function": {"name": "f", "arguments": ["no", "text"]}},
        {"id": "", "function": {"name": "", "arguments": "{"}, "extra": {"a": 1}},
        {"type": "function", "function": {"arguments": "}"}, "extra": {"b": 2}, "arguments": "x"},
        {"function": deep},
    ]
    stream = read_stream(streamed(*[chunk({"tool_calls": [{"index": 0} | delta]}) for delta in deltas]))
    (call,) = stream.message["tool_calls"]
    assert call["function"].pop("function") == deep["function"]
    assert call["function"] == {"name": "f", "arguments": "{}"}
    assert (call["id"], call["type"], call["extra"], call["arguments"]) == ("a", "function", {"b": 2}, "x")


def test_without_an_index_an_id_begins_a_call() -> None:
    deltas: list[Any] = [
        {"id": "a", "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "b", "function": {"name": "g", "arguments": "[]"}},
    ]
    stream = read_stream(streamed(*[chunk({"tool_calls": [delta]}) for delta in deltas]))
    called = [(call["id"], *call["function"].values()) for call in stream.message["tool_calls"]]
    assert (called, stream.flaw) == ([("a", "f", "{}"), ("b", "g", "[]")], "a call in a stream without its index")


# Server-sent events

ENDS = ("\n", "\r\n", "\r")


@given(st.lists(st.tuples(st.text("ab :", max_size=4), st.sampled_from(ENDS), st.sampled_from(ENDS)), max_size=5))
def test_events_end_in_a_blank_line_of_any_kind(sent: list[tuple[str, str, str]]) -> None:
    """But a CR that ends a line, and a LF that would end an empty one, are together one end."""
    sent = [(text, end, blank) for text, end, blank in sent if (end, blank) != ("\r", "\n")]
    stream = "".join(f": comment{end}data: {text}{end}id: 3{end}{blank}" for text, end, blank in sent)
    found = list(events(stream.encode()))
    assert [data.decode() for _, _, data in found] == [text for text, _, _ in sent]
    assert [position for position, _, _ in found] == sorted(position for position, _, _ in found)
    assert not found or found[-1][0] == len(stream)


@pytest.mark.parametrize(
    ("sent", "data"),
    [
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\ndata: b\r\n", []),
        (b"\r\n\r\ndata: a\n\r\n\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),  # One byte order mark, at the beginning.
        (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [b"b"]),
        (b"\xef\xbb\xbf\n\ndata: a\n\n", [b"a"]),
        (b"data\n\ndata\ndata\n\n", [b"", b"\n"]),
        (b"data:  a \n\ndata:\tb\n\n", [b" a ", b"\tb"]),  # One space after the colon is no part of it.
        (b"data : a\n\n data: a\n\nDATA: a\n\ndatab: a\n\n:data: a\n\n", []),
        (b"data: a:b\ndata::\n\n", [b"a:b\n:"]),
        (b": comment\n\nevent: x\n\ndata: a\n\ndata: unfinished\n", [b"a"]),
    ],
)
def test_the_data_of_events(sent: bytes, data: list[bytes]) -> None:
    assert [data for _, _, data in events(sent)] == data


def test_the_name_of_an_event() -> None:
    sent = b"event: x\nevent:error\ndata: a\n\ndata: b\n\nevent\ndata: c\n\nevent: lost\n\ndata: d\n\n"
    assert [name for _, name, _ in events(sent)] == [b"error", b"", b"", b""]


def test_blank_lines_are_found_at_once() -> None:
    """It took a minute once: the search began anew at each byte."""
    assert not BLANK_LINE.search(b"x" * 3_000_000 + b"\r\nx" + b"\rx" * 1_000_000)
