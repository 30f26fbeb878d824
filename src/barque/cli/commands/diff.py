"""``diff``."""

from __future__ import annotations

from barque.cli.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values

_KINDS = {0: "C", 1: "A", 2: "D"}


def _diff(app: App, values: Values) -> int:
    for change in app.engine.get(f"/containers/{values.arguments[0]}/changes") or ():
        app.line(f"{_KINDS[change['Kind']]} {change['Path']}")
    return 0


DIFF = Command("diff", "CONTAINER", "Inspect changes to files or directories on a container's filesystem", _diff,
               least=1,
               most=1, aliases="container diff, diff", examples="barque diff web")
