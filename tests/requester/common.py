"""What several tests of the requester ask for, and servers that do what a test wants."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from mockchat.requester.plan import Question, places, questions
from tests.helpers import conversation, index_of

CONVERSATIONS = [
    conversation("one", "hi", "hello", "how are you?", "fine"),
    conversation("two", "hi", "good day"),
    conversation("none", "user:alone"),
    conversation("start", "welcome", first="assistant"),
]
INDEX = index_of(*CONVERSATIONS)

Answerer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def asked(model: str | None = None, stream: bool = False) -> list[Question]:
    return list(questions(places(CONVERSATIONS), INDEX, model, stream))


@asynccontextmanager
async def answering(
    answerer: Answerer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[str]:
    """A server that does with each connection what it is told; gives its base URL."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answerer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(connected, host, 0, ssl=tls) as server:
        address = f"[{host}]" if ":" in host else host
        yield f"{'https' if tls else 'http'}://{address}:{server.sockets[0].getsockname()[1]}/v1"
