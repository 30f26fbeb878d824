"""What a plan is made of: steps that can say what they are going to do before anything is done."""

from __future__ import annotations

import os
from typing import Protocol

from barque.runtime.sync import ChildEnd


class Context:
    """What the steps share in the child: descriptors only, since paths mean something else to everyone.

    ``root`` is the container's root directory once it is mounted; ``console`` the terminal's (master, slave).
    """

    def __init__(self, channel: ChildEnd) -> None:
        self.channel = channel
        self.root = -1
        self.console: tuple[int, int] | None = None
        self.warnings: list[str] = []
        self.empty_dir = -1


class Step(Protocol):
    """One thing to do to the child's namespaces.

    ``prepare`` opens what is the host's own (mount sources). It runs in the caller, before the fork, where the child
    may not reach that (in a user namespace, in other mounts), else in the child. ``execute`` runs in the child.
    ``release`` drops in the caller what prepare opened.
    """

    def prepare(self) -> None: ...
    def describe(self) -> str: ...
    def execute(self, context: Context) -> None: ...
    def release(self) -> None: ...


class ChildStep:
    """A step that needs nothing of the host's."""

    def prepare(self) -> None:
        """Nothing to open."""

    def release(self) -> None:
        """Nothing was opened."""


class SourceStep:
    """A step that brings one descriptor from the host along."""

    source = -1

    def release(self) -> None:
        if self.source >= 0:
            os.close(self.source)
            self.source = -1

