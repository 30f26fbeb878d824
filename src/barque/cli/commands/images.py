"""``images``: list images."""

from __future__ import annotations

from barque.cli.app import filters
from barque.cli.command import Command
from barque.cli.commands.formats import choose, format_flag, write_rows
from barque.cli.flags import BOOL, FILTER, Flag
from barque.cli.format.table import Row
from barque.cli.format.units import ago, go_time, human_size, short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

TYPE = "*formatter.imageContext"
HEADERS = {
    "ID": "IMAGE ID", "Repository": "REPOSITORY", "Tag": "TAG", "Digest": "DIGEST", "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT", "Size": "SIZE", "Containers": "CONTAINERS", "VirtualSize": "SIZE",
    "SharedSize": "SHARED SIZE", "UniqueSize": "UNIQUE SIZE",
}
_TABLE = "{{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
_DIGESTS = "{{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
NONE = "<none>"


def image_row(item: dict[str, Any], repository: str, tag: str, digest: str, *, trunc: bool) -> Row:
    created, size = item.get("Created", 0), item.get("Size", 0)
    shared, containers = item.get("SharedSize", -1), item.get("Containers", -1)
    known = shared is not None and shared != -1
    return Row({
        "ID": short_id(item["Id"]) if trunc else item["Id"], "Repository": repository, "Tag": tag, "Digest": digest,
        "CreatedSince": ago(created) if created > 0 else "N/A", "CreatedAt": go_time(created),
        "Size": human_size(size, 3), "VirtualSize": human_size(size),
        "Containers": str(containers) if containers not in (None, -1) else "N/A",
        "SharedSize": human_size(shared) if known else "N/A",
        "UniqueSize": human_size(size - shared) if known else "N/A",
    }, TYPE)


def _split(reference: str) -> tuple[str, str]:
    """``host:5000/name:tag`` into repository and tag."""
    name, colon, tag = reference.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (reference, NONE)


def rows_of(item: dict[str, Any], *, trunc: bool, digests: bool) -> list[Row]:
    """One row per name; names without a tag are shown by digest, an image without any as ``<none>``."""
    tags = [tag for tag in item.get("RepoTags") or [] if tag != "<none>:<none>"]
    by_digest: dict[str, list[str]] = {}
    for reference in item.get("RepoDigests") or []:
        name, _, digest = reference.partition("@")
        if name != NONE:
            by_digest.setdefault(name, []).append(digest)
    rows = []
    for reference in tags:
        name, tag = _split(reference)
        found = by_digest.pop(name, []) if digests else []
        rows += [image_row(item, name, tag, digest, trunc=trunc) for digest in found or [NONE]]
        if digests and found:
            by_digest[name] = found
    tagged = {_split(reference)[0] for reference in tags}
    for name, found in by_digest.items():
        if name not in tagged:
            chosen = found if digests else found[:1]
            rows += [image_row(item, name, NONE, digest if digests else NONE, trunc=trunc) for digest in chosen]
    return rows or [image_row(item, NONE, NONE, NONE, trunc=trunc)]


def _images(app: App, values: Values) -> int:
    wanted = dict(values["filter"])
    if values.arguments:
        wanted["reference"] = [*wanted.get("reference", []), values.arguments[0]]
    query = {"all": values["all"] or None, "filters": filters(wanted)}
    if values["tree"]:
        from barque.cli.commands.image_tree import show_tree

        return show_tree(app, values, query)
    items = app.engine.get("/images/json", query)
    form = app.default_format("imagesFormat", values["format"])
    digests = values["digests"] or ".Digest" in form
    chosen = choose(form, quiet=values["quiet"], quiet_form="{{.ID}}")
    rows = [row for item in items for row in rows_of(item, trunc=not values["no-trunc"], digests=digests)]
    write_rows(app, rows, chosen, _DIGESTS if values["digests"] else _TABLE, HEADERS, TYPE)
    return 0


IMAGES = Command("images", "[OPTIONS] [REPOSITORY[:TAG]]", "List images", _images, most=1, flags=lambda: [
    Flag("all", "a", BOOL, "Show all images (default: not the intermediate ones)"),
    Flag("digests", "", BOOL, "Show digests"),
    Flag("filter", "f", FILTER, "Show only what meets these conditions"),
    format_flag(),
    Flag("no-trunc", "", BOOL, "Do not truncate"),
    Flag("quiet", "q", BOOL, "Only show image ids"),
    Flag("tree", "", BOOL, "Show the platforms of each image as a tree"),
], aliases="image ls, image list, images", examples="""
barque images --filter dangling=true
barque images --format '{{.Repository}}:{{.Tag}} {{.Size}}'
""")
