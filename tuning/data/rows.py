"""What `formats.parse_row` makes of a line: one class for each kind of row."""

import msgspec

from tuning.data.messages import Message


class Places(msgspec.Struct, frozen=True):
    """Where in the line the messages of a conversation stand, for errors about them."""

    prompt: str = "messages"
    answer: str = "messages"
    answer_start: int = 0
    """The index, in the conversation, of the first message that stands at `answer`."""
    is_text: bool = False
    """Each is one string rather than a list of messages."""
    beside: str = ""
    """What stands before `tools`, with a dot."""

    def path(self, i: int, part: str = "") -> str:
        """Of message `i`, or of a part of it (`.content`)."""
        if self.is_text:
            return self.prompt if i < self.answer_start else self.answer
        if i < self.answer_start:
            return f"{self.prompt}[{i}]{part}"
        return f"{self.answer}[{i - self.answer_start}]{part}"


class ChatRow(msgspec.Struct, frozen=True):
    number: int
    """The line in the file, from 1."""
    messages: list[Message]
    is_trained: list[bool]
    """For each message: an assistant turn that is trained on. At least one is."""
    tools: list[Message] | None
    places: Places = Places()


class PreferenceRow(msgspec.Struct, frozen=True):
    """Two conversations that begin with the same prompt; what comes after it is trained on."""

    number: int
    chosen: ChatRow
    rejected: ChatRow


class LabelledRow(msgspec.Struct, frozen=True):
    number: int
    conversation: ChatRow
    is_desirable: bool


class PromptRow(msgspec.Struct, frozen=True):
    """What a model is asked, and what a grader may look at."""

    number: int
    messages: list[Message]
    tools: list[Message] | None
    item: bytes
    """The whole row as JSON with sorted keys: the grader's `item`."""
    places: Places = Places()


Row = ChatRow | PreferenceRow | LabelledRow | PromptRow
