from typing import Any

import pytest

from mockchat.core import entries, matching
from mockchat.core.index import ResponseIndex


def replies(*requests: Any) -> Any:
    """The replies to the same message in requests with these parameters."""
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
    talks = [
        entries.conversation({"messages": said, "request": request}, str(number))
        for number, request in enumerate(requests)
    ]
    return ResponseIndex(talks).replies(b'user","content":"hi"}')


def found(parameters: dict[str, Any], *names: str) -> list[bytes]:
    requests = ({"model": "a"}, {"model": "b", "temperature": 1}, {"model": "a", "tools": [{"x": 1, "y": 2}]}, None)
    return [reply.conversation_id for reply in matching.matching(replies(*requests), parameters, names)]


@pytest.mark.parametrize(
    ("parameters", "names", "expected"),
    [
        ({}, [], "0123"),
        ({"model": "a"}, ["model"], "023"),
        ({"model": "a"}, ["model", "tools"], "03"),
        ({"model": "a", "tools": None}, ["model", "tools"], "03"),
        ({"tools": [{"y": 2.0, "x": 1}]}, ["tools"], "23"),
        ({"tools": [{"y": 2, "x": True}]}, ["tools"], "3"),
        ({"temperature": 1.0}, ["temperature"], "13"),
        ({"temperature": True}, ["temperature"], "3"),
        ({"model": "c"}, ["model"], "3"),
        ({"model": "c"}, ["top_p"], "0123"),
    ],
)
def test_the_named_parameters_are_compared_as_json(parameters: Any, names: list[str], expected: str) -> None:
    assert found(parameters, *names) == [b'"%d"' % int(number) for number in expected]


def test_what_can_not_be_compared() -> None:
    deep: Any = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(ValueError, match="nested too deeply"):
        found({"tools": deep}, "tools")
    with pytest.raises(entries.DatasetError, match='"request" is nested too deeply'):
        replies({"tools": deep})


@pytest.mark.parametrize("name", ["messages", "N", "seed", "user", "api_key", "session_token", "headers", "metadata"])
def test_what_is_not_recorded(name: str) -> None:
    assert not matching.is_recorded(name)
    assert matching.recorded({name: "x", "model": "m", "max_tokens": 1, "stop": None}) == {
        "model": "m",
        "max_tokens": 1,
    }
