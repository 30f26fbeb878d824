"""``network firewall``: what the rules in the kernel amount to."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.flags import BOOL, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values


def _print(app: App, item: dict[str, Any]) -> None:
    app.line(f"{item['Network']} ({item['Driver']}{' ' + item['Bridge'] if item['Bridge'] else ''})")
    for title, key in (("containers", "Neighbours"), ("way out", "WayOut"), ("this host", "ThisHost"),
                       ("other networks", "OtherNetworks"), ("forged addresses", "Spoofing")):
        app.line(f"  {title}: {item[key]}")
    for port in item["Ports"]:
        address = f"[{port['HostIp']}]" if ":" in port["HostIp"] else port["HostIp"]
        app.line(f"  {address}:{port['HostPort']}/{port['Protocol']} -> {port['Container']}:{port['ContainerPort']}: "
                 f"for {', '.join(port['ReachedBy'])}; {port['Path']}")
        if "Warning" in port:
            app.line(f"    {port['Warning']}")


def _firewall(app: App, values: Values) -> int:
    names = list(values.arguments) or [item["Id"] for item in app.engine.get("/networks")
                                       if item["Driver"] not in ("host", "null")]
    items = [app.engine.get(f"/networks/{name}/firewall") for name in names]
    if values["json"]:
        import json

        app.line(json.dumps(items, indent=4))
        return 0
    for item in items:
        _print(app, item)
    return 0


FIREWALL = Command("network firewall", "[OPTIONS] [NETWORK...]", "Show who can reach what on networks", _firewall,
                   flags=lambda: [Flag("json", "", BOOL, "Print all as JSON")],
                   examples="barque network firewall backend")
