"""Which recordings are used, and which are not: what `--mockchat-unused` tells.

A recording is used where a history was asked after which it has a reply: it may have been the answer, whether it was
drawn or another one with the same history. Each goes by its number, in the order in which the files are read.
"""

from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from mockchat.core import text, wire
from mockchat.core.entries import Conversation
from mockchat.core.index import ResponseIndex


def used(conversations: Sequence[Conversation], index: ResponseIndex, asked: Set[bytes]) -> set[int]:
    """The numbers of those conversations, all of them in the index, that are used where these histories were asked."""
    return {number for number, each in enumerate(conversations) if not asked.isdisjoint(_histories(each, index))}


def _histories(conversation: Conversation, index: ResponseIndex) -> Iterator[bytes]:
    """The histories, as they are compared, after which a conversation has a reply."""
    messages = conversation.messages
    for number in conversation.replies:
        yield index.compared(wire.join(messages[:number]))


def tell(recordings: Sequence[tuple[Path, Conversation]], used: Set[int], root: Path) -> Iterator[str]:
    """Lines that say which recordings are not used, each given with its file, which is named relative to `root`."""
    unused = [found for number, found in enumerate(recordings) if number not in used]
    if not unused:
        yield "There is no unused recording"
        return
    yield f"Used by no test that ran, {len(unused):,} of {len(recordings):,} recordings:"
    for path, conversation in unused:
        shown = path.relative_to(root) if path.is_relative_to(root) else path
        yield f"{shown}: {conversation.id}, {len(conversation.messages)} messages: {_first_words(conversation)}"


def _first_words(conversation: Conversation) -> str:
    """Of what the user said first, for many conversations begin with the same prompt of the system."""
    messages = conversation.messages
    by_user = (message for message in messages if wire.role_of(message) == "user")
    return text.around(wire.content_of(next(by_user, messages[0])), 0)
