"""A directory as an image archive, the same bytes for the same files: names sorted, no time after a given one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOCK = 1 << 20


def image_archive(tree: str, scratch: str, name: str, epoch: int, architecture: str, made_by: str) -> str:
    """Write what ``docker load`` takes, with one layer of all that is in ``tree``; returns its path in ``scratch``.

    ``architecture`` is Debian's name, "" for this machine's. Raises OSError.
    """
    from barque.oci.platform import Platform, host, normalize

    layer = os.path.join(scratch, "layer.tar.gz")
    diff_id = _layer(tree, layer, epoch)
    own = host()
    platform = normalize(Platform(os="linux", architecture=architecture)) if architecture else own
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    config = json.dumps({
        "created": created, "architecture": platform.architecture, "os": "linux",
        **({"variant": platform.variant} if platform.variant else {}),
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                   "Cmd": ["bash" if os.path.lexists(os.path.join(tree, "bin/bash")) else "sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": made_by}]}).encode()
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar.gz"]}]).encode()
    path = os.path.join(scratch, "image.tar")
    with tarfile.open(path, "w") as archive:
        for member, data in (("config.json", config), ("manifest.json", manifest)):
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        archive.add(layer, "layer.tar.gz")
    return path


class _Hashed:
    """Passes on what is written, and hashes it."""

    def __init__(self, out: gzip.GzipFile) -> None:
        self._out = out
        self.state = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.state.update(data)
        return self._out.write(data)


def _layer(tree: str, path: str, epoch: int) -> str:
    """Pack the tree; returns the digest of the plain archive."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as packed:
        hashed = _Hashed(packed)
        with tarfile.open(fileobj=hashed, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_BLOCK) as archive:  # type: ignore[call-overload]
            for name in _names(tree):
                entry = archive.gettarinfo(os.path.join(tree, name), name)
                entry.mtime = min(int(entry.mtime), epoch)
                entry.uname = entry.gname = ""
                if entry.isreg():
                    entry.pax_headers = _capabilities(os.path.join(tree, name))
                    with open(os.path.join(tree, name), "rb") as file:
                        archive.addfile(entry, file)
                else:
                    archive.addfile(entry)
    return f"sha256:{hashed.state.hexdigest()}"


def _capabilities(path: str) -> dict[str, str]:
    """What a program may do without root (capabilities(7)), as a header of the archive."""
    try:
        value = os.getxattr(path, "security.capability")
    except OSError:
        return {}
    return {"SCHILY.xattr.security.capability": value.decode("utf-8", "surrogateescape")}


def _names(tree: str) -> Iterator[str]:
    for folder, directories, files in os.walk(tree):
        directories.sort()
        prefix = os.path.relpath(folder, tree)
        if prefix != ".":
            yield prefix
        links = [name for name in directories if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*files, *links]):
            yield os.path.normpath(os.path.join(prefix, name))
