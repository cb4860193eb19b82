"""The lookup: recorded conversations as one walk from message to message.

Rules that hold here:

- A prefix is a sequence of messages with which a recording begins; it has a number, and the empty one is 0.
- The first message recorded after a new prefix `n` leads to prefix `n + 1`. So one list holds, for each prefix, the
  message that leads to it, and only where recordings part does a hash of (prefix, message) lead elsewhere.
- Messages are compared as wire bytes, whole and in place: two sequences never share a prefix by accident, and memory
  grows with the number of messages, never with the length of the histories.
"""

import mmap
from array import array
from bisect import bisect_right, insort
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import BinaryIO, NamedTuple

import ujson

from mockchat.core import wire
from mockchat.core.entries import Conversation

_BRANCH = b""  # Leads to a prefix that no other prefix is followed by in the list: its message is in the hash.
_NEXT_MESSAGE = b'"' + wire.BETWEEN
_LAST_MESSAGE = b'"' + wire.CLOSING


class Reply(NamedTuple):
    """A recorded assistant message in wire form, and its conversation's id as a JSON string."""

    message: bytes
    conversation_id: bytes


class _Messages(Sequence[bytes]):
    """Messages that stand in a file as in a request: each is followed by what is between two, but for empty ones."""

    def __init__(self, messages: Sequence[bytes], file: BinaryIO) -> None:
        self._starts = array("Q", [0])
        self._text: memoryview
        for message in messages:
            if message:
                file.write(message)
                file.write(wire.BETWEEN)
            self._starts.append(file.tell())
        file.flush()

    def map(self, file: BinaryIO) -> None:
        self._text = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    def __getitem__(self, number: int) -> bytes:  # type: ignore[override]
        start, following = self._starts[number], self._starts[number + 1]
        return self._text[start : following - len(wire.BETWEEN)].tobytes() if start < following else b""

    def follow(self, prefix: int, end: int, body: bytes, position: int) -> tuple[int, int]:
        """Go on, up to the prefix before `end`, as long as each message stands in the body with another behind it.

        Several are compared at once, for to take each by itself costs more than to compare it.
        """
        step = 16
        while step:
            if prefix + step < end:
                messages = self._text[self._starts[prefix + 1] : self._starts[prefix + step + 1]]
                if body.startswith(messages, position):
                    prefix += step
                    position += len(messages)
                    continue
            step //= 2
        return prefix, position

    def __len__(self) -> int:
        return len(self._starts) - 1


class ResponseIndex:
    """History → the replies recorded after that very history.

    A history's lookup costs the comparison of its bytes, whatever the number of recordings.
    """

    def __init__(self, conversations: Iterable[Conversation]) -> None:
        leading = [_BRANCH]
        self._leading: Sequence[bytes] = leading
        self._branches: dict[tuple[int, bytes], int] = {}
        self._parting: set[int] = set()  # The prefixes at which recordings part.
        # The replies at a prefix beside the one that leads to the next prefix.
        self._further: dict[int, list[Reply]] = {}
        # Which conversation made a prefix: the first prefix of each run, and the id that goes with it.
        self._run_starts: list[int] = []
        self._run_ids: list[bytes] = []
        for conversation in conversations:
            self._add(conversation, leading)
        leading.append(_BRANCH)  # What follows the last prefix.
        self._sorted_branches = sorted(self._branches)

    def add(self, conversation: Conversation) -> None:
        """Know one more conversation: the index becomes what it would be had this been the last it was built from."""
        leading = self._leading
        assert isinstance(leading, list)  # One that processes share does not grow.
        leading.pop()
        self._add(conversation, leading)
        leading.append(_BRANCH)
        for branch in islice(reversed(self._branches), len(self._branches) - len(self._sorted_branches)):
            insort(self._sorted_branches, branch)

    def _add(self, conversation: Conversation, leading: list[bytes]) -> None:
        conversation_id = wire.text(conversation.id)
        made = len(leading)
        prefix = 0
        for message in conversation.messages:
            following = prefix + 1
            if following == len(leading):  # The newest prefix, so far without a continuation.
                leading.append(message)
            else:
                if leading[following] != message:
                    branch = len(leading)
                    following = self._branches.setdefault((prefix, message), branch)
                    if following == branch:
                        leading.append(_BRANCH)
                        self._parting.add(prefix)
                if wire.is_assistant(message):
                    self._further.setdefault(prefix, []).append(Reply(message, conversation_id))
            prefix = following
        if len(leading) > made:
            self._run_starts.append(made)
            self._run_ids.append(conversation_id)

    def write(self, file: BinaryIO) -> None:
        """Move the messages to a file, for processes that share them: each has to `map` it before it looks one up.

        Python counts references beside an object's content, so that to look at a message is to write there, and a
        process that was forked gets a copy of every page on which it looks at one. Of a file it copies the message.
        """
        self._leading = _Messages(self._leading, file)

    def map(self, file: BinaryIO) -> None:
        """Read the messages, from now on, from the file to which `write` moved them."""
        assert isinstance(self._leading, _Messages)
        self._leading.map(file)

    def step(self, prefix: int, message: bytes) -> int:
        """The prefix to which a message in wire form leads from a prefix, or -1 if none was recorded."""
        if self._leading[prefix + 1] == message:
            return prefix + 1
        return self._branches.get((prefix, message), -1)

    def find(self, messages: Sequence[bytes]) -> tuple[int, int]:
        """Follow messages in wire form as far as they are recorded.

        Returns the last recorded prefix, and the number of messages in it: all of them, or the position of the first
        message that left the recordings.
        """
        prefix = 0
        for number, message in enumerate(messages):
            following = self.step(prefix, message)
            if following < 0:
                return prefix, number
            prefix = following
        return prefix, len(messages)

    def walk(self, body: bytes, position: int) -> tuple[int, int] | None:
        """Follow an array of messages in place: the shortcut for `find` where a request is in wire form.

        `position` is where the first role's name begins in `body`. Returns the prefix and the position after the
        array, or None if the array is not recorded or (as far as it was looked at) not in wire form.
        """
        leading = self._leading
        mapped = leading if isinstance(leading, _Messages) else None
        prefix = 0
        while True:
            if mapped is not None:
                prefix, position = mapped.follow(prefix, self._end_of_run(prefix), body, position)
            message = leading[prefix + 1]
            if message and body.startswith(message, position):
                prefix += 1
                position += len(message)
            elif prefix not in self._parting:
                return None
            else:
                end = body.find(_NEXT_MESSAGE, position)
                if end < 0:
                    end = body.find(_LAST_MESSAGE, position)
                prefix = self._branches.get((prefix, body[position : end + 1]), -1)
                if prefix < 0:
                    return None
                position = end + 1
            if body.startswith(wire.BETWEEN, position):
                position += len(wire.BETWEEN)
            elif body.startswith(wire.CLOSING, position):
                return prefix, position + len(wire.CLOSING)
            else:
                return None

    def replies(self, prefix: int) -> list[Reply]:
        """The replies recorded after a prefix, each with its conversation, in the order of the recordings."""
        message = self._leading[prefix + 1]
        further = self._further.get(prefix, [])
        if not wire.is_assistant(message):
            return further
        return [Reply(message, self._conversation_of(prefix + 1)), *further]

    def _conversation_of(self, prefix: int) -> bytes:
        return self._run_ids[bisect_right(self._run_starts, prefix) - 1]

    def _end_of_run(self, prefix: int) -> int:
        following = bisect_right(self._run_starts, prefix)
        return self._run_starts[following] if following < len(self._run_starts) else len(self._leading) - 1

    def conversation_id(self, prefix: int) -> str:
        """The id of the first conversation that goes through a prefix other than the empty one."""
        conversation_id: str = ujson.loads(self._conversation_of(prefix))
        return conversation_id

    def neighbours(self, prefix: int, message: bytes) -> list[tuple[int, bytes]]:
        """Messages recorded after a prefix, each behind the prefix to which it leads; none if no recording goes on.

        Among them is the one closest to `message`: that with the longest beginning in common, in wire form.
        """
        first = (prefix + 1, self._leading[prefix + 1])
        position = bisect_right(self._sorted_branches, (prefix, message))
        around = self._sorted_branches[max(0, position - 1) : position + 1]
        branches = [(self._branches[branch], branch[1]) for branch in around if branch[0] == prefix]
        return [first, *branches] if first[1] else branches

    @property
    def ambiguous(self) -> int:
        """The number of histories after which several replies are recorded that are not the same."""
        return sum(len({reply.message for reply in self.replies(prefix)}) > 1 for prefix in self._further)
