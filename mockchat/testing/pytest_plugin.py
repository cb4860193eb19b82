"""The pytest plugin: all tests that use the fixture `mockchat` have one address, and a server each behind it.

Imports are local to functions, so that a run without the fixture costs nothing.
"""

import glob
import os
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mockchat.core.entries import Conversation
    from mockchat.testing.server import Listener, MockServer, Recorder

_DEFAULT = "tests/conversations.jsonl"
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass
class _Run:
    """A run of pytest: what it has read, and what its tests did.

    Recorders go by their files, recordings by their file and `stitch`. What tests did is the number of answers they
    recorded into each file, and warnings.
    """

    recorders: "dict[Path, Recorder]" = field(default_factory=dict)
    recordings: "dict[tuple[Path, bool], list[Conversation]]" = field(default_factory=dict)
    recorded: Counter[str] = field(default_factory=Counter)
    warnings: set[str] = field(default_factory=set)


_DONE = "mockchat_done"
_RUN = pytest.StashKey[_Run]()
_LISTENER = pytest.StashKey["Listener"]()
_SERVER = pytest.StashKey["MockServer"]()
_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options, and where the recordings are."""
    about = f"files, folders and globs of recordings for the fixture mockchat (default: {_DEFAULT}, if it is there)"
    parser.addini("mockchat_data", about, type="paths")
    about = "parameters of requests that must be as recorded, like model and tools (default: the messages alone count)"
    parser.addini("mockchat_match", about, type="args")
    about = "patterns of what varies from run to run, a line each: what they match is not compared"
    parser.addini("mockchat_ignore", about, type="linelist")
    about = "set OPENAI_BASE_URL and OPENAI_API_KEY before tests are imported, for clients that are made at an import"
    parser.addini("mockchat_env", about, type="bool")
    group = parser.getgroup("mockchat", "mockchat, a mock of OpenAI's API")
    about = "ask this server, as https://api.openai.com/v1, for what is not recorded, and record its answers"
    group.addoption("--mockchat-record", metavar="URL", help=about)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Set the environment variables, if the configuration says so: a conftest.py may import the program."""
    if early_config.getini("mockchat_env"):
        environment = pytest.MonkeyPatch()
        early_config.add_cleanup(environment.undo)
        environment.setenv("OPENAI_BASE_URL", _listener(early_config).base_url)
        environment.setenv("OPENAI_API_KEY", os.environ.get("OPENAI_API_KEY", "any"))


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and check that recording is possible where it is asked for."""
    about = (
        "mockchat(**options): options of mockchat.testing.serve for the fixture mockchat, as fault='503=first:2'; "
        "data='weather.jsonl' for a file of its own beside the test; strict=False where a request may miss"
    )
    config.addinivalue_line("markers", about)
    config.stash[_RUN] = _Run()
    if (upstream := config.getoption("mockchat_record")) is not None:
        from argparse import ArgumentTypeError

        from mockchat.core import arguments
        from mockchat.core.program import ProgramError

        try:
            if os.environ.get("CI", "").lower() not in ("", "0", "false", "no"):
                raise ProgramError("is refused where CI is set: set CI=false if it is meant")
            arguments.upstream_url(upstream)
            _recorder(config, _named(config))
        except (ArgumentTypeError, ProgramError) as error:
            raise pytest.UsageError(f"--mockchat-record: {error}") from None


def _listener(config: pytest.Config) -> "Listener":
    """What listens in this process, until pytest ends."""
    if _LISTENER not in config.stash:
        from mockchat.testing.server import Listener

        stack = ExitStack()
        config.add_cleanup(stack.close)
        config.stash[_LISTENER] = stack.enter_context(Listener())
    return config.stash[_LISTENER]


# Files of recordings


def _named(config: pytest.Config, item: pytest.Item | None = None, data: object = None) -> list[Path]:
    """The files, folders and globs that the configuration names; or the file that the marker of a test names."""
    if item and isinstance(data, str | os.PathLike):
        return [item.path.parent / data]
    if data is not None:
        from mockchat.core.program import ProgramError

        raise ProgramError(f"@pytest.mark.mockchat: data: give the name of a file, not {data!r}")
    return list(config.getini("mockchat_data")) or [config.rootpath / _DEFAULT]


def _files(named: list[Path]) -> Iterator[Path]:
    """The files that are meant by these names."""
    for path in named:
        if path.is_dir():
            yield from sorted(each for each in path.iterdir() if each.name.endswith(_ENDINGS))
        elif _is_glob(path):
            yield from map(Path, sorted(glob.glob(str(path), recursive=True)))
        else:
            yield path


def _present(config: pytest.Config, named: list[Path]) -> list[Path]:
    """The files to read. One that is not there, or empty, is an error only where the configuration names it."""
    if named == config.getini("mockchat_data") and not config.stash[_RUN].recorders:
        return list(_files(named))
    return [path for path in _files(named) if path.is_file() and path.stat().st_size]


def _is_glob(path: Path) -> bool:
    return glob.has_magic(str(path)) and not path.exists()


def _recorder(config: pytest.Config, named: list[Path]) -> "Recorder | None":
    """What records answers into the one file that is named; None if this run does not record. Raises `ProgramError`."""
    if (upstream := config.getoption("mockchat_record")) is None:
        return None
    from mockchat.core.program import ProgramError
    from mockchat.server.record_file import RecordFile
    from mockchat.testing.server import Recorder

    run, path = config.stash[_RUN], named[0]
    if len(named) > 1 or _is_glob(path):
        names = ", ".join(each.name for each in named)
        raise ProgramError(f"{names}: name one file to record into, as with -o mockchat_data=FILE")
    file = path / Path(_DEFAULT).name if path.is_dir() else path
    if file not in run.recorders:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ProgramError(f"can't make {file.parent}: {error.strerror}") from None
        run.recorders[file] = Recorder(upstream, RecordFile(file, run.warnings.add))
    return run.recorders[file]


def _read(config: pytest.Config, path: Path, stitch: bool = True) -> "list[Conversation]":
    """The recordings of a file, read once unless this run records. Raises `ProgramError`."""
    from mockchat.testing.server import read

    run = config.stash[_RUN]
    if run.recorders or (path, stitch) not in run.recordings:
        with run.recorders[path].file.locked() if path in run.recorders else nullcontext():
            run.recordings[path, stitch] = read(path, stitch=stitch)
    return run.recordings[path, stitch]


# The report


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say that this run records."""
    told = "mockchat: asking {} for what is not recorded, and recording it into {}"
    return [told.format(to.upstream, to.file.path) for to in config.stash[_RUN].recorders.values()]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send what the tests of this process did, if it is one of pytest-xdist's."""
    if hasattr(session.config, "workeroutput"):
        run = session.config.stash[_RUN]
        done = {"recorded": dict(run.recorded), "warnings": run.warnings}
        session.config.workeroutput[_DONE] = done


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what such a process sent."""
    if sent := getattr(node, "workeroutput", {}).get(_DONE):
        run: _Run = node.config.stash[_RUN]
        for name, done in sent.items():
            getattr(run, name).update(done)


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """Print what was recorded."""
    if lines := [*_recorded(config.stash[_RUN])]:
        terminalreporter.section("mockchat")
        for line in lines:
            terminalreporter.line(line)


def _recorded(run: _Run) -> Iterator[str]:
    recorded = +run.recorded or dict.fromkeys(map(str, run.recorders), 0)
    for path, count in recorded.items():
        yield f"Recorded {'1 answer' if count == 1 else f'{count:,} answers'} into {path}"
    yield from sorted(run.warnings)


# The fixtures


@pytest.fixture(scope="session")
def mockchat_url(pytestconfig: pytest.Config) -> str:
    """The base URL of the fixture `mockchat` in all tests of this process, for clients that are made before a test."""
    return _listener(pytestconfig).base_url


@pytest.fixture
def mockchat(request: pytest.FixtureRequest) -> "Iterator[MockServer]":
    """A mock of OpenAI's API (`mockchat.base_url`), which answers from the project's recordings.

    `mockchat.reply(...)` answers the next request, `mockchat.load([...])` adds recordings, `mockchat.requests` has the
    requests. Each test has its own; the address stays the same. A test fails at its end where a request missed or a
    reply was not asked for, unless `mockchat.strict` is set to False. The report of a failed test names the requests
    that were refused. The marker `mockchat` takes the server's options, `strict`, and `data`.
    """
    from mockchat.core.program import ProgramError
    from mockchat.testing.server import MockServer

    item, config, run = request.node, request.config, request.config.stash[_RUN]
    given, problem = _options(item), ""
    options = {"ignore": config.getini("mockchat_ignore"), "match": config.getini("mockchat_match")} | given
    try:
        named = _named(config, item, options.pop("data", None))
        recorder = _recorder(config, named)
        files = _present(config, named)
        recordings = [each for path in files for each in _read(config, path, not options.get("no_stitch"))]
        problem = "@pytest.mark.mockchat: " if given else "mockchat_ignore: "
        server = MockServer(recordings, recorder, **options)
    except ProgramError as error:
        raise pytest.fail.Exception(f"{problem}{error}", pytrace=False) from None
    server.route.writer.closing = True  # A kept connection would belong to the event loop of another test.
    server.hint = f"(Nothing is recorded in {', '.join(map(str, named))}: {_CURE})"
    with _listener(config).serving(server):
        item.stash[_SERVER] = server
        yield server
    if recorder and server.upstream:
        run.recorded[str(recorder.file.path)] += server.upstream.recorded
        run.warnings |= server.upstream.warnings
    if item.stash.get(_PASSED, False):  # For requests after the test itself, as in other fixtures' teardown.
        _check(item)


_CURE = "record it with --mockchat-record=URL, or say what is answered with mockchat.reply(...)"


@pytest.fixture
def mockchat_env(mockchat: "MockServer", monkeypatch: pytest.MonkeyPatch) -> "MockServer":
    """The server of the fixture `mockchat`, with `OPENAI_BASE_URL` and `OPENAI_API_KEY` set to it during the test.

    A test in which nothing asks it fails.
    """
    monkeypatch.setenv("OPENAI_BASE_URL", mockchat.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", mockchat.api_key)
    mockchat.expects_requests = True
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
            raise pytest.fail.Exception(str(error), pytrace=False) from None


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
        report.sections.append(("mockchat", refused))
    return report
