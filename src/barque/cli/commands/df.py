"""``system df``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.commands import container_rows, images, volume
from barque.cli.commands.formats import format_flag, write_rows
from barque.cli.flags import BOOL, Flag
from barque.cli.format.table import Row
from barque.cli.format.units import ago, human_size, parse_rfc3339, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

_TABLE = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}"
_HEADERS = {"Type": "TYPE", "TotalCount": "TOTAL", "Active": "ACTIVE", "Size": "SIZE", "Reclaimable": "RECLAIMABLE"}
_IMAGES = ("{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t"
           "{{.Containers}}")
_CONTAINERS = ("{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t"
               "{{.Names}}")
_CACHE = "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}"
_CACHE_HEADERS = {"ID": "CACHE ID", "CacheType": "CACHE TYPE", "Size": "SIZE", "CreatedSince": "CREATED",
                  "LastUsedSince": "LAST USED", "UsageCount": "USAGE", "Shared": "SHARED"}


def _part(kind: str, total: int, active: int, size: int, free: int) -> Row:
    reclaimable = human_size(free) + (f" ({free * 100 // size}%)" if size > 0 else "")
    return Row({"Type": kind, "TotalCount": str(total), "Active": str(active), "Size": human_size(size),
                "Reclaimable": reclaimable})


def _summary(usage: dict[str, Any]) -> list[Row]:
    stored = usage.get("Images") or []
    layers = usage.get("LayersSize") or 0
    used = sum(image["Size"] - max(image.get("SharedSize", 0), 0) for image in stored
               if image.get("Containers", 0) > 0 and image["Size"] != -1)
    active = sum(image.get("Containers", 0) > 0 for image in stored)
    rows = [_part("Images", len(stored), active, layers, layers - used)]
    containers = usage.get("Containers") or []
    sizes = [(item.get("SizeRw") or 0, item.get("State") in ("running", "paused", "restarting")) for item in containers]
    rows.append(_part("Containers", len(sizes), sum(running for _, running in sizes), sum(size for size, _ in sizes),
                      sum(size for size, running in sizes if not running)))
    volumes = [item.get("UsageData") or {} for item in usage.get("Volumes") or []]
    known = [item for item in volumes if item.get("Size", -1) != -1]
    rows.append(_part("Local Volumes", len(volumes), sum(item.get("RefCount", 0) > 0 for item in volumes),
                      sum(item["Size"] for item in known),
                      sum(item["Size"] for item in known if item.get("RefCount", 0) == 0)))
    cache = usage.get("BuildCache") or []
    rows.append(_part("Build Cache", len(cache), sum(bool(item.get("InUse")) for item in cache),
                      sum(item.get("Size", 0) for item in cache if not item.get("Shared")),
                      sum(item.get("Size", 0) for item in cache if not item.get("InUse") and not item.get("Shared"))))
    return rows


def _cache_row(item: dict[str, Any]) -> Row:
    last = item.get("LastUsedAt")
    return Row({"ID": short_id(item["ID"]), "CacheType": item.get("Type", ""), "Size": human_size(item.get("Size", 0),
                                                                                                  3),
                "CreatedSince": ago(parse_rfc3339(item.get("CreatedAt", ""))),
                "LastUsedSince": ago(parse_rfc3339(last)) if last else "", "UsageCount": str(item.get("UsageCount", 0)),
                "Shared": str(bool(item.get("Shared"))).lower()})


def _verbose(app: App, usage: dict[str, Any], form: str) -> None:
    trunc = form in ("", "table")
    stored = [row for item in usage.get("Images") or [] for row in images.rows_of(item, trunc=trunc, digests=False)[:1]]
    containers = [container_rows.container_row({**item, "SizeRootFs": 0}, trunc=trunc)
                  for item in usage.get("Containers") or []]
    volumes = [volume.volume_row(item) for item in usage.get("Volumes") or []]
    cache = [_cache_row(item) for item in usage.get("BuildCache") or []]
    if not trunc:
        for row in stored:
            row.fields["Digest"] = ""
        from barque.cli.commands.version import templated
        from barque.gotemplate.values import escape_html, plain, to_json

        document = {"Images": stored, "Containers": containers, "Volumes": volumes, "BuildCache": cache}
        if form == "json":
            rows = {key: [plain(row) for row in rows] for key, rows in document.items()}
            app.out(escape_html(to_json(rows)))
        else:
            app.out(templated(form, document))
        return
    app.out("Images space usage:\n\n")
    write_rows(app, stored, "table", _IMAGES, images.HEADERS, images.TYPE)
    app.out("\nContainers space usage:\n\n")
    write_rows(app, containers, "table", _CONTAINERS, container_rows.HEADERS, container_rows.TYPE)
    app.out("\nLocal Volumes space usage:\n\n")
    write_rows(app, volumes, "table", "{{.Name}}\t{{.Links}}\t{{.Size}}", volume.HEADERS, volume.TYPE)
    total = sum(item.get("Size", 0) for item in usage.get("BuildCache") or [] if not item.get("Shared"))
    app.out(f"\nBuild cache usage: {human_size(total)}\n\n")
    write_rows(app, cache, "table", _CACHE, _CACHE_HEADERS, "*formatter.buildCacheContext")


def _df(app: App, values: Values) -> int:
    usage = app.engine.get("/system/df")
    if values["verbose"]:
        _verbose(app, usage, values["format"])
    else:
        write_rows(app, _summary(usage), values["format"], _TABLE, _HEADERS, "*formatter.diskUsageContext")
    return 0


DF = Command("system df", "[OPTIONS]", "Show disk usage", _df, most=0, flags=lambda: [
    format_flag(), Flag("verbose", "v", BOOL, "Show every object"),
], examples="barque system df -v")
