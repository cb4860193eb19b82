"""The Makefile: which Python it takes, and what each target installs. Nothing is installed here: `make -n` tells."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.programs import ROOT, STOP_TIMEOUT, environment

Make = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make here")


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Run make in a folder that only has the Makefile and setup.cfg."""
    for name in ("Makefile", "setup.cfg"):
        shutil.copy(ROOT / name, tmp_path)

    def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = ["make", *arguments]
        env = environment(**changes)
        return subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=STOP_TIMEOUT, check=False
        )

    return run


def test_a_python_that_is_too_old_or_not_there_is_told_of(make: Make, tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\ncase "$2" in *version_info*) exit 1; esac\necho Python 3.10.13\n')
    old.chmod(0o755)
    choose = "name another, as in PYTHON=python3.13 make bench"
    ended = make("bench", PYTHON=str(old))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"{old} is Python 3.10.13, and 3.11 or later is needed: {choose}\n")
    ended = make("bench", PYTHON="no-such-python")
    assert ended.stderr.startswith(f"There is no no-such-python here: {choose}\n")
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(
    ("arguments", "extras"),
    [
        (["serve"], set()),
        (["bench"], set()),
        (["seed-test"], set()),
        (["serve", "WORKERS=2"], {"gunicorn"}),
        (["perf"], {"perf"}),
        (["fuzz"], {"fuzz"}),
        (["lint"], {"lint", "test"}),
        (["test"], {"test"}),
        (["install", "EXTRAS=gunicorn perf"], {"gunicorn", "perf"}),
    ],
)
def test_each_target_installs_what_it_needs(arguments: list[str], extras: set[str], make: Make) -> None:
    told = make("-n", *arguments).stdout
    assert set(re.findall(r"--editable '\.\[(\w+)\]'", told)) == extras
    assert "--editable ." in told


def test_an_extra_that_does_not_exist_is_an_error(make: Make, tmp_path: Path) -> None:
    """pip and uv only warn."""
    stamp = tmp_path / ".venv" / "installed"
    stamp.parent.mkdir()
    stamp.write_text("python3\n")
    stamp.touch()
    for name in ("nope", "options.extras_require", "aiohttp", "install_requires"):
        ended = make("install", f"EXTRAS={name}")
        assert ended.returncode == 2
        assert ended.stderr.startswith(f"setup.cfg has no extra '{name}': see [options.extras_require] there\n")


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "WORKERS=2"]])
def test_a_signal_for_make_reaches_the_server(arguments: list[str], make: Make) -> None:
    """make hands a signal on to the shell that it started, which the server has to replace."""
    assert any(line.startswith("exec ") for line in make("-n", *arguments).stdout.splitlines())


def test_what_is_there_stays_until_setup_cfg_or_the_python_is_another(make: Make, tmp_path: Path) -> None:
    stamp = tmp_path / ".venv" / "installed"
    stamp.parent.mkdir()
    stamp.write_text("python3\n")
    assert "--editable" not in make("-n", "bench").stdout
    assert "--editable" not in make("-n", "bench", PYTHON="python3").stdout
    assert "--editable" in make("-n", "bench", PYTHON="python3.13").stdout
    assert "--editable" in make("-n", "bench", "-W", "setup.cfg").stdout
    assert "--editable" not in make("-n", "data").stdout
