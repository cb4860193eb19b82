"""The locustfile that docs/scaling.md shows, with a stand-in for locust, which patches sockets and threads for good."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from mockchat.testing.server import MockServer, serve
from tests.helpers import SAMPLE, entry
from tests.programs import ROOT
from tests.programs.test_docs import blocks


class Response:
    """What locust's client gives for `catch_response=True`."""

    def __init__(self, status_code: int, content: bytes) -> None:
        self.status_code, self.content = status_code, content
        self.failures: list[str] = []
        self.failure = self.failures.append

    def __enter__(self) -> "Response":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Client:
    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self.responses: list[Response] = []

    def post(self, path: str, *, data: bytes, headers: dict[str, str], catch_response: bool) -> Response:
        assert catch_response
        try:
            with urlopen(Request(self.base_url + path, data, headers)) as answer:
                response = Response(answer.status, answer.read())
        except HTTPError as error:
            with error:
                response = Response(error.code, error.read())
        self.responses.append(response)
        return response


@pytest.fixture
def replay(monkeypatch: pytest.MonkeyPatch) -> Callable[[MockServer], Client]:
    """Let the page's user replay every conversation once."""
    locust: Any = ModuleType("locust")
    locust.FastHttpUser, locust.task = object, lambda function: function
    monkeypatch.setitem(sys.modules, "locust", locust)
    (shown,) = (block for block in blocks(ROOT / "docs" / "scaling.md") if block.mark == "file locustfile.py")
    page: dict[str, Any] = {}
    exec(shown.text, page)

    def run(server: MockServer) -> Client:
        user = page["Replay"]()
        assert user.host == "http://127.0.0.1:8000/v1"
        user.client = Client(server.base_url)
        for conversation in page["dataset"].conversations:
            page["random"] = SimpleNamespace(choice=lambda among, chosen=conversation: chosen)
            user.conversation()
        return user.client

    return run


def test_each_answer_is_verified(replay: Callable[[MockServer], Client]) -> None:
    with serve(SAMPLE, api_key="any") as server:
        responses = replay(server).responses
        assert {request.body["model"] for request in server.requests} == {"mockchat"}
    assert len(responses) == 169
    assert [response.failures for response in responses if response.failures] == []


def test_a_wrong_answer_is_a_failure(replay: Callable[[MockServer], Client]) -> None:
    with serve([entry("a", "How many moons does Mars have?", "wrong")]) as server:
        failures = [failure for response in replay(server).responses for failure in response.failures]
    assert failures.count("mismatched: another text") == 1
    assert failures.count("not_found: status 404") == 168
