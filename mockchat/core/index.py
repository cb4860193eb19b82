"""The lookup: recorded conversations as one walk from message to message.

Rules that hold here:

- A prefix is a sequence of messages with which a recording begins. Each has a number; the empty one is 0.
- Prefixes are numbered in the order in which the recordings make them, so that a recording that goes on where none went
  before makes a run of successive numbers. One list is enough for most of it: at `n + 1` stands the message that leads
  from prefix `n` to prefix `n + 1`.
- Only where recordings part is there more than one message to go on with: the first of them leads to `n + 1`, each
  other one begins a new run elsewhere, and a hash of (prefix, message) says where.
- Messages that say more than a text are always in the hash: in the list is what can be found in a request as it is.
- Messages are compared in wire form, whole and byte by byte: two histories never share a prefix by accident, and memory
  grows with the number of messages, never with the length of the histories.

For example, `a b c` and `a x y` make this of them, with `x` in the hash as `(1, x) → 4`:

    prefix                        0      1      2      3      4      5
    the message that leads to it         a      b      c    (none)   y
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

import ujson

from mockchat.core import wire
from mockchat.core.entries import Conversation
from mockchat.core.message import Details, details_of_text

# Stands in the list where the message that leads to the prefix is in the hash instead: a run begins there.
_RUN_BEGINS = b""
_AT_ONCE = 16  # messages compared at once, to begin with
_NEXT_MESSAGE = b'"' + wire.BETWEEN
_LAST_MESSAGE = b'"' + wire.CLOSING


class Reply(NamedTuple):
    """A recorded assistant message in wire form, its conversation's id as a JSON string, its details if it has any."""

    message: bytes
    conversation_id: bytes
    details: Details | None = None


class ResponseIndex:
    """History → the replies recorded after that very history.

    A history's lookup costs the comparison of its bytes, whatever the number of recordings. Where there is something to
    `ignore`, it makes of a message the one that is compared in its place.
    """

    def __init__(self, conversations: Iterable[Conversation], ignore: Callable[[bytes], bytes] | None = None) -> None:
        self.ignore = ignore
        self._leading: list[bytes] = [_RUN_BEGINS]
        self._branches: dict[tuple[int, bytes], int] = {}
        self._parting: set[int] = set()  # The prefixes in the hash's keys: where recordings part.
        self._details: dict[int, Details] = {}  # Of the messages in the list, by the prefixes to which they lead.
        # By prefix, the replies beside the one that may lead to the next prefix.
        self._further: dict[int, list[Reply]] = {}
        # The first prefix of each run and, in the same order, the id of the conversation that made the run.
        self._run_starts: list[int] = []
        self._run_ids: list[bytes] = []
        for conversation in conversations:
            self._add(conversation)
        self._leading.append(_RUN_BEGINS)  # Nothing leads on from the last prefix.
        self._sorted_branches = sorted(self._branches)

    def add(self, conversation: Conversation) -> None:
        """Know one more conversation: the index becomes what it would be had this been the last it was built from."""
        self._leading.pop()
        self._add(conversation)
        self._leading.append(_RUN_BEGINS)
        for branch in islice(reversed(self._branches), len(self._branches) - len(self._sorted_branches)):
            insort(self._sorted_branches, branch)

    def _add(self, conversation: Conversation) -> None:
        leading = self._leading
        conversation_id = wire.text(conversation.id)
        new_runs = [len(leading)]
        prefix = 0
        for number, said in enumerate(conversation.messages):
            following = prefix + 1
            details = conversation.details.get(number) if conversation.details else None
            message = said
            if self.ignore is not None:
                message, details = self._ignoring(said, details)
            if following == len(leading) and wire.is_plain(message):
                # This is the newest prefix, and nothing leads on from it yet.
                leading.append(message)
                if details is not None:
                    self._details[following] = details
            else:
                if following == len(leading) or leading[following] != message:
                    following = self._branches.setdefault((prefix, message), len(leading))
                    if following == len(leading):
                        leading.append(_RUN_BEGINS)
                        self._parting.add(prefix)
                        if following > new_runs[-1]:
                            new_runs.append(following)
                if wire.is_assistant(message) and (details is None or details.is_reply):
                    reply_id = conversation_id
                    if number < len(conversation.messages) - 1 and not wire.is_plain(message):
                        # Clients that know a message by the id of its answer, as LangChain.js does, would mix them up.
                        reply_id = wire.text(f"{conversation.id}_{number}")
                    self._further.setdefault(prefix, []).append(Reply(message, reply_id, details))
            prefix = following
        if len(leading) > new_runs[0]:
            self._run_starts += new_runs
            self._run_ids += [conversation_id] * len(new_runs)

    def _ignoring(self, said: bytes, details: Details | None) -> tuple[bytes, Details | None]:
        """The message that is compared in place of one, and the details that say what was said."""
        assert self.ignore is not None
        message = self.ignore(said)
        if message != said and details is None:
            details = details_of_text(said)
        return message, details

    def compared(self, messages: list[bytes]) -> list[bytes]:
        """The messages that are compared in place of these."""
        return messages if self.ignore is None else [self.ignore(message) for message in messages]

    # From a history to a prefix

    def step(self, prefix: int, message: bytes) -> int:
        """The prefix to which a message in wire form leads from a prefix, or -1 if none was recorded."""
        if self._leading[prefix + 1] == message:
            return prefix + 1
        return self._branches.get((prefix, message), -1)

    def find(self, messages: Sequence[bytes], prefix: int = 0) -> tuple[int, int]:
        """Follow messages in wire form from a prefix on, as far as they are recorded.

        Returns the last recorded prefix, and how many of the messages led there: all of them, or the position of the
        first one that left the recordings.
        """
        for number, message in enumerate(messages):
            following = self.step(prefix, message)
            if following < 0:
                return prefix, number
            prefix = following
        return prefix, len(messages)

    def walk(self, body: bytes, position: int) -> tuple[int, int, bool]:
        """Follow an array of messages in place, without cutting them out: `find` for a request in wire form.

        `position` is where the first role's name begins in `body`. Returns the last recorded prefix, a position, and
        whether the array was followed to its end. Then the position is the one behind the array, else that of the role
        of the first message that is not recorded, or (as far as it was looked at) not in wire form.
        """
        prefix = 0
        while True:
            prefix, position = self._follow_run(prefix, body, position)
            message = self._leading[prefix + 1]
            if message and body.startswith(message, position):
                following, end = prefix + 1, position + len(message)
            elif prefix in self._parting:
                end = body.find(_NEXT_MESSAGE, position)
                if end < 0:
                    end = body.find(_LAST_MESSAGE, position)
                end += 1
                following = self._branches.get((prefix, body[position:end]), -1)
            else:
                return prefix, position, False
            if following >= 0 and body.startswith(wire.BETWEEN, end):
                prefix, position = following, end + len(wire.BETWEEN)
            elif following >= 0 and body.startswith(wire.CLOSING, end):
                return following, end + len(wire.CLOSING), True
            else:
                return prefix, position, False

    def _follow_run(self, prefix: int, body: bytes, position: int) -> tuple[int, int]:
        """Walk on within a run of prefixes, as long as each message has another one behind it in the body.

        Several are compared at once, fewer and fewer as the end comes near: each by itself costs more than to join it.
        """
        count = _AT_ONCE if body.startswith(self._leading[prefix + 1], position) else 0
        while count:
            messages = self._several(prefix + 1, count)
            if messages and body.startswith(messages, position):
                prefix += count
                position += len(messages)
            else:
                count //= 2
        return prefix, position

    def _several(self, prefix: int, count: int) -> bytes | memoryview:
        """The messages to so many prefixes of a run, each with what is between two; empty if the run ends earlier."""
        messages = self._leading[prefix : prefix + count]
        return wire.BETWEEN.join([*messages, b""]) if len(messages) == count and all(messages) else b""

    # What was recorded at a prefix

    def replies(self, prefix: int) -> list[Reply]:
        """The replies recorded after a prefix, each with its conversation, in the order of the recordings."""
        message = self._leading[prefix + 1]
        further = self._further.get(prefix, [])
        if not wire.is_assistant(message):
            return further
        details = self._details.get(prefix + 1)
        if details is not None and not details.is_reply:
            return further
        return [Reply(message, self._maker_of(prefix + 1), details), *further]

    def first_message(self, prefix: int) -> bytes:
        """The message with which the first recording goes on that reached a prefix; empty if it ends there."""
        return self._leading[prefix + 1]

    def conversation_id(self, prefix: int) -> str:
        """The id of the first conversation that goes through a prefix other than the empty one."""
        conversation_id: str = ujson.loads(self._maker_of(prefix))
        return conversation_id

    def _maker_of(self, prefix: int) -> bytes:
        """The id, as a JSON string, of the conversation that made a prefix: the first that goes through it."""
        return self._run_ids[bisect_right(self._run_starts, prefix) - 1]

    def neighbours(self, prefix: int, message: bytes) -> list[tuple[int, bytes]]:
        """Some of the messages recorded after a prefix, each behind the prefix to which it leads; at most three.

        Among them is the one closest to `message`: that with the longest beginning in common, in wire form. There is
        none if no recording goes on.
        """
        first = self.first_message(prefix)
        # Of all branches in order, the closest one stands right before or right behind where `message` would.
        position = bisect_right(self._sorted_branches, (prefix, message))
        around = self._sorted_branches[max(0, position - 1) : position + 1]
        branches = [(self._branches[branch], branch[1]) for branch in around if branch[0] == prefix]
        return [(prefix + 1, first), *branches] if first else branches

    @property
    def ambiguous(self) -> int:
        """The number of histories after which several replies are recorded that are not the same."""
        return sum(len({reply.message for reply in self.replies(prefix)}) > 1 for prefix in self._further)
