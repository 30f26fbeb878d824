"""Progress as docker's JSON messages. Texts and their order are those of dockerd: clients draw bars from them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from barque.oci.digest import Digest

#: Bars move at most so often, in seconds.
_INTERVAL = 0.1


class Progress(msgspec.Struct, omit_defaults=True, rename="camel"):
    """One line of a stream. ``progress_detail``: current and total of a bar, ``{}`` where a bar has no numbers.

    ``stream``: plain text instead of a status.
    """

    stream: str = ""
    status: str = ""
    progress_detail: dict[str, int] | None = None
    id: str = ""
    aux: dict[str, Any] | None = None


Report = Callable[[Progress], None]


def short(digest: str) -> str:
    """The 12 hex digits by which people know a digest."""
    return Digest(digest).hex[:12]


class Bar:
    """The progress of one layer. One that is ``held`` says nothing before :meth:`begin`."""

    def __init__(self, report: Report, id: str, *, held: bool = False) -> None:
        self._report = report
        self._id = id
        self._last = 0.0
        self._held = held
        self._missed: Progress | None = None

    def begin(self, status: str) -> None:
        """The first word on the layer, and then where it has got to meanwhile."""
        self._held = False
        self.step(status)
        if self._missed is not None:
            self._tell(self._missed)

    def step(self, status: str) -> None:
        self._tell(Progress(status=status, progress_detail={}, id=self._id))

    def _tell(self, progress: Progress) -> None:
        if self._held:
            self._missed = progress
        else:
            self._report(progress)

    def move(self, status: str, current: int, total: int) -> None:
        """Report a position; most are left out, the last one (``current == total``) never is."""
        now = time.monotonic()
        if current < total and now - self._last < _INTERVAL:
            return
        self._last = now
        self._tell(Progress(status=status, progress_detail={"current": current, "total": total}, id=self._id))
