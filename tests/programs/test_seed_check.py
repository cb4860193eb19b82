"""The check on the check: `make seed-test` passes here, and fails for a requester that verifies too little."""

import sys
from pathlib import Path

import pytest

from tests.helpers import SAMPLE
from tests.programs import ROOT, seed_check

SEED_CHECK = ["seed_check", "--data", str(SAMPLE), "--seeds", "1"]

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


def test_requester_and_prediction_agree(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", SEED_CHECK)
    assert seed_check.main() == 0
    printed, errors = capsys.readouterr()
    assert printed.endswith("Requester and prediction agree.\n")
    assert (printed.count(", as predicted"), errors) == (3, "")


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_requester_is_found_out(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "requester.py"
    program.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from mockchat.requester import cli, plan, run\n{BROKEN[how]}\nsys.exit(cli.main())\n"
    )
    monkeypatch.setattr(sys, "argv", [*SEED_CHECK, "--requester", str(program)])
    try:
        assert seed_check.main() == 1
    except SystemExit as ended:
        assert "contradicts itself" in str(ended)
    else:
        assert "FAILED" in capsys.readouterr().out
