"""Named points at which a test can make the process die or fail, to prove what survives a crash.

``BARQUE_FAILPOINTS="content.before-rename=kill;snapshots.commit=error"`` arms points; the daemon passes the text to
:func:`arm` (only entry points read the environment). An unarmed point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

_armed: dict[str, str] = {}


class FailpointError(OSError):
    """Raised at a point that is armed with ``error``."""


def arm(text: str) -> None:
    """Arm the points of ``name=action[;name=action]``; the actions are ``kill`` (SIGKILL to oneself) and ``error``."""
    _armed.clear()
    for item in filter(None, text.split(";")):
        name, _, action = item.partition("=")
        if action not in ("kill", "error"):
            raise ValueError(f"failpoint {name!r}: unknown action {action!r}, use kill or error")
        _armed[name] = action


def hit(name: str) -> None:
    """Pass through the point ``name``: nothing happens unless it is armed."""
    action = _armed.get(name)
    if action is None:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise FailpointError(5, f"failpoint {name}")
