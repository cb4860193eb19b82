"""The pytest plugin: a server for each test that asks for the fixture `mockchat`.

Nothing is imported before it is needed, so that it costs nothing where it is not used.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mockchat.core.entries import Conversation
    from mockchat.testing.server import MockServer

_DEFAULT = "tests/conversations.jsonl"
_SERVER = pytest.StashKey["MockServer"]()
_HINT = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare where the recordings are."""
    told = f"recordings for the fixture mockchat (default: {_DEFAULT} in the root directory, if it is there)"
    parser.addini("mockchat_data", told, type="paths")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    told = "mockchat(**options): options of mockchat.testing.serve for the fixture mockchat, as fault='503=first:2'"
    config.addinivalue_line("markers", told)


@pytest.fixture(scope="session")
def _mockchat_recordings(pytestconfig: pytest.Config) -> "list[Conversation]":
    """The recordings of the project, read once."""
    from mockchat.testing.server import read

    if data := pytestconfig.getini("mockchat_data"):
        return read(data)
    default = pytestconfig.rootpath / _DEFAULT
    if default.exists() and default.stat().st_size:
        return read(default)
    pytestconfig.stash[_HINT] = f"(There are no recordings in {default}, and mockchat_data names no other.)"
    return []


@pytest.fixture
def mockchat(request: pytest.FixtureRequest, _mockchat_recordings: "list[Conversation]") -> "Iterator[MockServer]":
    """A mock of OpenAI's API on a free port (`mockchat.base_url`), which answers from the project's recordings.

    `mockchat.load([...])` adds more, `mockchat.requests` says what was asked. Where a test fails, its report has the
    requests that were refused, and why. The marker `mockchat` has the server's options.
    """
    from mockchat.testing.server import serve

    marker = request.node.get_closest_marker("mockchat")
    with serve(_mockchat_recordings, **(marker.kwargs if marker else {})) as server:
        request.node.stash[_SERVER] = server
        yield server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what was refused to the report of a test that failed."""
    report = yield
    server = item.stash.get(_SERVER, None)
    if server is not None and report.failed and (refused := server.report()):
        hint = item.config.stash.get(_HINT, "")
        report.sections.append(("mockchat", f"{refused}\n{hint}".rstrip()))
    return report
