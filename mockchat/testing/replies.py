"""Replies that a test gives itself. They come before what is recorded.

Rules that hold here:

- A reply is made as a recorded one is, so that the server answers it in the same way: whole, streamed, or with delays.
- Each reply is used once, in order. A fault that is answered in its place does not use it up.
- A function stays. It is called with each request that no reply before it answers.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from mockchat.core import entries, text, wire
from mockchat.core.entries import EntryError
from mockchat.core.index import Reply
from mockchat.core.program import ProgramError
from mockchat.server.errors import ApiError
from mockchat.server.route import FAULT_TOLD


@dataclass(frozen=True, slots=True)
class Request:
    """A request and its outcome.

    `body` is its JSON, or None if it had none. `status` is the answer's, or 0 where a simulated fault left the answer
    out or cut it off. `error` says why the request was refused; of a miss, where the history left the recordings and
    how. `is_miss` is true where nothing answers the request.
    """

    body: Any
    headers: Mapping[str, str]
    status: int = 200
    error: str | None = None
    is_miss: bool = False


# Returns what `MockServer.reply` takes: a text or a dictionary of its arguments; None for "not mine".
ReplyFunction = Callable[[Request], str | Mapping[str, Any] | None]


class GivenError(ApiError):
    """An error that a test gave as a reply."""


class FunctionFailed(GivenError):
    """A function raised an exception, or returned something else than a reply."""


_KEYS = ("text", "refusal", "reasoning", "tool_calls", "status", "finish_reason", "usage")


class Given(NamedTuple):
    """A reply, described in a few words. `function` is the one that returned it, or is to be called for it."""

    described: str
    reply: Reply | GivenError | None
    function: ReplyFunction | None = None


class GivenReplies:
    """The replies that are left, in order; `count` is the number of all that were given."""

    def __init__(self) -> None:
        self.count = 0
        self._numbers = itertools.count()  # Of replies, for their ids.
        self._left: list[Given] = []
        self._answered: list[ReplyFunction] = []

    def add(self, given: Mapping[str, Any]) -> None:
        """Add a reply, made of the arguments of `MockServer.reply`. Raises `ProgramError`."""
        function = given["text"]
        if not callable(function):
            made = _made(next(self._numbers), given)
        elif any(value is not None for key, value in given.items() if key != "text"):
            raise ProgramError("reply: a function returns all that there is to answer: give nothing beside it")
        else:
            made = Given(f"the function {getattr(function, '__name__', function)}", None, function)
        self.count += 1
        self._left.append(made)

    def unused(self) -> list[str]:
        """The replies that are left and the functions that never answered, each in a few words."""
        return [given.described for given in self._left if given.function not in self._answered]

    def find(self, request: Request) -> Given | None:
        """The reply to a request. Raises `FunctionFailed`."""
        found = (
            given if given.function is None else self._call(given, given.function, request) for given in self._left
        )
        return next(filter(None, found), None)

    def _call(self, given: Given, function: ReplyFunction, request: Request) -> Given | None:
        try:
            returned = function(request)
            if returned is None:
                return None
            given_now = returned if isinstance(returned, Mapping) else {"text": returned}
            return _made(next(self._numbers), given_now)._replace(function=function)
        except Exception as error:
            problem = str(error) if isinstance(error, ProgramError) else f"{type(error).__name__}: {error}"
            raise FunctionFailed(400, f"{given.described} failed: {problem}") from None

    def use_up(self, given: Given) -> None:
        """Note that this reply was answered."""
        if given.function is None:
            self._left.remove(given)
        else:
            self._answered.append(given.function)


def _made(number: int, given: Mapping[str, Any]) -> Given:
    """Make a reply; its ids have this number."""
    if unknown := [key for key in given if key not in _KEYS]:
        raise ProgramError(f"reply: there is no {unknown[0]!r}: give one of {', '.join(_KEYS)}")
    text, refusal, reasoning, tool_calls, status, finish_reason, usage = map(given.get, _KEYS)
    for name in _KEYS[:3]:
        if not isinstance(given.get(name), str | None):
            raise ProgramError(f"reply: the {name} is {given[name]!r}, no string")
    if status is not None:
        if any(value is not None for value in (tool_calls, refusal, reasoning, finish_reason, usage)):
            raise ProgramError("reply: a status is an error's, which has a text at most")
        return _error(status, text)
    said = {"role": "assistant", "content": text, "refusal": refusal, "reasoning_content": reasoning}
    if not tool_calls and text is refusal is reasoning is None:
        raise ProgramError("reply: give a text, tool_calls, a refusal, reasoning or a status")
    said = {key: value for key, value in said.items() if value is not None or key == "content"}
    ending = {"finish_reason": finish_reason, "usage": None if usage is None else dict(usage)}
    return _reply(f"reply_{number}", said, [tool_calls] if isinstance(tool_calls, Mapping) else tool_calls, ending)


def _error(status: object, message: str | None) -> Given:
    if type(status) is not int or not 400 <= status < 600:
        raise ProgramError(f"reply: the status {status!r} is no error's: give one from 400 to 599")
    error = GivenError(status, message if message is not None else f"{FAULT_TOLD}: status {status}")
    return Given(f"status {status}", error)


def _reply(
    name: str, said: dict[str, Any], tool_calls: Sequence[Mapping[str, Any]] | None, ending: Mapping[str, object]
) -> Given:
    if tool_calls:
        said["tool_calls"] = [_call(call, f"call_{name}_{place}") for place, call in enumerate(tool_calls)]
    try:
        _, recording, _, details = entries.read({"messages": [said], **ending})
    except EntryError as error:
        raise ProgramError(f"reply: {str(error).removeprefix('message 0: ')}") from None
    names = [call.get("function", call.get("custom"))["name"] for call in said.get("tool_calls", ())]
    words = next((said[key] for key in ("content", "refusal", "reasoning_content") if said.get(key)), "")
    described = f"a call of {', '.join(names)}" if names else text.around(words, 0)
    return Given(described, Reply(wire.first(recording), wire.text(name), details.get(0)))


def _call(call: Any, call_id: str) -> Any:
    """A tool call as the API has it; it may be given as its name and arguments alone."""
    if not isinstance(call, Mapping):
        return call
    if "name" in call and not {"function", "custom"} & call.keys():
        function = {"arguments": {}, **call}
        call_id = function.pop("id", call_id)
        call = {"function": function}
    return {"id": call_id, **call}
