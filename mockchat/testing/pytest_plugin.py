"""The pytest plugin: all tests that use the fixture `mockchat` have one address, and a server each behind it.

Imports are local to functions, so that a run without the fixture costs nothing.
"""

import glob
import os
from argparse import ArgumentTypeError
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mockchat.server.record_file import RecordFile
    from mockchat.testing.server import Listener, MockServer

_DEFAULT = "tests/conversations.jsonl"
_ENDINGS = (".json", ".jsonl", ".json.gz", ".jsonl.gz")
_RECORDED, _WARNING = "mockchat_recorded", "mockchat_warning"  # Properties of a test.
_CURE = "record it with --mockchat-record=URL, or say what is answered with mockchat.reply(...)"

# Of a run: the files that it records into, warnings about them, and what listens.
_FILES = pytest.StashKey["dict[Path, RecordFile]"]()
_WARNINGS = pytest.StashKey[set[str]]()
_LISTENER = pytest.StashKey["Listener"]()
# Of a test: its server, and whether it has passed.
_SERVER = pytest.StashKey["MockServer"]()
_PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add = parser.addini
    add("mockchat_data", f"files, folders and globs of recordings (default: {_DEFAULT})", "args")
    add("mockchat_match", "parameters that must be as recorded, like model (default: messages alone count)", "args")
    add("mockchat_ignore", "patterns, a line each: what they match is not compared", "linelist")
    add("mockchat_env", "set OPENAI_BASE_URL and OPENAI_API_KEY before any conftest.py is imported", "bool")
    about = "ask this server (such as https://api.openai.com/v1) for what is not recorded, and record its answers"
    group = parser.getgroup("mockchat", "mockchat, a mock of OpenAI's API")
    group.addoption("--mockchat-record", metavar="URL", help=about)


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Set the variables before any conftest.py is imported: it may import the program, which makes its client."""
    if early_config.getini("mockchat_env"):
        environment = pytest.MonkeyPatch()
        early_config.add_cleanup(environment.undo)
        environment.setenv("OPENAI_BASE_URL", _listener(early_config).base_url)
        environment.setenv("OPENAI_API_KEY", os.environ.get("OPENAI_API_KEY", "any"))


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and check that recording is possible where it is asked for."""
    config.addinivalue_line("markers", "mockchat(**options): data, strict, and options of mockchat.testing.serve")
    config.stash[_FILES], config.stash[_WARNINGS] = {}, set()
    if (upstream := config.getoption("mockchat_record")) is not None:
        from mockchat.core import arguments
        from mockchat.core.program import ProgramError

        try:
            if os.environ.get("CI", "").lower() not in ("", "0", "false", "no"):
                raise ProgramError("is refused where CI is set: set CI=false if it is meant")
            arguments.upstream_url(upstream)
            _record_file(config, config.getini("mockchat_data") or [_DEFAULT], config.rootpath)
        except (ArgumentTypeError, ProgramError) as error:
            raise pytest.UsageError(f"--mockchat-record: {error}") from None


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    """Print what was recorded, by this process and those of pytest-xdist."""
    if not config.stash[_FILES]:
        return
    reports = chain(*terminalreporter.stats.values())
    properties = [each for report in reports for each in getattr(report, "user_properties", ())]
    recorded = Counter(path for name, path in properties if name == _RECORDED)
    terminalreporter.section("mockchat")
    for path in recorded or [str(path) for path in config.stash[_FILES]]:
        terminalreporter.line(f"Answers recorded into {path}: {recorded[path]:,}")
    for line in sorted(config.stash[_WARNINGS].union(line for name, line in properties if name == _WARNING)):
        terminalreporter.line(line)


def _listener(config: pytest.Config) -> "Listener":
    """What listens in this process, until pytest ends."""
    if _LISTENER not in config.stash:
        from mockchat.testing.server import Listener

        config.stash[_LISTENER] = Listener()
        config.add_cleanup(config.stash[_LISTENER].close)
    return config.stash[_LISTENER]


def _files(name: str, folder: Path) -> list[Path]:
    """The recordings that a name (a file, folder or glob, from `folder`) stands for, without empty ones."""
    path = folder / name
    if path.is_dir():
        found = [each for each in path.iterdir() if each.name.endswith(_ENDINGS)]
    else:
        matching = glob.iglob(name, root_dir=folder, recursive=True)
        found = [path] if path.exists() else [folder / each for each in matching]
    return sorted(each for each in found if each.is_file() and each.stat().st_size)


def _record_file(config: pytest.Config, names: list[str], folder: Path) -> "RecordFile | None":
    """The one file that is named, to record into; None if this run does not record. Raises `ProgramError`."""
    if config.getoption("mockchat_record") is None:
        return None
    from mockchat.core.program import ProgramError
    from mockchat.server.record_file import RecordFile

    if len(names) != 1 or (glob.has_magic(names[0]) and not (folder / names[0]).exists()):
        raise ProgramError(f"{', '.join(names)}: name one file to record into, as with -o mockchat_data=FILE")
    files, path = config.stash[_FILES], folder / names[0]
    if path.is_dir():
        path /= Path(_DEFAULT).name
    if path not in files:
        with suppress(OSError):  # `RecordFile` says what is wrong.
            path.parent.mkdir(parents=True, exist_ok=True)
        files[path] = RecordFile(path, config.stash[_WARNINGS].add)
    return files[path]


def _marked(item: pytest.Item) -> dict[str, Any]:
    """The options of all markers of a test; the nearest one wins. Raises `ProgramError`."""
    from mockchat.core.program import ProgramError

    options: dict[str, Any] = {}
    for marker in item.iter_markers("mockchat"):
        if marker.args:
            raise ProgramError(f"{marker.args[0]!r} has no name: name it, as in data='weather.jsonl' or ttft_ms=50")
        options = {**marker.kwargs, **options}
    if not isinstance(data := options.get("data", ""), str | os.PathLike):
        raise ProgramError(f"data: give the name of a file, not {data!r}")
    return options


@pytest.fixture(scope="session")
def mockchat_url(pytestconfig: pytest.Config) -> str:
    """The base URL of the fixture `mockchat` in all tests of this process, for clients that are made before a test."""
    return _listener(pytestconfig).base_url


@pytest.fixture
def mockchat(request: pytest.FixtureRequest) -> "Iterator[MockServer]":
    """A mock of OpenAI's API (`mockchat.base_url`), which answers from the project's recordings.

    `mockchat.reply(...)` answers the next request, `mockchat.load([...])` adds recordings, `mockchat.requests` has the
    requests. A test fails where a request missed or a reply was not asked for, unless `mockchat.strict` is False.
    """
    from mockchat.core.program import ProgramError
    from mockchat.testing.server import MockServer

    item, config = request.node, request.config
    try:
        options = {name: config.getini(f"mockchat_{name}") for name in ("ignore", "match")} | _marked(item)
        names, folder = config.getini("mockchat_data") or [_DEFAULT], config.rootpath
        if "data" in options:
            names, folder = [os.fspath(options.pop("data"))], item.path.parent
        file = _record_file(config, names, folder)
        with file.locked() if file else nullcontext():
            found = {str(folder / name): _files(name, folder) for name in names}
            record = (config.getoption("mockchat_record"), file) if file else None
            server = MockServer(list(chain(*found.values())), record, **options)
    except ProgramError as error:
        raise pytest.fail.Exception(f"mockchat: {error}", pytrace=False) from None
    if empty := [name for name, files in found.items() if not files]:
        server.hint = f"(Nothing is recorded in {', '.join(empty)}: {_CURE})"
    server.route.writer.closing = True  # A kept connection would belong to the event loop of another test.
    with _listener(config).serving(server):
        item.stash[_SERVER] = server
        yield server
    if file and (upstream := server.route.upstream):
        item.user_properties += [(_RECORDED, str(file.path))] * upstream.recorded
        item.user_properties += [(_WARNING, line) for line in config.stash[_WARNINGS] | upstream.warnings]
    if _PASSED in item.stash:  # Other fixtures may have sent requests in their teardown.
        _check(item)


@pytest.fixture
def mockchat_env(mockchat: "MockServer", monkeypatch: pytest.MonkeyPatch) -> "MockServer":
    """The server of the fixture `mockchat`, with `OPENAI_BASE_URL` and `OPENAI_API_KEY` set to it during the test.

    A test in which nothing asks it fails.
    """
    monkeypatch.setenv("OPENAI_BASE_URL", mockchat.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", mockchat.api_key)
    mockchat.expects_requests = True
    return mockchat


def _check(item: pytest.Item) -> None:
    try:
        if server := item.stash.get(_SERVER, None):
            server.check()
    except AssertionError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Check the server at the end of a test that passes."""
    result = yield
    _check(item)
    item.stash[_PASSED] = True
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the refused requests to the report of a failed test, unless it names them itself."""
    report = yield
    server = item.stash.get(_SERVER, None)
    if server and report.failed and (refused := server.report()) and refused not in report.longreprtext:
        report.sections.append(("mockchat", refused))
    return report
