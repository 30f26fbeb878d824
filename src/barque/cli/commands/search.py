"""``search``: images of the registry by a term."""

from __future__ import annotations

from barque.cli.app import filters
from barque.cli.command import Command
from barque.cli.commands.formats import format_flag, write_rows
from barque.cli.flags import BOOL, FILTER, INT, Flag
from barque.cli.format.table import Row
from barque.cli.format.units import ellipsis
from barque.client.config import HUB

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

TYPE = "*formatter.searchContext"
_TABLE = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}"
_HEADERS = {"Name": "NAME", "Description": "DESCRIPTION", "StarCount": "STARS", "IsOfficial": "OFFICIAL",
            "IsAutomated": "AUTOMATED"}
_DESCRIPTION_WIDTH = 45


def _row(item: dict[str, Any], *, trunc: bool, json: bool) -> Row:
    def mark(value: object) -> str:
        return str(bool(value)).lower() if json else "[OK]" if value else ""

    description = str(item.get("description") or "").replace("\n", " ").replace("\r", " ")
    return Row({"Name": item.get("name", ""),
                "Description": ellipsis(description, _DESCRIPTION_WIDTH) if trunc else description,
                "StarCount": str(item.get("star_count", 0)), "IsOfficial": mark(item.get("is_official")),
                "IsAutomated": mark(item.get("is_automated"))}, TYPE)


def _server(term: str) -> str:
    """The registry that the term names, as its first part has a dot, a port or is localhost."""
    first, slash, _ = term.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    return first if named and first not in ("docker.io", "index.docker.io") else HUB


def _search(app: App, values: Values) -> int:
    term = values.arguments[0]
    query = {"term": term, "limit": values["limit"] or None, "filters": filters(values["filter"])}
    headers = {"X-Registry-Auth": auth} if (auth := app.registry_auth(_server(term))) else {}
    items = app.engine.request("GET", "/images/search", query, headers=headers)
    rows = [_row(item, trunc=not values["no-trunc"], json=values["format"] == "json") for item in items]
    write_rows(app, rows, values["format"], _TABLE, _HEADERS, TYPE)
    return 0


SEARCH = Command("search", "[OPTIONS] TERM", "Search a registry for images", _search, least=1, most=1, flags=lambda: [
    Flag("filter", "f", FILTER, 'Show only what meets these conditions ("stars=3", "is-official=true")'),
    format_flag(),
    Flag("limit", "", INT, "Greatest number of results"),
    Flag("no-trunc", "", BOOL, "Do not truncate"),
], examples="""
barque search --filter is-official=true httpd
barque search registry.example:5000/team
""")
