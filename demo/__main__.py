"""The main job, shown: an engine, a registry with an image of Apache httpd, and containers that run from it.

``python -m demo run STATE [--hub]`` starts what is not yet running (it writes below STATE only) and goes through the
commands; ``python -m demo stop STATE`` stops it again.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
FIRST_REGISTRY_PORT = 5000
FIRST_WEB_PORT = 8080
READY_TIMEOUT = 60.0
BOLD, DIM, RESET = ("\x1b[1m", "\x1b[2m", "\x1b[0m") if sys.stdout.isatty() else ("", "", "")


class DemoError(Exception):
    """Something that the demonstration needs did not happen; the message says what and where to look."""


def _say(text: str) -> None:
    print(f"{DIM}# {text}{RESET}", flush=True)


def _free_port(first: int) -> int:
    for port in range(first, first + 100):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise DemoError(f"no free port from {first} to {first + 99}")


def _alive(pidfile: Path, program: str) -> int | None:
    """The pid in ``pidfile`` if that process still runs ``program``."""
    try:
        pid = int(pidfile.read_text())
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if program.encode() in words else None


def _start(name: str, command: list[str], state: Path, ready: Callable[[], bool]) -> None:
    """Start ``command`` in the background, with its output in ``STATE/name.log``, and wait until ``ready``."""
    log_path = state / f"{name}.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    (state / f"{name}.pid").write_text(str(process.pid))
    deadline = time.monotonic() + READY_TIMEOUT
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = "".join(log_path.read_text(errors="replace").splitlines(keepends=True)[-15:])
            raise DemoError(f"{name} did not start, the end of {log_path} says:\n{tail}")
        time.sleep(0.02)


def _wait_for_answer(url: str) -> None:
    """Until the server in the container has read its configuration."""
    deadline = time.monotonic() + READY_TIMEOUT
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise DemoError(f"{url} does not answer: {error}; `barque logs web` may say why") from None
            time.sleep(0.02)


class Demo:
    def __init__(self, state: Path, hub: bool) -> None:
        self.state = state
        self.hub = hub
        self.socket = state / "barque.sock"
        self.env = {**os.environ, "BARQUE_HOST": f"unix://{self.socket}", "PATH": f"{BIN}:{os.environ['PATH']}"}

    # -- set-up

    def start_registry(self) -> str:
        address_file = self.state / "registry.addr"
        if _alive(self.state / "registry.pid", "registry") and address_file.exists():
            return address_file.read_text()
        port = _free_port(FIRST_REGISTRY_PORT)
        address = f"127.0.0.1:{port}"

        def answers() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        _start("registry", [str(BIN / "barque"), "registry", "serve", "--addr", address,
                            "--root", str(self.state / "registry")], self.state, answers)
        address_file.write_text(address)
        return address

    def start_engine(self, registry: str | None) -> None:
        if _alive(self.state / "engine.pid", "barqued") and self._engine_answers():
            return
        command = [str(BIN / "barqued"), "-H", f"unix://{self.socket}", "--pidfile", str(self.state / "barqued.pid"),
                   "--data-root", str(self.state / "data"), "--exec-root", str(self.state / "exec")]
        if registry:
            command += ["--registry-mirror", f"http://{registry}"]
        _start("engine", command, self.state, self._engine_answers)

    def _engine_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in probe.recv(64)
            except OSError:
                return False

    # -- the commands

    def show(self, *command: str, check: bool = True) -> None:
        """Print a command as one would type it and run it on this terminal."""
        print(f"{BOLD}$ {shlex.join(command)}{RESET}", flush=True)
        code = subprocess.run(command, env=self.env, check=False).returncode
        if check and code != 0:
            raise DemoError(f"{shlex.join(command)} ended with exit code {code}; "
                            f"the engine's log is {self.state / 'engine.log'}")

    def quiet(self, *command: str) -> None:
        subprocess.run(command, env=self.env, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def main_job(self) -> None:
        _say("the main job: pull if absent, create, start")
        self.show("barque", "run", "httpd", "echo", "Hello")
        _say("again: nothing is pulled")
        self.show("barque", "run", "httpd", "echo", "Hello")
        if not self.hub:
            _say("an image that shares the base: only the missing layer is fetched")
            self.show("barque", "pull", "httpd-notes")

    def web_server(self) -> None:
        port = _free_port(FIRST_WEB_PORT)
        self.quiet("barque", "rm", "-f", "web")
        _say("a server in the background, with a published port")
        self.show("barque", "run", "-d", "-p", f"{port}:80", "--name", "web", "httpd")
        try:
            url = f"http://127.0.0.1:{port}/"
            _wait_for_answer(url)
            self.show("curl", "-sS", url)
            self.show("barque", "ps")
            self.show("barque", "logs", "web")
            self.show("barque", "exec", "web", "cat", "/etc/os-release")
            self.show("barque", "stop", "web")
            self.show("barque", "rm", "web")
        except DemoError:
            self.quiet("barque", "rm", "-f", "web")
            raise

    def next_steps(self) -> None:
        print(f"""
{BOLD}That was it.{RESET} The engine goes on; try:

  export BARQUE_HOST=unix://{self.socket} PATH={BIN}:$PATH
  barque run --rm -it httpd sh
  barque run -d -p 8080:80 httpd          then open http://127.0.0.1:8080/
  DOCKER_HOST=$BARQUE_HOST docker ps      any docker client works
  make stop                               stops the engine and the registry
""")

    def run(self) -> None:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        registry = None
        if not self.hub:
            registry = self.start_registry()
            _say(f"registry on {registry}, its files in {self.state / 'registry'}")
            seed = [sys.executable, "-m", "demo.seed", registry, str(self.state / "cache")]
            subprocess.run(["unshare", "--mount", *seed], check=True, cwd=HERE.parent)
        self.start_engine(registry)
        _say(f"engine on unix://{self.socket}, its files in {self.state / 'data'}; `make stop` stops both")
        self.main_job()
        self.web_server()
        self.next_steps()


def _terminate(pidfile: Path, program: str) -> None:
    pid = _alive(pidfile, program)
    if pid is not None:
        handle = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(handle, signal.SIGTERM)
            _wait_gone(handle)
        finally:
            os.close(handle)
        print(f"stopped {program} ({pid})")
    pidfile.unlink(missing_ok=True)


def _wait_gone(pidfd: int) -> None:
    import select

    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    if not poller.poll(30_000):
        raise DemoError("it does not stop within 30 s")


def stop(state: Path) -> None:
    engine = state / "engine.pid"
    if _alive(engine, "barqued"):
        env = {**os.environ, "BARQUE_HOST": f"unix://{state / 'barque.sock'}"}
        listed = subprocess.run([str(BIN / "barque"), "ps", "-q"], env=env, capture_output=True, text=True, check=False)
        if listed.stdout.split():
            subprocess.run([str(BIN / "barque"), "stop", "-t", "3", *listed.stdout.split()], env=env, check=False,
                           stdout=subprocess.DEVNULL)
    _terminate(engine, "barqued")
    _terminate(state / "registry.pid", "registry")


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("verb", choices=("run", "stop"))
    parser.add_argument("state", type=lambda text: Path(text).absolute())
    parser.add_argument("--hub", action="store_true", help="use Docker Hub instead of an image made here")
    options = parser.parse_args()
    try:
        if options.verb == "run":
            Demo(options.state, options.hub).run()
        else:
            stop(options.state)
    except (DemoError, subprocess.CalledProcessError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
