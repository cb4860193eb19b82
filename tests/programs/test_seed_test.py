"""The check on the check: `make seed-test` passes here, and fails for a requester that verifies too little."""

from pathlib import Path

import pytest

from mockchat import seed_test
from tests.helpers import SAMPLE

ARGUMENTS = ["--data", str(SAMPLE), "--seeds", "1"]

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


def test_requester_and_prediction_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert seed_test.main(ARGUMENTS) == 0
    printed, errors = capsys.readouterr()
    assert printed.endswith("Requester and prediction agree.\n")
    assert (printed.count(", as predicted"), errors) == (3, "")


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_requester_is_found_out(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "requester.py"
    program.write_text(
        f"import sys\nfrom mockchat.requester import cli, plan, run\n{BROKEN[how]}\nsys.exit(cli.main())\n"
    )
    try:
        assert seed_test.main(ARGUMENTS, requester=[str(program)]) == 1
    except SystemExit as ended:
        assert "contradicts itself" in str(ended)
    else:
        assert "FAILED" in capsys.readouterr().out


def test_what_the_server_can_not_read_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        seed_test.main(["--data", "missing.json"])
    assert ended.value.code == 2
    assert capfd.readouterr().err == "mockchat serve: missing.json: No such file or directory\n"
