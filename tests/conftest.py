"""The fixtures that several tests use, and how hypothesis runs."""

import asyncio
import gc
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp.test_utils import TestClient
from hypothesis import settings

pytest.register_assert_rewrite("tests.helpers", "tests.serving", "tests.programs", "tests.fuzz.properties")

from mockchat.core.index import ResponseIndex  # noqa: E402
from mockchat.server.request import ChatRequest  # noqa: E402
from mockchat.server.route import _read_long  # noqa: E402
from tests.helpers import Clock, Connect, Pause, WriteDataset  # noqa: E402
from tests.serving import PATIENCE, MockServer, Raw  # noqa: E402

# No test goes by the system's certificates, which each process that imports aiohttp would read: a sixth of its start.
os.environ["SSL_CERT_FILE"] = ""
settings.register_profile("patient", deadline=None)  # No test depends on a time measured.
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Keep what is imported out of the garbage collections to come, each of which would take a tenth of a second."""
    gc.freeze()


@pytest.fixture
def write_dataset(tmp_path: Path) -> WriteDataset:
    """Write entries (or raw bytes) to a file and give its path."""

    def write(content: Any) -> Path:
        path = tmp_path / "recordings.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time that this process goes by, in the test's hand."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made


@pytest.fixture
def paused_reading(monkeypatch: pytest.MonkeyPatch) -> Pause:
    """Two events: the server sets the first when it begins to read a long body, and reads it after the second."""
    reading, go_on = threading.Event(), threading.Event()

    def read(body: bytes, index: ResponseIndex) -> ChatRequest:
        reading.set()
        assert go_on.wait(PATIENCE)
        return _read_long(body, index)

    monkeypatch.setattr("mockchat.server.route._read_long", read)
    return reading, go_on


@pytest.fixture
async def client(aiohttp_client: Any) -> TestClient:
    """A client of a `MockServer`, which knows two conversations."""
    return await aiohttp_client(MockServer())


@pytest.fixture
async def connect() -> AsyncIterator[Connect]:
    """Open connections on which every byte is the test's: a `Raw` each, closed in the end."""
    async with AsyncExitStack() as opened:

        async def to(client: TestClient) -> Raw:
            server = client.server
            assert isinstance(server, MockServer)
            raw = Raw(*await asyncio.open_connection(client.host, client.port, limit=1000), server)
            opened.push_async_callback(raw.close)
            return raw

        yield to


@pytest.fixture
async def raw(client: TestClient, connect: Connect) -> Any:
    """Such a connection to the client's server."""
    return await connect(client)
