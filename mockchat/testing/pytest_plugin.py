"""The pytest plugin: a server for each test that asks for the fixture `mockchat`.

Nothing is imported before it is needed, so that it costs nothing where it is not used.
"""

from collections.abc import Generator, Iterator
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
    """A run of pytest: what records in it, if it does, what was recorded, and which recordings were used."""

    recorder: "Recorder | None" = None
    header: str = ""
    recorded: int = 0
    not_recorded: set[str] = field(default_factory=set)
    used: set[int] = field(default_factory=set)


_USED = "mockchat_used"
_RUN = pytest.StashKey[_Run]()
_SERVER = pytest.StashKey["MockServer"]()
_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where the recordings are, and what can be done with them."""
    told = f"recordings for the fixture mockchat (default: {_DEFAULT} in the root directory, if it is there)"
    parser.addini("mockchat_data", told, type="paths")
    group = parser.getgroup("mockchat", "mockchat, a mock of OpenAI's API")
    told = "ask this server, as https://api.openai.com/v1, for what is not recorded, and record its answers"
    group.addoption("--mockchat-record", metavar="URL", help=told)
    group.addoption("--mockchat-record-in-ci", action="store_true", help="record even where CI is set")
    group.addoption("--mockchat-unused", action="store_true", help="say at the end which recordings no test has used")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and see that what is to be recorded can be."""
    told = (
        "mockchat(**options): options of mockchat.testing.serve for the fixture mockchat, as fault='503=first:2'; "
        "and strict=False for a test in which a request may miss"
    )
    config.addinivalue_line("markers", told)
    run = config.stash[_RUN] = _Run()
    if upstream := config.getoption("mockchat_record"):
        from mockchat.testing.recording import prepare

        run.recorder, run.header = prepare(config, upstream, _named(config) or [config.rootpath / _DEFAULT])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Let go of the file that was recorded into."""
    if (run := config.stash.get(_RUN, None)) and run.recorder:
        run.recorder.file.close()


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say that it is recorded."""
    return config.stash[_RUN].header.splitlines()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what the tests of this process have used, if it is one of pytest-xdist's."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput[_USED] = sorted(session.config.stash[_RUN].used)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take it over from such a process."""
    node.config.stash[_RUN].used.update(getattr(node, "workeroutput", {}).get(_USED, ()))


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """Say what was recorded, and what was not used."""
    if lines := [*_recorded(config.stash[_RUN]), *_unused(config)]:
        terminalreporter.section("mockchat")
        for line in lines:
            terminalreporter.line(line)


def _recorded(run: _Run) -> Iterator[str]:
    if run.recorder:
        answers = "1 answer" if run.recorded == 1 else f"{run.recorded:,} answers"
        yield f"Recorded {answers} into {run.recorder.file.path}"
        yield from [line[0].upper() + line[1:] for line in sorted(run.not_recorded)]


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
    """The files of recordings to read; one that need not be there is left out where it is not."""
    named = _named(config)
    if named and not config.stash[_RUN].recorder:
        return named
    return [path for path in named or [config.rootpath / _DEFAULT] if path.exists() and path.stat().st_size]


def _read(config: pytest.Config) -> "list[Conversation]":
    from mockchat.core.program import ProgramError
    from mockchat.testing.server import read

    try:
        return read(_files(config))
    except ProgramError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.fixture(scope="session")
def _mockchat_recordings(pytestconfig: pytest.Config) -> "list[Conversation]":
    """The recordings of the project, read once."""
    return _read(pytestconfig)


@pytest.fixture
def mockchat(request: pytest.FixtureRequest, _mockchat_recordings: "list[Conversation]") -> "Iterator[MockServer]":
    """A mock of OpenAI's API on a free port (`mockchat.base_url`), which answers from the project's recordings.

    `mockchat.load([...])` adds more, `mockchat.reply(...)` answers what is not recorded, `mockchat.requests` says what
    was asked. A test in which a request missed or a reply was not asked for fails at its end, unless `mockchat.strict`
    is set to False. Where a test fails, its report says which requests were refused, and why. The marker `mockchat` has
    the server's options, and `strict`.
    """
    from mockchat.core.program import ProgramError
    from mockchat.testing.server import MockServer, running

    item, run = request.node, request.config.stash[_RUN]
    data = _read(request.config) if run.recorder else _mockchat_recordings
    try:
        server = MockServer(data, run.recorder, **_options(item))
    except ProgramError as error:
        raise pytest.fail.Exception(f"@pytest.mark.mockchat: {error}", pytrace=False) from None
    with running(server):
        item.stash[_SERVER] = server
        yield server
    if server.upstream:
        run.recorded += server.upstream.recorded
        run.not_recorded |= server.upstream.told
    if request.config.getoption("mockchat_unused"):
        run.used |= server.used(_read(request.config) if run.recorder else data)
    if item.stash.get(_PASSED, False):  # Whatever was asked after the test itself had ended.
        _check(item)


@pytest.fixture
def mockchat_env(mockchat: "MockServer", monkeypatch: pytest.MonkeyPatch) -> "MockServer":
    """The server of the fixture `mockchat`, to which `OPENAI_BASE_URL` and `OPENAI_API_KEY` lead during the test."""
    monkeypatch.setenv("OPENAI_BASE_URL", mockchat.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", mockchat.api_key)
    return mockchat


def _options(item: pytest.Item) -> dict[str, Any]:
    """The options of all markers of a test, its own before its class's, and these before its module's."""
    options: dict[str, Any] = {}
    for marker in item.iter_markers("mockchat"):
        if marker.args:
            given = ", ".join(map(repr, marker.args))
            problem = f"@pytest.mark.mockchat({given}) has a value without a name: name it, as in ttft_ms=50"
            raise pytest.fail.Exception(problem, pytrace=False)
        options = {**marker.kwargs, **options}
    return options


def _check(item: pytest.Item) -> None:
    """Fail where a request missed, or a reply was not asked for, and that was not meant."""
    if (server := item.stash.get(_SERVER, None)) is not None:
        try:
            server.check()
        except AssertionError as error:
            told = f"{error}\n{_hint(item.config, server)}".rstrip()
            raise pytest.fail.Exception(told, pytrace=False) from None


def _hint(config: pytest.Config, server: "MockServer") -> str:
    """What may explain misses, if there are some."""
    if not server.misses or _files(config):
        return ""
    return f"(There are no recordings in {config.rootpath / _DEFAULT}, and mockchat_data names no other.)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Have a test that would pass fail at its end for what its server finds fault with."""
    result = yield
    _check(item)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what was refused to the report of a test that failed, where it does not say so itself."""
    report = yield
    server = item.stash.get(_SERVER, None)
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    if server is not None and report.failed and (refused := server.report()) and refused not in report.longreprtext:
        report.sections.append(("mockchat", f"{refused}\n{_hint(item.config, server)}".rstrip()))
    return report
