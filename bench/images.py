"""Images for the comparison, made from files of this machine and pushed with skopeo, a client that is neither's own."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "true", "sleep", "httpd", "cat", "ls", "echo", "dd", "wget", "yes", "head")


def _tar(members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for info, data in members:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _entry(name: str, data: bytes = b"", *, mode: int = 0o644, kind: bytes = tarfile.REGTYPE, link: str = "") \
        -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname = mode, kind, link
    return info, data


def busybox_layer() -> bytes:
    """A root file system of one static program, with a page for its web server."""
    entries = [_entry(f"{name}/", mode=0o755, kind=tarfile.DIRTYPE) for name in ("bin", "etc", "tmp", "www")]
    entries.append(_entry("bin/busybox", Path(BUSYBOX).read_bytes(), mode=0o755))
    entries += [_entry(f"bin/{name}", kind=tarfile.SYMTYPE, link="busybox") for name in APPLETS]
    entries.append(_entry("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n"))
    entries.append(_entry("etc/group", b"root:x:0:\n"))
    entries.append(_entry("www/index.html", b"hello\n"))
    return _tar(entries)


def _files(roots: Iterable[str]) -> Iterator[str]:
    for root in roots:
        for folder, directories, names in os.walk(root):
            directories.sort()
            yield from (os.path.join(folder, name) for name in sorted(names))


def host_layer(roots: Iterable[str], size: int) -> bytes:
    """A layer of about ``size`` bytes of real files from this machine."""
    entries, total = [], 0
    for path in _files(roots):
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        data = Path(path).read_bytes()
        entries.append(_entry(path.lstrip("/"), data))
        total += len(data)
        if total >= size:
            break
    return _tar(entries)


def small_files_layer(count: int) -> bytes:
    return _tar(_entry(f"small/{n % 500}/{n}", f"file {n}\n".encode() * 20) for n in range(count))


def push(registry: str, name: str, layers: list[bytes], scratch: Path) -> str:
    """Write an OCI layout of ``layers`` (plain tars, bottom first) and push it; returns the reference."""
    layout = scratch / name
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(data: bytes, media_type: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": f"sha256:{digest}", "size": len(data)}

    config = {"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
              "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar).hexdigest() for tar in layers]}}
    manifest = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "config": blob(json.dumps(config).encode(), "config.v1+json"),
                "layers": [blob(gzip.compress(tar, 6, mtime=0), "layer.v1.tar+gzip") for tar in layers]}
    entry = blob(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    reference = f"{registry}/{name}:latest"
    subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:latest",
                    f"docker://{reference}"], check=True)
    return reference
