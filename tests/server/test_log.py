import io
import re
from typing import Any

import pytest
from aiohttp import web

from mockchat.server.log import Log
from mockchat.server.record_file import RecordFile
from mockchat.server.simulation import Simulation
from mockchat.server.upstream import Upstream
from tests.helpers import Connect, conversation, faults, index_of, request_body
from tests.serving import ASK_BIG, GOOD, HEAD, INDEX, MISS, STREAMED, STREAMED_BIG, MockServer, content, post

JSON = "Accept: application/json\r\nAuthorization: Bearer sk-secret\r\n"


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was logged since the last time, without the time of day and the milliseconds."""
    return [
        re.sub(r"^\d\d:\d\d:\d\d\.\d{3} (.*) \d+\.\d ms", r"\1", line) for line in capsys.readouterr().err.splitlines()
    ]


async def serve(aiohttp_client: Any, log: Log, **options: Any) -> Any:
    server = MockServer(**options)
    server.chat_server.log = log
    return await aiohttp_client(server)


async def test_each_request_is_a_line(aiohttp_client: Any, connect: Connect, capsys: Any) -> None:
    log = Log(each=True)
    client = await serve(aiohttp_client, log, simulation=Simulation(faults=faults("header")))
    raw = await connect(client)
    sent = [
        *[post(body, JSON) for body in (GOOD, MISS, b"{")],
        post(GOOD, "X-Mockchat-Fault: 429\r\n"),
    ]
    for request in sent:
        await raw.send(request)
        await raw.answer()
    for request in (post(STREAMED), post(GOOD, "X-Mockchat-Fault: disconnect\r\n")):
        await raw.send(request)
    await raw.reader.read()
    told = lines(capsys)
    assert [line.split()[0] for line in told] == ["200", "404", "400", "429", "200", "disconnect"]
    assert told[0] == told[4] == '200 "one"'
    assert told[1].startswith(
        "404 not recorded: messages[0] differs at character 2: sent 'hix' (U+0078), recorded 'hi'"
    )
    assert told[2].startswith("400 The request body is not JSON: ")
    assert told[3] == "429 A fault that was asked for: status 429"
    assert "secret" not in "".join(told)
    assert (
        log.summary(client.server.chat_server.requests_count)
        == "Requests: 6; answered 2, not recorded 1, other errors 3"
    )


async def test_what_a_client_does_not_wait_for_is_cut_off(aiohttp_client: Any, connect: Connect, capsys: Any) -> None:
    client = await serve(aiohttp_client, Log(each=True))
    raw = await connect(client)
    await raw.send(post(STREAMED_BIG))
    await raw.reader.readexactly(1)
    await raw.close()
    await client.close()
    (line,) = lines(capsys)
    assert line == '200 "big" cut off'


async def test_without_it_the_first_miss_is_told(aiohttp_client: Any, connect: Connect, capsys: Any) -> None:
    log = Log()
    client = await serve(aiohttp_client, log)
    raw = await connect(client)
    for body in (GOOD, MISS, MISS, b"{", b"[", ASK_BIG):
        await raw.send(post(body))
        await raw.answer()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("404: not recorded: messages[0] differs at character 2: sent 'hix'")
    assert line.endswith("(said once; --log tells each)")
    assert (
        log.summary(client.server.chat_server.requests_count)
        == "Requests: 6; answered 2, not recorded 2, other errors 2"
    )


async def test_a_long_text_is_told_in_short_and_escaped(aiohttp_client: Any, connect: Connect, capsys: Any) -> None:
    client = await serve(aiohttp_client, Log(each=True), index=index_of(conversation("\x1b[2J", "\x1b[31m", "hello")))
    raw = await connect(client)
    await raw.send(post(request_body(("user", "\x1b[31m"))))
    assert content((await raw.answer())[2]) == "hello"
    await raw.send(post(request_body(("user", "\x1b[32m" * 1000))))
    await raw.answer()
    await raw.send(HEAD + b"Content-Length: x\r\n\r\n")
    await raw.answer()
    told = lines(capsys)
    assert told[0] == '200 "\\u001b[2J"'
    assert [line.split()[0] for line in told] == ["200", "404", "400"]
    assert all(line.isprintable() and len(line) < 1500 for line in told)


async def test_what_an_upstream_answers_is_told(
    aiohttp_client: Any, aiohttp_server: Any, capsys: Any, tmp_path: Any
) -> None:

    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no such key"}}, status=401)

    application = web.Application()
    application.router.add_post("/v1/chat/completions", handler)
    upstream = await aiohttp_server(application)
    for base, status, why in (
        (str(upstream.make_url("/v1")), 401, "the upstream answered: no such key"),
        (str(upstream.make_url("/")), 404, "(it was asked at /chat/completions: should its base URL end in /v1?)"),
        ("http://127.0.0.1:9/v1", 502, "The upstream failed: no connection, to 127.0.0.1:9"),
    ):
        log = Log()
        client = await serve(aiohttp_client, log)
        file = RecordFile(tmp_path / "f", print)
        chat = client.server.chat
        chat.upstream = Upstream(base, INDEX, file)
        for _ in range(2):
            async with client.post("/v1/chat/completions", data=MISS) as response:
                assert response.status == status
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{status}: ")
        assert why in line
        assert (
            log.summary(client.server.chat_server.requests_count)
            == "Requests: 2; answered 0, not recorded 0, other errors 2"
        )
        await chat.upstream.close()


@pytest.mark.parametrize("each", [True, False])
async def test_that_nobody_reads_the_log_is_no_reason_not_to_answer(
    aiohttp_client: Any, connect: Connect, monkeypatch: pytest.MonkeyPatch, each: bool
) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    client = await serve(aiohttp_client, Log(each=each))
    monkeypatch.setattr("sys.stderr", Gone())
    raw = await connect(client)
    for body, status in ((GOOD, 200), (MISS, 404), (GOOD, 200)):
        await raw.send(post(body))
        assert (await raw.answer())[0] == status
