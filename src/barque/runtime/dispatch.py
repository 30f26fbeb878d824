"""The OCI runtime's command line, with runc's commands, flags and forms of output."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module

import msgspec

from barque import __version__
from barque.errors import BarqueError
from barque.runtime import flags
from barque.runtime.failure import RuntimeFailure
from barque.runtime.flags import Flag, Parsed, UsageError

DEFAULT_ROOT = "/run/barque-runtime"

_GLOBAL = {
    "root": Flag("text"), "log": Flag("text"), "log-format": Flag("text"), "debug": Flag("bool"),
    "systemd-cgroup": Flag("bool"), "version": Flag("bool", ("v",)), "help": Flag("bool", ("h",)),
    "rootless": Flag("text"), "criu": Flag("text"),
}
_BUNDLE = {"bundle": Flag("text", ("b",)), "console-socket": Flag("text"), "pid-file": Flag("text"),
           "no-pivot": Flag("bool"), "no-new-keyring": Flag("bool"), "preserve-fds": Flag("int")}
_CRIU = {
    "image-path": Flag("text"), "work-path": Flag("text"), "tcp-established": Flag("bool"),
    "ext-unix-sk": Flag("bool"), "shell-job": Flag("bool"), "lazy-pages": Flag("bool"), "file-locks": Flag("bool"),
    "manage-cgroups-mode": Flag("text"), "empty-ns": Flag("list"), "auto-dedup": Flag("bool")}


_ONE_CONTAINER = ("create", "run", "start", "state", "delete", "checkpoint", "restore")


class Command(msgspec.Struct, frozen=True):
    """``module`` is imported only when the command runs."""

    module: str
    flags: dict[str, Flag]
    arguments: str


COMMANDS = {
    "create": Command("lifecycle", _BUNDLE, "<container-id>"),
    "run": Command("lifecycle", {**_BUNDLE, "detach": Flag("bool", ("d",)), "keep": Flag("bool")}, "<container-id>"),
    "start": Command("lifecycle", {}, "<container-id>"),
    "delete": Command("lifecycle", {"force": Flag("bool", ("f",))}, "<container-id>"),
    "kill": Command("lifecycle", {"all": Flag("bool", ("a",))}, "<container-id> [signal]"),
    "exec": Command("joining", {
        "console-socket": Flag("text"), "cwd": Flag("text"), "env": Flag("list", ("e",)), "tty": Flag("bool", ("t",)),
        "user": Flag("text", ("u",)), "additional-gids": Flag("list", ("g",)), "process": Flag("text", ("p",)),
        "detach": Flag("bool", ("d",)), "pid-file": Flag("text"), "no-new-privs": Flag("bool"),
        "cap": Flag("list", ("c",)), "preserve-fds": Flag("int"), "ignore-paused": Flag("bool"),
        "process-label": Flag("text"), "apparmor": Flag("text"), "cgroup": Flag("list")},
        "<container-id> <command> [args...]"),
    "state": Command("reporting", {}, "<container-id>"),
    "list": Command("reporting", {"format": Flag("text", ("f",)), "quiet": Flag("bool", ("q",))}, ""),
    "ps": Command("reporting", {"format": Flag("text", ("f",))}, "<container-id> [ps options]"),
    "spec": Command("reporting", {"bundle": Flag("text", ("b",)), "rootless": Flag("bool")}, ""),
    "features": Command("reporting", {}, ""),
    "pause": Command("resources", {}, "<container-id>"),
    "resume": Command("resources", {}, "<container-id>"),
    "events": Command("resources", {"stats": Flag("bool"), "interval": Flag("text")}, "<container-id>"),
    "update": Command("resources", {
        "resources": Flag("text", ("r",)), "memory": Flag("int"), "memory-reservation": Flag("int"),
        "memory-swap": Flag("int"), "pids-limit": Flag("int"), "cpu-period": Flag("int"), "cpu-quota": Flag("int"),
        "cpu-share": Flag("int", ("cpu-shares",)), "cpuset-cpus": Flag("text"), "cpuset-mems": Flag("text"),
        "blkio-weight": Flag("int")}, "<container-id>"),
    "checkpoint": Command("criu.commands", {
        **_CRIU, "parent-path": Flag("text"), "leave-running": Flag("bool"), "pre-dump": Flag("bool"),
        "status-fd": Flag("int"), "page-server": Flag("text"), "tcp-skip-in-flight": Flag("bool"),
        "link-remap": Flag("bool")}, "<container-id>"),
    # Nobody here becomes a subreaper, so --no-subreaper is what happens anyway: criu's child is ours from the start.
    "restore": Command("criu.commands", {
        **_CRIU, "bundle": Flag("text", ("b",)), "console-socket": Flag("text"), "pid-file": Flag("text"),
        "detach": Flag("bool", ("d",)), "no-subreaper": Flag("bool"), "no-pivot": Flag("bool"),
        "lsm-profile": Flag("text"), "lsm-mount-context": Flag("text")}, "<container-id>"),
}


class Invocation(msgspec.Struct, frozen=True):
    """One command line: ``root`` is the state directory, ``name`` the command."""

    name: str
    root: str
    systemd_cgroup: bool
    options: Parsed
    warn: Callable[[str], None]
    criu: str = ""

    @property
    def container_id(self) -> str:
        return self.options.rest[0]


def run(words: list[str]) -> int:
    """Run one command; returns the exit status (1, and 255 for exec, when it failed)."""
    log = _Log("", "")
    try:
        general = flags.parse(words, _GLOBAL, mixed=False)
        log = _Log(general.text("log"), general.text("log-format"))
        return _dispatch(general, log)
    except (BarqueError, RuntimeFailure, OSError) as error:
        log.error(str(error))
        return 1


def _dispatch(general: Parsed, log: _Log) -> int:
    if general.flag("version"):
        print(f"barque-runtime version {__version__}\nspec: 1.3.0")
        return 0
    if general.flag("help") or not general.rest or general.rest[0] == "help":
        print(_usage())
        return 0
    name = general.rest[0]
    if name not in COMMANDS:
        raise UsageError(f"No help topic for '{name}'")
    _check_rootless(general.text("rootless"))
    command = COMMANDS[name]
    if "-h" in general.rest[1:2] or "--help" in general.rest[1:2]:
        print(f"usage: barque-runtime {name} [flags] {command.arguments}")
        return 0
    options = flags.parse(general.rest[1:], command.flags, mixed=name not in ("exec", "ps"))
    _check_count(name, command, options)
    invocation = Invocation(name, general.text("root") or default_root(), general.flag("systemd-cgroup"), options,
                            log.warning, general.text("criu"))
    execute: Callable[[Invocation], int] = getattr(import_module(f"barque.runtime.{command.module}"), f"{name}_command")
    try:
        return execute(invocation)
    except RuntimeFailure as failure:
        log.error(f"{_prefix(name)}{failure}")
    except (BarqueError, OSError) as error:
        log.error(f"{_prefix(name)}{error}" if name in ("create", "run", "exec") else str(error))
    return 255 if name == "exec" else 1


def _check_rootless(wanted: str) -> None:
    """What runc would do about cgroups that it may not make; here it goes by who runs it, as runc's ``auto`` does."""
    if wanted not in ("", "auto", "true", "false"):
        raise UsageError(f"invalid rootless: {wanted}")
    ordinary = os.geteuid() != 0
    if wanted in ("true", "false") and (wanted == "true") != ordinary:
        raise UsageError(f"--rootless {wanted} is not supported for {'an ordinary user' if ordinary else 'root'}")


def default_root() -> str:
    """Where the state is: of root in /run, of an ordinary user in its own runtime directory."""
    if os.geteuid() == 0:
        return DEFAULT_ROOT
    directory = os.environ.get("XDG_RUNTIME_DIR")
    if not directory:
        raise UsageError("an ordinary user needs --root, or XDG_RUNTIME_DIR in the environment")
    return os.path.join(directory, "barque-runtime")


def _prefix(name: str) -> str:
    """runc's framing of what kept a process from starting, which docker's users know."""
    return {"create": "barque-runtime create failed: unable to start container process: ",
            "run": "barque-runtime run failed: unable to start container process: ",
            "exec": "exec failed: unable to start container process: "}.get(name, "")


def _check_count(name: str, command: Command, options: Parsed) -> None:
    least = command.arguments.count("<") if not (name == "exec" and options.text("process")) else 1
    if len(options.rest) < least:
        raise UsageError(f'barque-runtime: "{name}" requires a minimum of {least} argument')
    if name in _ONE_CONTAINER and len(options.rest) > 1:
        raise UsageError(f'barque-runtime: "{name}" requires exactly 1 argument')


def _usage() -> str:
    lines = ["usage: barque-runtime [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] COMMAND ..."]
    return "\n".join(lines + [f"   {name} {command.arguments}" for name, command in COMMANDS.items()])


class _Log:
    """Where errors go: runc's log file in its format; errors on standard error in any case, warnings without a file."""

    def __init__(self, path: str, form: str) -> None:
        if form not in ("", "text", "json"):
            raise UsageError(f"invalid log-format: {form}")
        self.path = path
        self.json = form == "json"

    def error(self, message: str) -> None:
        self._write("error", message)
        if self.path:
            print(message, file=sys.stderr)

    def warning(self, message: str) -> None:
        self._write("warning", message)

    def _write(self, level: str, message: str) -> None:
        # Half of a start's own imports, for what most commands never say.
        import json
        from datetime import UTC, datetime

        now = datetime.now(UTC).astimezone().isoformat(timespec="seconds")
        if self.json:
            line = json.dumps({"level": level, "msg": message, "time": now})
        else:
            line = f"time={json.dumps(now)} level={level} msg={json.dumps(message)}"
        if self.path:
            with open(self.path, "a") as file:
                file.write(line + "\n")
        else:
            print(line, file=sys.stderr)
