import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import entries, wire
from mockchat.core.index import Reply, ResponseIndex
from mockchat.requester.verify import ERROR, MISMATCHED, NOT_FOUND, verify, verify_stream


def reply(text: str) -> Reply:
    return Reply(wire.message("assistant", text), b'"c"')


EXPECTED = [reply("hello"), reply('so "}] long')]


def completion(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}]}).encode()


@pytest.mark.parametrize(
    "answer",
    [
        completion("hello"),
        completion('so "}] long'),
        b'{"message": {"role": "Assistant", "content": "hello"}}',
        b' {"choices" : [ {"index": 0, "message": {"content": "h\\u0065llo"}} ], "error": null}',
    ],
)
def test_right_answers(answer: bytes) -> None:
    assert verify(200, answer, EXPECTED) is None


@pytest.mark.parametrize(
    ("status", "answer", "kind", "detail"),
    [
        (404, b"No valid response", NOT_FOUND, "status 404: No valid response"),
        (404, b'{"error": {"message": "no such history"}}', NOT_FOUND, "no such history"),
        (500, b"", ERROR, "status 500: ''"),
        (500, b"<html>\n\x00", ERROR, "'<html>\\n\\x00'"),
        (503, b'{"error": {"message": "\\u001b[2J \\n"}}', ERROR, "status 503: '\\x1b[2J \\n'"),
        (503, b'{"error": {"message": "' + b"long " * 1000 + b'"}}', ERROR, "long long …"),
        (201, completion("hello"), ERROR, "status 201"),
        (301, b"", ERROR, "status 301"),
        (429, b'{"error": {"message": "slow down"}}', ERROR, "status 429: slow down"),
        (200, b"", ERROR, "not JSON"),
        (200, b"<html>", ERROR, "not JSON: <html>"),
        (200, completion("hello")[:-1], ERROR, "not JSON"),
        (200, b"\xff", ERROR, "not JSON"),
        (200, b"[" * 5000, ERROR, "not JSON"),
        (200, b"{}", ERROR, "without choices[0].message: "),
        (200, b"null", ERROR, "without choices[0].message: "),
        (200, b"[3]", ERROR, "without choices[0].message: "),
        (200, b'{"choices": []}', ERROR, "without choices[0].message: "),
        (200, b'{"choices": [{"message": {"content": null}}]}', ERROR, "without choices[0].message.content"),
        (200, b'{"choices": {"0": 1}}', ERROR, "without choices[0].message: "),
        (
            200,
            completion("hello!"),
            MISMATCHED,
            "differs at character 5: got 'hello!' (U+0021), recorded 'hello' (its end)",
        ),
        (200, completion("Hello"), MISMATCHED, "differs at character 0"),
        (200, completion(""), MISMATCHED, "got '' (its end), recorded 'hello' (U+0068)"),
        (
            200,
            completion("so\u00a0long"),
            MISMATCHED,
            "character 2: got 'so\\xa0long' (U+00A0), recorded 'so \"}] long' (U+0020)",
        ),
    ],
)
def test_wrong_answers(status: int, answer: bytes, kind: str, detail: str) -> None:
    problem = verify(status, answer, EXPECTED)
    assert problem is not None
    assert problem.kind == kind
    assert detail in f"{problem.cause}: {problem.detail}"
    assert problem.detail.isprintable()


def events(*data: Any, newline: str = "\n") -> bytes:
    lines = [f"data: {item if isinstance(item, str) else json.dumps(item)}{newline * 2}" for item in data]
    return "".join(lines).encode()


def delta(content: Any, finish_reason: str | None = None, number: int = 0) -> dict[str, Any]:
    found = {} if content is None else {"content": content}
    return {"choices": [{"index": number, "delta": found, "finish_reason": finish_reason}]}


LAST = delta(None, "stop")


@pytest.mark.parametrize(
    "answer",
    [
        events(delta(""), delta("hel"), delta("lo"), LAST, "[DONE]"),
        events(delta("hello"), LAST, "[DONE]", newline="\r\n"),
        events(delta("hello", "stop"), {"choices": [], "usage": {}}, "[DONE]"),
        b": a comment\n\n" + events(delta("hello"), LAST | {"error": None}, "[DONE]"),
        b"event: message\nid: 3\n" + events(delta("hello"), LAST, "[DONE]") + b": ignored\n\nid: 4\n\n",
        events(delta("hello"), LAST, delta(""), LAST, delta(None), "[DONE]"),
    ],
)
def test_right_streams(answer: bytes) -> None:
    problem, positions = verify_stream(200, answer, EXPECTED)
    assert problem is None
    assert positions == sorted(positions)
    assert positions


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (b"", ERROR, "broke off before a finish_reason"),
        (events(delta("hello")), ERROR, "broke off before a finish_reason"),
        (events(delta("hello"), LAST), ERROR, "broke off before [DONE]"),
        (events(delta("hello"), "[DONE]"), ERROR, "broke off before a finish_reason"),
        (events(delta("hello"), LAST, "[DONE]")[:-1], ERROR, "broke off before [DONE]"),
        (events(delta("hel"), {"error": {"message": "overloaded"}}), ERROR, "broke off with an error: overloaded"),
        (events(delta("hel"), "oops", "[DONE]"), ERROR, "not JSON: oops"),
        (events(delta(3), delta(None), LAST, "[DONE]"), ERROR, "content must be a string"),
        (events(delta([3]), LAST, "[DONE]"), ERROR, "content[0] must be an object"),
        (events(delta("hel"), LAST, "[DONE]"), MISMATCHED, "differs at character 3"),
        (completion("hello"), ERROR, "broke off before a finish_reason"),
        (events(delta("hel"), LAST, delta("lo"), "[DONE]"), MISMATCHED, "goes on after its finish_reason"),
        (events(delta("hello"), delta(None, "length"), LAST, "[DONE]"), MISMATCHED, "goes on after its finish_reason"),
        (events(delta("hello"), LAST, "[DONE]", delta(" world")), MISMATCHED, "an event after [DONE]"),
        (events(delta("hello"), LAST, "[DONE]", "[DONE]"), MISMATCHED, "an event after [DONE]"),
        (events(delta("hello"), LAST, "[DONE]", "oops"), MISMATCHED, "an event after [DONE]"),
    ],
)
def test_wrong_streams(answer: bytes, kind: str, detail: str) -> None:
    problem, positions = verify_stream(200, answer, EXPECTED)
    assert positions == [] or kind == MISMATCHED
    assert problem is not None
    assert problem.kind == kind
    assert detail in f"{problem.cause}: {problem.detail}"
    assert problem.detail.isprintable()


texts = st.text(st.sampled_from('a", :{}[]\\nt\n\x00é'), max_size=8)


@given(texts, texts, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_only_the_recorded_text_is_right(recorded: str, sent: str, ascii_only: bool, separators: Any) -> None:
    """However it is spelt, and whatever else the answer holds."""
    answer = {
        "content": recorded,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": sent, "reasoning": f'"content":"{recorded}"'}}
        ],
        "message": {"content": recorded},
    }
    body = json.dumps(answer, ensure_ascii=ascii_only, separators=separators).encode()
    problem = verify(200, body, [reply(recorded)])
    assert (problem is None) == (sent == recorded)
    assert verify(200, body[:-1], [reply(recorded)]) is not None


@pytest.mark.parametrize("start", [b"", events(delta("hel"))])
def test_a_long_answer_that_is_no_stream_is_looked_at_once(start: bytes) -> None:
    """It took a minute once: the search for a blank line began anew at each byte."""
    problem, positions = verify_stream(200, start + b"x" * 3_000_000, EXPECTED)
    assert problem is not None
    assert problem.cause == "a stream that broke off before a finish_reason"
    assert positions == []


# Calls

CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern", "n": 1}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL, CALL | {"id": "2"}]}


def recorded(message: Any = CALLING, **beside: Any) -> list[Reply]:
    talk = entries.conversation({"messages": [message], **beside}, "c")
    return ResponseIndex([talk]).replies(b"")


def with_call(**changes: Any) -> Any:
    return CALLING | {"tool_calls": [CALL, CALL | {"id": "2", "function": CALL["function"] | changes}]}


def plain(message: Any, finish_reason: Any = "tool_calls") -> bytes:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish_reason}]}).encode()


def deltas(message: Any, finish_reason: Any = "tool_calls", **call: Any) -> bytes:
    calls = [each | {"index": number} | call for number, each in enumerate(message["tool_calls"])]
    sent = [{"choices": [{"index": 0, "delta": {"tool_calls": [each]}, "finish_reason": None}]} for each in calls]
    return events(*sent, delta(None, finish_reason), "[DONE]")


def test_right_calls_however_they_are_spelled() -> None:
    for message in (CALLING, with_call(arguments='{"n":1.0,"city":"Bern"}'), CALLING | {"content": ""}):
        assert verify(200, plain(message), recorded()) is None
        assert verify_stream(200, deltas(message), recorded())[0] is None
    assert verify_stream(200, deltas(CALLING), recorded())[1] != []


@pytest.mark.parametrize(
    ("message", "cause", "detail"),
    [
        (CALLING | {"tool_calls": [CALL]}, "other calls", "tool_calls[1] differs: got nothing, recorded {"),
        (CALLING | {"tool_calls": [CALL] * 3}, "other calls", "tool_calls[2] differs: got {"),
        (
            with_call(name="wether"),
            "other calls",
            "tool_calls[1].function.name differs at character 2: got 'wether' (U+0074), ",
        ),
        (with_call(arguments='{"city": "Bern", "'), "other calls", "tool_calls[1].function.arguments differs: got "),
        (
            with_call(arguments='{"city": "Bonn", "n": 1}'),
            "other calls",
            "arguments.city differs at character 1: got 'Bonn' (U+006F), ",
        ),
        (CALLING | {"tool_calls": [CALL, CALL | {"id": ""}]}, "a call without its id", "got {"),
        (CALLING | {"tool_calls": [CALL, CALL | {"type": None}]}, "a call without its type", "got {"),
        (CALLING | {"content": "hm"}, "another text", "differs at character 0: got 'hm'"),
        ({"content": "I can't"}, "another text", 'differs: got "I can\'t", recorded a call of weather, weather'),
    ],
)
def test_wrong_calls(message: Any, cause: str, detail: str) -> None:
    problem = verify(200, plain(message), recorded())
    assert problem is not None
    assert (problem.kind, problem.cause) == (MISMATCHED, cause)
    assert detail in problem.detail
    if len(message.get("tool_calls", ())) == 2 and message["content"] is None:
        assert verify_stream(200, deltas(message), recorded())[0] == problem


def test_another_reason_or_refusal_is_a_mismatch_if_it_was_recorded() -> None:
    problem = verify(200, plain(CALLING, "stop"), recorded())
    assert problem is not None
    assert problem[1:] == ("another finish_reason", "got 'stop', recorded 'tool_calls'")
    text = {"role": "assistant", "content": "hello"}
    problem = verify(200, plain(text, "length"), recorded(text))
    assert problem is not None
    assert problem[1:] == ("another finish_reason", "got 'length', recorded 'stop'")
    cut = recorded(text, finish_reason="length")
    assert verify(200, plain(text, "length"), cut) is None
    problem = verify(200, plain(text, "stop"), cut)
    assert problem is not None
    assert problem.cause == "another finish_reason"
    refused = recorded({"role": "assistant", "content": None, "refusal": "no"})
    assert verify(200, plain({"content": None, "refusal": "no"}, "stop"), refused) is None
    problem = verify(200, plain({"content": None, "refusal": "yes"}, "stop"), refused)
    assert problem is not None
    assert problem.cause == "another refusal"


@pytest.mark.parametrize("depth", [300, 900, 1000])
@pytest.mark.parametrize("place", ["z", "id", "role", "finish_reason", "index"])
def test_an_answer_that_is_nested_too_deeply_is_told(place: str, depth: int) -> None:
    """It was told as "no HTTP, or no connection"."""
    deep = b"[" * depth + b"]" * depth
    call = {"id": "", "type": "function", "function": CALL["function"], "z": 1}
    of_call = {**call, place: "deep"} if place in ("z", "id", "index") else call
    message = {"role": "assistant", "content": None, "tool_calls": [of_call]}
    of_message = message | {"role": "deep"} if place == "role" else message
    reason = "deep" if place == "finish_reason" else "stop"
    sent = (
        plain(of_message, reason),
        events({"choices": [{"index": 0, "delta": of_message}]}, delta(None, reason), "[DONE]"),
    )
    for ask, body in zip((verify, verify_stream), sent, strict=True):
        assert b'"deep"' in body
        found = ask(200, body.replace(b'"deep"', deep), recorded())
        problem = found[0] if ask is verify_stream else found
        assert problem is not None
        assert "no HTTP" not in problem.cause


HELLO = '"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"'


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (f'{{"choices": [{{"index": 0, {HELLO}, "logprobs": NaN}}]}}', "an answer that is not JSON"),
        (f'{{"choices": [{{"index": 0, {HELLO}, "logprobs": -Infinity}}]}}', "an answer that is not JSON"),
        (f'{{"choices": [{{"index": 0, {HELLO}}}], "created": 007}}', "an answer that is not JSON"),
        (f'{{"choices": [{{"index": 0, {HELLO}}}], "model": "a\nb"}}', "an answer that is not JSON"),
        (f'{{"choices": [{{"index": 0, {HELLO}}}], "model": "a\x01b"}}', "an answer that is not JSON"),
        (f'{{"choices": [{{"index": 0, {HELLO}}}], "model": "\ud800"}}', "an answer that is not JSON"),
        (f'{{"choices": [{{"index": 0, {HELLO}}}], "error": {{"message": "no"}}}}', "an error beside a message"),
        (f'{{"choices": [{{"index": 1, {HELLO}}}]}}', "a choice that was not asked for"),
        (f'{{"choices": [{{"index": 1, {HELLO}}}, {{"index": 0, {HELLO}}}]}}', "a choice that was not asked for"),
        (f'{{"choices": [{{"index": 0, {HELLO}}}, {{"index": 1, {HELLO}}}]}}', "a choice that was not asked for"),
        (f'{{"choices": [{{"index": 0, {HELLO.replace("assistant", "user")}}}]}}', "another role"),
        (f'{{"choices": [{{"index": 0, {HELLO.replace("stop", "content_filter")}}}]}}', "another finish_reason"),
        (f'{{"choices": [{{"index": 0, {HELLO.replace("},", """, "refusal": "no"},""")}}}]}}', "another refusal"),
    ],
)
def test_the_right_text_in_a_bad_answer_is_a_failure(answer: str, cause: str) -> None:
    problem = verify(200, answer.encode(errors="surrogatepass"), EXPECTED)
    assert problem is not None
    assert cause in problem.cause


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        ((b'"finish_reason": "stop"', b'"finish_reason": "length"'), "another finish_reason"),
        ((b'"index": 0', b'"index": 0, "logprobs": [NaN]'), "an answer that is not JSON"),
        ((b'"content": "hello"', b'"content": "hello", "role": "user"'), "another role"),
        ((b'"content": "hello"', b'"content": "hello", "refusal": "no"'), "another refusal"),
        ((b"data: [DONE]", b'data: {"error": {"message": "no"}}'), "a stream that broke off with an error"),
        ((b"data: [DONE]", b'event: error\ndata: {"message": "no"}'), "a stream that broke off with an error"),
    ],
)
def test_the_right_text_in_a_bad_stream_is_a_failure(changed: tuple[bytes, bytes], cause: str) -> None:
    stream = events(delta("hello"), LAST, "[DONE]")
    assert changed[0] in stream
    problem, _ = verify_stream(200, stream.replace(*changed), EXPECTED)
    assert problem is not None
    assert cause in problem.cause
    other = events(delta("hello"), delta("x", None, 1), LAST, "[DONE]")
    problem, _ = verify_stream(200, other, EXPECTED)
    assert problem is not None
    assert problem.cause == "a choice that was not asked for"


def test_a_call_beside_a_recorded_text_is_a_mismatch() -> None:
    problem = verify(200, plain(CALLING | {"content": "hello"}), EXPECTED)
    assert problem is not None
    assert problem.detail.startswith("tool_calls differs: got [")


def test_the_index_of_a_streamed_call_must_be_right() -> None:
    for index, cause in (
        (None, "a call in a stream without its index"),
        (0, "two calls in a stream with the same index"),
    ):
        problem, _ = verify_stream(200, deltas(CALLING, index=index), recorded())
        assert problem is not None
        assert (problem.kind, problem.cause) == (MISMATCHED, cause)
