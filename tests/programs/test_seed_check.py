"""The check on the check: `make seed-test` passes here, and fails for a requester that verifies too little."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import SAMPLE
from tests.programs import ROOT, environment

BROKEN = {
    "takes any answer for right": "run.verify = lambda status, answer, expected: None",
    "does not compare the content": (
        "verify = run.verify\n"
        "def blind(*given):\n"
        "    problem = verify(*given)\n"
        "    return None if problem and problem.kind == 'mismatched' else problem\n"
        "run.verify = blind"
    ),
    "skips a request": (
        "places = plan.places\nplan.places = lambda *given: (place for place in places(*given) if place.number != 1)"
    ),
}


def seed_check(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.programs.seed_check", "--data", str(SAMPLE), "--seeds", "1", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=environment(), cwd=ROOT
    )


def test_requester_and_prediction_agree() -> None:
    ended = seed_check()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.endswith("Requester and prediction agree.\n")
    assert ended.stdout.count(", as predicted") == 3


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_requester_is_found_out(how: str, tmp_path: Path) -> None:
    program = tmp_path / "requester.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from mockchat.requester import cli, plan, run\n{BROKEN[how]}\nsys.exit(cli.main())\n"
    )
    ended = seed_check("--requester", str(program))
    assert ended.returncode == 1
    assert "FAILED" in ended.stdout or "contradicts itself" in ended.stderr
