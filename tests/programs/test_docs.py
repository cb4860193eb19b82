"""The pages for people: each command block runs as it stands, in a copy of the clone, and each link leads somewhere.

Blocks of `sh` and `python` are run in the order of the page. A comment above a block, unseen by readers, says what
else is to be done with it:

    <!-- test: server -->          a server a line: run until the next such block, or the end of the page
    <!-- test: servers stop -->    those are stopped first, as the page says
    <!-- test: fails -->           its exit status is 1
    <!-- test: printed -->         what the block above has printed, but for numbers; `…` stands for lines left out
    <!-- test: file NAME -->       it is written to a file; test_*.py: the next pytest runs it, or one at the end
    <!-- test: not run, WHY -->
    <!-- test: new folder -->      above a paragraph: what follows is done in an empty folder beside the clone

The copy has this Python's packages as its `.venv`, and ports of its own.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from mockchat.requester import cli as of_requester
from mockchat.server import options as of_server
from tests.programs import ROOT, STOP_TIMEOUT, environment

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COPIED = (
    "Makefile",
    "setup.cfg",
    "pyproject.toml",
    "README.md",
    "server.py",
    "requester.py",
    "mockchat",
    "docs",
)
PORTS = ("8000", "8001")
NAMING_PORTS = ("Makefile", "mockchat/server/options.py", "mockchat/requester/cli.py")
BLOCK = re.compile(r"(?:^<!-- test: ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$|^<!-- test: (new folder) -->$", re.M | re.S)


class Block(NamedTuple):
    """A block of a page: what the comment above it says, its language, and its text."""

    mark: str
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        return self.mark in ("", "fails", "servers stop") and self.language in ("sh", "python")


def blocks(page: Path) -> list[Block]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(mark or folder, language, text) for mark, language, text, folder in found]


class Typist:
    """Does what a page says, beginning in the clone."""

    def __init__(self, clone: Path, ports: dict[str, str], running: ExitStack) -> None:
        self.folder = clone
        self._clone = clone
        self._ports = ports
        self._servers = running
        self._printed = ""
        self._tests: list[str] = []  # Files of tests that no pytest has run yet.
        path = f"{clone / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self._env = environment(PATH=path, PYTHONPATH=str(clone))
        for name in [name for name in self._env if name == "CI" or name.startswith(("PYTEST_", "COV"))]:
            del self._env[name]
        # The plugins of everybody else take longer than the tests.
        self._env |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "mockchat.testing.pytest_plugin"}

    def do(self, block: Block) -> None:
        text = re.sub("|".join(self._ports), lambda port: self._ports[port[0]], block.text)
        match block.mark.split(" ", 1):
            case ["new", "folder"]:
                self.folder = self._clone.parent / "empty"
                (self.folder / "tests").mkdir(parents=True)
                (self.folder / ".venv").symlink_to(self._clone / ".venv")
            case ["file", name]:
                (self.folder / name).write_text(text, encoding="utf-8")
                if Path(name).name.startswith("test_"):
                    self._tests.append(name)
            case ["server"]:
                self._servers.close()
                for line in text.splitlines():
                    self._servers.enter_context(self._server(line))
            case ["printed"]:
                told = ".*".join(map(re.escape, alike(text).split("…")))
                assert re.fullmatch(told, alike(self._printed), re.S)
            case _ if block.is_run and block.language == "python":
                exec(text, {})  # In this process, which has imported OpenAI's SDK before.
            case _ if block.is_run:
                if block.mark == "servers stop":
                    self._servers.close()
                self._run(["bash", "-euo", "pipefail", "-c", text], status=int(block.mark == "fails"))
                if "-m pytest" in text:  # It runs all that there are.
                    self._tests.clear()

    def finish(self) -> None:
        """Run the tests that the page gives, and does not run."""
        if self._tests:
            self._run([sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", ".", *self._tests])

    def _run(self, command: Sequence[str], status: int = 0) -> None:
        ended = subprocess.run(
            command, cwd=self.folder, env=self._env, capture_output=True, text=True, timeout=60, check=False
        )
        assert ended.returncode == status, f"{command[-1]}\n{ended.stdout}{ended.stderr}"
        self._printed = ended.stdout

    @contextmanager
    def _server(self, line: str) -> Iterator[None]:
        """What this line starts, once it serves; stopped as Ctrl-C stops it."""
        with subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=self.folder,
            env=self._env,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        ) as process:
            assert process.stdout
            try:
                assert any(told.startswith("Serving") for told in process.stdout), f"this does not serve: {line}"
                yield
            finally:
                os.killpg(process.pid, 2)
                process.wait(STOP_TIMEOUT)


def alike(printed: str) -> str:
    """The text without what differs from run to run: numbers, bars, and how wide they are."""
    return re.sub(r"[ \d.,]+", " ", re.sub("#+", "", printed)).strip()


@pytest.fixture
def typist(tmp_path: Path) -> Iterator[Typist]:
    clone = tmp_path / "mockchat"
    clone.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "node_modules")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, clone / name, **({"ignore": ignored} if copy is shutil.copytree else {}))
    (clone / "data").mkdir()
    shutil.copy(ROOT / "data" / "sample.json", clone / "data")
    with ExitStack() as bound:
        sockets = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in PORTS]
        ports = {name: str(each.getsockname()[1]) for name, each in zip(PORTS, sockets, strict=True)}
    for name in NAMING_PORTS:
        file = clone / name
        file.write_text(file.read_text().replace("8000", ports["8000"]))
    venv = clone / ".venv"
    venv.mkdir()
    for there in Path(sys.prefix).iterdir():
        (venv / there.name).symlink_to(there)
    (venv / "installed").unlink(missing_ok=True)
    (venv / "installed").touch()
    with ExitStack() as running:
        yield Typist(clone, ports, running)


@pytest.mark.skipif(not (shutil.which("make") and shutil.which("curl")), reason="no make or no curl here")
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.is_run for block in blocks(page))], ids=str)
def test_what_a_page_says_works(page: Path, typist: Typist) -> None:
    for block in blocks(page):
        typist.do(block)
    typist.finish()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_marks_are_known_and_links_lead_somewhere(page: Path) -> None:
    known = r"(new folder|server|servers stop|fails|printed|file [\w./]+|not run, .+)?"
    assert [block.mark for block in blocks(page) if not re.fullmatch(known, block.mark)] == []
    text = page.read_text(encoding="utf-8")
    assert text.count("<!-- test: ") == sum(bool(block.mark) for block in blocks(page))
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose):
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not heading or heading in headings(target), link


def headings(page: Path) -> list[str]:
    """The anchors of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return [re.sub(r"[^\w\- ]", "", title).strip().replace(" ", "-").lower() for title in titles]


def test_the_tables_name_every_option() -> None:
    tables = {"docs/server.md": of_server.parser(), "docs/requester.md": of_requester.parser()}
    for page, parser in tables.items():
        rows = "".join(re.findall(r"^\| `--.*$", (ROOT / page).read_text(encoding="utf-8"), re.M))
        there = set(re.findall(r"--[a-z-]+", rows))
        assert set(re.findall(r"--[a-z-]+", parser.format_help())) - {"--help", "--version"} - there == set(), page


def test_the_readme_shows_what_a_fresh_machine_needs() -> None:
    commands = "".join(block.text for block in blocks(ROOT / "README.md") if block.language == "sh")
    assert re.findall(r"^make (bench|test)$", commands, re.M) == ["bench", "test"]


def test_the_plan_of_the_house_has_every_room() -> None:
    plan = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    modules = [file.name for file in (ROOT / "mockchat").rglob("*.py") if file.name != "__init__.py"]
    assert [name for name in modules if not re.search(rf"^ +{name} ", plan, re.M)] == []
