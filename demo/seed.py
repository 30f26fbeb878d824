"""Make an image of Apache httpd from the distribution's packages and push it: ``python -m demo.seed REGISTRY CACHE``.

Three layers: the base system, Apache, the site. A second image, ``httpd-notes``, shares the first two. What was made is
kept in CACHE, so that this takes no time when it is called again. Wants a mount namespace of its own (unshare -m).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from isal import igzip_threaded

from barque.image.client.hosts import HostConfig
from barque.image.client.transport import Transport
from barque.image.push import push_image
from barque.oci import media_types as mt
from barque.oci import platform, reference
from barque.store.tar.diff import write_diff

HERE = Path(__file__).parent
DOCUMENT_ROOT = "var/www/html"
#: What containers do without: it would be half of the base layer.
LEFT_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
CONFIG = {
    "Cmd": ["httpd-foreground"],
    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
    "ExposedPorts": {"80/tcp": {}},
    "WorkingDir": "/" + DOCUMENT_ROOT,
    "StopSignal": "SIGWINCH",
}


def _release() -> dict[str, str]:
    pairs = (line.partition("=") for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return {key: value.strip('"') for key, _, value in pairs}


def _sources() -> list[str]:
    """The distribution's own package sources of this machine; third parties' are left out."""
    name = _release()["ID"]
    candidates = [Path(f"/etc/apt/sources.list.d/{name}.sources"), Path("/etc/apt/sources.list")]
    return [str(path) for path in candidates if path.exists() and path.stat().st_size][:1]


def _make_base(target: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--format=directory", "--skip=check/empty",
               "--components=main" + (",universe" if _release()["ID"] == "ubuntu" else "")]
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT]
    command.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    subprocess.run([*command, _release()["VERSION_CODENAME"], str(target), *_sources()], check=True)
    shutil.rmtree(target / "dev")
    (target / "dev").mkdir(mode=0o755)


@contextlib.contextmanager
def _overlay(lower: Path, work: Path) -> Iterator[tuple[Path, Path]]:
    """(merged, upper): changes made in ``merged`` appear in ``upper`` as a layer over ``lower``."""
    merged, upper, inner = (work / name for name in ("merged", "upper", "work"))
    for folder in (merged, upper, inner):
        folder.mkdir(parents=True)
    options = f"lowerdir={lower},upperdir={upper},workdir={inner},redirect_dir=off,metacopy=off,index=off"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
    subprocess.run(["mount", "-t", "proc", "proc", str(merged / "proc")], check=True)
    subprocess.run(["mount", "--bind", "/dev", str(merged / "dev")], check=True)
    try:
        yield merged, upper
    finally:
        subprocess.run(["umount", "-R", str(merged)], check=True)


def _install_apache(root: Path) -> None:
    policy, resolver = root / "usr/sbin/policy-rc.d", root / "etc/resolv.conf"
    proxy = root / "etc/apt/apt.conf.d/00proxy"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    before = resolver.read_bytes() if resolver.exists() else None
    shutil.copyfile("/etc/resolv.conf", resolver)
    settings = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=True).stdout
    proxy.write_text("".join(line + "\n" for line in settings.splitlines()
                             if line.startswith("Acquire::") and "::Proxy" in line))
    script = ("export DEBIAN_FRONTEND=noninteractive; apt-get update -qq; "
              "apt-get install -y -qq --no-install-recommends apache2 >/dev/null; apt-get clean; "
              "rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /var/cache/debconf/*-old; "
              "ln -sf /dev/stdout /var/log/apache2/access.log; ln -sf /dev/stderr /var/log/apache2/error.log; "
              "ln -sf /dev/stdout /var/log/apache2/other_vhosts_access.log; "
              "echo 'ServerName localhost' > /etc/apache2/conf-enabled/servername.conf")
    done = subprocess.run(["chroot", str(root), "sh", "-ec", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"installing apache2 into the image failed:\n{done.stdout}")
    start = root / "usr/local/bin/httpd-foreground"
    shutil.copyfile(HERE / "httpd-foreground", start)
    start.chmod(0o755)
    policy.unlink()
    proxy.unlink()
    if before is None:
        resolver.unlink()
    else:
        resolver.write_bytes(before)


class Layer:
    """A layer in the cache: the compressed file ``CACHE/name.tar.gz`` and what a manifest says of it."""

    def __init__(self, cache: Path, name: str) -> None:
        self.path = cache / f"{name}.tar.gz"
        self.facts = cache / f"{name}.json"

    @property
    def exists(self) -> bool:
        return self.facts.exists()

    def write(self, tree: Path) -> None:
        plain, packed = hashlib.sha256(), hashlib.sha256()
        with igzip_threaded.open(self.path, "wb", compresslevel=2, threads=1) as out:
            def put(block: bytes) -> None:
                plain.update(block)
                out.write(block)

            handle = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
            try:
                write_diff(handle, put)
            finally:
                os.close(handle)
        with self.path.open("rb") as file:
            while block := file.read(1 << 20):
                packed.update(block)
        self.facts.write_text(json.dumps({"diff_id": f"sha256:{plain.hexdigest()}",
                                          "digest": f"sha256:{packed.hexdigest()}", "size": self.path.stat().st_size}))

    @property
    def known(self) -> dict[str, Any]:
        return dict(json.loads(self.facts.read_text()))


def _system_layers(cache: Path) -> list[Layer]:
    base, apache = Layer(cache, "base"), Layer(cache, "apache")
    if base.exists and apache.exists:
        return [base, apache]
    work = cache / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    print("# making the base system from packages (once; about half a minute)", flush=True)
    _make_base(work / "base")
    base.write(work / "base")
    print("# installing Apache httpd on top of it", flush=True)
    with _overlay(work / "base", work / "apache") as (merged, upper):
        _install_apache(merged)
        apache.write(upper)
    shutil.rmtree(work)
    return [base, apache]


def _site_layer(cache: Path, name: str) -> Layer:
    layer = Layer(cache, name)
    work = cache / f"{name}-tree"
    page = work / DOCUMENT_ROOT / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(HERE / name / "index.html", page)
    layer.write(work)
    shutil.rmtree(work)
    return layer


def _manifest(layers: list[Layer], title: str) -> tuple[bytes, bytes]:
    """(configuration, manifest) of the image that the layers make."""
    host = platform.host()
    now = datetime.fromtimestamp(layers[0].facts.stat().st_mtime, UTC).isoformat().replace("+00:00", "Z")
    steps = ("base system: mmdebstrap --variant=minbase", "apache2: apt-get install", "COPY site /" + DOCUMENT_ROOT)
    config = json.dumps({
        "created": now, "architecture": host.architecture, "os": "linux",
        "config": CONFIG | {"Labels": {"org.opencontainers.image.title": title,
                                       "org.opencontainers.image.base.name": _release()["PRETTY_NAME"]}},
        "rootfs": {"type": "layers", "diff_ids": [layer.known["diff_id"] for layer in layers]},
        "history": [{"created": now, "created_by": step} for step in steps],
    }).encode()

    def describe(media_type: str, digest: str, size: int) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": digest, "size": size}

    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": mt.OCI_MANIFEST,
        "config": describe(mt.OCI_CONFIG, f"sha256:{hashlib.sha256(config).hexdigest()}", len(config)),
        "layers": [describe(mt.OCI_LAYER_GZIP, layer.known["digest"], layer.known["size"]) for layer in layers],
    }).encode()
    return config, manifest


async def _push(registry: str, cache: Path, name: str, layers: list[Layer]) -> None:
    config, manifest = _manifest(layers, name)
    config_path = cache / f"{name}-config.json"
    config_path.write_bytes(config)
    blobs = {layer.known["digest"]: str(layer.path) for layer in layers}
    blobs[f"sha256:{hashlib.sha256(config).hexdigest()}"] = str(config_path)
    transport = Transport(HostConfig())
    try:
        ref = reference.parse(f"{registry}/library/{name}:latest")
        digest = await push_image(transport, ref, mt.OCI_MANIFEST, manifest, blobs)
    finally:
        await transport.close()
    print(f"# pushed library/{name}:latest to {registry} ({digest[:19]})", flush=True)


def _in_registry(registry: str, name: str) -> bool:
    request = urllib.request.Request(f"http://{registry}/v2/library/{name}/manifests/latest", method="HEAD",
                                     headers={"Accept": mt.OCI_MANIFEST})
    try:
        with urllib.request.urlopen(request, timeout=10):
            return True
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise


async def seed(registry: str, cache: Path) -> None:
    """Put ``library/httpd`` and ``library/httpd-notes`` into the registry at ``registry`` unless they are there."""
    cache.mkdir(parents=True, exist_ok=True)
    for name, site in (("httpd", "site"), ("httpd-notes", "notes")):
        if not _in_registry(registry, name):
            await _push(registry, cache, name, [*_system_layers(cache), _site_layer(cache, site)])


if __name__ == "__main__":
    asyncio.run(seed(sys.argv[1], Path(sys.argv[2])))
