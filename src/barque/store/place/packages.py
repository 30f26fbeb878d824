"""Which packages a file system has: what dpkg, apk, rpm and Python say in their databases, read in a confined process.

The databases are a stranger's: they are parsed where nothing but the image can be seen, and only regular files of a
sane size are read.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import struct
from collections.abc import Iterator

from barque.store.place.messages import Package, PackagesRequest, PackagesResult
from barque.store.place.sqlite_table import MAGIC, Damaged, rows
from barque.store.place.trees import empty_root, enter
from barque.store.tar.messages import WorkerError, decode, encode
from barque.store.tree import walk
from barque.sys.beneath import open_in_root

_MAX_FILE = 256 << 20
_MAX_METADATA = 4 << 20
_MAX_PACKAGES = 100_000
_PYTHON = re.compile(rb"[^/]+\.(?:dist-info/METADATA|egg-info/PKG-INFO)\Z")
_NODE = re.compile(rb"(?:^|/)node_modules/(?:@[^/]+/)?[^/]+/package\.json\Z")
_RPM_DATABASES = (b"var/lib/rpm/rpmdb.sqlite", b"usr/lib/sysimage/rpm/rpmdb.sqlite")
#: Tags of an rpm header (rpmtag.h) and the type of a number.
_RPM_TAGS = {1000: "name", 1001: "version", 1002: "release", 1003: "epoch", 1014: "license", 1022: "arch"}
_RPM_INT32 = 4


def run_packages(request: bytes, fds: list[int]) -> bytes:
    """The worker. Answers an encoded :class:`PackagesResult`."""
    order = decode(request, PackagesRequest)
    try:
        _, [root] = enter(empty_root, [order.source], fds)
        found = sorted(set(_all(root)), key=lambda package: (package.kind, package.name, package.version))
    except OSError as error:
        return encode(PackagesResult(error=WorkerError("system", os.strerror(error.errno or errno.EIO), "packages",
                                                       error.errno or 0)))
    return encode(PackagesResult(found[:_MAX_PACKAGES]))


def _all(root: int) -> Iterator[Package]:
    release = _release(root)
    for path in (b"var/lib/dpkg/status", *_listed(root, b"var/lib/dpkg/status.d")):
        yield from dpkg(_read(root, path, _MAX_FILE), release)
    yield from apk(_read(root, b"lib/apk/db/installed", _MAX_FILE), release)
    for path in _RPM_DATABASES:
        yield from rpm(_read(root, path, _MAX_FILE), release)
    for _, parts, _, others in walk(root):
        for name in others:
            path = b"/".join((*parts[-1:], name))
            if _PYTHON.search(path):
                yield from python(_read(root, b"/".join((*parts, name)), _MAX_METADATA))
            elif name == b"package.json" and _NODE.search(b"/".join((*parts, name))):
                yield from node(_read(root, b"/".join((*parts, name)), _MAX_METADATA))


def _listed(root: int, path: bytes) -> list[bytes]:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return []
    try:
        return [path + b"/" + os.fsencode(name) for name in sorted(os.listdir(fd)) if not name.endswith(".md5sums")]
    finally:
        os.close(fd)


def _read(root: int, path: bytes, limit: int) -> bytes:
    """b"" where there is no such file."""
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return b""
    with open(fd, "rb") as file:
        info = os.fstat(fd)
        return file.read(limit) if stat.S_ISREG(info.st_mode) and info.st_size <= limit else b""


def _release(root: int) -> str:
    """The name of the distribution, as package URLs have it."""
    text = _read(root, b"etc/os-release", 1 << 16) or _read(root, b"usr/lib/os-release", 1 << 16)
    match = re.search(rb'^ID="?([a-z0-9._-]+)"?$', text, re.MULTILINE)
    return match[1].decode() if match else ""


def _paragraphs(data: bytes) -> Iterator[dict[str, str]]:
    """Blocks of ``Key: value`` lines; lines that begin with a blank go on with the one before and are left out."""
    for block in data.decode("utf-8", "replace").split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line[0].isspace()]
        yield {key.strip().lower(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def dpkg(data: bytes, release: str) -> Iterator[Package]:
    """Debian's status file: what is installed."""
    for fields in _paragraphs(data):
        if fields.get("package") and "installed" in fields.get("status", "install ok installed").split()[-1:]:
            yield Package("deb", fields["package"], fields.get("version", ""), fields.get("architecture", ""),
                          release or "debian", source=fields.get("source", "").partition(" ")[0])


def apk(data: bytes, release: str) -> Iterator[Package]:
    """Alpine's database: lines of one letter and a value, packages apart by an empty line."""
    for block in data.decode("utf-8", "replace").split("\n\n"):
        fields = {line[0]: line[2:] for line in block.splitlines() if line[1:2] == ":"}
        if fields.get("P"):
            yield Package("apk", fields["P"], fields.get("V", ""), fields.get("A", ""), release or "alpine",
                          fields.get("L", ""), fields.get("o", ""))


def rpm(data: bytes, release: str) -> Iterator[Package]:
    """rpm's database in SQLite: a header for each package."""
    if not data.startswith(MAGIC):
        return
    try:
        for row in rows(data, "Packages"):
            fields = _rpm_header(row[1]) if len(row) > 1 and isinstance(row[1], bytes) else {}
            if fields.get("name") and fields["name"] != "gpg-pubkey":
                epoch = f"{fields['epoch']}:" if fields.get("epoch") else ""
                version = f"{epoch}{fields.get('version', '')}-{fields.get('release', '')}"
                yield Package("rpm", fields["name"], version, fields.get("arch", ""), release or "rpm",
                              fields.get("license", ""))
    except Damaged:
        return


def _rpm_header(header: bytes) -> dict[str, str]:
    """The tags that count; {} for a damaged header."""
    try:
        count, size = struct.unpack_from(">II", header)
        store = header[8 + 16 * count:8 + 16 * count + size]
        found = {}
        for number in range(count):
            tag, kind, offset, _ = struct.unpack_from(">IIII", header, 8 + 16 * number)
            if tag in _RPM_TAGS:
                if kind == _RPM_INT32:
                    found[_RPM_TAGS[tag]] = str(struct.unpack_from(">I", store, offset)[0])
                else:
                    found[_RPM_TAGS[tag]] = store[offset:store.index(b"\0", offset)].decode("utf-8", "replace")
        return found
    except (struct.error, ValueError):
        return {}


def python(data: bytes) -> Iterator[Package]:
    """The head of a METADATA or PKG-INFO file."""
    fields = next(_paragraphs(data), {})
    if fields.get("name"):
        name = re.sub(r"[-_.]+", "-", fields["name"]).lower()
        yield Package("pypi", name, fields.get("version", ""),
                      license=fields.get("license-expression", "") or fields.get("license", ""))


def node(data: bytes) -> Iterator[Package]:
    """A package.json of an installed module."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(document, dict) and isinstance(document.get("name"), str):
        license_ = document.get("license")
        yield Package("npm", document["name"], str(document.get("version", "")),
                      license=license_ if isinstance(license_, str) else "")
