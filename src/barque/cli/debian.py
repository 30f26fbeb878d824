"""Root file systems of Debian and its relatives, made by mmdebstrap or debootstrap from packages."""

from __future__ import annotations

import calendar
import os
import shutil
import subprocess
import time
from dataclasses import dataclass

from barque.cli.errors import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: What differs from one run to the next, or belongs to the machine that runs: emptied or removed.
_EMPTIED = ("etc/machine-id",)
_REMOVED = ("etc/hostname", "etc/resolv.conf", "var/lib/dbus/machine-id", "var/cache/ldconfig/aux-cache",
            "var/cache/apt/pkgcache.bin", "var/cache/apt/srcpkgcache.bin", "var/lib/systemd/random-seed")
_CLEARED = ("var/lib/apt/lists", "var/cache/apt/archives", "var/log", "var/cache/debconf", "dev", "proc", "sys", "run",
            "tmp", "debootstrap")


@dataclass(frozen=True)
class Order:
    """``mirror``: addresses, or whole lines of sources.list; empty: this machine's own sources."""

    distribution: str
    suite: str
    mirror: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    variant: str = "minbase"
    architecture: str = ""


@dataclass(frozen=True)
class Source:
    """One line of sources.list. ``suite`` may have an ending such as ``-updates``."""

    address: str
    suite: str
    components: str
    options: str = ""

    def __str__(self) -> str:
        options = f"[{self.options}]" if self.options else ""
        return " ".join(filter(None, ("deb", options, self.address, self.suite, self.components)))


def make(order: Order, tree: str, scratch: str, tell: Callable[[str], None]) -> int:
    """Fill the new directory ``tree``; returns when the release was made, in seconds since 1970.

    Raises :class:`CommandError`.
    """
    sources = list(order.mirror) or [str(source) for source in own_sources(order)]
    if shutil.which("mmdebstrap"):
        command = _mmdebstrap(order, tree, scratch, sources)
    elif shutil.which("debootstrap"):
        command = _debootstrap(order, tree, sources)
    else:
        raise CommandError("neither mmdebstrap nor debootstrap is installed: apt-get install mmdebstrap")
    tell(f"{command[0]}: {order.suite} from {'; '.join(sources)}")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise CommandError(f"{command[0]} failed:\n{done.stdout.strip()[-4000:]}")
    released = max([_date(path) for path in [*_releases(scratch), *_releases(f"{tree}/var/lib/apt/lists")]], default=0)
    _clean(tree)
    return released


def _mmdebstrap(order: Order, tree: str, scratch: str, sources: list[str]) -> list[str]:
    command = ["mmdebstrap", "--quiet", "--format=directory", f"--variant={order.variant}", "--skip=check/empty",
               f'--extract-hook=cp "$1"/var/lib/apt/lists/*Release {scratch}/ || true']
    command += [f"--include={name}" for name in order.include]
    command += [f"--architectures={order.architecture}"] if order.architecture else []
    return [*command, order.suite, tree, *sources]


def _debootstrap(order: Order, tree: str, sources: list[str]) -> list[str]:
    """It takes one address: that of the release itself. What the line of sources.list says besides are options here."""
    source = next(parse_list(sources[0]), Source(sources[0], order.suite, ""))
    options = dict(option.partition("=")[::2] for option in source.options.split())
    command = ["debootstrap", f"--variant={order.variant}"]
    command += ["--no-check-gpg"] if options.get("trusted") == "yes" else []
    command += [f"--keyring={options['signed-by']}"] if "signed-by" in options else []
    command += [f"--components={','.join(source.components.split())}"] if source.components else []
    command += [f"--include={','.join(order.include)}"] if order.include else []
    command += [f"--arch={order.architecture}"] if order.architecture else []
    return [*command, order.suite, tree, source.address]


def own_sources(order: Order) -> list[Source]:
    """This machine's sources of the distribution, for the suite that is asked for. Raises :class:`CommandError`."""
    release = _pairs("/etc/os-release", "=")
    if release.get("ID", "").strip('"') != order.distribution:
        raise CommandError(f"this machine has no sources of {order.distribution}: name them with --mirror")
    found = for_suite(list(_configured("/etc/apt")), release.get("VERSION_CODENAME", "").strip('"'), order.suite)
    if not found:
        raise CommandError("no sources in /etc/apt are the distribution's own: name them with --mirror")
    return found


def for_suite(sources: list[Source], codename: str, suite: str) -> list[Source]:
    """Those of this machine's release, as they are for another one; what third parties have is left out."""
    found = []
    for source in sources:
        if source.suite == codename or source.suite.startswith(f"{codename}-"):
            changed = Source(source.address, suite + source.suite[len(codename):], source.components, source.options)
            if "-backports" not in changed.suite and changed not in found:
                found.append(changed)
    return found


def _configured(directory: str) -> Iterator[Source]:
    files = [f"{directory}/sources.list"]
    if os.path.isdir(f"{directory}/sources.list.d"):
        files += [f"{directory}/sources.list.d/{name}" for name in sorted(os.listdir(f"{directory}/sources.list.d"))]
    for path in files:
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read()
        except OSError:
            continue
        yield from parse_deb822(text) if path.endswith(".sources") else parse_list(text)


def parse_list(text: str) -> Iterator[Source]:
    """sources.list(5), the one-line style."""
    for line in text.splitlines():
        words = line.partition("#")[0].strip()
        if not words.startswith("deb "):
            continue
        words, options = words[4:].strip(), ""
        if words.startswith("["):
            options, _, words = words[1:].partition("]")
        if len(parts := words.split()) >= 2:
            yield Source(parts[0], parts[1], " ".join(parts[2:]), options.strip())


def parse_deb822(text: str) -> Iterator[Source]:
    """sources.list(5), the deb822 style."""
    for stanza in text.split("\n\n"):
        lines = [line for line in stanza.splitlines() if line.strip() and not line.startswith("#")]
        fields = {key.strip().lower(): value.strip() for key, colon, value in (line.partition(":") for line in lines)
                  if colon and not key[:1].isspace()}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        key = fields.get("signed-by", "")
        options = f"signed-by={key}" if key.startswith("/") else ""
        for address in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(address, suite, fields.get("components", ""), options)


def _pairs(path: str, sign: str) -> dict[str, str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            parts = [line.partition(sign) for line in file]
    except OSError:
        return {}
    return {key.strip(): value.strip() for key, found, value in parts if found}


def _releases(directory: str) -> list[str]:
    if not os.path.isdir(directory):
        return []
    return [os.path.join(directory, name) for name in os.listdir(directory) if name.endswith("Release")]


def _date(path: str) -> int:
    """When a Release file says that it was made: ``Sat, 17 May 2025 09:15:54 UTC``."""
    text = _pairs(path, ":").get("Date", "").rpartition(" ")[0]
    try:
        return calendar.timegm(time.strptime(text, "%a, %d %b %Y %H:%M:%S"))
    except ValueError:
        return 0


def _clean(tree: str) -> None:
    for name in _EMPTIED:
        path = os.path.join(tree, name)
        if os.path.lexists(path):
            os.unlink(path)
            with open(path, "wb"):
                pass
    for name in _REMOVED:
        if os.path.lexists(os.path.join(tree, name)):
            os.unlink(os.path.join(tree, name))
    for name in _CLEARED:
        directory = os.path.join(tree, name)
        for entry in os.scandir(directory) if os.path.isdir(directory) and not os.path.islink(directory) else ():
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path)
            else:
                os.unlink(entry.path)
