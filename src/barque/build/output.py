"""What a build tells its client, in the order of the Dockerfile although stages run side by side.

Each stage writes to a channel of its own. The first one that has not ended is passed on at once, the others wait.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

#: One message of docker's stream: ``{"stream": text}``, ``{"aux": ...}`` or a progress message.
Message = object
Send = Callable[[Message], None]
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


class Channel:
    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self.pending: list[Message] = []
        self.closed = False

    def text(self, text: str) -> None:
        self.message({"stream": text})

    def error_text(self, text: str) -> None:
        """As docker shows what a step writes to standard error."""
        self.text(f"{_RED}{text}{_PLAIN}")

    def aux(self, value: dict[str, Any]) -> None:
        self.message({"aux": value})

    def message(self, message: Message) -> None:
        self.pending.append(message)
        self._transcript.flush()

    def close(self) -> None:
        self.closed = True
        self._transcript.flush()


class Transcript:
    """``quiet`` passes nothing on but what goes to :meth:`say`."""

    def __init__(self, send: Send, *, quiet: bool = False) -> None:
        self._send = send
        self._quiet = quiet
        self._channels: list[Channel] = []
        self._first = 0

    def channel(self) -> Channel:
        """The next channel; its messages come after those of all channels before it."""
        channel = Channel(self)
        self._channels.append(channel)
        return channel

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
        for channel in self._channels:
            channel.closed = True
        self.flush()
