"""``system dial-stdio``: the engine's socket on standard input and output, for ssh."""

from __future__ import annotations

import os
import select

from barque.cli.command import Command
from barque.cli.stream import MSG_DONTWAIT, READ_SIZE, write_all

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _dial(app: App, _: Values) -> int:
    """Copies both ways until the engine has nothing more to say; stdin's end is passed on as a half-close."""
    from barque.client.engine import Unreachable

    endpoint = app.engine.endpoint
    try:
        connection = endpoint.connect()
    except OSError as error:
        raise Unreachable(endpoint.url, error) from None
    fd, waiting, ended = connection.sock.fileno(), b"", False
    while True:
        poll = select.poll()
        poll.register(fd, select.POLLIN | (select.POLLOUT if waiting else 0))
        if not ended and not waiting:
            poll.register(0, select.POLLIN)
        ready = dict(poll.poll())
        if 0 in ready:
            waiting = os.read(0, READ_SIZE)
            if not waiting:
                ended = True
                connection.half_close()
        if waiting:
            try:
                waiting = waiting[connection.sock.send(waiting, MSG_DONTWAIT) :]
            except BlockingIOError:
                pass
        if ready.get(fd, 0) & ~select.POLLOUT:
            data = connection.receive()
            if not data:
                connection.close()
                return 0
            write_all(1, data)


DIAL = Command("system dial-stdio", "", "Connect standard input and output to the engine", _dial, most=0,
               examples="ssh far.example barque system dial-stdio")
