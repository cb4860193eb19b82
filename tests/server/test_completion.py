"""Answers, whole and streamed, as bytes that clients parse."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import entries, wire
from mockchat.core.dataset import load
from mockchat.core.index import ResponseIndex
from mockchat.server.completion import STREAM_END, choose, steps, stream
from mockchat.server.completion import whole as in_parts
from mockchat.server.request import ChatRequest, read_request
from tests.helpers import SAMPLE, conversation, index_of, request_body
from tests.server.recorded import HELLO, HI, INDEX, fields

# Answers


def whole(request: ChatRequest, created: int) -> bytes:
    return b"".join(in_parts(request, created, choose(request)))


def test_the_answer_has_the_api_s_fields_and_the_original_s() -> None:
    request = read_request(request_body(HI, HELLO, ("user", "bye"), model="gpt-4o"), INDEX)
    answer = fields(whole(request, 1690198033))
    usage = answer.pop("usage")
    assert answer == {
        "id": "two",
        "object": "chat.completion",
        "created": 1690198033,
        "model": "gpt-4o",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": 'so "}] long', "refusal": None},
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
    assert fields(whole(request, 0))["model"] == answered


def test_texts_are_exact_and_surrogates_too() -> None:
    history = [("system", "be kind"), ("user", ""), ("assistant", ""), ("user", 'é\n\\"')]
    answer = whole(read_request(request_body(*history), INDEX), 0)
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
    usages = [fields(whole(read_request(body.encode(), INDEX), 0))["usage"] for body in spellings]
    assert all(usage == usages[0] for usage in usages)
    empty = fields(whole(read_request(b'{"messages":[]}', INDEX), 0))["usage"]
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
    assert b" ".join(drawn).decode().replace('"', "") == "one three one three three two one three"


@pytest.mark.parametrize("n", [1, 2, 128])
def test_n_choices(n: int) -> None:
    answer = fields(whole(read_request(request_body(HI, n=n, seed=1), INDEX), 0))
    assert [choice["index"] for choice in answer["choices"]] == list(range(n))
    contents = [choice["message"]["content"] for choice in answer["choices"]]
    assert set(contents) <= {"hello", "good day"}
    assert answer["message"]["content"] == contents[0]
    assert answer["usage"]["completion_tokens"] == sum(-(-(len(content) + 2) // 4) for content in contents)


# Streams


def chunks(request: ChatRequest) -> list[Any]:
    events = b"".join(stream(request, 1690198033, choose(request))).decode().split("\n\n")
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
    for piece in ("so", ' "}]', " long"):
        expected += [chunk(number, {"content": piece}) for number in range(n)]
    expected += [chunk(number, {}, "stop") for number in range(n)]
    if include_usage:
        expected.append({**about, "choices": [], "usage": fields(whole(request, 0))["usage"]})
    assert found == expected


@pytest.mark.parametrize(
    ("reply", "pieces"),
    [
        ("", []),
        (" ", [" "]),
        ("Two words", ["Two", " words"]),
        ("  spaces  ", [" ", " spaces", " ", " "]),
        ("a\nline's end is no cut", ["a\nline's", " end", " is", " no", " cut"]),
        ("averyveryverylongword", ["averyveryverylon", "gword"]),
        ("one averyveryverylongword among short ones", ["one", " averyveryverylongword", " among", " short", " ones"]),
        ('long\\\n"words', ["long", "\\", "\n", '"', "words"]),
        ("汉字没有空格在它们之间", ["汉字没有空格在它", "们之间"]),
        ("😀" * 9, ["😀" * 8, "😀"]),
    ],
)
def test_a_piece_is_a_word_or_a_part_of_a_long_one(reply: str, pieces: list[str]) -> None:
    index = index_of(conversation("c", "hi", reply))
    events = chunks(read_request(request_body(HI, stream=True), index))
    deltas = [event["choices"][0]["delta"].get("content") for event in events]
    assert [delta for delta in deltas if delta] == pieces


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
    plain = [choice["message"]["content"] for choice in fields(whole(request, 0))["choices"]]
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
    alone = [b"".join(stream(request, 0, [reply])).count(b'"delta":{"content":') for reply in replies]
    assert len(found) == max(1, *alone)
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
                body = b'{"messages":%b,"seed":1}' % wire.array(wire.join(found.messages[:number]))
                request = read_request(body, index)
                joined = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks(request))
                assert joined == fields(whole(request, 0))["choices"][0]["message"]["content"]


def test_a_long_stream_comes_in_slabs() -> None:
    index = index_of(conversation("c", "hi", "word " * 20_000))
    long, short = (read_request(request_body(HI, stream=True), each) for each in (index, INDEX))
    slabs = list(stream(long, 0, choose(long)))
    assert len(slabs) > 20
    assert max(map(len, slabs)) < 300_000
    assert len(list(stream(short, 0, choose(short)))) == 1


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    "said", [{"content": "a b c"}, {"content": "d " * 2000}, {"refusal": "I can't"}, {"tool_calls": [CALL]}]
)
def test_logprobs_are_in_the_first_piece_of_each_choice(said: dict[str, Any], n: int) -> None:
    logprobs = {"content": [{"token": "a", "logprob": -1.5}], "refusal": None}
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None} | said]
    index = ResponseIndex([entries.conversation({"messages": messages, "logprobs": logprobs}, "one")])
    request = read_request(json.dumps({"messages": messages[:1], "n": n}).encode(), index)
    assert [choice["logprobs"] for choice in json.loads(whole(request, 1))["choices"]] == [logprobs] * n
    for events in (b"".join(make(request, 1, choose(request))) for make in (stream, steps)):
        parsed = [json.loads(event[6:])["choices"] for event in events.split(b"\n\n")[:-2]]
        choices = [choice for each in parsed for choice in each]
        assert [choice["logprobs"] for choice in choices if choice["logprobs"]] == [logprobs] * n
        assert all(choice["logprobs"] for choice in choices[n : 2 * n])
