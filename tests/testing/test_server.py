import json
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import openai
import pytest

from mockchat.core.entries import DatasetError
from mockchat.core.program import ProgramError
from mockchat.server import app
from mockchat.testing.server import MockServer, Recordings, serve
from tests.helpers import SAMPLE, entry
from tests.serving import PATIENCE

HI = {"role": "user", "content": "hi"}
HELLO = {"role": "assistant", "content": "hello"}
BYE = {"role": "user", "content": "bye"}
RECORDED: list[list[dict[str, str]]] = [[HI, HELLO]]


def ask(server: MockServer, *messages: Any, **parameters: Any) -> str | None:
    with openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client:
        answer = client.chat.completions.create(model="m", messages=messages, **parameters)
    return answer.choices[0].message.content


def wait_for_requests(server: MockServer, count: int) -> None:
    """Wait until the server has taken so many down."""
    end = time.monotonic() + PATIENCE
    while len(server.requests) < count:
        assert time.monotonic() < end, server.requests
        time.sleep(0.01)


def test_a_server_for_a_test() -> None:
    with serve(RECORDED) as server:
        assert ask(server, HI, temperature=0.5) == "hello"
        with pytest.raises(openai.NotFoundError):
            ask(server, BYE)
        with urllib.request.urlopen(
            server.base_url + "/chat/completions", b'{"messages":[{"role":"user","content":"hi"}]}'
        ):
            pass
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(server.base_url + "/chat/completions", b"no JSON")
        first, second, third, last = server.requests
    assert first.body == {"messages": [HI], "model": "m", "temperature": 0.5}
    assert first.headers["authorization"] == "Bearer any"
    assert (first.status, first.error, first.is_miss) == (200, None, False)
    assert (second.status, second.is_miss) == (404, True)
    assert second.error is not None
    assert "messages[0] differs at character 0: sent 'bye' (U+0062), recorded 'hi' (U+0068)" in second.error
    assert third.status == 200
    assert (last.status, last.body, last.is_miss) == (400, None, False)
    assert server.misses == [second]
    assert server.report() == f"requests[1]: 404, {second.error}\nrequests[3]: 400, {last.error}"
    with pytest.raises(openai.APIConnectionError):
        ask(server, HI)


def test_more_recordings_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "more.json"
    path.write_text(json.dumps([entry("a", "from", "a file")]))
    with serve() as server:
        with pytest.raises(openai.NotFoundError, match="nothing is recorded"):
            ask(server, HI)
        server.load(RECORDED)
        server.load(path)
        server.load([[HI, HELLO, BYE, {"role": "assistant", "content": "so long"}]])
        assert ask(server, HI) == "hello"
        assert ask(server, {"role": "user", "content": "from"}) == "a file"
        assert ask(server, HI, HELLO, BYE) == "so long"
        with pytest.raises(DatasetError):
            server.load([[{"role": "nobody", "content": ""}]])


@pytest.mark.parametrize(
    "data",
    [
        SAMPLE,
        str(SAMPLE),
        [SAMPLE],
        [[HI, HELLO], SAMPLE],
        ((HI, HELLO),),
        {"messages": [HI, HELLO]},
        [{"id": "a", "messages": [HI, HELLO]}],
        [entry("a", "hi", "hello")],
        [[HI, {"role": "assistant", "content": [{"type": "text", "text": "hello"}]}]],
    ],
)
def test_forms_of_recordings(data: Recordings) -> None:
    with serve(data) as server:
        assert ask(server, HI)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("nowhere.json", "nowhere.json: No such file or directory"),
        ([HI, HELLO], "recording 0 is a message: give a list of conversations, each a list of them"),
        ([{"id": "x"}], 'recording 0: must have either "conversations" or "messages"'),
        ([[HI], ["hi"]], "recording 1: message 0 is a string, not an object"),
        ([[{"role": "user"}]], 'recording 0: message 0 lacks "content"'),
    ],
)
def test_what_is_no_recording(data: Any, told: str) -> None:
    with pytest.raises(DatasetError, match=told), serve(data):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "mockchat"]


def test_a_file_that_changes_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    for text in ("hello", "hello again"):
        path.write_text(json.dumps(entry("a", "hi", text)))
        for _ in range(2):
            with serve(path) as server:
                assert ask(server, HI) == text


def test_headers_on_a_kept_connection() -> None:
    with (
        serve() as server,
        openai.OpenAI(base_url=server.base_url, api_key="any", max_retries=0) as client,
    ):
        for text in ("short", "longer " * 10):
            server.reply("hello")
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])
        one, other = [int(request.headers["Content-Length"]) for request in server.requests]
    assert other - one == len("longer " * 10) - len("short")


def test_options() -> None:
    with serve(RECORDED, api_key=["secret"]) as server, pytest.raises(openai.AuthenticationError):
        ask(server, HI)
    assert "secret" not in server.report()
    with serve(RECORDED, fault=["500=first:1", "429=first:1"], ttft_ms=1) as server:
        for error in (openai.InternalServerError, openai.RateLimitError):
            with pytest.raises(error):
                ask(server, HI)
        assert ask(server, HI) == "hello"
    with serve(RECORDED, api_key=" any ", no_stitch=True, ignore=[r"\d"]) as server:
        assert server.api_key == "any"
        assert ask(server, {"role": "user", "content": "hi2"}) == "hello"
    for wrong, told in (
        ({"ignore": re.compile("x")}, "ignore: give a text or a number, not re.compile"),
        ({"no_stitch": 1}, "no_stitch: give True or False, not 1"),
        ({"fault": "503"}, "fault: '503' is not a fault"),
        ({"port": 80}, "there is no option 'port'"),
    ):
        with pytest.raises(ProgramError, match=told), serve(RECORDED, **wrong):
            pass


def test_a_request_may_name_its_fault() -> None:
    with serve(RECORDED) as server:
        with pytest.raises(openai.RateLimitError):
            ask(server, HI, extra_headers={"X-Mockchat-Fault": "429"})
        with pytest.raises(openai.APITimeoutError):
            # What is short is its patience for the answer alone, so the server does hear of it, be it later.
            ask(server, HI, extra_headers={"X-Mockchat-Fault": "stall"}, timeout=openai.Timeout(PATIENCE, read=0.1))
        wait_for_requests(server, 2)
        with pytest.raises(openai.APIConnectionError):
            ask(server, HI, extra_headers={"X-Mockchat-Fault": "disconnect"})
        assert ask(server, HI) == "hello"
        assert [request.status for request in server.requests] == [429, 0, 0, 200]
        assert server.report().splitlines() == [
            "requests[0]: 429, A fault that was asked for: status 429",
            "requests[1]: 0, A fault that was asked for: stall",
            "requests[2]: 0, A fault that was asked for: disconnect",
        ]


def test_it_stops_whatever_its_clients_do() -> None:
    with serve(RECORDED) as server, openai.OpenAI(base_url=server.base_url, api_key="any") as client:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        host, port = server.base_url.split("/")[2].split(":")
        half = socket.create_connection((host, int(port)))
        half.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nha")
    with half, suppress(ConnectionResetError):
        assert half.recv(1) == b""


def test_several_at_the_same_time() -> None:
    with serve(RECORDED) as one, serve([[HI, BYE | {"role": "assistant"}]]) as other:
        assert (ask(one, HI), ask(other, HI)) == ("hello", "bye")


def test_a_server_that_can_t_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def listening(*_: Any, **__: Any) -> None:
        raise ProgramError("no port is free")

    monkeypatch.setattr(app, "listening", listening)
    with pytest.raises(ProgramError, match="no port is free"), serve(RECORDED):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "mockchat"]
