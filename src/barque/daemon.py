"""barqued: the composition root. Everything is made here, in this order, and ended in the reverse one.

Flags and file -> lock of the data root -> zygote (before there is any thread) -> event loop -> database -> living
containers adopted -> network brought in line with them -> API.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from barque import failpoints
from barque import log as logs
from barque.config import DEFAULT_CONFIG_FILE, VERSION, Config
from barque.daemon_checks import check
from barque.daemon_options import BadOption, CommandLine, combine, parse_flags, read_file, usage
from barque.errors import BarqueError
from barque.store.layout import Layout
from barque.supervise.forkserver import ZygoteHandle, spawn
from barque.sys import malloc

if TYPE_CHECKING:
    from barque.composition import Engine

log = logging.getLogger("barque.daemon")


def main(argv: list[str] | None = None) -> int:
    """Run the daemon until it is told to stop; returns the exit status."""
    try:
        line = parse_flags(sys.argv[1:] if argv is None else argv)
        if line.help:
            print(usage())
            return 0
        if line.version:
            print(f"Barque version {VERSION}")
            return 0
        config = load(line)
    except BadOption as error:
        print(f"{error}\nSee 'barqued --help'.", file=sys.stderr)
        return 125
    if line.validate:
        print("configuration OK")
        return 0
    try:
        logs.configure(config.log_level, config.log_format, config.log_file)
        failpoints.arm(os.environ.get("BARQUE_FAILPOINTS", ""))
        return _run(config, line)
    except (BarqueError, OSError, ValueError) as error:
        log.critical("failed to start daemon: %s", error)
        return 1


def load(line: CommandLine) -> Config:
    """The settings of this run; raises :class:`BadOption`."""
    path = line.config_file or DEFAULT_CONFIG_FILE
    file = read_file(path, required=line.config_file is not None)
    config = with_proxies(combine(line.values, file, path), os.environ)
    exec_root = os.path.abspath(config.exec_root)
    config = replace(config, data_root=os.path.abspath(config.data_root), exec_root=exec_root,
                     hosts=config.hosts or (f"unix://{exec_root}/barque.sock",))
    check(config)
    return config


def with_proxies(config: Config, environment: Mapping[str, str]) -> Config:
    """What the configuration does not say of proxies, as the service's environment has it."""
    def named(own: str, variable: str) -> str:
        return own or environment.get(variable) or environment.get(variable.lower()) or ""

    return replace(config, http_proxy=named(config.http_proxy, "HTTP_PROXY"),
                   https_proxy=named(config.https_proxy, "HTTPS_PROXY"), no_proxy=named(config.no_proxy, "NO_PROXY"))


def _run(config: Config, line: CommandLine) -> int:
    os.umask(0o022)
    os.makedirs(config.exec_root, mode=0o711, exist_ok=True)
    layout = Layout.open(config.data_root)
    pidfile = config.pidfile or f"{config.exec_root}/barque.pid"
    _write_pidfile(pidfile)
    malloc.one_arena()
    try:
        return asyncio.run(_serve(config, line, layout, spawn(config.exec_root)))
    finally:
        layout.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(pidfile)


def _write_pidfile(path: str) -> None:
    """Raises ValueError where the process that the file names is alive and a daemon like this one."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except FileNotFoundError:
        text = ""
    if text.isdecimal() and int(text) != os.getpid() and _is_daemon(int(text)):
        raise ValueError(f"process with PID {text} is still running, and {path} is its pid file")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        file.write(str(os.getpid()))


def _is_daemon(pid: int) -> bool:
    """A pid may have been given to somebody else since."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return b"barque" in file.read()
    except OSError:
        return False


async def _serve(config: Config, line: CommandLine, layout: Layout, zygote: ZygoteHandle) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop, stop, number)
    loop.add_signal_handler(signal.SIGHUP, log.info, "not up yet: nothing to reload")
    async with AsyncExitStack() as stack:
        from barque import composition

        engine = await composition.open_engine(stack, config, layout, zygote, os.environ)
        loop.add_signal_handler(signal.SIGHUP, _reload, line, engine)
        loop.add_signal_handler(signal.SIGUSR1, _dump, config.exec_root)
        log.info("API listen on %s", ", ".join(config.hosts))
        malloc.trim()    # what the start needed for a moment
        _notify(os.environ, "READY=1")
        await stop.wait()
        _notify(os.environ, "STOPPING=1")
        log.info("shutting down")
        await engine.shut_down()
    return 0


def _stop(stop: asyncio.Event, number: int) -> None:
    if stop.is_set():
        log.warning("forced to stop by a second %s", signal.Signals(number).name)
        os._exit(1)
    stop.set()


def _reload(line: CommandLine, engine: Engine) -> None:
    """SIGHUP: read the file again, and take over what can change while containers run."""
    try:
        config = load(line)
    except BadOption as error:
        log.error("reload: %s", error)
        return
    logging.getLogger().setLevel(logs.LEVELS[config.log_level])
    taken, left = engine.reload(config)
    log.info("reloaded the configuration: %s", ", ".join(taken) or "nothing has changed")
    if left:
        log.warning("a restart is needed for: %s", ", ".join(left))


def _dump(exec_root: str) -> None:
    """SIGUSR1, as dockerd has it: what every task and thread is doing, into a file of the run root."""
    path = f"{exec_root}/stacks-{time.time_ns()}.log"
    with open(path, "w", encoding="utf-8") as file:
        for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
            print(f"task {task.get_name()}: {task!r}", file=file)
            task.print_stack(file=file)
        file.flush()
        faulthandler.dump_traceback(file)
    log.info("stacks are in %s", path)


def _notify(environment: Mapping[str, str], message: str) -> None:
    """sd_notify(3)."""
    path = environment.get("NOTIFY_SOCKET", "")
    if path[:1] in ("/", "@"):
        import socket

        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.sendto(message.encode(), "\0" + path[1:] if path[0] == "@" else path)


if __name__ == "__main__":
    sys.exit(main())
