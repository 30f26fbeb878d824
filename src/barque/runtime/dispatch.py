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


#: What the shell's users of runc see for a command that there is not.
_NO_SUCH_COMMAND = 3
_STARTING = ("create", "run", "exec")
_NOT_STARTED = "unable to start container process: "
_ONE_CONTAINER = ("create", "run", "start", "state", "delete", "checkpoint", "restore")


class UnknownCommand(UsageError):
    """There is no command of that name."""


class Command(msgspec.Struct, frozen=True):
    """``module`` is imported only when the command runs."""

    module: str
    flags: dict[str, Flag]
    arguments: str


#: Nobody here becomes a subreaper, so ``--no-subreaper`` is what happens anyway.
COMMANDS = {
    "create": Command("lifecycle", _BUNDLE, "<container-id>"),
    "run": Command("lifecycle", {**_BUNDLE, "detach": Flag("bool", ("d",)), "keep": Flag("bool"),
                                 "no-subreaper": Flag("bool")}, "<container-id>"),
    "start": Command("lifecycle", {}, "<container-id>"),
    "delete": Command("lifecycle", {"force": Flag("bool", ("f",))}, "<container-id>"),
    "kill": Command("lifecycle", {"all": Flag("bool", ("a",))}, "<container-id> [signal]"),
    "exec": Command("joining", {
        "console-socket": Flag("text"), "cwd": Flag("text"), "env": Flag("list", ("e",)), "tty": Flag("bool", ("t",)),
        "user": Flag("text", ("u",)), "additional-gids": Flag("list", ("g",)), "process": Flag("text", ("p",)),
        "detach": Flag("bool", ("d",)), "pid-file": Flag("text"), "no-new-privs": Flag("bool"),
        "cap": Flag("list", ("c",)), "preserve-fds": Flag("int"), "ignore-paused": Flag("bool"),
        "process-label": Flag("text"), "apparmor": Flag("text"), "cgroup": Flag("list")},
        "<container-id> <command> [args...] || -p process.json <container-id>"),
    "state": Command("reporting", {}, "<container-id>"),
    "list": Command("reporting", {"format": Flag("text", ("f",)), "quiet": Flag("bool", ("q",))}, ""),
    "ps": Command("reporting", {"format": Flag("text", ("f",))}, "<container-id> [ps options]"),
    "spec": Command("reporting", {"bundle": Flag("text", ("b",)), "rootless": Flag("bool")}, ""),
    "features": Command("reporting", {}, ""),
    "pause": Command("resources", {}, "<container-id>"),
    "resume": Command("resources", {}, "<container-id>"),
    "events": Command("resources", {"stats": Flag("bool"), "interval": Flag("text")}, "<container-id>"),
    "update": Command("resources", {
        "resources": Flag("text", ("r",)), "memory": Flag("text"), "memory-reservation": Flag("text"),
        "memory-swap": Flag("text"), "pids-limit": Flag("int"), "cpu-period": Flag("int"), "cpu-quota": Flag("int"),
        "cpu-share": Flag("int", ("cpu-shares",)), "cpuset-cpus": Flag("text"), "cpuset-mems": Flag("text"),
        "blkio-weight": Flag("int"), "cpu-burst": Flag("int"), "cpu-idle": Flag("int"), "cpu-rt-period": Flag("int"),
        "cpu-rt-runtime": Flag("int"), "l3-cache-schema": Flag("text"), "mem-bw-schema": Flag("text")},
        "<container-id>"),
    "checkpoint": Command("criu.commands", {
        **_CRIU, "parent-path": Flag("text"), "leave-running": Flag("bool"), "pre-dump": Flag("bool"),
        "status-fd": Flag("int"), "page-server": Flag("text"), "tcp-skip-in-flight": Flag("bool"),
        "link-remap": Flag("bool")}, "<container-id>"),
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
        return _NO_SUCH_COMMAND if isinstance(error, UnknownCommand) else 1


def _dispatch(general: Parsed, log: _Log) -> int:
    if general.flag("version"):
        print(f"barque-runtime version {__version__}\nspec: 1.3.0")
        return 0
    wanted = general.rest[1:] if general.rest[:1] in (["help"], ["h"]) else general.rest
    if general.flag("help") or not wanted:
        print(_usage())
        return 0
    name = wanted[0]
    if name not in COMMANDS:
        raise UnknownCommand(f"No help topic for '{name}'")
    command = COMMANDS[name]
    if wanted is not general.rest or general.rest[1:2] in (["-h"], ["--help"]):
        print(_usage_of(name, command))
        return 0
    try:
        _check_rootless(general.text("rootless"))
        options = flags.parse(general.rest[1:], command.flags, mixed=name not in ("exec", "ps"))
        _check_count(name, command, options)
    except UsageError as error:
        print(f"Incorrect Usage: {error}\n\n{_usage_of(name, command)}")
        raise
    invocation = Invocation(name, general.text("root") or default_root(), general.flag("systemd-cgroup"), options,
                            log.warning, general.text("criu"))
    execute: Callable[[Invocation], int] = getattr(import_module(f"barque.runtime.{command.module}"), f"{name}_command")
    try:
        return execute(invocation)
    except RuntimeFailure as failure:
        log.error(f"{_prefix(name)}{_NOT_STARTED if name in _STARTING else ''}{failure}")
    except (BarqueError, OSError) as error:
        log.error(f"{_prefix(name)}{_told(error)}")
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


def _told(error: BarqueError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror.lower()}"
    return str(error)


def _prefix(name: str) -> str:
    """runc's framing of what kept a process from starting, which docker's users know."""
    if name not in _STARTING:
        return ""
    return "exec failed: " if name == "exec" else f"barque-runtime {name} failed: "


def _check_count(name: str, command: Command, options: Parsed) -> None:
    given = len(options.rest)
    if name in _ONE_CONTAINER and given != 1:
        raise UsageError(f'barque-runtime: "{name}" requires exactly 1 argument(s)')
    if name == "kill" and given > 2:
        raise UsageError('barque-runtime: "kill" requires a maximum of 2 argument(s)')
    if not given and command.arguments:
        raise UsageError(f'barque-runtime: "{name}" requires a minimum of 1 argument(s)')


def _usage() -> str:
    return "\n".join(["usage: barque-runtime [global options] command [command options] [arguments]", "", "COMMANDS:",
                      *(f"   {name} {command.arguments}".rstrip() for name, command in COMMANDS.items()),
                      "", "GLOBAL OPTIONS:", *_describe(_GLOBAL)])


def _usage_of(name: str, command: Command) -> str:
    title = f"usage: barque-runtime {name} [command options] {command.arguments}".rstrip()
    return "\n".join([title, *(["", "OPTIONS:", *_describe(command.flags)] if command.flags else [])])


def _describe(table: dict[str, Flag]) -> list[str]:
    return ["   " + ", ".join(f"{'-' if len(word) == 1 else '--'}{word}{'' if flag.kind == 'bool' else ' value'}"
                              for word in (name, *flag.aliases)) for name, flag in table.items()]


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
            line = json.dumps({"level": level, "msg": message, "time": now}, separators=(",", ":"))
        else:
            line = f"time={json.dumps(now)} level={level} msg={json.dumps(message)}"
        if self.path:
            with open(self.path, "a") as file:
                file.write(line + "\n")
        else:
            print(line, file=sys.stderr)
