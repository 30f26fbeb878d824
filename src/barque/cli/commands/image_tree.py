"""``images --tree``: each image with its names, and below it the platforms that it has."""

from __future__ import annotations

from barque.cli.errors import CommandError
from barque.cli.format.units import human_size, short_id, width
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

    #: Name, id, disk usage, content size, extra.
    Line = tuple[str, str, str, str, str]

_TITLES: Line = ("IMAGE", "ID", "DISK USAGE", "CONTENT SIZE", "EXTRA")
_RIGHT = (2, 3)
_IN_USE = "U"


def show_tree(app: App, values: Values, query: dict[str, Any]) -> int:
    """Print the images that ``query`` selects; ``U`` marks what containers use."""
    for flag in ("quiet", "no-trunc", "format"):
        if values[flag]:
            raise CommandError(f"--{flag} is not yet supported with --tree")
    if values["digests"]:
        raise CommandError("--show-digest is not yet supported with --tree")
    lines: list[Line] = []
    for item in _items(app, query):
        lines += _image(app, item)
    for line in _aligned([_TITLES, *lines]):
        app.line(line)
    return 0


def _items(app: App, query: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return app.engine.get("/images/json", {**query, "manifests": "1"}) or []
    except ApiError as error:
        if "manifests" not in error.message:
            raise
    return app.engine.get("/images/json", query) or []  # an engine that keeps one platform of an image


def _image(app: App, item: dict[str, Any]) -> list[Line]:
    children = _platforms(item) or [_only_platform(app, item)]
    content = sum(child["content"] for child in children)
    disk = sum(child["disk"] for child in children)
    used = any(child["used"] for child in children)
    names = item.get("RepoTags") or ["<untagged>"]
    lines = [(name, "", "", "", "") for name in names[:-1]]
    lines.append((names[-1], short_id(item["Id"]), human_size(disk, 3), human_size(content, 3), _IN_USE * used))
    for child in children:
        branch = "└─" if child is children[-1] else "├─"
        lines.append((f"{branch} {child['platform']}", short_id(child["id"]), human_size(child["disk"], 3),
                      human_size(child["content"], 3), _IN_USE * child["used"]))
    return lines


def _platform(document: dict[str, Any]) -> str:
    return "/".join(str(document[key]) for key in ("os", "architecture", "variant") if document.get(key))


def _platforms(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The images among the manifests that are here; attestations are no platforms."""
    found = []
    for entry in item.get("Manifests") or []:
        if entry.get("Available") and (data := entry.get("ImageData")):
            sizes = entry.get("Size") or {}
            found.append({"platform": _platform(data.get("Platform") or {}), "id": entry["ID"],
                          "disk": sizes.get("Total", 0), "content": sizes.get("Content", 0),
                          "used": bool(data.get("Containers"))})
    return found


def _only_platform(app: App, item: dict[str, Any]) -> dict[str, Any]:
    document = app.engine.get(f"/images/{item['Id']}/json")
    containers = app.engine.get("/containers/json", {"all": "1", "filters": f'{{"ancestor":{{"{item["Id"]}":true}}}}'})
    platform = _platform({key.lower(): document.get(key) for key in ("Os", "Architecture", "Variant")})
    return {"platform": platform, "id": item["Id"], "disk": item.get("Size", 0), "content": 0, "used": bool(containers)}


def _aligned(lines: list[Line]) -> list[str]:
    widths = [max(width(line[column]) for line in lines) for column in range(len(_TITLES))]
    out = []
    for line in lines:
        cells = []
        for column, text in enumerate(line):
            space = " " * (widths[column] - width(text))
            cells.append(space + text if column in _RIGHT else text + space)
        out.append("   ".join(cells).rstrip())
    return out
