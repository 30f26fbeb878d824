"""The zygote of the daemon: what it can fork, and everything that this needs, imported here and now.

Nothing is imported later: see :class:`barque.supervise.forkserver.Fence`.
"""

from __future__ import annotations

import encodings.ascii
import encodings.latin_1
import encodings.utf_8
import linecache
import socket
import sys
import tokenize

from barque.store.tar import child as tar_child
from barque.supervise import builtin, foreign, forkserver, monitor, warm
from barque.supervise import messages as m
from barque.supervise.backend import Backend
from barque.supervise.forkserver import ZygoteHandle, spawn

#: What Python itself would import at a later moment: to decode text, to print a traceback.
PRELOADED = (encodings.ascii, encodings.latin_1, encodings.utf_8, linecache, tokenize)

__all__ = ["ZygoteHandle", "main", "spawn"]


def backend_for(order: m.CreateOrder) -> Backend:
    return foreign.ForeignBackend(order) if order.runtime.path else builtin.BuiltinBackend()


def main(exec_root: str) -> None:
    def be_monitor(channel: socket.socket, _fds: list[int]) -> int:
        return monitor.run(channel, exec_root, backend_for)

    warm.up()
    forkserver.serve({"monitor": be_monitor} | {
        name: forkserver.worker(run) for name, run in tar_child.WORKERS.items()})


if __name__ == "__main__":
    main(sys.argv[1])
