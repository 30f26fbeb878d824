"""The two engines under comparison, each on directories of its own, driven by the same docker command line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

READY_TIMEOUT = 30.0


@dataclass
class Engine:
    """One engine process and its children. ``work`` holds everything that it writes, and names its processes."""

    name: str
    work: Path
    command: list[str]
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def socket(self) -> Path:
        return self.work / "engine.sock"

    @property
    def env(self) -> dict[str, str]:
        config = self.work / "client"
        config.mkdir(exist_ok=True)
        return {**os.environ, "DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(config)}

    def start(self) -> float:
        """Start it and wait until it answers; returns the seconds that took."""
        began = time.perf_counter()
        with (self.work / "engine.log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, start_new_session=True)
        while not self._answers():
            if self.process.poll() is not None or time.perf_counter() - began > READY_TIMEOUT:
                tail = (self.work / "engine.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} did not start:\n{tail}")
            time.sleep(0.005)
        return time.perf_counter() - began

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(self.socket))
                client.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                return b" 200 " in client.recv(64)
            except OSError:
                return False

    def docker(self, *args: str, check: bool = True) -> str:
        done = subprocess.run(["docker", *args], env=self.env, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"{self.name}: docker {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def timed(self, *args: str) -> float:
        """Seconds of wall time that one docker command takes, the client included."""
        began = time.perf_counter()
        self.docker(*args)
        return time.perf_counter() - began

    def pids(self) -> list[int]:
        """Every process of the engine: its command line names ``work``, which those of containers do not."""
        found = []
        needle = str(self.work).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if needle in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def pss(self) -> int:
        """Proportional set size of all its processes, in bytes (proc(5), smaps_rollup)."""
        total = 0
        for pid in self.pids():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024
        return total

    def remove_all(self) -> None:
        ids = self.docker("ps", "-aq").split()
        if ids:
            self.docker("rm", "-f", "-v", *ids)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def barque(work: Path, registry: str) -> Engine:
    work.mkdir(parents=True)
    return Engine("barque", work, [
        str(Path(sys.executable).with_name("barqued")), "--data-root", f"{work}/data", "--exec-root", f"{work}/exec",
        "-H", f"unix://{work}/engine.sock", "--pidfile", f"{work}/pid", "--bip", "172.31.250.1/24",
        "--insecure-registry", registry])


def dockerd(work: Path, registry: str) -> Engine:
    work.mkdir(parents=True)
    return Engine("dockerd", work, [
        "dockerd", "--data-root", f"{work}/data", "--exec-root", f"{work}/exec", "-H", f"unix://{work}/engine.sock",
        "--pidfile", f"{work}/pid", "--bip", "172.31.251.1/24", "--insecure-registry", registry])
