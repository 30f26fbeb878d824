"""``ps``: list containers."""

from __future__ import annotations

from barque.cli.app import filters
from barque.cli.command import Command
from barque.cli.commands.container_rows import HEADERS, RAW, TABLE, TYPE, container_row
from barque.cli.commands.formats import choose, format_flag, write_rows
from barque.cli.flags import BOOL, FILTER, INT, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from barque.cli.app import App
    from barque.cli.flags import Values


def _ps(app: App, values: Values) -> int:
    form = app.default_format("psFormat", values["format"])
    limit = values["last"] if not values["latest"] or "last" in values.changed else 1
    size = values["size"] or ".Size" in form
    query = {"all": values["all"] or None, "limit": limit if limit > 0 else None, "size": size or None,
             "filters": filters(values["filter"])}
    items = app.engine.get("/containers/json", query)
    table = TABLE + ("\t{{.Size}}" if values["size"] else "")
    raw = RAW + ("size: {{.Size}}\n" if values["size"] else "")
    chosen = choose(form, quiet=values["quiet"], quiet_form="{{.ID}}", raw=raw)
    rows = [container_row(item, trunc=not values["no-trunc"]) for item in items]
    write_rows(app, rows, chosen, table, HEADERS, TYPE)
    return 0


PS = Command("ps", "[OPTIONS]", "List containers", _ps, most=0, flags=lambda: [
    Flag("all", "a", BOOL, "Show all containers (default: running ones)"),
    Flag("filter", "f", FILTER, "Show only what meets these conditions"),
    format_flag(),
    Flag("last", "n", INT, "Show the n containers created last, in any state", -1),
    Flag("latest", "l", BOOL, "Show the container created last, in any state"),
    Flag("no-trunc", "", BOOL, "Do not truncate"),
    Flag("quiet", "q", BOOL, "Only show container ids"),
    Flag("size", "s", BOOL, "Show file sizes"),
], aliases="container ls, container list, container ps, ps", examples="""
barque ps -a --filter status=exited
barque ps --format 'table {{.Names}}\\t{{.Status}}\\t{{.Ports}}'
""")
