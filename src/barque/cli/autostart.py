"""Start a daemon of one's own where none answers on the default socket: the embedded default."""

from __future__ import annotations

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

    Two that start one at the same time are both right: the loser's daemon finds the state directory locked and ends,
    and the socket answers nevertheless.
    """
    os.makedirs(STATE, mode=0o700, exist_ok=True)
    os.makedirs(os.path.dirname(PIDFILE), mode=0o755, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="barque-") as directory, socket.socket(socket.AF_UNIX,
                                                                                   socket.SOCK_DGRAM) as ready:
        ready.bind(f"{directory}/ready")
        environ = {**os.environ, "NOTIFY_SOCKET": f"{directory}/ready"}
        log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "barque.daemon", "--pidfile", PIDFILE], stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, cwd="/", env=environ)
        finally:
            os.close(log)
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
