"""The zygote of the daemon: what it can fork, and everything that this needs, imported here and now.

Nothing is imported in a child: see :class:`barque.supervise.forkserver.Fence`.
"""

from __future__ import annotations

import encodings.ascii
import encodings.latin_1
import encodings.utf_8
import linecache
import sys
import tokenize
from contextlib import suppress

from barque.oci import go_habits
from barque.runtime.cgroups import systemd
from barque.supervise import builtin, foreign, forkserver, monitor, warm
from barque.supervise import messages as m
from barque.supervise.backend import Backend
from barque.supervise.forkserver import ZygoteHandle, spawn
from barque.sys import rtnetlink

#: What would be imported at a later moment: by Python itself to decode text or print a traceback, by the runtime for
#: what few containers have.
PRELOADED = (encodings.ascii, encodings.latin_1, encodings.utf_8, linecache, tokenize, go_habits, systemd, rtnetlink)

__all__ = ["ZygoteHandle", "main", "spawn"]


class Backends:
    """Makes the backend of a monitor, whose helper is forked before it is known that it will be needed."""

    def __init__(self) -> None:
        self._rehearse = warm.rehearsal()
        self._helper: builtin.Helper | None = None

    def prepare(self) -> None:
        with suppress(OSError):    # tried again when there is an order, and then told
            self._helper = builtin.Helper(self._rehearse)

    def make(self, order: m.CreateOrder) -> Backend:
        if order.runtime.path:
            self.close()
            return foreign.ForeignBackend(order)
        helper, self._helper = self._helper, None
        return builtin.BuiltinBackend(self._rehearse, helper)

    def close(self) -> None:
        """End a helper that nobody wants."""
        if self._helper is not None:
            self._helper.dismiss()
            self._helper = None


def main(exec_root: str, rest_after: float = monitor.REST_AFTER) -> None:
    warm.up(exec_root)
    forkserver.serve(monitor.kind(exec_root, Backends(), rest_after), {}, workers)


def workers(kind: str) -> dict[str, forkserver.Kind]:
    """What pulls, copies and new volumes need, or logs that go elsewhere; monitors need not carry it along until then.
    """
    if kind == "shipper":
        from barque.supervise.shippers import process

        return {kind: process.be}
    if kind == "checkpoint":
        from barque.supervise import checkpoint

        return {kind: forkserver.worker(checkpoint.run)}
    from barque.store.tar import child
    from barque.supervise import archive

    return {name: forkserver.worker(run) for name, run in {**child.WORKERS, **archive.WORKERS}.items()}


if __name__ == "__main__":
    main(sys.argv[1])
