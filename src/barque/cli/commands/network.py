"""``network ls`` and ``network rm``."""

from __future__ import annotations

from barque.cli.app import filters
from barque.cli.command import Command
from barque.cli.commands.each import each
from barque.cli.commands.formats import choose, format_flag, write_rows
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, FILTER, Flag
from barque.cli.format.table import Row, label_getter
from barque.cli.format.units import natural_key, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_TABLE = "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}"
_HEADERS = {"ID": "NETWORK ID", "Name": "NAME", "Driver": "DRIVER", "Scope": "SCOPE", "IPv4": "IPV4", "IPv6": "IPV6",
            "Internal": "INTERNAL", "Labels": "LABELS", "CreatedAt": "CREATED AT"}


def _time(text: str) -> str:
    """An RFC 3339 time as Go's Time.String() has it."""
    moment, zone = text.rstrip("Z"), "+0000 UTC"
    if text[-6:-5] in ("+", "-"):
        moment, zone = text[:-6], text[-6:].replace(":", "") + " " + text[-6:].replace(":", "")
    whole, dot, fraction = moment.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole.replace('T', ' ')}{'.' + fraction if dot and fraction else ''} {zone}"


def _row(item: dict[str, Any], *, trunc: bool) -> Row:
    labels = item.get("Labels") or {}
    return Row({
        "ID": short_id(item["Id"]) if trunc else item["Id"], "Name": item["Name"], "Driver": item["Driver"],
        "Scope": item["Scope"], "IPv4": str(item.get("EnableIPv4", False)).lower(),
        "IPv6": str(item.get("EnableIPv6", False)).lower(), "Internal": str(item.get("Internal", False)).lower(),
        "Labels": ",".join(f"{key}={value}" for key, value in labels.items()), "Label": label_getter(labels),
        "CreatedAt": _time(item.get("Created", "")),
    })


def _ls(app: App, values: Values) -> int:
    items = app.engine.get("/networks", {"filters": filters(values["filter"])})
    form = choose(app.default_format("networksFormat", values["format"]), quiet=values["quiet"], quiet_form="{{.ID}}")
    rows = [_row(item, trunc=not values["no-trunc"]) for item in sorted(items,
                                                                        key=lambda item: natural_key(item["Name"]))]
    write_rows(app, rows, form, _TABLE, _HEADERS, "*network.networkContext")
    return 0


def _rm(app: App, values: Values) -> int:
    from barque.client.engine import ApiError

    def remove(name: str) -> None:
        try:
            app.engine.delete(f"/networks/{name}")
        except ApiError as error:
            if not (values["force"] and error.status == 404):
                raise

    try:
        return each(app, values.arguments, remove)
    except CommandError as error:
        raise CommandError(f"{error.message}\nexit status 1") from None


LS = Command("network ls", "[OPTIONS]", "List networks", _ls, most=0, flags=lambda: [
    Flag("filter", "f", FILTER, "Show only what meets these conditions"),
    format_flag(),
    Flag("no-trunc", "", BOOL, "Do not truncate"),
    Flag("quiet", "q", BOOL, "Only show network ids"),
], aliases="network ls, network list", examples="barque network ls --filter driver=bridge")
RM = Command("network rm", "NETWORK [NETWORK...]", "Remove one or more networks", _rm, least=1,
             flags=lambda: [Flag("force", "f", BOOL, "No error where there is no such network")],
             aliases="network rm, network remove", examples="barque network rm backend")
