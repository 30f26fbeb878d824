"""A small virtual machine for what this host's kernel does not have: pure cgroup v2 above all.

Debian's cloud kernel under QEMU's emulation, and an initramfs made here: busybox, the interpreter that runs the tests
with its standard library, the packages that are asked for, this checkout's ``src`` and ``tests``. No network, no disk;
the serial console carries the output back. Typical use::

    guest = Guest(tmp_path)
    guest.add_package("msgspec")
    result = guest.run("python -m pytest tests/kernel/guest_cgroup_v2.py", timeout=300)
    assert result.code == 0, result.output

The kernel package is fetched by ``python -m tests.vm`` (tests have no network) into a cache of the user's, and never
installed.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "barque-tests"
_FETCHED = CACHE / "kernel"
#: What pytest imports.
PYTEST = ("pytest", "_pytest", "py", "pluggy", "iniconfig", "packaging", "pygments")
_META_PACKAGE = "linux-image-cloud-amd64"
_DONE = re.compile(r"^BARQUE-GUEST-EXIT (\d+)", re.MULTILINE)
#: Parts of the standard library that only weigh.
_LEAVE_OUT = ("test", "idlelib", "tkinter", "turtledemo", "ensurepip", "lib2to3", "site-packages", "config-3.*")

_INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /sbin /usr/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
ip link set lo up 2>/dev/null
for module in $(cat /modules); do insmod "$module" || echo "cannot load $module"; done
[ -x /lib/systemd/systemd ] && exec /lib/systemd/systemd --show-status=no
exec sh /session
"""

_SESSION = """export PATH=/bin:/sbin:/usr/bin HOME=/tmp
export PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/barque/src:/barque/packages
cd /barque
sh /command </dev/null
echo "BARQUE-GUEST-EXIT $?"
poweroff -f
"""

_SYSTEMD_UNITS = {
    "default.target": "[Unit]\nRequires=guest.service\nWants=user.service\n",
    # An ordinary user's own, as user@.service has it; without a login, which would need PAM and logind.
    "user.service": "[Unit]\nDefaultDependencies=no\n[Service]\nType=notify\nExecStart=/lib/systemd/systemd --user\n"
                    "User=65534\nGroup=65534\nDelegate=yes\nRuntimeDirectory=user/65534\n"
                    "Environment=XDG_RUNTIME_DIR=/run/user/65534 HOME=/run/user/65534\n",
    "guest.service": "[Unit]\nDefaultDependencies=no\nAfter=user.service\n[Service]\nExecStart=/bin/sh /session\n"
                     "StandardOutput=tty\nStandardError=tty\nTTYPath=/dev/ttyS0\n",
}


@dataclass(frozen=True)
class Result:
    """``code`` is the command's exit code, ``None`` when the machine never got that far; ``output`` the console."""

    code: int | None
    output: str


class GuestUnavailable(Exception):
    """This host lacks what the machine is made of; the message names the packages."""


class Guest:
    """One machine to be; its files are collected below ``directory``. ``parameters`` are for its kernel."""

    def __init__(self, directory: Path, memory_mib: int = 640, parameters: str = "") -> None:
        for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static"),
                              ("apt-get", "apt"), ("cpio", "cpio"), ("depmod", "kmod")):
            if shutil.which(tool, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin") is None:
                raise GuestUnavailable(f"the virtual machine needs {tool} (package {package})")
        self._directory = directory
        self._memory = memory_mib
        self._parameters = parameters
        self._root = directory / "root"
        self._kernel, self._modules = _kernel()
        self._wanted: list[str] = []
        self._populate()

    def add(self, guest_path: str, content: bytes | Path, mode: int = 0o644) -> None:
        """Put a file (bytes, or a copy of a host's file or directory) at the absolute ``guest_path``."""
        target = self._root / guest_path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            target.write_bytes(content)
            target.chmod(mode)
        elif content.is_dir():
            shutil.copytree(content, target, dirs_exist_ok=True, symlinks=True)
        else:
            shutil.copy2(content, target)
        self._add_libraries([target] if target.is_file() else target.rglob("*"))

    def add_program(self, path: str) -> None:
        """A host's program at its own path, with the libraries that it needs."""
        self.add(path, Path(path).resolve())

    def add_package(self, name: str, folder: str = "/barque/packages") -> None:
        """An importable package or module of this interpreter."""
        spec = importlib.util.find_spec(name)
        assert spec is not None, f"{name} cannot be imported here"
        if spec.submodule_search_locations:
            self.add(f"{folder}/{name}", Path(next(iter(spec.submodule_search_locations))))
        else:
            assert spec.origin is not None
            self.add(f"{folder}/{Path(spec.origin).name}", Path(spec.origin))

    def add_runtime(self) -> None:
        """``barque-runtime`` beside the interpreter, and for its start the packages where that one looks for them."""
        self.add("/bin/barque-runtime", ROOT / "bin/barque")
        packages = f"/lib/python3.{sys.version_info.minor}/site-packages"
        self.add(f"{packages}/__editable__.barque-guest.pth", b"/barque/src\n")
        self.add_package("msgspec", packages)

    def add_module(self, name: str) -> None:
        """A kernel module (such as ``overlay``) to be loaded at boot, after those that it depends on."""
        index = dict(line.split(":", 1) for line in (self._modules / "modules.dep").read_text().splitlines())
        path = next(path for path in index if re.sub(r"\.ko(\.\w+)?$", "", Path(path).name) == name.replace("_", "-")
                    or re.sub(r"\.ko(\.\w+)?$", "", Path(path).name) == name)
        for needed in [*reversed(index[path].split()), path]:
            if needed not in self._wanted:
                self._wanted.append(needed)
                self.add(f"/modules.d/{needed}", self._modules / needed)

    def add_systemd(self) -> None:
        """Let systemd be the guest's init; the command is then one of its services."""
        if not Path("/lib/systemd/systemd").exists():
            raise GuestUnavailable("a guest with systemd needs it on this host (package systemd)")
        self.add_program("/lib/systemd/systemd")
        for name, text in _SYSTEMD_UNITS.items():
            self.add(f"/etc/systemd/system/{name}", text.encode())
        self.add("/etc/systemd/user/default.target", b"[Unit]\n")

    def run(self, command: str, timeout: float) -> Result:
        """Boot, run the shell ``command`` in /barque (``python`` is the interpreter), power off."""
        self.add("/command", command.encode() + b"\n")
        self.add("/modules", "\n".join(f"/modules.d/{name}" for name in self._wanted).encode() + b"\n")
        image = self._directory / "initramfs.cpio"
        names = subprocess.run(["find", ".", "-print0"], cwd=self._root, capture_output=True, check=True).stdout
        with image.open("wb") as out:
            subprocess.run(["cpio", "--null", "-o", "--quiet", "-H", "newc", "-R", "0:0"], cwd=self._root, input=names,
                           stdout=out, check=True)
        # KVM is not used on purpose: nested, it may hang instead of failing.
        machine = ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", str(self._memory), "-smp", "2",
                   "-display", "none", "-serial", "stdio", "-monitor", "none", "-nic", "none", "-no-reboot",
                   "-kernel", str(self._kernel), "-initrd", str(image),
                   "-append", "console=ttyS0 quiet loglevel=1 panic=-1 mitigations=off swapaccount=1 no_timer_check "
                              f"{self._parameters}"]
        try:
            done = subprocess.run(machine, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
            output = done.stdout + done.stderr
        except subprocess.TimeoutExpired as expired:
            output = (expired.stdout or b"") + b"\n(the machine was stopped: too slow)"
        finally:
            image.unlink()
        text = output.decode(errors="replace").replace("\r", "")
        match = _DONE.search(text)
        return Result(int(match[1]) if match else None, text)

    def _populate(self) -> None:
        self.add("/init", _INIT.encode(), 0o755)
        self.add("/session", _SESSION.encode())
        busybox = shutil.which("busybox")
        assert busybox is not None
        self.add("/bin/busybox", Path(busybox))
        interpreter = Path(sys.base_prefix) / "bin" / f"python3.{sys.version_info.minor}"
        self.add(str(interpreter), interpreter)
        (self._root / "bin").mkdir(exist_ok=True)
        for name in ("python", "python3"):
            (self._root / "bin" / name).symlink_to(interpreter)
        library = Path(os.__file__).parent
        target = self._root / str(library).lstrip("/")
        shutil.copytree(library, target, symlinks=True, ignore=shutil.ignore_patterns(*_LEAVE_OUT))
        self._add_libraries((target / "lib-dynload").glob("*.so"))
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, self._root / "barque" / name,
                            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        shutil.copy2(ROOT / "pyproject.toml", self._root / "barque")

    def _add_libraries(self, paths: Iterable[Path]) -> None:
        """Copy what the dynamic loader would load for each ELF file of ``paths``."""
        elves = [str(path) for path in paths if path.is_file() and not path.is_symlink() and _is_elf(path)]
        if not elves:
            return
        listing = subprocess.run(["ldd", *elves], capture_output=True, text=True, check=False).stdout
        for found in set(re.findall(r"(?:=> |^\s+)(/\S+) \(0x", listing, re.MULTILINE)):
            target = self._root / found.lstrip("/")
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, target)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF" and stat.S_ISREG(path.stat().st_mode) and path.suffix != ".ko"


def _kernel() -> tuple[Path, Path]:
    """(image, module directory) of the cloud kernel in the cache."""
    image = next(_FETCHED.glob("boot/vmlinuz-*"), None)
    if image is None:
        raise GuestUnavailable("the guest's kernel is not there yet: run python -m tests.vm")
    return image, _FETCHED / "lib/modules" / image.name.removeprefix("vmlinuz-")


def fetch_kernel() -> None:
    """Fill the cache with Debian's cloud kernel by ``apt-get download``. Raises :class:`GuestUnavailable`."""
    if _FETCHED.exists():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as fetch:
        _download(Path(fetch))
        try:
            (Path(fetch) / "tree").rename(_FETCHED)
        except OSError:
            # Somebody else was quicker.
            if not _FETCHED.exists():
                raise


def _download(fetch: Path) -> None:
    asked = subprocess.run(["apt-cache", "depends", _META_PACKAGE], capture_output=True, text=True, check=False)
    match = re.search(r"Depends: (linux-image-\S+)", asked.stdout)
    if match is None:
        raise GuestUnavailable(f"the package index does not know {_META_PACKAGE}: run apt-get update")
    got = subprocess.run(["apt-get", "download", "-q", match[1]], cwd=fetch, capture_output=True, text=True,
                         check=False)
    packages = list(fetch.glob("*.deb"))
    if got.returncode or not packages:
        raise GuestUnavailable(f"cannot fetch {match[1]}: {got.stderr.strip()}")
    subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(fetch / "tree")], check=True)
    version = match[1].removeprefix("linux-image-")
    subprocess.run(["/sbin/depmod", "-b", str(fetch / "tree"), version], check=True)


if __name__ == "__main__":
    try:
        fetch_kernel()
    except GuestUnavailable as error:
        sys.exit(str(error))
