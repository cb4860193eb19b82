"""gunicorn's processes, treated as its users do; what they answer is tested with server.py's."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mockchat.server.options import from_keywords
from mockchat.server.simulation import FAULTS
from mockchat.server.workers import create_app
from tests.helpers import SAMPLE, request_body
from tests.programs import ROOT, environment, gunicorn, running_server, wait_for_workers
from tests.serving import PATIENCE

OPTIONS = f"he options are {', '.join(name for name in vars(from_keywords({})) if name != 'data')}"
GOOD = request_body(("user", "hi"))


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """Two workers: their base URL, and the master's process id."""
    with running_server("--data", str(SAMPLE), "--api-key", "any", workers=2, env=environment()) as (url, master):
        yield url, master.pid
        wait_for_workers(url, 2)  # A test may have left new ones.
    assert master.returncode == 0


def workers(master: int) -> set[int]:
    return {int(pid) for pid in Path(f"/proc/{master}/task/{master}/children").read_text().split()}


async def ask(base_url: str, key: str = "any") -> tuple[int, str]:
    """Ask on a connection of its own: the answer's status, and what is the same in all request ids of a process."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{base_url}/chat/completions", data=GOOD) as response,
    ):
        return response.status, response.headers["x-request-id"][:-8]


async def until(condition: Any) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


async def test_workers_are_told_apart_and_know_the_options(server: tuple[str, int]) -> None:
    base_url, _ = server
    assert (await ask(base_url, key="other"))[0] == 401
    seen = set()
    async with asyncio.timeout(PATIENCE):
        while len(seen) < 2:
            answers = await asyncio.gather(*[ask(base_url) for _ in range(20)])
            assert {status for status, _ in answers} == {200}
            seen |= {process for _, process in answers}


async def test_a_killed_worker_is_replaced(server: tuple[str, int]) -> None:
    base_url, master = server
    await until(lambda: len(workers(master)) == 2)
    old = workers(master)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    await until(lambda: len(workers(master) - old) == 2)
    assert (await ask(base_url))[0] == 200


async def test_a_reload_loses_no_request(server: tuple[str, int]) -> None:
    base_url, master = server
    await until(lambda: len(workers(master)) == 2)
    old = workers(master)
    async with aiohttp.ClientSession(headers={"Authorization": "Bearer any"}) as session:

        async def keep_asking() -> int:
            asked = 0
            while workers(master) & old or asked < 100:
                async with session.post(f"{base_url}/chat/completions", data=GOOD) as response:
                    assert response.status == 200
                asked += 1
            return asked

        asking = asyncio.gather(*[keep_asking() for _ in range(3)])
        os.kill(master, signal.SIGHUP)
        async with asyncio.timeout(PATIENCE):
            assert sum(await asking) >= 300
    assert len(workers(master)) == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "missing.json"], "create_app: missing.json: No such file or directory"),
        (["--max-body-mb", "x"], "create_app: max_body_mb: 'x' is not a whole number from 1 to 999,999,999"),
        (["--max-body-mb", "1", "2"], "create_app: max_body_mb: give one value, not 2"),
        (
            ["--fault", "503"],
            "create_app: fault: '503' is not a fault: give KIND=RATE (above 0, up to 1), KIND=first:N (from 1) or "
            f"header; KIND is {FAULTS}",
        ),
        (["--api", "x"], f"create_app: there is no option 'api': t{OPTIONS}"),
        (["--port", "80"], f"create_app: there is no option 'port': t{OPTIONS}"),
    ],
)
def test_what_can_not_be_served_is_one_line(arguments: list[str], told: str, capfd: Any) -> None:
    call = gunicorn(arguments, 2)[3].removeprefix("mockchat.server.workers:")
    with pytest.raises(SystemExit) as caught:
        eval(call, {"create_app": create_app})
    assert caught.value.code == 4
    assert capfd.readouterr().err == f"{told}\n"


@pytest.mark.parametrize(
    ("application", "options", "problem"),
    [
        ("create_app('sample')", ["--preload"], "it needs its own worker class"),
        ("create_app('sample')", ["--worker-class", "gthread"], "it needs its own worker class"),
        ("create_app", ["--worker-class", "mockchat.server.workers.Worker"], "create_app must be called"),
    ],
)
def test_what_gunicorn_can_not_serve_ends_with_the_line_to_type(
    application: str, options: list[str], problem: str
) -> None:
    """Whether the application is made before a worker starts or in the worker."""
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        f"mockchat.server.workers:{application}",
        "--pythonpath",
        str(ROOT),
        *options,
    ]
    command += ["--bind", "127.0.0.1:0", "--no-control-socket", "--error-logfile", "/dev/null"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    line = """gunicorn "mockchat.server.workers:create_app('FILE')" -k mockchat.server.workers.Worker --preload"""
    assert (ended.returncode, ended.stderr) == (4, f"create_app: {problem}: {line}\n")


def test_options_may_be_python_s_own(capfd: Any) -> None:
    create_app(SAMPLE, no_stitch=True, api_key=["a", "b"], max_body_mb=1, itl_ms=2.5)
    create_app([str(SAMPLE), SAMPLE], no_stitch=False, api_key=())
    assert capfd.readouterr().out.count("Parsed ") == 2
