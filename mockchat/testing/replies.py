"""Replies that a test gives itself. They come before what is recorded.

Rules that hold here:

- A reply is made as a recorded one is, so that the server answers it in the same way: whole, streamed, or with delays.
- Each reply is used once, in order. A fault that is answered in its place does not use it up.
- A function stays. It is called with each request that no reply before it answers.
"""

import inspect
import itertools
import reprlib
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mockchat.core import entries, wire
from mockchat.core.entries import EntryError
from mockchat.core.index import Reply
from mockchat.core.program import ProgramError
from mockchat.server.errors import ApiError
from mockchat.server.route import FAULT_TOLD

# Arguments of `MockServer.reply`, and the keys that those which are texts have in a message.
_TEXTS = {"text": "content", "refusal": "refusal", "reasoning": "reasoning_content"}
_ARGUMENTS = (*_TEXTS, "tool_calls", "status", "finish_reason", "usage")


@dataclass(frozen=True, slots=True)
class Request:
    """A request and its outcome.

    `body` is its JSON, or None if it had none. `status` is the answer's, or 0 where a simulated fault left the answer
    out or cut it off. `error` says why the request was refused; of a miss, where the history left the recordings and
    how. `is_miss` is true where nothing answers the request.
    """

    body: Any
    headers: Mapping[str, str]
    status: int = 0
    error: str | None = None
    is_miss: bool = False


# Returns what `MockServer.reply` takes: a text or a dictionary of its arguments; None for "not mine".
ReplyFunction = Callable[[Request], str | dict[str, Any] | None]


class GivenError(ApiError):
    """An error that a test gave as a reply."""


class FunctionFailed(GivenError):
    """A function raised an exception, or returned something else than a reply."""


class Given:
    """A reply, or a function that makes some.

    `arguments` are those of `MockServer.reply` that are not None; `name` is unique in a test. Raises `ProgramError`.
    """

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        text = arguments.get("text")
        self.function: ReplyFunction | None = text if callable(text) else None
        self._names = (f"{name}_{number}" for number in itertools.count())
        if self.function is None:
            self._reply = _made(next(self._names), arguments)
            self.described = ", ".join(f"{name}={reprlib.repr(value)}" for name, value in arguments.items())
        elif len(arguments) > 1:
            raise ProgramError("reply: a function returns all that there is to answer: give nothing beside it")
        elif inspect.iscoroutinefunction(text):
            raise ProgramError("reply: the function must not be async: it is called in the server's thread")
        else:
            self.described = f"the function {getattr(text, '__name__', text)}"

    def answer(self, request: Request) -> Reply | None:
        """The reply to a request, or None. Raises `GivenError` where that is the reply, and `FunctionFailed`."""
        reply = self._reply if self.function is None else self._call(self.function, request)
        if isinstance(reply, GivenError):
            raise reply
        return reply

    def _call(self, function: ReplyFunction, request: Request) -> Reply | GivenError | None:
        place = ""
        try:
            returned = function(request)
            if returned is None:
                return None
            return _made(next(self._names), returned if isinstance(returned, dict) else {"text": returned})
        except BaseException as error:  # As `pytest.fail` and `sys.exit` raise it: it would end the thread.
            problem = str(error) if isinstance(error, ProgramError) else f"{type(error).__name__}: {error}"
            for frame, line in traceback.walk_tb(error.__traceback__):
                is_ours = frame.f_globals.get("__name__", "").startswith("mockchat.")
                if not (is_ours or "__tracebackhide__" in frame.f_locals):  # As in `pytest.fail`.
                    place = f" at {frame.f_code.co_filename}:{line}"
            raise FunctionFailed(400, f"{self.described} failed{place}: {problem}") from None


def _made(name: str, given: dict[str, Any]) -> Reply | GivenError:
    """Make a reply, whose id is `name`."""
    if unknown := [each for each in given if each not in _ARGUMENTS]:
        raise ProgramError(f"reply: there is no {unknown[0]!r}: give one of {', '.join(_ARGUMENTS)}")
    said = {key: given[name] for name, key in _TEXTS.items() if given.get(name) is not None}
    status, calls = given.get("status"), given.get("tool_calls")
    if status is not None:
        if given.keys() - {"status", "text"}:
            raise ProgramError("reply: a status is an error's, which has a text at most")
        if type(status) is not int or not 400 <= status < 600:
            raise ProgramError(f"reply: the status {status!r} is no error's: give one from 400 to 599")
        return GivenError(status, said.get("content", f"{FAULT_TOLD}: status {status}"))
    if calls:
        calls = [calls] if isinstance(calls, dict) else calls
        said["tool_calls"] = [_tool_call(call, f"call_{name}_{place}") for place, call in enumerate(calls)]
    if not said:
        raise ProgramError("reply: give a text, tool_calls, a refusal, reasoning or a status")
    try:
        read, _ = entries.read(given | {"messages": [{"role": "assistant", "content": None} | said]}, name)
    except EntryError as error:
        hint = "" if isinstance(given.get("text", ""), str) else "; for JSON give json.dumps(...)"
        raise ProgramError(f"reply: {str(error).removeprefix('message 0: ')}{hint}") from None
    return Reply(wire.first(read.recording), wire.text(name), read.details.get(0))


def _tool_call(call: Any, call_id: str) -> Any:
    """A tool call as the API has it; it may be given as its name and arguments alone."""
    if isinstance(call, dict) and "name" in call:
        if unknown := call.keys() - {"name", "arguments", "id", "type"}:
            raise ProgramError(f"reply: there is no {unknown.pop()!r} in a tool call: give name, arguments, id")
        function = {"name": call["name"], "arguments": call.get("arguments", {})}
        return {"id": call.get("id", call_id), "function": function}
    return {"id": call_id} | call if isinstance(call, dict) else call
