"""``history``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands.formats import choose, format_flag, write_rows
from barque.cli.commands.pull import platform_document
from barque.cli.flags import BOOL, STRING, Flag
from barque.cli.format.table import Row
from barque.cli.format.units import ago, ellipsis, human_size, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_TABLE = "{{.ID}}\t{{.CreatedSince}}\t{{.CreatedBy}}\t{{.Size}}\t{{.Comment}}"
_HEADERS = {"ID": "IMAGE", "CreatedSince": "CREATED", "CreatedAt": "CREATED AT", "CreatedBy": "CREATED BY",
            "Size": "SIZE", "Comment": "COMMENT"}


def _row(item: dict[str, Any], *, trunc: bool, human: bool) -> Row:
    import time

    created = item.get("Created", 0)
    moment = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(created))
    moment = moment[:-5] + ("Z" if moment.endswith("+0000") else f"{moment[-5:-2]}:{moment[-2:]}")
    created_by = (item.get("CreatedBy") or "").replace("\t", " ")
    size = item.get("Size", 0)
    identifier: str = item.get("Id", "")
    return Row({
        "ID": short_id(identifier) if trunc else identifier,
        "CreatedAt": moment,
        "CreatedSince": (ago(created) if created > -62135596800 else "") if human else moment,
        "CreatedBy": ellipsis(created_by, 45) if trunc else created_by,
        "Size": human_size(size, 3) if human else str(size),
        "Comment": item.get("Comment", ""),
    })


def _history(app: App, values: Values) -> int:
    query = {"platform": platform_document(values["platform"]) if values["platform"] else None}
    items = app.engine.get(f"/images/{values.arguments[0]}/history", query)
    form = choose(values["format"], quiet=values["quiet"], quiet_form="{{.ID}}")
    trunc, human = not values["no-trunc"], values["human"]
    table = _TABLE if human else _TABLE.replace("Since", "At")
    write_rows(app, [_row(item, trunc=trunc, human=human) for item in items], form, table, _HEADERS,
               "*image.historyContext")
    return 0


HISTORY = Command("history", "[OPTIONS] IMAGE", "Show the history of an image", _history, least=1, most=1,
                  flags=lambda: [
    format_flag(),
    Flag("human", "H", BOOL, "Print sizes and dates in human readable form", True),
    Flag("no-trunc", "", BOOL, "Do not truncate"),
    Flag("platform", "", STRING, "Platform of the image, where it has several"),
    Flag("quiet", "q", BOOL, "Only show image ids"),
], aliases="image history, history", examples="barque history --no-trunc httpd")
