import json
from typing import Any

import pytest
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
    joined = wire.join([wire.message(role, content) for role, content in messages])
    parsed = [(item["role"], item["content"]) for item in json.loads(joined)]
    assert [(role, wire.text(content)) for role, content in parsed] == [
        (role, wire.text(content)) for role, content in messages
    ]


def test_only_the_assistants_messages_are_replies() -> None:
    assert wire.is_assistant(wire.message("assistant", ""))
    assert not wire.is_assistant(wire.message("user", "assistant"))


# Too many values


@given(
    st.recursive(
        st.none() | st.text('a,[{"\\\n') | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(',[{"\\'), inner),
    )
)
def test_values_are_counted_outside_of_texts(value: Any) -> None:
    def count(value: Any) -> int:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
        return 1 + sum(map(count, inner))

    data = json.dumps(value).encode()
    with pytest.MonkeyPatch.context() as patch:
        for most in range(count(value) + 2):
            patch.setattr(wire, "MOST_VALUES", most)
            # An empty list or object has a bracket, but no value in it: it may count for two.
            empty = data.count(b"[]") + data.count(b"{}")
            if count(value) > most + 1:
                assert len(data) < 2 * most or wire.has_too_many_values(data)
            elif count(value) + empty <= most + 1:
                assert not wire.has_too_many_values(data)


def test_long_texts_are_no_values() -> None:
    assert not wire.has_too_many_values(b'"%b"' % (b'a,[\\"' * 200_000))
    assert wire.has_too_many_values(b"[%b]" % b",".join([b'"a,"'] * (wire.MOST_VALUES + 2)))
    assert wire.has_too_many_values(b"[" * 1_000_000)
    assert not wire.has_too_many_values(b'"' * 1_000_001 + b"\\")
    with pytest.raises(ValueError, match="has more than 250,000 values"):
        wire.canonical("[" + "[]," * 300_000 + "[]]")
