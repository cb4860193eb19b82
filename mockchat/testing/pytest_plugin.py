"""The pytest plugin: a server for each test that asks for the fixture `mockchat`.

Nothing is imported before it is needed, so that it costs nothing where it is not used.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from mockchat.core.entries import Conversation
    from mockchat.testing.server import MockServer

_DEFAULT = "tests/conversations.jsonl"
_SERVER = pytest.StashKey["MockServer"]()
_PASSED = pytest.StashKey[bool]()
_HINT = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where the recordings are."""
    told = f"recordings for the fixture mockchat (default: {_DEFAULT} in the root directory, if it is there)"
    parser.addini("mockchat_data", told, type="paths")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    told = (
        "mockchat(**options): options of mockchat.testing.serve for the fixture mockchat, as fault='503=first:2'; "
        "and strict=False for a test in which a request may miss"
    )
    config.addinivalue_line("markers", told)


@pytest.fixture(scope="session")
def _mockchat_recordings(pytestconfig: pytest.Config) -> "list[Conversation]":
    """The recordings of the project, read once."""
    from mockchat.core.program import ProgramError
    from mockchat.testing.server import read

    default = pytestconfig.rootpath / _DEFAULT
    try:
        if data := pytestconfig.getini("mockchat_data"):
            return read(data)
        if default.exists() and default.stat().st_size:
            return read(default)
    except ProgramError as error:
        raise pytest.fail.Exception(str(error), pytrace=False) from None
    pytestconfig.stash[_HINT] = f"(There are no recordings in {default}, and mockchat_data names no other.)"
    return []


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

    item = request.node
    try:
        server = MockServer(_mockchat_recordings, **_options(item))
    except ProgramError as error:
        raise pytest.fail.Exception(f"@pytest.mark.mockchat: {error}", pytrace=False) from None
    with running(server):
        item.stash[_SERVER] = server
        yield server
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
    """Fail where a request missed that must not."""
    if (server := item.stash.get(_SERVER, None)) is not None:
        try:
            server.check()
        except AssertionError as error:
            told = f"{error}\n{item.config.stash.get(_HINT, '')}".rstrip()
            raise pytest.fail.Exception(told, pytrace=False) from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Have a test that would pass fail at its end where a request missed."""
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
        hint = item.config.stash.get(_HINT, "")
        report.sections.append(("mockchat", f"{refused}\n{hint}".rstrip()))
    return report
