"""What may come next on a command line: for the scripts of ``completion``, through ``barque __complete``."""

from __future__ import annotations

from barque.cli import table
from barque.cli.app import filters
from barque.cli.flags import BOOL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Flag

    #: What can stand there, with a description or "".
    Candidates = list[tuple[str, str]]

#: What the shell does besides: complete file names, or not (the numbers are those of Go's cobra).
FILES, NO_FILES = 0, 4

#: The kinds of the arguments of a command; the last one repeats where the command takes any number.
_ARGUMENTS = {
    "attach": "running", "commit": "container image", "cp": "path path", "diff": "container", "exec": "running file",
    "export": "container", "history": "image", "inspect": "object", "kill": "running", "load": "file", "import": "file",
    "logs": "container", "pause": "running", "port": "container", "push": "image", "rename": "container",
    "restart": "container", "rm": "container", "rmi": "image", "run": "image file", "create": "image file",
    "save": "image", "start": "stopped", "stats": "running", "stop": "running", "tag": "image image",
    "top": "running file", "unpause": "paused", "update": "container", "wait": "container",
    "images": "image", "container inspect": "container", "image inspect": "image", "network inspect": "network",
    "network rm": "network", "network connect": "network container", "network disconnect": "network container",
    "volume inspect": "volume", "volume rm": "volume", "volume update": "volume", "context use": "context",
    "context rm": "context", "context inspect": "context", "context export": "context file",
    "context update": "context", "context import": "none file", "build": "file", "completion": "shell",
    "checkpoint create": "running", "checkpoint ls": "container", "checkpoint rm": "container",
    "registry serve": "file", "registry gc": "file", "registry check": "file",
}
_FLAG_VALUES = {
    "network": "network", "net": "network", "volumes-from": "container", "context": "context", "link": "container",
    "env-file": "file", "label-file": "file", "cidfile": "file", "iidfile": "file", "file": "file", "input": "file",
    "output": "file", "volume": "file", "config": "file", "tlscacert": "file", "tlscert": "file", "tlskey": "file",
    "checkpoint-dir": "file", "pull": "pull", "restart": "restart", "log-level": "level", "cgroupns": "cgroupns",
    "type": "type",
}
_WORDS = {
    "pull": "always missing never", "restart": "always no on-failure unless-stopped", "level": "debug error fatal info "
    "warn", "cgroupns": "host private", "type": "container image network volume", "shell": "bash fish zsh",
}
_STATES = {"running": ["running", "restarting"], "stopped": ["created", "exited"], "paused": ["paused"],
           "container": []}


def complete(app: App, words: list[str]) -> tuple[Candidates, int]:
    """The candidates for the last of ``words``, and what the shell does besides."""
    from barque.cli.main import global_flags

    *before, current = words or [""]
    given, value_of = _walk(global_flags(), before, interspersed=False)
    if value_of is not None:
        return _values(app, value_of.name, current)
    if not given:
        return _matching(_flags(global_flags()) if current[:1] == "-" else _commands(), current), NO_FILES
    path, rest = table.resolve(given)
    if path in table.GROUPS and not rest:
        return _matching(table.members(path), current), NO_FILES
    if path not in table.TABLE:
        return [], NO_FILES
    command = table.load(path)
    flags = command.flags()
    arguments, value_of = _walk(flags, rest, interspersed=command.interspersed)
    if value_of is not None:
        return _values(app, value_of.name, current)
    if current[:1] == "-" and (command.interspersed or not arguments):
        name, equals, value = current.partition("=")
        if equals:
            found, then = _values(app, name.lstrip("-"), value)
            return [(f"{name}={text}", about) for text, about in found], then
        return _matching(_flags(flags), current), NO_FILES
    return _argument(app, path, command.most, arguments, current)


def _walk(flags: list[Flag], words: list[str], *, interspersed: bool) -> tuple[list[str], Flag | None]:
    """(the arguments among ``words``, the flag whose value comes next)."""
    known = {f"--{flag.name}": flag for flag in flags} | {f"-{flag.short}": flag for flag in flags if flag.short}
    arguments: list[str] = []
    pending: Flag | None = None
    for number, word in enumerate(words):
        if pending is not None:
            pending = None
        elif word[:1] == "-" and len(word) > 1:
            flag = known.get(word if word[:2] == "--" else "-" + word[-1])
            pending = flag if flag is not None and flag.kind is not BOOL else None
        else:
            arguments.append(word)
            if not interspersed:
                return arguments + words[number + 1 :], None
    return arguments, pending


def _argument(app: App, path: str, most: int, arguments: list[str], current: str) -> tuple[Candidates, int]:
    kinds = _ARGUMENTS.get(table.short_path(path), "none").split()
    if most != -1 and len(arguments) >= max(most, 0):
        return [], NO_FILES
    kind = kinds[min(len(arguments), len(kinds) - 1)]
    found, then = _of_kind(app, kind, current)
    return [item for item in found if kind == "file" or item[0] not in arguments], then


def _values(app: App, flag: str, current: str) -> tuple[Candidates, int]:
    return _of_kind(app, _FLAG_VALUES.get(flag, "none"), current)


def _of_kind(app: App, kind: str, current: str) -> tuple[Candidates, int]:
    if kind in ("file", "path"):
        found = [(f"{name}:", about) for name, about in _objects(app, "container")] if kind == "path" else []
        return _matching(found, current), FILES
    if kind in _WORDS:
        return _matching([(word, "") for word in _WORDS[kind].split()], current), NO_FILES
    return _matching(_objects(app, kind), current), NO_FILES


def _objects(app: App, kind: str) -> Candidates:
    """Names that the engine knows; none where it does not answer."""
    from barque.client.engine import ApiError, Unreachable

    app.may_start_engine = False
    try:
        if kind == "object":
            return [item for each in ("container", "image", "network", "volume") for item in _objects(app, each)]
        if kind in _STATES:
            wanted = filters({"status": _STATES[kind]}) if _STATES[kind] else None
            items: list[dict[str, Any]] = app.engine.get("/containers/json", {"all": "1", "filters": wanted})
            return [(item["Names"][0].removeprefix("/"), item["Image"]) for item in items if item["Names"]]
        if kind == "image":
            return [(tag, "") for item in app.engine.get("/images/json") for tag in item.get("RepoTags") or []]
        if kind == "network":
            return [(item["Name"], item["Driver"]) for item in app.engine.get("/networks")]
        if kind == "volume":
            return [(item["Name"], "") for item in app.engine.get("/volumes").get("Volumes") or []]
        if kind == "context":
            from barque.cli.commands.context import store_of

            return [(name, "") for name in ["default", *store_of(app).names()]]
    except (ApiError, Unreachable):
        pass
    return []


def _commands() -> Candidates:
    return [item for _, commands in table.sections() for item in commands]


def _flags(flags: list[Flag]) -> Candidates:
    visible = [flag for flag in flags if not flag.hidden]
    return [(f"--{flag.name}", flag.help.partition("\n")[0]) for flag in visible] + [("--help", "Show the help")]


def _matching(items: Candidates, current: str) -> Candidates:
    return sorted({item for item in items if item[0].startswith(current)})
