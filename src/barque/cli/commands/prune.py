"""``prune`` of containers, images, networks, volumes and all of them."""

from __future__ import annotations

from barque.cli.app import filters
from barque.cli.command import Command
from barque.cli.commands.each import confirm
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, BYTES, FILTER, Flag
from barque.cli.format.units import human_size
from barque.client.engine import ApiError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values

    Filters = dict[str, list[str]]


_NOT_IMPLEMENTED = 501


def _wanted(app: App, values: Values) -> Filters:
    """The filters given, with those that the configuration adds to every prune."""
    wanted: Filters = dict(values["filter"])
    for text in app.config.document.get("pruneFilters") or [] if app.has_config() else []:
        key, _, value = str(text).partition("=")
        opposite = {"label": "label!", "label!": "label"}.get(key)
        if opposite and value in wanted.get(opposite, ()):
            continue
        wanted[key] = [*wanted.get(key, []), value]
    return wanted


def _prune(app: App, path: str, wanted: Filters) -> dict[str, Any]:
    answer: dict[str, Any] = app.engine.post(f"/{path}/prune", {"filters": filters(wanted)}) or {}
    return answer


def _containers_text(answer: dict[str, Any]) -> str:
    deleted = answer.get("ContainersDeleted") or []
    return "Deleted Containers:\n" + "".join(f"{item}\n" for item in deleted) if deleted else ""


def _images_text(answer: dict[str, Any]) -> str:
    lines = [f"untagged: {item['Untagged']}\n" if item.get("Untagged") else f"deleted: {item['Deleted']}\n"
             for item in answer.get("ImagesDeleted") or []]
    return "Deleted Images:\n" + "".join(lines) if lines else ""


def _volumes_text(answer: dict[str, Any]) -> str:
    deleted = answer.get("VolumesDeleted") or []
    return "Deleted Volumes:\n" + "".join(f"{item}\n" for item in deleted) if deleted else ""


def _networks_text(answer: dict[str, Any]) -> str:
    deleted = answer.get("NetworksDeleted") or []
    return "Deleted Networks:\n" + "".join(f"{item}\n" for item in deleted) if deleted else ""


def _cache_text(answer: dict[str, Any]) -> str:
    deleted = answer.get("CachesDeleted") or []
    return "Deleted build cache objects:\n" + "".join(f"{item}\n" for item in deleted) if deleted else ""


def _total(space: int) -> str:
    return f"Total reclaimed space: {human_size(space)}"


def _finish(app: App, text: str, answer: dict[str, Any]) -> int:
    if text:
        app.line(text)
    app.line(_total(answer.get("SpaceReclaimed") or 0))
    return 0


def _containers(app: App, values: Values) -> int:
    if not values["force"]:
        confirm(app, "WARNING! This will remove all stopped containers.")
    answer = _prune(app, "containers", _wanted(app, values))
    return _finish(app, _containers_text(answer), answer)


def _images(app: App, values: Values) -> int:
    if not values["force"]:
        confirm(app, "WARNING! This will remove all images without at least one container associated to them."
                if values["all"] else "WARNING! This will remove all dangling images.")
    answer = _prune(app, "images", {**_wanted(app, values), "dangling": ["false" if values["all"] else "true"]})
    return _finish(app, _images_text(answer), answer)


def _volumes(app: App, values: Values) -> int:
    wanted = _wanted(app, values)
    if values["all"]:
        if "all" in wanted:
            raise CommandError("conflicting options: cannot specify both --all and --filter all=1")
        if app.engine.supports("1.42"):
            wanted["all"] = ["true"]
    if not values["force"]:
        kind = "all" if values["all"] or not app.engine.supports("1.42") else "anonymous"
        confirm(app,
                f"WARNING! This will remove {kind}{'' if kind == 'all' else ' local'} volumes not used by at least one "
                     "container.")
    answer = _prune(app, "volumes", wanted)
    return _finish(app, _volumes_text(answer), answer)


def _networks(app: App, values: Values) -> int:
    if not values["force"]:
        confirm(app, "WARNING! This will remove all custom networks not used by at least one container.")
    text = _networks_text(_prune(app, "networks", _wanted(app, values)))
    if text:
        app.line(text)
    return 0


def _prune_cache(app: App, wanted: Filters, *, everything: bool, keep: int = 0) -> dict[str, Any]:
    query = {"all": everything or None, "keep-storage": keep or None, "filters": filters(wanted)}
    answer: dict[str, Any] = app.engine.post("/build/prune", query) or {}
    return answer


def _cache(app: App, values: Values) -> int:
    if not values["force"]:
        confirm(app, f"WARNING! This will remove all {'' if values['all'] else 'dangling '}build cache.")
    answer = _prune_cache(app, _wanted(app, values), everything=values["all"], keep=values["keep-storage"])
    return _finish(app, _cache_text(answer), answer)


def _system(app: App, values: Values) -> int:
    wanted = _wanted(app, values)
    if values["volumes"] and "until" in wanted:
        raise CommandError('ERROR: The "until" filter is not supported with "--volumes"')
    if not values["force"]:
        confirm(app, _warning(values, wanted))
    space = 0
    volume_filters = dict(wanted)
    order: list[tuple[str, Filters, Any]] = [("containers", wanted, _containers_text)]
    if values["volumes"]:
        order.append(("volumes", volume_filters, _volumes_text))
    order += [("networks", wanted, _networks_text),
              ("images", {**wanted, "dangling": ["false" if values["all"] else "true"]}, _images_text)]
    for path, chosen, describe in order:
        answer = _prune(app, path, chosen)
        space += answer.get("SpaceReclaimed") or 0
        if text := describe(answer):
            app.line(text)
    try:
        answer = _prune_cache(app, wanted, everything=values["all"])
    except ApiError as error:
        if error.status != _NOT_IMPLEMENTED:
            raise
        answer = {}  # an engine without a build cache
    space += answer.get("SpaceReclaimed") or 0
    if text := _cache_text(answer):
        app.line(text)
    app.line(_total(space))
    return 0


def _warning(values: Values, wanted: Filters) -> str:
    lines = ["all stopped containers", "all networks not used by at least one container"]
    if values["volumes"]:
        lines.append("all anonymous volumes not used by at least one container")
    lines.append("all images without at least one container associated to them"
                 if values["all"] else "all dangling images")
    lines.append("unused build cache")
    text = "WARNING! This will remove:\n" + "".join(f"  - {line}\n" for line in lines)
    if wanted:
        shown = "".join(f"  - {key}={value}\n" for key in sorted(wanted) for value in wanted[key])
        text += f"\n  Items to be pruned will be filtered with:\n{shown}"
    return text


def _flags(*more: Flag) -> list[Flag]:
    return [*more, Flag("filter", "", FILTER, 'Only what meets these conditions ("until=<timestamp>")'),
            Flag("force", "f", BOOL, "Do not ask")]


def _command(path: str, summary: str, run: Any, *more: Flag) -> Command:
    return Command(path, "[OPTIONS]", summary, run, most=0, flags=lambda: _flags(*more),
                   examples=f"barque {path} --force")


CONTAINERS = _command("container prune", "Remove all stopped containers", _containers)
IMAGES = _command("image prune", "Remove unused images", _images,
                  Flag("all", "a", BOOL, "Remove all unused images, not only the dangling ones"))
NETWORKS = _command("network prune", "Remove all unused networks", _networks)
VOLUMES = _command("volume prune", "Remove unused local volumes", _volumes,
                   Flag("all", "a", BOOL, "Remove all unused volumes, not only the anonymous ones"))
SYSTEM = _command("system prune", "Remove unused data", _system,
                  Flag("all", "a", BOOL, "Remove all unused images, not only the dangling ones"),
                  Flag("volumes", "", BOOL, "Prune anonymous volumes too"))
CACHE = _command("builder prune", "Remove build cache", _cache,
                 Flag("all", "a", BOOL, "Remove all unused build cache, not only what is dangling"),
                 Flag("keep-storage", "", BYTES, "Amount of build cache to keep"))
