"""The check on the check: `make seed-test` passes here, and fails for a requester that verifies too little."""

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import pytest

from mockchat import seed_test
from mockchat.requester import plan, run
from mockchat.requester.verify import Problem, verify
from tests.helpers import SAMPLE
from tests.programs import REQUESTER, Call, environment, running_server

ARGUMENTS = ["--data", str(SAMPLE), "--seeds", "1"]

places = plan.places


def takes_any_answer_for_right(*given: Any) -> None:
    return None


def does_not_compare_the_content(*given: Any) -> Problem | None:
    problem = verify(*given)
    return None if problem and problem.kind == "mismatched" else problem


def skips_a_request(*given: Any) -> Iterator[plan.Place]:
    return (place for place in places(*given) if place.number != 1)


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Any]]:
    """A server for each value of SEED_ERRORS in a test with these arguments."""
    with ExitStack() as running:
        yield {
            seed: running.enter_context(running_server("--data", str(SAMPLE), env=environment(SEED_ERRORS=seed)))
            for seed in ("", "1")
        }


def test_requester_and_prediction_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert seed_test.main(ARGUMENTS) == 0
    printed, errors = capsys.readouterr()
    assert printed.endswith("Requester and prediction agree.\n")
    assert (printed.count(", as predicted"), errors) == (3, "")


@pytest.mark.parametrize(
    ("module", "broken"),
    [(run, verify), (run, takes_any_answer_for_right), (run, does_not_compare_the_content), (plan, skips_a_request)],
)
def test_a_broken_requester_is_found_out(
    module: Any, broken: Callable[..., Any], servers: dict[str, Any], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The requester runs in this process, and a function of it is replaced; with `verify` by itself, for comparison.

    The servers are the same for all.
    """
    printed: list[str] = []

    def called(command: Sequence[str], *, env: Mapping[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        return call(REQUESTER, *command[command.index("--base-url") :], SEED_ERRORS=env["SEED_ERRORS"])

    def running(command: Sequence[str], *, env: Mapping[str, str]) -> Any:
        return nullcontext(servers[env["SEED_ERRORS"]])

    monkeypatch.setattr(seed_test.subprocess, "run", called)  # type: ignore[attr-defined]
    monkeypatch.setattr(seed_test, "running_server", running)
    monkeypatch.setattr(seed_test, "print", printed.append, raising=False)
    monkeypatch.setattr(module, "verify" if module is run else "places", broken)
    try:
        assert seed_test.main(ARGUMENTS) == (broken is not verify)
    except SystemExit as ended:
        assert "contradicts itself" in str(ended)
    else:
        assert printed[-1].startswith("Requester and prediction agree." if broken is verify else "FAILED: ")


def test_what_the_server_can_not_read_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        seed_test.main(["--data", "missing.json"])
    assert ended.value.code == 2
    assert capfd.readouterr().err == "mockchat serve: missing.json: No such file or directory\n"
