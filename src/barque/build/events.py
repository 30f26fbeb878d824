"""What happens in a build, as values: its progress in a terminal and its history are made of them.

Times are nanoseconds since 1970. Steps are numbered as in the client's output, over all stages that are built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec


class _Event(msgspec.Struct, frozen=True, omit_defaults=True, rename="pascal", tag_field="Event"):
    pass


class BuildBegun(_Event, frozen=True, tag="build"):
    """``id`` names the build in the history; ``stages`` are those that will be built, in the order of the file."""

    id: str
    total: int
    stages: tuple[str, ...]
    time: int


class StepBegun(_Event, frozen=True, tag="begun"):
    number: int
    stage: str
    text: str
    line: int
    time: int


class StepOutput(_Event, frozen=True, tag="output"):
    """``stream``: 1 is standard output, 2 standard error."""

    number: int
    stream: int
    text: str


class StepProgress(_Event, frozen=True, tag="progress"):
    """One of docker's progress messages, of a pull."""

    number: int
    message: Any


class StepEnded(_Event, frozen=True, tag="ended"):
    """``why``: for a step that was not cached, the reason. ``size``: bytes of files in the layer that it made."""

    number: int
    time: int
    cached: bool = False
    why: str = ""
    error: str = ""
    size: int = 0


class BuildNote(_Event, frozen=True, tag="note"):
    """Something for the client itself; ``kind``: one of the names below."""

    kind: str
    value: Any


#: The id of the image that a failed step has left; what ``--metadata-file`` says; an archive to be fetched; where a
#: build failed.
FAILED_IMAGE, METADATA, OUTPUT, PLACE = "failed-image", "metadata", "output", "place"


def place(line: int, excerpt: str) -> BuildNote:
    """A build failed at ``line``; ``excerpt``: the lines around it."""
    return BuildNote(PLACE, {"Line": line, "Excerpt": excerpt})


Event = BuildNote | BuildBegun | StepBegun | StepOutput | StepProgress | StepEnded
Listener = Callable[[Event], None]
