"""The distribution protocol, the same requests to our registry and to docker's."""

from __future__ import annotations

import hashlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.registry_peers import barque_registry, docker_registry, has_docker_registry

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PEERS = {"barque": barque_registry, "docker-registry": docker_registry}


class Client:
    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, method: str, path: str, body: bytes | None = None,
            **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path.split(self.address)[-1], body, names)
            response = connection.getresponse()
            return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def push_blob(self, name: str, data: bytes) -> str:
        location = self.ask("POST", f"/v2/{name}/blobs/uploads/")[1]["location"]
        status, headers, _ = self.ask("PUT", with_digest(location, data), data)
        assert status == 201
        assert headers["docker-content-digest"] == digest(data)
        return digest(data)

    def push_image(self, name: str, reference: str, layer: bytes = b"layer") -> bytes:
        config = b"{}"
        self.push_blob(name, config)
        self.push_blob(name, layer)
        body = manifest(config, layer)
        status, headers, _ = self.ask("PUT", f"/v2/{name}/manifests/{reference}", body, Content_Type=MANIFEST)
        assert status == 201
        assert headers["docker-content-digest"] == digest(body)
        return body


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def with_digest(location: str, data: bytes) -> str:
    return f"{location}{'&' if '?' in location else '?'}digest={digest(data)}"


def manifest(config: bytes, layer: bytes) -> bytes:
    return json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(config),
                   "size": len(config)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest(layer),
                    "size": len(layer)}]}).encode()


def code(body: bytes) -> str:
    return str(json.loads(body)["errors"][0]["code"])


@pytest.fixture(scope="module", params=PEERS)
def registry(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    if request.param == "docker-registry" and not has_docker_registry():
        pytest.skip("docker-registry is not installed")
    root: Path = tmp_path_factory.mktemp("registry")
    with PEERS[request.param](root) as address:
        yield Client(address)


def test_version(registry: Client) -> None:
    status, headers, _ = registry.ask("GET", "/v2/")
    assert status == 200
    assert headers["docker-distribution-api-version"] == "registry/2.0"


def test_blob_comes_back_whole_in_part_and_as_head(registry: Client) -> None:
    data = bytes(range(256)) * 1000
    name = registry.push_blob("get/blob", data)
    path = f"/v2/get/blob/blobs/{name}"
    status, headers, body = registry.ask("GET", path)
    assert (status, body, headers["docker-content-digest"]) == (200, data, name)
    status, headers, body = registry.ask("HEAD", path)
    assert (status, body, headers["content-length"]) == (200, b"", str(len(data)))
    status, headers, body = registry.ask("GET", path, Range="bytes=1000-1999")
    assert (status, body) == (206, data[1000:2000])
    assert headers["content-range"] == f"bytes 1000-1999/{len(data)}"
    status, _, body = registry.ask("GET", path, Range="bytes=255999-")
    assert (status, body) == (206, data[-1:])


def test_small_blob(registry: Client) -> None:
    name = registry.push_blob("get/small", b"abc")
    assert registry.ask("GET", f"/v2/get/small/blobs/{name}")[2] == b"abc"
    status, headers, _ = registry.ask("HEAD", f"/v2/get/small/blobs/{name}")
    assert (status, headers["content-length"]) == (200, "3")


def test_blob_of_another_repository_is_unknown(registry: Client) -> None:
    name = registry.push_blob("owner", b"mine")
    status, _, body = registry.ask("GET", f"/v2/stranger/blobs/{name}")
    assert (status, code(body)) == (404, "BLOB_UNKNOWN")


def test_mount(registry: Client) -> None:
    name = registry.push_blob("mount/from", b"shared")
    status, headers, _ = registry.ask("POST", f"/v2/mount/to/blobs/uploads/?mount={name}&from=mount/from")
    assert (status, headers["docker-content-digest"]) == (201, name)
    assert registry.ask("GET", f"/v2/mount/to/blobs/{name}")[2] == b"shared"
    status, headers, _ = registry.ask("POST", f"/v2/mount/to/blobs/uploads/?mount={digest(b'no')}&from=mount/from")
    assert status == 202
    assert headers["location"]


def test_chunked_upload_knows_its_offset(registry: Client) -> None:
    status, headers, _ = registry.ask("POST", "/v2/chunks/blobs/uploads/")
    assert status == 202
    status, headers, _ = registry.ask("PATCH", headers["location"], b"0123456789", Content_Range="0-9")
    assert (status, headers["range"]) == (202, "0-9")
    status, headers, _ = registry.ask("GET", headers["location"])
    assert (status, headers["range"]) == (204, "0-9")
    status, headers, _ = registry.ask("PATCH", headers["location"], b"abc", Content_Range="10-12")
    assert (status, headers["range"]) == (202, "0-12")
    whole = b"0123456789abcdef"
    assert registry.ask("PUT", with_digest(headers["location"], whole), b"def")[0] == 201
    assert registry.ask("GET", f"/v2/chunks/blobs/{digest(whole)}")[2] == whole


def test_wrong_digest_leaves_nothing(registry: Client) -> None:
    location = registry.ask("POST", "/v2/wrong/blobs/uploads/")[1]["location"]
    status, _, body = registry.ask("PUT", with_digest(location, b"promised"), b"delivered")
    assert (status, code(body)) == (400, "DIGEST_INVALID")
    for data in (b"promised", b"delivered"):
        assert registry.ask("HEAD", f"/v2/wrong/blobs/{digest(data)}")[0] == 404


def test_cancelled_upload_is_gone(registry: Client) -> None:
    location = registry.ask("POST", "/v2/cancel/blobs/uploads/")[1]["location"]
    assert registry.ask("DELETE", location)[0] == 204
    status, _, body = registry.ask("GET", location)
    assert (status, code(body)) == (404, "BLOB_UPLOAD_UNKNOWN")


def test_deleted_blob_is_gone_from_its_repository_only(registry: Client) -> None:
    name = registry.push_blob("delete/one", b"twice")
    registry.push_blob("delete/two", b"twice")
    assert registry.ask("DELETE", f"/v2/delete/one/blobs/{name}")[0] == 202
    assert registry.ask("GET", f"/v2/delete/one/blobs/{name}")[0] == 404
    assert registry.ask("GET", f"/v2/delete/two/blobs/{name}")[2] == b"twice"
    assert registry.ask("DELETE", f"/v2/delete/one/blobs/{name}")[0] == 404


def test_manifest_by_tag_and_digest(registry: Client) -> None:
    body = registry.push_image("image", "v1")
    for reference in ("v1", digest(body)):
        status, headers, found = registry.ask("GET", f"/v2/image/manifests/{reference}", Accept=MANIFEST)
        assert (status, found, headers["content-type"]) == (200, body, MANIFEST)
        assert headers["docker-content-digest"] == digest(body)
        status, headers, found = registry.ask("HEAD", f"/v2/image/manifests/{reference}", Accept=MANIFEST)
        assert (status, found, headers["content-length"]) == (200, b"", str(len(body)))


def test_manifest_errors(registry: Client) -> None:
    body = registry.push_image("errors", "v1")
    status, _, answer = registry.ask("GET", "/v2/errors/manifests/v2", Accept=MANIFEST)
    assert (status, code(answer)) == (404, "MANIFEST_UNKNOWN")
    missing = manifest(b"{}", b"never pushed")
    status, _, answer = registry.ask("PUT", "/v2/errors/manifests/v2", missing, Content_Type=MANIFEST)
    assert (status in (400, 404), code(answer)) == (True, "MANIFEST_BLOB_UNKNOWN")
    status, _, answer = registry.ask("PUT", "/v2/errors/manifests/v2", b"{", Content_Type=MANIFEST)
    assert (status, code(answer)) == (400, "MANIFEST_INVALID")
    status, _, answer = registry.ask("PUT", f"/v2/errors/manifests/{digest(b'other')}", body, Content_Type=MANIFEST)
    assert (status, code(answer)) == (400, "DIGEST_INVALID")
    assert registry.ask("PUT", "/v2/errors/manifests/big", b" " * (5 << 20), Content_Type=MANIFEST)[0] in (400, 413)


def test_index_wants_its_manifests(registry: Client) -> None:
    body = registry.push_image("index", "one")
    kind = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": kind,
             "manifests": [{"mediaType": MANIFEST, "digest": digest(body), "size": len(body),
                            "platform": {"os": "linux", "architecture": "amd64"}}]}
    assert registry.ask("PUT", "/v2/index/manifests/all", json.dumps(index).encode(), Content_Type=kind)[0] == 201
    status, headers, _ = registry.ask("GET", "/v2/index/manifests/all", Accept=kind)
    assert (status, headers["content-type"]) == (200, kind)
    index["manifests"][0]["digest"] = digest(b"nowhere")  # type: ignore[index]
    status, _, answer = registry.ask("PUT", "/v2/index/manifests/all", json.dumps(index).encode(), Content_Type=kind)
    assert (status in (400, 404), code(answer)) == (True, "MANIFEST_BLOB_UNKNOWN")


def test_deleted_manifest_takes_its_tags(registry: Client) -> None:
    body = registry.push_image("untag", "a")
    registry.push_image("untag", "b")
    assert registry.ask("DELETE", f"/v2/untag/manifests/{digest(body)}")[0] == 202
    for reference in ("a", "b", digest(body)):
        assert registry.ask("GET", f"/v2/untag/manifests/{reference}", Accept=MANIFEST)[0] == 404


def test_tags_list(registry: Client) -> None:
    for tag in ("c", "a", "b"):
        registry.push_image("tags/list", tag)
    status, _, body = registry.ask("GET", "/v2/tags/list/tags/list")
    assert status == 200
    assert json.loads(body)["name"] == "tags/list"
    assert sorted(json.loads(body)["tags"]) == ["a", "b", "c"]
    status, _, body = registry.ask("GET", "/v2/no/such/tags/list")
    assert (status, code(body)) == (404, "NAME_UNKNOWN")


def test_catalog_pages(registry: Client) -> None:
    for name in ("zz1", "zz2", "zz3"):
        registry.push_image(name, "x")
    _, headers, body = registry.ask("GET", "/v2/_catalog?n=2&last=zz0")
    assert json.loads(body)["repositories"] == ["zz1", "zz2"]
    assert headers["link"].startswith("</v2/_catalog?last=zz2&n=2>")


@pytest.mark.parametrize("path", ["/v2/UPPER/tags/list", "/v2/a..b/tags/list", "/v2/../etc/tags/list"])
def test_bad_names_reach_nothing(registry: Client, path: str) -> None:
    assert registry.ask("GET", path)[0] in (301, 400, 404)
