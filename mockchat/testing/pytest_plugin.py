"""The pytest plugin: a server for each test that uses the fixture `mockchat`.

Imports are local to functions, so that a run without the fixture costs nothing.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mockchat.core.entries import Conversation
    from mockchat.testing.server import MockServer, Recorder

_DEFAULT = "tests/conversations.jsonl"


@dataclass
class _Run:
    """A run of pytest: its recorder, the project's recordings by `stitch`, and what its tests did.

    That is the number of answers they recorded, warnings, and the recordings that they used.
    """

    recorder: "Recorder | None" = None
    recordings: "dict[bool, list[Conversation]]" = field(default_factory=dict)
    recorded: int = 0
    warnings: set[str] = field(default_factory=set)
    used: set[int] = field(default_factory=set)

    def add(self, recorded: int, warnings: set[str], used: set[int]) -> None:
        """Add what a test did, or another process."""
        self.recorded += recorded
        self.warnings |= warnings
        self.used |= used


_DONE = "mockchat_done"
_RUN = pytest.StashKey[_Run]()
_SERVER = pytest.StashKey["MockServer"]()
_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, and where the recordings are."""
    about = f"recordings for the fixture mockchat (default: {_DEFAULT} in the root directory, if it is there)"
    parser.addini("mockchat_data", about, type="paths")
    about = "parameters of requests that must be as recorded, like model and tools (default: the messages alone count)"
    parser.addini("mockchat_match", about, type="args")
    group = parser.getgroup("mockchat", "mockchat, a mock of OpenAI's API")
    about = "ask this server, as https://api.openai.com/v1, for what is not recorded, and record its answers"
    group.addoption("--mockchat-record", metavar="URL", help=about)
    group.addoption("--mockchat-unused", action="store_true", help="say at the end which recordings no test has used")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and check that recording is possible where it is asked for."""
    about = (
        "mockchat(**options): options of mockchat.testing.serve for the fixture mockchat, as fault='503=first:2'; "
        "and strict=False for a test in which a request may miss"
    )
    config.addinivalue_line("markers", about)
    run = config.stash[_RUN] = _Run()
    if (upstream := config.getoption("mockchat_record")) is not None:
        run.recorder = _recorder(config, upstream, run.warnings.add)


def _recorder(config: pytest.Config, upstream: str, warn: Callable[[str], object]) -> "Recorder":
    """What records the answers of `upstream` into the file of recordings. Raises `pytest.UsageError`."""
    from argparse import ArgumentTypeError

    from mockchat.core import arguments
    from mockchat.core.program import ProgramError
    from mockchat.server.record_file import RecordFile
    from mockchat.testing.server import Recorder

    files = _named(config) or [config.rootpath / _DEFAULT]
    try:
        if os.environ.get("CI", "").lower() not in ("", "0", "false", "no"):
            raise ProgramError("is refused where CI is set: set CI=false if it is meant")
        arguments.upstream_url(upstream)
        if len(files) != 1:
            raise ProgramError(f"mockchat_data names {len(files)} files: add -o mockchat_data=FILE to name one")
        files[0].parent.mkdir(parents=True, exist_ok=True)
        return Recorder(upstream, RecordFile(files[0], warn))
    except (ArgumentTypeError, ProgramError) as error:
        raise pytest.UsageError(f"--mockchat-record: {error}") from None
    except OSError as error:
        raise pytest.UsageError(f"--mockchat-record: can't make {files[0].parent}: {error.strerror}") from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say that this run records."""
    if not (to := config.stash[_RUN].recorder):
        return []
    return [f"mockchat: asking {to.upstream} for what is not recorded, and recording it into {to.file.path}"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send what the tests of this process did, if it is one of pytest-xdist's."""
    if hasattr(session.config, "workeroutput"):
        run = session.config.stash[_RUN]
        session.config.workeroutput[_DONE] = run.recorded, run.warnings, run.used


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what such a process sent."""
    if sent := getattr(node, "workeroutput", {}).get(_DONE):
        node.config.stash[_RUN].add(*sent)


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """Print what was recorded, and which recordings were not used."""
    if lines := [*_recorded(config.stash[_RUN]), *_unused(config)]:
        terminalreporter.section("mockchat")
        for line in lines:
            terminalreporter.line(line)


def _recorded(run: _Run) -> Iterator[str]:
    if run.recorder:
        answers = "1 answer" if run.recorded == 1 else f"{run.recorded:,} answers"
        yield f"Recorded {answers} into {run.recorder.file.path}"
        yield from sorted(run.warnings)


def _unused(config: pytest.Config) -> Iterator[str]:
    if config.getoption("mockchat_unused"):
        from mockchat.core.program import ProgramError
        from mockchat.testing import unused
        from mockchat.testing.server import read

        try:
            recordings = [(path, conversation) for path in _files(config) for conversation in read(path)]
            yield from unused.tell(recordings, config.stash[_RUN].used, config.rootpath)
        except ProgramError as error:
            yield str(error)


def _named(config: pytest.Config) -> list[Path]:
    """The files of recordings that the configuration names."""
    return list(config.getini("mockchat_data"))


def _files(config: pytest.Config) -> list[Path]:
    """The files of recordings to read, without a default file that is missing or empty."""
    named = _named(config)
    if named and not config.stash[_RUN].recorder:
        return named
    return [path for path in named or [config.rootpath / _DEFAULT] if path.exists() and path.stat().st_size]


def _read(config: pytest.Config, stitch: bool = True) -> "list[Conversation]":
    """The recordings of the project, read once unless this run records."""
    from mockchat.core.program import ProgramError
    from mockchat.testing.server import read

    run = config.stash[_RUN]
    if run.recorder or stitch not in run.recordings:
        try:
            with run.recorder.file.locked() if run.recorder else nullcontext():
                run.recordings[stitch] = read(_files(config), stitch=stitch)
        except (ProgramError, OSError) as error:
            raise pytest.fail.Exception(str(error), pytrace=False) from None
    return run.recordings[stitch]


@pytest.fixture
def mockchat(request: pytest.FixtureRequest) -> "Iterator[MockServer]":
    """A mock of OpenAI's API on a free port (`mockchat.base_url`), which answers from the project's recordings.

    `mockchat.load([...])` adds more, `mockchat.reply(...)` answers what is not recorded, `mockchat.requests` has the
    requests. A test fails at its end where a request missed or a reply was not asked for, unless `mockchat.strict` is
    set to False. The report of a failed test names the requests that were refused. The marker `mockchat` takes the
    server's options, and `strict`.
    """
    from mockchat.core.program import ProgramError
    from mockchat.testing.server import MockServer, running

    item, run = request.node, request.config.stash[_RUN]
    options = {"match": request.config.getini("mockchat_match")} | _options(item)
    data = _read(request.config, stitch=not options.get("no_stitch"))
    try:
        server = MockServer(data, run.recorder, **options)
    except ProgramError as error:
        raise pytest.fail.Exception(f"@pytest.mark.mockchat: {error}", pytrace=False) from None
    with running(server):
        item.stash[_SERVER] = server
        yield server
    if server.upstream:
        run.add(server.upstream.recorded, server.upstream.warnings, set())
    if request.config.getoption("mockchat_unused"):
        run.used |= server.used(_read(request.config))
    if item.stash.get(_PASSED, False):  # For requests after the test itself, as in other fixtures' teardown.
        _check(item)


@pytest.fixture
def mockchat_env(mockchat: "MockServer", monkeypatch: pytest.MonkeyPatch) -> "MockServer":
    """The server of the fixture `mockchat`, with `OPENAI_BASE_URL` and `OPENAI_API_KEY` set to it during the test."""
    monkeypatch.setenv("OPENAI_BASE_URL", mockchat.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", mockchat.api_key)
    return mockchat


def _options(item: pytest.Item) -> dict[str, Any]:
    """The options of all markers of a test; those of the test win over its class's, and these over its module's."""
    options: dict[str, Any] = {}
    for marker in item.iter_markers("mockchat"):
        if marker.args:
            given = ", ".join(map(repr, marker.args))
            problem = f"@pytest.mark.mockchat({given}) has a value without a name: name it, as in ttft_ms=50"
            raise pytest.fail.Exception(problem, pytrace=False)
        options = {**marker.kwargs, **options}
    return options


def _check(item: pytest.Item) -> None:
    """Fail a test whose server finds fault with it."""
    if (server := item.stash.get(_SERVER, None)) is not None:
        try:
            server.check()
        except AssertionError as error:
            problem = f"{error}\n{_hint(item.config, server)}".rstrip()
            raise pytest.fail.Exception(problem, pytrace=False) from None


def _hint(config: pytest.Config, server: "MockServer") -> str:
    """A sentence that may explain misses; empty without any."""
    if not server.misses or _files(config):
        return ""
    return f"(There are no recordings in {config.rootpath / _DEFAULT}, and mockchat_data names no other.)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Check the server at the end of a test that passes."""
    result = yield
    _check(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the refused requests to the report of a failed test, unless it names them itself."""
    report = yield
    server = item.stash.get(_SERVER, None)
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    if server is not None and report.failed and (refused := server.report()) and refused not in report.longreprtext:
        report.sections.append(("mockchat", f"{refused}\n{_hint(item.config, server)}".rstrip()))
    return report
