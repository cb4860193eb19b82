"""Replies that a test gives itself, for histories that are not recorded: one after another, each of them once.

Rules that hold here:

- A reply is made as a recorded one is, so that the server answers it in the same way: whole, streamed, or with delays.
- It is used up by the answer that has it. A fault that is answered in its place leaves it the next one.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mockchat.core import entries, text, wire
from mockchat.core.entries import EntryError
from mockchat.core.index import Reply
from mockchat.core.program import ProgramError
from mockchat.server.errors import ApiError, NotRecorded
from mockchat.server.request import ChatRequest, read_settings
from mockchat.server.route import FAULT_TOLD


class GivenError(ApiError):
    """An error that a test gave as a reply."""


class _Given(NamedTuple):
    described: str
    reply: Reply | GivenError


class GivenReplies:
    """The replies that are not used up, in order; `count` is the number of all that were given."""

    def __init__(self) -> None:
        self.count = 0
        self._waiting: deque[_Given] = deque()

    def add(
        self,
        content: str | None,
        tool_calls: Sequence[Mapping[str, Any]] | None,
        status: int | None,
        ending: Mapping[str, object],
    ) -> None:
        """Add one, made of what `MockServer.reply` takes. Raises `ProgramError`."""
        if not isinstance(content, str | None):
            raise ProgramError(f"reply: the text is {content!r}, no string")
        if status is not None:
            if tool_calls is not None or any(value is not None for value in ending.values()):
                raise ProgramError("reply: a status is an error's, which has a text at most")
            given = _error(status, content)
        elif content is None and not tool_calls:
            raise ProgramError("reply: give a text, tool_calls or a status")
        else:
            given = _reply(f"reply_{self.count}", content, tool_calls, ending)
        self.count += 1
        self._waiting.append(given)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def described(self) -> list[str]:
        """Each of them in a few words."""
        return [given.described for given in self._waiting]

    def offer(self, body: bytes, missed: NotRecorded) -> ChatRequest:
        """A request that is not recorded, with the next reply as if that were; raises `GivenError` if it is one."""
        reply = self._waiting[0].reply
        if isinstance(reply, GivenError):
            raise reply
        history = missed.history
        return ChatRequest([reply], history, wire.array_size(history), read_settings(wire.loads(body)))

    def use_up(self) -> None:
        """Forget the reply that was offered."""
        self._waiting.popleft()


def _error(status: object, content: str | None) -> _Given:
    if type(status) is not int or not 400 <= status < 600:
        raise ProgramError(f"reply: the status {status!r} is no error's: give one from 400 to 599")
    error = GivenError(status, content if content is not None else f"{FAULT_TOLD}: status {status}")
    return _Given(f"status {status}", error)


def _reply(
    name: str, content: str | None, tool_calls: Sequence[Mapping[str, Any]] | None, ending: Mapping[str, object]
) -> _Given:
    said: dict[str, Any] = {"role": "assistant", "content": content}
    if tool_calls:
        said["tool_calls"] = [
            {"id": f"call_{name}_{place}", **call} if isinstance(call, Mapping) else call
            for place, call in enumerate(tool_calls)
        ]
    try:
        _, recording, _, details = entries.read({"messages": [said], **ending})
    except EntryError as error:
        raise ProgramError(f"reply: {str(error).removeprefix('message 0: ')}") from None
    names = [call.get("function", call.get("custom"))["name"] for call in said.get("tool_calls", ())]
    described = f"a call of {', '.join(names)}" if names else text.around(content or "", 0)
    return _Given(described, Reply(wire.first(recording), wire.text(name), details.get(0)))
