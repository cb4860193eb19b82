import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mockchat.core import wire
from mockchat.core.dataset import load
from mockchat.core.index import ResponseIndex
from mockchat.server.protocol import (
    STREAM_END,
    ApiError,
    ChatRequest,
    NotRecorded,
    Settings,
    choose,
    completion,
    count_steps,
    general,
    read_request,
    shortcut,
    steps,
    stream,
)
from tests.fuzz import inputs, properties
from tests.helpers import SAMPLE, conversation, index_of, request_body

RECORDED = properties.Recorded(
    [
        conversation("one", "hi", "hello", "how are you?", "fine"),
        conversation("two", "hi", "hello", "bye", 'so "}] long'),
        conversation("three", "hi", "good day"),
        conversation("four", "system:be kind", "user:", "assistant:", 'user:é\n\\"', "assistant:\ud800 😀"),
        conversation("five", "just so", first="assistant"),
    ]
)
INDEX = RECORDED.index
HI = ("user", "hi")
HELLO = ("assistant", "hello")
HISTORIES: list[list[tuple[str, str]]] = [
    [],
    [HI],
    [HI, HELLO, ("user", "bye")],
    [HI, HELLO, ("user", "how are you?")],
    [("system", "be kind"), ("user", "")],
    [("system", "be kind"), ("user", ""), ("assistant", ""), ("user", 'é\n\\"')],
    [("user", "nobody said this")],
    [HI, HELLO],
    [HI, HI],
]


def fields(answer: bytes) -> Any:
    return json.loads(answer)


# The shortcut and the general way are the same function


@pytest.mark.parametrize(
    "spelling",
    [
        '{"messages":%s}',
        '{"messages":%s,"model":"gpt-4o"}',
        '{"messages":%s,"model":"gpt-4o","stream":false,"tools":[{"type":"function"}],"stop":["\\"}]"]}',
        '{"model":"gpt-4o","messages":%s}',
        '{"model":"gpt-4o","temperature":0.5,"messages":%s,"user":"\\"messages\\":[{\\"role\\":\\""}',
        '{"metadata":{"a":{"b":[1]}},"messages":%s,"seed":7}\n',
    ],
)
def test_common_spellings_take_the_shortcut(spelling: str) -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    taken = 0
    for found in conversations:
        for number, message in enumerate(found.messages):
            if wire.is_assistant(message) and number:
                body = (spelling % wire.join(found.messages[:number]).decode()).encode()
                request = shortcut(body, index)
                assert request is not None
                assert request == general(body, index)
                taken += 1
    assert taken > 100


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
    assert shortcut(body, INDEX) is None
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
        (b'{"messages": [{"role": "assistant"}, {"role": "tool"}]}', "is missing", "messages[1].content"),
        (b'{"messages": [{"role": "user", "content": 3}]}', "must be a string", "messages[0].content"),
        (b'{"messages": [{"role": "user", "content": {}}]}', "must be a string", "messages[0].content"),
        (b'{"messages": [{"role": "user", "content": ["hi"]}]}', "only text", "messages[0].content[0]"),
        (
            b'{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}',
            "only text is recorded",
            "messages[0].content[0]",
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


# Answers


def test_the_answer_has_the_api_s_fields_and_the_original_s() -> None:
    request = read_request(request_body(HI, HELLO, ("user", "bye"), model="gpt-4o"), INDEX)
    answer = fields(completion(request, 1690198033))
    usage = answer.pop("usage")
    assert answer == {
        "id": "two",
        "object": "chat.completion",
        "created": 1690198033,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": 'so "}] long'},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "message": {"role": "Assistant", "content": 'so "}] long'},
    }
    prompt = len(
        b'[{"role":"user","content":"hi"},{"role":"assistant","content":"hello"},{"role":"user","content":"bye"}]'
    )
    assert usage == {"prompt_tokens": (prompt + 3) // 4, "completion_tokens": 4, "total_tokens": (prompt + 3) // 4 + 4}


@pytest.mark.parametrize(("model", "answered"), [('é"\n', 'é"\n'), ("", ""), (None, "mockchat"), ("%s", "%s")])
def test_the_model_is_the_request_s(model: Any, answered: str) -> None:
    request = read_request(request_body(HI, model=model), INDEX)
    assert fields(completion(request, 0))["model"] == answered


def test_texts_are_exact_and_surrogates_too() -> None:
    history = [("system", "be kind"), ("user", ""), ("assistant", ""), ("user", 'é\n\\"')]
    answer = completion(read_request(request_body(*history), INDEX), 0)
    answer.decode()
    assert fields(answer)["choices"][0]["message"]["content"] == "\ud800 😀"


def test_usage_is_the_same_in_every_spelling_and_never_nothing() -> None:
    history = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
    ]
    parts = [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in history]
    spellings = [
        json.dumps({"messages": history}, separators=(",", ":")),
        json.dumps({"messages": history}, indent=4),
        json.dumps({"model": "m", "messages": [dict(reversed(message.items())) for message in history]}),
        json.dumps({"messages": parts}),
    ]
    usages = [fields(completion(read_request(body.encode(), INDEX), 0))["usage"] for body in spellings]
    assert all(usage == usages[0] for usage in usages)
    empty = fields(completion(read_request(b'{"messages":[]}', INDEX), 0))["usage"]
    assert empty["total_tokens"] == empty["prompt_tokens"] + empty["completion_tokens"] > 0


def test_several_replies_are_drawn_by_chance() -> None:
    request = read_request(request_body(HI), INDEX)
    assert len(request.replies) == 3
    drawn = {choose(request)[0].conversation_id for _ in range(200)}
    assert drawn == {b'"one"', b'"two"', b'"three"'}


def test_a_seed_draws_the_same_reply_always() -> None:
    replies = set()
    for seed in range(-20, 20):
        request = read_request(request_body(HI, seed=seed, n=3), INDEX)
        assert len({tuple(choose(request)) for _ in range(5)}) == 1
        replies.add(choose(request)[0].conversation_id)
    assert len(replies) == 3


def test_a_seed_draws_the_same_reply_in_every_process() -> None:
    drawn = [choose(read_request(request_body(HI, seed=seed), INDEX))[0].conversation_id for seed in range(8)]
    assert b" ".join(drawn).decode().replace('"', "") == "three one three one one two three one"


@pytest.mark.parametrize("n", [1, 2, 128])
def test_n_choices(n: int) -> None:
    answer = fields(completion(read_request(request_body(HI, n=n, seed=1), INDEX), 0))
    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    contents = [choice["message"]["content"] for choice in answer["choices"]]
    assert set(contents) <= {"hello", "good day"}
    assert answer["message"]["content"] == contents[0]
    assert answer["usage"]["completion_tokens"] == sum(-(-(len(content) + 2) // 4) for content in contents)


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


def test_null_and_unknown_parameters_are_as_absent() -> None:
    nulls = dict.fromkeys(("model", "stream", "stream_options", "n", "seed"))
    request = read_request(request_body(HI, **nulls, temperature=99, tools="x"), INDEX)
    assert request.settings == Settings()
    limits = read_request(request_body(HI, n=128, seed=-(2**63), stream_options={"include_usage": None}), INDEX)
    assert limits.settings == Settings(n=128, seed=-(2**63))


# Streams


def chunks(request: ChatRequest) -> list[Any]:
    events = b"".join(stream(request, 1690198033)).decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(event.startswith("data: ") for event in events[:-1])
    return [json.loads(event.removeprefix("data: ")) for event in events[:-2]]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_s_chunks(n: int, include_usage: bool) -> None:
    options = {"include_usage": True} if include_usage else None
    body = request_body(HI, HELLO, ("user", "bye"), model="gpt-%s%%", n=n, stream=True, stream_options=options)
    request = read_request(body, INDEX)
    found = chunks(request)
    about = {"id": "two", "object": "chat.completion.chunk", "created": 1690198033, "model": "gpt-%s%%"}
    usage = {"usage": None} if include_usage else {}

    def chunk(number: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": number, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**about, "choices": [choice], **usage}

    role = {"role": "assistant", "content": "", "refusal": None}
    expected = [chunk(number, role) for number in range(n)]
    for piece in ("so", " ", '"', "}]", " long"):
        expected += [chunk(number, {"content": piece}) for number in range(n)]
    expected += [chunk(number, {}, "stop") for number in range(n)]
    if include_usage:
        expected.append({**about, "choices": [], "usage": fields(completion(request, 0))["usage"]})
    assert found == expected


any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=60) | st.text(
    'ab \n\\é漢😀"', max_size=200
)


@given(any_text, any_text)
def test_joined_deltas_are_the_reply(first: str, second: str) -> None:
    index = index_of(
        conversation("c", "user:hi", "assistant:" + first), conversation("d", "user:hi", "assistant:" + second)
    )
    request = read_request(request_body(HI, n=3, seed=0, stream=True), index)
    joined = {0: "", 1: "", 2: ""}
    for chunk in chunks(request):
        choice = chunk["choices"][0]
        piece = choice["delta"].get("content", "")
        assert len(piece) <= 16 or piece.isspace()
        joined[choice["index"]] += piece
    plain = [choice["message"]["content"] for choice in fields(completion(request, 0))["choices"]]
    assert [wire.text(content) for content in joined.values()] == [wire.text(content) for content in plain]


@given(any_text, any_text, st.integers(1, 3), st.booleans())
def test_a_step_is_a_piece_and_the_steps_are_the_stream(first: str, second: str, n: int, include_usage: bool) -> None:
    index = index_of(
        conversation("c", "user:hi", "assistant:" + first), conversation("d", "user:hi", "assistant:" + second)
    )
    body = request_body(HI, n=n, stream=True, stream_options={"include_usage": include_usage})
    request = read_request(body, index)
    replies = choose(request)
    found = list(steps(request, 0, replies))
    assert b"".join(found) == b"".join(stream(request, 0, replies))
    assert len(found) == count_steps(replies)
    pieces = [step.count(b'"delta":{"content":') for step in found]
    assert all(1 <= count <= n for count in pieces) or pieces == [0]
    assert found[0].startswith(b"data: ")
    assert found[-1].endswith(STREAM_END)


def test_every_reply_of_the_sample_streams_as_it_answers() -> None:
    conversations = load(SAMPLE).conversations
    index = ResponseIndex(conversations)
    for found in conversations:
        for number, message in enumerate(found.messages):
            if wire.is_assistant(message):
                body = b'{"messages":%b,"seed":1}' % wire.join(found.messages[:number])
                request = read_request(body, index)
                joined = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks(request))
                assert joined == fields(completion(request, 0))["choices"][0]["message"]["content"]


def test_a_long_stream_comes_in_slabs() -> None:
    index = index_of(conversation("c", "hi", "word " * 20_000))
    slabs = list(stream(read_request(request_body(HI, stream=True), index), 0))
    assert len(slabs) > 20
    assert max(map(len, slabs)) < 300_000
    assert len(list(stream(read_request(request_body(HI, stream=True), INDEX), 0))) == 1


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_error_types(status: int, kind: str) -> None:
    assert fields(ApiError(status, "x\ud800", code="c").body()) == {
        "error": {"message": "x\ud800", "type": kind, "param": None, "code": "c"}
    }
