"""skopeo as client of our registry: push, list, copy within, pull back, delete."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry_peers import barque_registry

pytestmark = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")


def skopeo(*arguments: str) -> str:
    command = ["skopeo", "--insecure-policy", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with barque_registry(tmp_path_factory.mktemp("registry")) as found:
        yield found


def make_layout(root: Path) -> None:
    """An OCI image layout with one image of two layers."""
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes, media_type: str) -> dict[str, object]:
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": "sha256:" + name, "size": len(data)}

    layers = [os.urandom(3_000_000), b"\0" * 1024]
    config = {"architecture": "amd64", "os": "linux", "config": {"Labels": {"who": "me"}},
              "rootfs": {"type": "layers",
                         "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers]}}
    kind = "application/vnd.oci.image."
    manifest = {"schemaVersion": 2, "mediaType": kind + "manifest.v1+json",
                "config": add(json.dumps(config).encode(), kind + "config.v1+json"),
                "layers": [add(layer, kind + "layer.v1.tar") for layer in layers]}
    entry = add(json.dumps(manifest).encode(), kind + "manifest.v1+json")
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    entry["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def test_round_trip(address: str, tmp_path: Path) -> None:
    make_layout(tmp_path / "in")
    plain = ("--src-tls-verify=false", "--dest-tls-verify=false", "--preserve-digests")
    skopeo("copy", *plain, f"oci:{tmp_path}/in:v1", f"docker://{address}/some/app:v1")
    skopeo("copy", *plain, f"docker://{address}/some/app:v1", f"docker://{address}/other/app:v2")
    skopeo("copy", *plain, f"docker://{address}/other/app:v2", f"oci:{tmp_path}/out:v1")

    def blobs(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name / "blobs/sha256").iterdir()}

    assert blobs("out") == blobs("in")
    found = json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{address}/other/app:v2"))
    assert found["Labels"] == {"who": "me"}
    assert found["RepoTags"] == ["v2"]


def test_delete(address: str, tmp_path: Path) -> None:
    make_layout(tmp_path / "in")
    skopeo("copy", "--dest-tls-verify=false", f"oci:{tmp_path}/in:v1", f"docker://{address}/gone:v1")
    skopeo("delete", "--tls-verify=false", f"docker://{address}/gone:v1")
    assert json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{address}/gone"))["Tags"] == []
