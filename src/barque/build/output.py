"""What a build tells its client and its history.

docker's stream follows the order of the Dockerfile although stages run side by side: each stage writes to a channel of
its own, the first one that has not ended is passed on at once, and the others wait. Events are passed on as they come.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from barque.build.dockerfile.instructions import Instruction
from barque.build.events import BuildNote, Event, Listener, StepBegun, StepEnded, StepOutput, StepProgress
from barque.build.ports import STDERR, STDOUT

#: One message of docker's stream: ``{"stream": text}``, ``{"aux": ...}`` or a progress message.
Message = object
Send = Callable[[Message], None]
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


class Channel:
    """The output of one stage: one step after the other."""

    def __init__(self, transcript: Transcript, total: int, stage: str = "", first: int = 1) -> None:
        self._transcript = transcript
        self._total = total
        self._stage = stage
        self._next = first
        self._open = False
        self.pending: list[Message] = []
        self.closed = False

    @property
    def _number(self) -> int:
        return self._next - 1

    def begin(self, step: Instruction) -> None:
        self._next += 1
        self._open = True
        self.tell(StepBegun(self._number, self._stage, step.text, step.line, time.time_ns()))
        self.text(f"Step {self._number}/{self._total} : {step.text}\n")

    def end(self, *, cached: bool = False, why: str = "", error: str = "", size: int = 0) -> None:
        """The step that was begun last has ended; nothing where it has already."""
        if self._open:
            self._open = False
            self.tell(StepEnded(self._number, time.time_ns(), cached, why, error, size))

    def text(self, text: str) -> None:
        """Words of the builder itself, for docker's stream."""
        self._send({"stream": text})

    def output(self, stream: int, text: str) -> None:
        """What a step writes; docker shows standard error in red."""
        self.tell(StepOutput(self._number, stream, text))
        self.text(text if stream == STDOUT else f"{_RED}{text}{_PLAIN}")

    def warning(self, text: str) -> None:
        self.output(STDERR, text)

    def progress(self, message: Message) -> None:
        """One of docker's progress messages."""
        self.tell(StepProgress(self._number, message))
        self._send(message)

    def aux(self, value: dict[str, Any]) -> None:
        self._send({"aux": value})

    def note(self, kind: str, value: object) -> None:
        """For a client that takes events."""
        self.tell(BuildNote(kind, value))

    def tell(self, event: Event) -> None:
        self._transcript.tell(event)

    def _send(self, message: Message) -> None:
        self.pending.append(message)
        self._transcript.flush()

    def close(self) -> None:
        self.closed = True
        self._transcript.flush()


class Transcript:
    """``quiet`` passes nothing on but what goes to :meth:`say`, and ids. ``listeners`` hear every event."""

    def __init__(self, send: Send, *, quiet: bool = False, listeners: Sequence[Listener] = ()) -> None:
        self._send = send
        self._quiet = quiet
        self._listeners = listeners
        self._channels: list[Channel] = []
        self._first = 0

    def channel(self, total: int = 0, stage: str = "", first: int = 1) -> Channel:
        """The next channel; its messages come after those of all channels before it. ``first``: its first step."""
        channel = Channel(self, total, stage, first)
        self._channels.append(channel)
        return channel

    def tell(self, event: Event) -> None:
        for listener in self._listeners:
            listener(event)

    def say(self, text: str) -> None:
        """A line to be seen in any case, after all channels."""
        self._send({"stream": text})

    def flush(self) -> None:
        while self._first < len(self._channels):
            channel = self._channels[self._first]
            pending, channel.pending = channel.pending, []
            for message in pending:
                if not self._quiet or (isinstance(message, dict) and "aux" in message):
                    self._send(message)
            if not channel.closed:
                return
            self._first += 1

    def drain(self) -> None:
        """At the end, whatever happened: what stages that did not end had to say."""
        for channel in self._channels[self._first:]:
            channel.closed = True
        self.flush()
