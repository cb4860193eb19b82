"""Request bodies: every way to read one is the same function of it."""

import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.dataset import load
from mockchat.core.index import ResponseIndex
from mockchat.requester.plan import places
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.request import Settings, in_full, in_place, read_request
from tests.fuzz import inputs, properties
from tests.helpers import SAMPLE, request_body
from tests.server.recorded import HELLO, HI, HISTORIES, INDEX, RECORDED, fields

# The two ways to read a body are the same function


@pytest.mark.parametrize(
    "spelling",
    [
        '{"messages":%s}',
        '{"messages":%s,"model":"gpt-4o"}',
        '{"messages":%s,"model":"gpt-4o","stream":false,"tools":[{"type":"function"}],"stop":["}]"]}',
        '{"model":"gpt-4o","messages":%s}',
        '{"model":"gpt-4o","temperature":0.5,"messages":%s,"user":"\\"messages\\":[{\\"role\\":\\""}',
        '{"metadata":{"a":{"b":[1]}},"messages":%s,"seed":7}\n',
    ],
)
def test_the_wire_form_is_read_in_place(spelling: str) -> None:
    for history in HISTORIES_OF_SAMPLE:
        body = (spelling % wire.array(history).decode()).encode()
        asked = in_place(body, SAMPLED)
        if '"type":"function"}]' in spelling:  # What may be the array's end comes behind it: it is parsed.
            assert asked is None
        else:
            assert seen(asked) == seen(in_full(body, SAMPLED))
        assert seen(read_request(body, SAMPLED))["history"] == history


SPELLINGS: list[dict[str, Any]] = [{}, {"ensure_ascii": False}, {"separators": (",", ":")}, {"indent": 1}]


@pytest.mark.parametrize("options", SPELLINGS, ids=str)
@pytest.mark.parametrize("content_first", [False, True])
def test_any_other_spelling_is_spelled_anew(content_first: bool, options: dict[str, Any]) -> None:
    for history in HISTORIES_OF_SAMPLE:
        messages = [dict(sorted(said.items(), reverse=not content_first)) for said in json.loads(wire.array(history))]
        body = json.dumps({"model": "m", "messages": messages}, **options).encode()
        asked = in_full(body, SAMPLED)
        assert asked.history == history
        compact = options.get("separators") and not content_first and history.isascii() and b"\x7f" not in history
        assert (in_place(body, SAMPLED) is not None) == bool(compact)


def seen(asked: Any) -> dict[str, Any]:
    """All of a request, its replies as a list."""
    return {**asked._asdict(), "replies": list(asked.replies)}


SAMPLED = ResponseIndex(load(SAMPLE).conversations)
HISTORIES_OF_SAMPLE = [place.history for place in places(load(SAMPLE).conversations) if place.number]


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=3) | st.just("x") | st.floats(-9, 9),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)
keys = st.sampled_from(["model", "seed", "n", "stream", "stream_options", "messages", "m\\u0065ssages", "", "a"])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A request in any spelling: other keys anywhere, twice or nested, white space, escapes, damage."""
    separators = draw(st.sampled_from([(",", ":"), (",", ":"), (", ", ": "), (" ,\n", "\t:")]))
    ascii_only = draw(st.booleans())

    def dump(value: Any) -> str:
        return json.dumps(value, ensure_ascii=ascii_only, separators=separators)

    def spelled(history: list[tuple[str, str]]) -> str:
        items = []
        for role, content in history:
            pairs = [("role", role), ("content", content)]
            pairs += draw(st.sampled_from([[]] * 6 + [[("name", "x")], [("content", "hi")], [("role", "user")]]))
            if draw(st.integers(0, 5)) == 0:
                pairs.reverse()
            items.append(
                "{" + separators[0].join(dump(key) + separators[1] + dump(value) for key, value in pairs) + "}"
            )
        return "[" + separators[0].join(items) + "]"

    def other() -> str:
        nested = [spelled(draw(st.sampled_from(HISTORIES)))] * 2
        value = draw(values.map(dump) | st.sampled_from([nested[0], '{"messages":' + nested[1] + "}"]))
        return f'"{draw(keys)}"{separators[1]}{value}'

    parts = ['"messages"' + separators[1] + spelled(draw(st.sampled_from(HISTORIES)))]
    for _ in range(draw(st.integers(0, 2))):
        parts.insert(draw(st.integers(0, len(parts))), other())
    body = ("{" + separators[0].join(parts) + "}").encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        position, size = draw(st.integers(0, len(body))), draw(st.integers(0, 2))
        junk = draw(st.binary(max_size=2) | st.sampled_from([b",", b"]", b"}", b'"', b"\\", b" ", b":[]", b",,", b"5"]))
        body = body[:position] + junk + body[position + size :]
    return body


@given(bodies())
@example(b'{"messages":null,"messages":[{"role":"user","content":"hi"}]}')
def test_every_way_to_read_a_body_is_a_full_parse_and_a_search(body: bytes) -> None:
    properties.body(body, RECORDED)


@given(st.sampled_from(inputs.seeds("body")), st.integers(0).map(random.Random))
def test_recorded_requests_with_changes_are_read_alike(body: bytes, chance: random.Random) -> None:
    properties.body(inputs.mutated(body, "body", chance), properties.SAMPLED)


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda junk: b'{"messages":[{"role":"' + junk))
def test_no_bytes_are_worse_than_a_400(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_request(body, INDEX)
    assert caught.value.status in (400, 404)


@pytest.mark.parametrize(
    "body",
    [
        b'{,"messages":[{"role":"user","content":"hi"}]}',
        b'{ ,"messages":[{"role":"user","content":"hi"}]}',
        b'{"a":1,,"messages":[{"role":"user","content":"hi"}]}',
        b'["a","messages":[{"role":"user","content":"hi"}]}',
        b'{"messages":[{"role":"user","content":"hi"}]5}',
        b'{"messages":[{"role":"user","content":"hi"}]',
        b'{"messages":[{"role":"user","content":"hi"}]}}',
        b'{"messages":[{"role":"user","content":"hi"}],}',
        b'{"a":{"messages":[{"role":"user","content":"hi"}]}',
        b'"messages":[{"role":"user","content":"hi"}]}',
    ],
)
def test_what_is_no_json_is_refused_whatever_it_begins_with(body: bytes) -> None:
    assert in_place(body, INDEX) is None
    with pytest.raises(ApiError) as caught:
        read_request(body, INDEX)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":{"messages":[{"role":"user","content":"hi"}]},"messages":[]}',
        b'{"messages":[{"role":"user","content":"hi"}],"messages":[]}',
        b'{"messages":[{"role":"user","content":"hi"}],"m\\u0065ssages":[]}',
        b'{"messages":[{"role":"user","content":"x","content":"y","role":"tool"}],"messages":[]}',
    ],
)
def test_the_last_messages_of_the_object_itself_count(body: bytes) -> None:
    assert [reply.conversation_id for reply in read_request(body, INDEX).replies] == [b'"five"']


# What a request may look like


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": "hi"},
        {"content": "hi", "role": "user"},
        {"role": "Human", "content": "hi"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user", "content": [{"type": "text", "text": "h"}, {"text": "i", "type": "text", "x": 1}]},
        {"role": "user", "content": "hi", "name": "Ada", "refusal": None, "tool_calls": []},
    ],
)
def test_spellings_of_one_message(message: dict[str, Any]) -> None:
    body = json.dumps(
        {"messages": [message, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "bye"}]}
    )
    assert read_request(body.encode(), INDEX).replies[0].conversation_id == b'"two"'


@pytest.mark.parametrize("content", ["", None, []])
def test_no_content_is_the_empty_text(content: Any) -> None:
    messages = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": content},
        {"role": "assistant"},
        {"role": "user", "content": 'é\n\\"'},
    ]
    assert read_request(json.dumps({"messages": messages}).encode(), INDEX).replies[0].conversation_id == b'"four"'


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"", "not JSON", None),
        (b"hello", "not JSON", None),
        (b"\xff", "not JSON", None),
        (b"[" * 5000, "not JSON", None),
        (b'{"seed": ' + b"1" * 5000 + b"}", "not JSON", None),
        (b"[]", "must be a JSON object", None),
        (b"null", "must be a JSON object", None),
        (b"{}", "messages is missing", "messages"),
        (b'{"messages": null}', "messages is missing", "messages"),
        (b'{"messages": {}}', "messages must be an array", "messages"),
        (b'{"messages": "hi"}', "messages must be an array", "messages"),
        (b'{"messages": ["hi"]}', "must be an object", "messages[0]"),
        (b'{"messages": [{}]}', "must be one of user, assistant", "messages[0].role"),
        (b'{"messages": [{"role": 3, "content": "x"}]}', "must be one of", "messages[0].role"),
        (b'{"messages": [{"role": "martian", "content": "x"}]}', "must be one of", "messages[0].role"),
        (b'{"messages": [{"role": "user"}]}', "content is missing", "messages[0].content"),
        (b'{"messages": [{"role": "assistant"}, {"role": "user"}]}', "is missing", "messages[1].content"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "must be a string", "messages[0].content"),
        (b'{"messages": [{"role": "user", "content": {}}]}', "must be a string", "messages[0].content"),
        (
            b'{"messages": [{"role": "user", "content": ["hi"]}]}',
            "must be an object with a type",
            "messages[0].content[0]",
        ),
        *[
            (
                b'{"messages": [{"role": "assistant", "tool_calls": [{"type": %b, "function": {"name": "f"}}]}]}'
                % kind,
                "tool_calls[0].type must be function or custom",
                "messages[0].tool_calls[0].type",
            )
            for kind in (b'["function"]', b'{"a": 1}', b"true", b'"x"')
        ],
        (
            b'{"messages": [{"role": "tool", "content": "x", "tool_call_id": 3}]}',
            "tool_call_id must be a string",
            "messages[0].tool_call_id",
        ),
        (
            b'{"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]}',
            "tool_calls[0].function.name must be a string",
            "messages[0].tool_calls[0].function.name",
        ),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "text", "text": null}]}]}',
            "must be a string",
            "messages[0].content[0].text",
        ),
    ],
)
def test_unusable_requests_say_what_is_wrong(body: bytes, message: str, param: str | None) -> None:
    with pytest.raises(ApiError) as caught:
        read_request(body, INDEX)
    error = caught.value
    assert (error.status, error.param) == (400, param)
    assert message in str(error)
    assert fields(error.body())["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "history",
    [
        [("user", "hi ")],
        [("user", "Hi")],
        [("system", "hi")],
        [HI, HELLO],
        [HI, HELLO, ("user", "how are you")],
        [HI, ("assistant", "hello!"), ("user", "bye")],
        [HELLO],
        [HI, HELLO, ("user", "bye"), ("assistant", 'so "}] long')],
    ],
)
def test_one_character_off_is_a_404(history: list[tuple[str, str]]) -> None:
    with pytest.raises(NotRecorded) as caught:
        read_request(request_body(*history), INDEX)
    assert str(caught.value) == "No valid response exists for the given request"
    error = fields(caught.value.body())["error"]
    assert error["message"].startswith("No valid response exists for the given request: ")
    assert (error["type"], error["code"]) == ("not_found_error", "no_recorded_response")
    assert error["param"].startswith("messages")


# Parameters


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("model", ["x"]),
        ("stream", "true"),
        ("stream", 1),
        ("stream_options", []),
        ("n", 0),
        ("n", 129),
        ("n", 1.0),
        ("n", True),
        ("n", "2"),
        ("seed", 2**63),
        ("seed", -(2**63) - 1),
        ("seed", 1.5),
        ("seed", False),
        ("seed", "x"),
    ],
)
@pytest.mark.parametrize("history", [[HI], [("user", "nobody said this")]])
def test_a_known_parameter_of_the_wrong_kind_is_named(history: list[tuple[str, str]], name: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        read_request(request_body(*history, **{name: value}), INDEX)
    assert (caught.value.status, caught.value.param) == (400, name)
    assert str(caught.value).startswith(f"{name} must be ")


def test_include_usage_must_be_a_boolean() -> None:
    with pytest.raises(ApiError) as caught:
        read_request(request_body(HI, stream_options={"include_usage": 1}), INDEX)
    assert caught.value.param == "stream_options.include_usage"


@pytest.mark.parametrize("spaces", [None, 1])
@pytest.mark.parametrize(("name", "is_read"), [("é" * 256, True), ("m" * 257, False), ("m" * 4_000_000, False)])
def test_a_model_s_name_has_256_characters_at_most(name: str, is_read: bool, spaces: int | None) -> None:
    """Each event of a stream repeats it: one request of 4 MB with n=128 took 2.5 GB."""
    given = json.loads(request_body(HI)) | {"model": name, "n": 128, "stream": True}
    body = json.dumps(given, indent=spaces, ensure_ascii=False).encode()
    if is_read:
        assert read_request(body, INDEX).settings.model.decode() == f'"{name}"'
        return
    with pytest.raises(ApiError, match="model must be a string of at most 256 characters") as caught:
        read_request(body, INDEX)
    assert (caught.value.status, caught.value.param) == (400, "model")


def test_null_and_unknown_parameters_are_as_absent() -> None:
    nulls = dict.fromkeys(("model", "stream", "stream_options", "n", "seed"))
    request = read_request(request_body(HI, **nulls, temperature=99, tools="x"), INDEX)
    assert request.settings == Settings(model=b'"mockchat"', stream=False, include_usage=False, n=1, seed=None)
    limits = read_request(request_body(HI, n=128, seed=-(2**63), stream_options={"include_usage": None}), INDEX)
    assert limits.settings == request.settings._replace(n=128, seed=-(2**63))
