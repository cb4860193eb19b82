import json
from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from mockchat.core import wire

any_text = st.text(st.characters(codec=None, exclude_categories=()))  # Lone surrogates included.


@given(st.text())
def test_a_text_is_what_the_openai_sdk_sends(value: str) -> None:
    assert wire.text(value) == json.dumps(value, ensure_ascii=False).encode()


@given(any_text)
def test_any_text_survives(value: str) -> None:
    message = wire.message("user", value)
    message.decode()  # It is UTF-8 whatever was in the text.
    joined = value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    assert wire.content_of(message) == joined
    assert wire.role_of(message) == "user"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", b'""'),
        ('say "hi" \\o/', b'"say \\"hi\\" \\\\o/"'),
        ("\b\f\n\r\t\x00\x1f\x7f", b'"\\b\\f\\n\\r\\t\\u0000\\u001f\x7f"'),
        ("é\u2028😀</script>", '"é\u2028😀</script>"'.encode()),
        ("\ud800!", b'"\\ud800!"'),
        ("\udc00\ud83d", b'"\\udc00\\ud83d"'),
        ("\ud83d\ude00", '"😀"'.encode()),
    ],
)
def test_text_is_written_as_javascript_does(value: str, expected: bytes) -> None:
    assert wire.text(value) == expected


@given(st.lists(st.tuples(st.sampled_from(wire.API_ROLES), any_text), max_size=4))
def test_joined_messages_are_the_array_of_them(messages: list[tuple[str, str]]) -> None:
    joined = wire.array(wire.join([wire.message(role, content) for role, content in messages]))
    parsed = [(item["role"], item["content"]) for item in json.loads(joined)]
    assert [(role, wire.text(content)) for role, content in parsed] == [
        (role, wire.text(content)) for role, content in messages
    ]


def test_only_the_assistants_messages_are_replies() -> None:
    assert wire.is_assistant(wire.message("assistant", ""))
    assert not wire.is_assistant(wire.message("user", "assistant"))


def test_a_message_that_says_more_has_no_separator_in_that() -> None:
    more = b'{"calls":[{"function":"f","arguments":[{"a":"b"},{"role":"c"}]}]}'
    message = wire.with_more(wire.message("assistant", "x"), more)
    assert wire.split(wire.join([message, message])) == [message, message]
    assert wire.more_of(message) == json.loads(more)
    assert wire.without_more(message) == wire.message("assistant", "x")
    assert not wire.is_plain(message)
    assert wire.is_plain(wire.without_more(message))


@given(st.lists(st.tuples(st.sampled_from(wire.API_ROLES), any_text)))
def test_a_history_is_taken_apart_and_put_together(said: list[tuple[str, str]]) -> None:
    messages = [wire.message(*each) for each in said]
    history = wire.join(messages)
    assert wire.split(history) == messages
    assert wire.array_size(history) == len(wire.array(history))
    grown = b""
    for message in messages:
        assert wire.first(history, wire.next_start(grown)) == message
        grown += (wire.NEXT if grown else b"") + message + b"}"
    assert grown == history


# JSON


@pytest.mark.parametrize("lenient", [b'"\\ud800"', b"NaN", b"01", b'"a\nb"', b"1e999"])
def test_what_ujson_takes_is_taken(lenient: bytes) -> None:
    assert repr(wire.loads(lenient)) == repr(ujson.loads(lenient))


@pytest.mark.parametrize("bad", [b"", b"01", b"NaN", b'"a\nb"', b'"\xff"', b"[1,]", b"\xef\xbb\xbf1", b"[" * 100_000])
def test_what_is_no_json_to_the_letter(bad: bytes) -> None:
    with pytest.raises(ValueError):
        wire.parse(bad)


def test_lone_surrogates_are_json() -> None:
    assert wire.parse(b'"\\ud800"') == "\ud800"


def test_too_many_values_are_counted_in_texts_too() -> None:
    most = wire.MOST_VALUES
    assert not wire.has_too_many_values(b"[" * most)
    assert wire.has_too_many_values(b"[" * (most + 1))
    assert wire.has_too_many_values(b'"%b' % (b"{" * (most - 1) + b"[,"))
    assert not wire.has_too_many_values(b'{"a":"' + b'\\"' * 3_000_000 + b"." * 3_000_000)


def test_a_long_value_is_only_sorted() -> None:
    """A walk over all numbers would hold up other clients."""
    long = "x" * 1024 * 1024
    with pytest.raises(ValueError, match="has more than 1,048,576 bytes"):
        wire.canonical(f'["{long}"]')
    assert wire.canonical_of({"b": 1.0, "a": long}) == b'{"a":"%b","b":1.0}' % long.encode()
    assert wire.canonical_of({"b": 1.0, "a": "x"}) == b'{"a":"x","b":1}'


@pytest.mark.parametrize(
    "value", [[float("nan"), 10**30], [float("-inf"), "\ud800"], {"a": (float("inf"), {"\udc00": 1})}]
)
def test_no_number_is_written_that_is_no_json(value: Any) -> None:
    """Whatever else has Python's encoder write it."""
    assert "null" in json.dumps(wire.parse(wire.json_of(value)))


@pytest.mark.parametrize("inner", ["", '"\\ud800"', "1.5"])
def test_depth_is_counted_whatever_is_on_the_stack(inner: str) -> None:
    def below(frames: int, depth: int) -> bool:
        if frames:
            return below(frames - 1, depth)
        try:
            wire.canonical("[" * depth + inner + "]" * depth)
        except ValueError:
            return False
        return True

    for depth in (200, 300, 900, 970, 980):
        assert {below(frames, depth) for frames in (0, 50, 200, 500)} == {depth == 200}


@pytest.mark.parametrize("depth", [300, 600, 100_000])
def test_what_is_nested_too_deeply_is_no_value(depth: int) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        wire.canonical("[" * depth + "]" * depth)
