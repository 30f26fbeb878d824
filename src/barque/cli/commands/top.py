"""``top``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.format.tabwriter import align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _top(app: App, values: Values) -> int:
    container, *options = values.arguments
    query = {"ps_args": " ".join(options) or None}
    answer = app.engine.get(f"/containers/{container}/top", query)
    rows = [answer.get("Titles") or [], *(answer.get("Processes") or [])]
    app.line(align("\n".join("\t".join(row) for row in rows), min_width=20))
    return 0


TOP = Command("top", "CONTAINER [ps OPTIONS]", "Display the running processes of a container", _top, least=1,
              interspersed=False, aliases="container top, top", examples="barque top web -o pid,comm")
