"""How both programs end, and what they say then."""

import asyncio
import contextlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from typing import NoReturn

import pytest
import uvloop

from mockchat.core import program
from mockchat.core.program import ProgramError


@pytest.fixture(autouse=True)
def _sigint_as_usual() -> Iterator[None]:
    """Whatever this process inherited: a job of a script has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def failing(error: BaseException) -> Callable[[], NoReturn]:
    def command() -> NoReturn:
        raise error

    return command


def test_the_command_s_status_is_the_program_s() -> None:
    assert [program.run(lambda status=status: status) for status in (0, 1, 7)] == [0, 1, 7]


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (ProgramError("there is no data: fetch some"), 2, "prog.py: there is no data: fetch some\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_stops_it_is_one_line(
    error: BaseException, status: int, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/prog.py"])
    assert program.run(failing(error)) == status
    assert capsys.readouterr().err == told


def test_a_bug_is_no_program_error() -> None:
    with pytest.raises(ZeroDivisionError):
        program.run(failing(ZeroDivisionError()))


def test_signals_do_again_what_they_did_before_the_loop() -> None:
    async def main() -> str:
        for number in program.STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, print)
        return "done"

    before = [signal.getsignal(number) for number in program.STOP_SIGNALS]
    assert program.run_on_loop(main()) == "done"
    assert [signal.getsignal(number) for number in program.STOP_SIGNALS] == before
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("once", [True, False])
def test_a_stop_signal_is_caught_whatever_the_loop(
    new_loop: Callable[[], asyncio.AbstractEventLoop], once: bool
) -> None:
    """Also by one that waits for nothing else. If only once, the next one does what it did before."""
    before = {number: signal.getsignal(number) for number in program.STOP_SIGNALS}

    async def main() -> None:
        caught: asyncio.Queue[None] = asyncio.Queue()
        program.on_stop_signals(lambda: caught.put_nowait(None), once=once)
        for _ in range(2):
            asyncio.get_running_loop().call_later(0.01, os.kill, os.getpid(), signal.SIGINT)
            async with asyncio.timeout(30):
                await caught.get()
            seen.append(1)

    seen: list[int] = []
    try:
        with (
            asyncio.Runner(loop_factory=new_loop) as runner,
            pytest.raises(KeyboardInterrupt) if once else contextlib.nullcontext(),
        ):
            runner.run(main())
        assert len(seen) == (1 if once else 2)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_as_many_descriptors_as_the_system_allows() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 64
        program.allow_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
