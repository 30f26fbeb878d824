"""The parent of one container and of its monitors. It stays as long as the container does, and does nothing by itself.

A monitor that serves nobody costs 1 MB: its pages with reference counts are copies. So one that has had nothing to do
for a while leaves what it knows and holds to the keeper, which has touched hardly any page since the zygote forked it,
and ends. The keeper waits on the descriptors and forks the next monitor as soon as one of them is ready::

    keeper   monitor                      when
    ------   --------------------------   ----------------------------------------------------------------------------
             HEAD, value + descriptors    nothing to do; the monitor ends with the status RESTS
    status                                the first process has ended, which its keeper reaps (wait status, 4 bytes)

The socket pair is the same for all monitors of a keeper, and the keeper holds both ends while none is there: a status
that a monitor has not read any more waits for the next one. Until the first rest, the container's processes are
children of the monitor that made them.

A monitor dies with its keeper. A keeper whose monitor died ends the container, writes its record, and ends.

Every page that this module's loop writes to is paid for by every container: hence few calls, and the sockets of
``_socket``, without the classes and enums that the socket module puts around them.
"""

from __future__ import annotations

import _socket
import array
import os
import select
import socket
import time
from collections.abc import Callable
from struct import Struct

from barque.supervise.rest import MAX_FDS, MAX_VALUE, Luggage
from barque.sys import prctl

#: Exit status of a monitor that has left everything to its keeper.
RESTS = 75
#: Pid of the container's first process; how many of the descriptors, the first ones, wake the keeper.
HEAD = Struct("=iH")
STATUS = Struct("=i")
#: Seconds until a fork is tried again that the kernel refused.
RETRY = 0.1

_EVENTS = select.POLLIN | select.POLLPRI
#: Plain numbers: arithmetic with the enums of the socket module touches thirty pages.
_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_ROOM = socket.CMSG_SPACE(MAX_FDS * 4)

#: A monitor's life: its end of the pair, the value, the descriptors (its own from then on); returns the exit status.
Serve = Callable[[socket.socket, bytes, list[int]], int]


def keep(fds: list[int], signals: int, serve: Serve, bury: Callable[[], None]) -> int:
    """Be the keeper, and in the children that this forks a monitor; returns the exit status for the process.

    The first monitor gets an empty value and ``fds``. ``signals`` is a signalfd for SIGCHLD, which is blocked.
    ``bury`` ends a container whose monitor died.
    """
    os.setsid()
    os.dup2(0, 2)    # /dev/null: the daemon's standard error would be held open for the life of the container
    os.chdir("/")
    os.umask(0o022)
    prctl.set_subreaper()
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    init, value = 0, b""
    while True:
        try:
            monitor = os.fork()
        except OSError:
            if not value:
                return 1
            time.sleep(RETRY)    # no process or memory to be had: what woke us waits
            continue
        if monitor == 0:
            ours.close()
            return serve(socket.socket(fileno=theirs.detach()), value, fds)
        for fd in fds:
            os.close(fd)
        while True:
            # Before the first rest nothing else can have ended, but init as an orphan of this very monitor, whose pid
            # is not known yet: it stays a zombie until _sleep.
            child, status = os.waitpid(-1 if init else monitor, 0)
            if child == monitor:
                break
            if child == init:
                ours.send(STATUS.pack(status))
        if status != RESTS << 8:
            if status:
                bury()
            return int(status != 0)
        packet, ancillary, _, _ = ours.recvmsg(HEAD.size + MAX_VALUE, _ROOM, _FLAGS)
        init, wakers = HEAD.unpack_from(packet)
        value = packet[HEAD.size:]
        fds = memoryview(ancillary[0][2]).cast("i").tolist()
        _sleep(fds[:wakers], signals, init, ours, theirs.fileno())


def leave(link: socket.socket, init: int, value: bytes, luggage: Luggage) -> bool:
    """In a monitor that is about to end with RESTS: pass everything on. False if that cannot be done now."""
    fds = luggage.fds
    if len(value) > MAX_VALUE or len(fds) > MAX_FDS:
        return False
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
    try:
        link.sendmsg([HEAD.pack(init, luggage.wakers), value], rights, socket.MSG_DONTWAIT)
    except OSError:
        return False    # too long for the socket's buffer, or too many descriptors on their way (ETOOMANYREFS)
    return True


def _sleep(wakers: list[int], signals: int, init: int, ours: _socket.socket, inbox: int) -> None:
    """Return when there is something for a monitor to do; orphans of the container are reaped meanwhile."""
    poller = select.poll()
    for fd in wakers:
        poller.register(fd, _EVENTS)
    poller.register(inbox, _EVENTS)
    poller.register(signals, _EVENTS)
    while True:
        for fd, _ in poller.poll():
            if fd != signals:
                return
        os.read(signals, 128)
        child = 1
        while child:
            # init is a child until it is reaped here, so there is always one to ask for.
            child, status = os.waitpid(-1, os.WNOHANG)
            if child == init:
                ours.send(STATUS.pack(status))
                return
