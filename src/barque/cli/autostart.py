"""Start a daemon of one's own where none answers on the default socket: the embedded default."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
import tempfile
import time

from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.client.transport import Endpoint

STATE = "/var/lib/barque"
LOG = f"{STATE}/barqued.log"
PIDFILE = "/run/barque/barqued.pid"
#: Longest time that a daemon may take until it answers, seconds.
DEADLINE = 30.0


def start_daemon(app: App, endpoint: Endpoint) -> None:
    """Start ``barqued`` in a session of its own and return once it answers; raises :class:`CommandError`.

    Of two that want one at the same time the second waits at the lock, and finds the first one's daemon.
    """
    os.makedirs(STATE, mode=0o700, exist_ok=True)
    with open(LOG, "ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        try:
            endpoint.connect().close()
        except OSError:
            _start(app, endpoint, log.fileno())


def _start(app: App, endpoint: Endpoint, log: int) -> None:
    os.makedirs(os.path.dirname(PIDFILE), mode=0o755, exist_ok=True)
    with (tempfile.TemporaryDirectory(prefix="barque-") as directory,
          socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready):
        ready.bind(f"{directory}/ready")
        # The log is opened anew: the descriptor that holds the lock must not live on in the daemon.
        output = os.open(f"/proc/self/fd/{log}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "barque.daemon", "--pidfile", PIDFILE, "--log-file", LOG],
                stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True, cwd="/",
                env={**os.environ, "NOTIFY_SOCKET": f"{directory}/ready"})
        finally:
            os.close(output)
        app.err(f"No engine was running: started barqued in the background (log {LOG}; stop it with: "
                f"kill $(cat {PIDFILE}))")
        _wait(endpoint, process, ready)


def _wait(endpoint: Endpoint, process: subprocess.Popen[bytes], ready: socket.socket) -> None:
    """Connect as soon as the daemon says READY=1; one that says nothing is asked at growing intervals."""
    pidfd = os.pidfd_open(process.pid)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(ready.fileno(), select.POLLIN)
    deadline, interval = time.monotonic() + DEADLINE, 5
    try:
        while time.monotonic() < deadline:
            events = dict(poll.poll(interval))
            try:
                endpoint.connect().close()
                return
            except OSError:
                pass
            if pidfd in events:
                raise CommandError(f"barqued ended with code {process.wait()}: {_last_line()}")
            if ready.fileno() in events:
                ready.recv(4096)
            interval = min(interval * 2, 200)
    finally:
        os.close(pidfd)
    raise CommandError(f"barqued does not answer at {endpoint.url} after {DEADLINE:.0f} s, see {LOG}")


def _last_line() -> str:
    with open(LOG, "rb") as file:
        lines = file.read()[-4096:].decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else f"see {LOG}"
