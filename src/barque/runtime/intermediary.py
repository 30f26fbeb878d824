"""A child that is born where its maker can go but not come back from: a user namespace, above all.

A process in between goes there, clones the child as its own sibling (CLONE_PARENT), hands over the pidfd and ends.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from barque.runtime import sync
from barque.runtime.failure import RuntimeFailure
from barque.sys import process, sockets

_MAX_MESSAGE = 65536


def clone(enter: Callable[[], None], flags: int) -> process.Clone | None:
    """As :func:`barque.sys.process.clone`, after ``enter`` has been called in between. Raises RuntimeFailure."""
    ours, theirs = sync.pair()
    middle = process.clone(0)
    if middle is None:
        ours.close()
        try:
            enter()
            child = process.clone(flags | process.CLONE_PARENT)
            if child is None:
                theirs.close()
                return None
            sockets.send(theirs, str(child.pid).encode(), [child.pidfd])
            os._exit(0)
        except BaseException as error:
            # Whatever it was: it must never return into the caller's code.
            theirs.send(msgspec.json.encode(RuntimeFailure.of("namespaces", error).to_dict()))
            os._exit(1)
    theirs.close()
    with ours:
        packet, passed = sockets.receive(ours, _MAX_MESSAGE)
    process.wait(middle.pidfd)
    os.close(middle.pidfd)
    if passed:
        return process.Clone(int(packet), passed[0])
    if packet:
        raise RuntimeFailure.from_dict(msgspec.json.decode(packet))
    raise RuntimeFailure("namespaces", detail="the process that enters the namespaces has died")
