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


def backend_for(order: m.CreateOrder) -> Backend:
    return foreign.ForeignBackend(order) if order.runtime.path else builtin.BuiltinBackend()


def main(exec_root: str, rest_after: float = monitor.REST_AFTER) -> None:
    warm.up(exec_root)
    forkserver.serve(monitor.kind(exec_root, backend_for, rest_after), {}, workers)


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
