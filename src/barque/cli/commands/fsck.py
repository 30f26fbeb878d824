"""``system fsck``: does the engine still have what it thinks it has?"""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.flags import BOOL, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _fsck(app: App, values: Values) -> int:
    """1 where damage is left, as fsck(8)'s 4; 0 where there was none or all of it was mended."""
    query = {"repair": values["repair"] or None, "deep": values["deep"] or None}
    found = app.engine.post("/system/fsck", query) or []
    for damage in found:
        state = "repaired: " if damage["Repaired"] else ""
        app.line(f"{state}{damage['Kind']} {damage['Subject']}: {damage['Detail']}")
    left = sum(not damage["Repaired"] for damage in found)
    app.line(f"{len(found)} found, {len(found) - left} repaired" if found else "no damage found")
    return 1 if left else 0


FSCK = Command("system fsck", "[OPTIONS]", "Check what is stored, and mend what is damaged", _fsck, most=0,
               flags=lambda: [
                   Flag("deep", "", BOOL, "Unpack each layer a second time to compare its files"),
                   Flag("repair", "", BOOL, "Mend what can be mended without loss"),
               ], examples="barque system fsck --repair")
