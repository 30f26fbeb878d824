"""Several platforms under one name, attestations and artifacts: pulled, listed, copied, pushed and removed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from barque.engine.image_removal import ImageUser
from barque.oci.reference import parse
from tests.api.image_site import Site, image_site
from tests.image_world import CONFIG, INDEX, MANIFEST, SmallImage, digest, make_image
from tests.registry_peers import barque_registry

AMD = make_image({"a": b"x" * 1000}, {"amd": b"1"})
ARM = make_image({"a": b"x" * 1000}, {"arm": b"22"}, architecture="arm64")
RISC = make_image({"risc": b"333"}, architecture="riscv64")
SBOM = json.dumps({"predicateType": "https://spdx.dev/Document", "predicate": {"packages": []}}).encode()
LATEST = "1.55"


def platform(architecture: str) -> str:
    return json.dumps({"os": "linux", "architecture": architecture})


def attestation() -> SmallImage:
    """As BuildKit makes them: an image by its types, whose layer is a statement."""
    config = b'{"architecture":"unknown","os":"unknown","rootfs":{"type":"layers","diff_ids":["' + \
        digest(SBOM).encode() + b'"]}}'
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST,
                "config": {"mediaType": CONFIG, "digest": digest(config), "size": len(config)},
                "layers": [{"mediaType": "application/vnd.in-toto+json", "digest": digest(SBOM), "size": len(SBOM),
                            "annotations": {"in-toto.io/predicate-type": "https://spdx.dev/Document"}}]}
    return SmallImage(json.dumps(manifest).encode(), config, [SBOM])


NOTE = attestation()


def index_of(*images: SmallImage, attested: bool = False) -> bytes:
    entries: list[dict[str, Any]] = [
        {"mediaType": MANIFEST, "digest": digest(image.manifest), "size": len(image.manifest),
         "platform": {"os": "linux", "architecture": json.loads(image.config)["architecture"]}} for image in images]
    if attested:
        entries.append({
            "mediaType": MANIFEST, "digest": digest(NOTE.manifest), "size": len(NOTE.manifest),
            "platform": {"os": "unknown", "architecture": "unknown"},
            "annotations": {"vnd.docker.reference.type": "attestation-manifest",
                            "vnd.docker.reference.digest": digest(images[0].manifest)}})
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with image_site(tmp_path / "engine") as found:
        publish(found, "many", "1", index_of(AMD, ARM, attested=True), AMD, ARM, NOTE)
        yield found


def publish(site: Site, name: str, tag: str, index: bytes, *images: SmallImage) -> None:
    for image in images:
        site.registry.add(name, "unused", image)
    for selector in (tag, digest(index)):
        site.registry.manifests[f"{name}:{selector}"] = (INDEX, index)


async def pull(site: Site, name: str, tag: str, architecture: str = "amd64") -> list[dict[str, Any]]:
    status, lines = await site.ask("POST", "/images/create", LATEST, params={
        "fromImage": site.name(name), "tag": tag, "platform": f"linux/{architecture}"})
    assert status == 200 and "error" not in lines[-1], lines
    return lines  # type: ignore[no-any-return]


async def ids(site: Site, **query: str) -> list[str]:
    _, found = await site.ask("GET", "/images/json", LATEST, params=query)
    return [image["Id"] for image in found]


async def inspect(site: Site, text: str, architecture: str = "") -> tuple[int, Any]:
    return await site.ask("GET", f"/images/{text}/json", LATEST,
                          params={"platform": platform(architecture)} if architecture else {})


async def test_two_platforms_under_one_name(site: Site) -> None:
    await pull(site, "many", "1", "arm64")
    assert (await inspect(site, site.name("many:1")))[1]["Id"] == ARM.id, "what is here is meant"
    await pull(site, "many", "1")
    assert await ids(site) == [AMD.id], "this machine's platform stands for the name"
    for architecture, image in (("", AMD), ("amd64", AMD), ("arm64", ARM)):
        status, found = await inspect(site, site.name("many:1"), architecture)
        assert (status, found["Id"]) == (200, image.id)
        assert found["RepoTags"] == [site.name("many:1")]
    assert (await inspect(site, ARM.id[7:19]))[1]["Architecture"] == "arm64"
    status, body = await inspect(site, site.name("many:1"), "riscv64")
    assert status == 404 and body["message"].startswith(f"image with reference {site.name('many:1')} was found but")
    assert (await pull(site, "many", "1", "arm64"))[-1]["status"].startswith("Status: Image is up to date")
    _, history = await site.ask("GET", f"/images/{site.name('many:1')}/history", LATEST,
                                params={"platform": platform("arm64")})
    assert history[0]["Id"] == ARM.id


async def test_all_platforms_are_listed_with_their_containers(site: Site) -> None:
    await pull(site, "many", "1")
    await pull(site, "many", "1", "arm64")
    site.users[ARM.id] = [ImageUser("c" * 64, True)]
    _, [found] = await site.ask("GET", "/images/json", LATEST, params={"manifests": "1"})
    amd, arm, note = found["Manifests"]
    assert found["Containers"] == 1
    assert [amd["Kind"], arm["Kind"], note["Kind"]] == ["image", "image", "attestation"]
    assert [amd["Available"], arm["Available"], note["Available"]] == [True, True, True]
    assert note["AttestationData"] == {"For": digest(AMD.manifest)}
    assert arm["ImageData"]["Containers"] == ["c" * 64] and amd["ImageData"]["Containers"] == []
    assert arm["ImageData"]["Size"]["Unpacked"] == 1002
    assert found["Size"] == amd["Size"]["Total"] + arm["Size"]["Total"], "what command lines put above the platforms"


async def test_attestations_are_told(site: Site) -> None:
    await pull(site, "many", "1")
    path = f"/images/{site.name('many:1')}/attestations"
    status, [found] = await site.ask("GET", path, LATEST, params={"statement": "1"})
    assert status == 200 and found["PredicateType"] == "https://spdx.dev/Document"
    assert found["Descriptor"]["digest"] == digest(SBOM) and found["Statement"] == json.loads(SBOM)
    _, [brief] = await site.ask("GET", path, LATEST, params={"type": "https://spdx.dev/Document"})
    assert "Statement" not in brief
    assert (await site.ask("GET", path, LATEST, params={"type": "https://slsa.dev/provenance/v1"}))[1] == []
    assert (await site.ask("GET", path, LATEST, params={"platform": platform("arm64")}))[0] == 404


async def test_an_attestation_that_is_lost_does_not_fail_the_pull(site: Site) -> None:
    del site.registry.blobs[digest(SBOM)]
    lines = await pull(site, "many", "1")
    assert any(line.get("status", "").startswith("WARNING: the attestation") for line in lines)
    assert (await site.ask("GET", f"/images/{site.name('many:1')}/attestations", LATEST))[1] == []


async def test_one_platform_is_removed(site: Site) -> None:
    await pull(site, "many", "1")
    await pull(site, "many", "1", "arm64")
    path = f"/images/{site.name('many:1')}"
    site.users[ARM.id] = [ImageUser("c" * 64, True)]
    status, body = await site.ask("DELETE", path, LATEST, params={"platforms": platform("arm64"), "force": "1"})
    assert status == 409 and "is being used by running container" in body["message"]
    site.users.clear()
    assert (await site.ask("DELETE", path, LATEST, params={"platforms": platform("riscv64")}))[0] == 404
    status, records = await site.ask("DELETE", path, LATEST, params={"platforms": platform("arm64")})
    assert status == 200 and records[0] == {"Untagged": f"{site.name('many:1')}@{digest(ARM.manifest)}"}
    assert records[1] == {"Deleted": ARM.id}
    assert await site.here.content.info(digest(ARM.layers[1])) is None
    assert (await inspect(site, site.name("many:1")))[1]["Id"] == AMD.id
    status, records = await site.ask("DELETE", path, LATEST, params={"platforms": platform("amd64")})
    assert records[0] == {"Untagged": site.name("many:1")} and {"Deleted": AMD.id} in records
    await site.here.assert_empty()


async def test_a_platform_that_another_name_keeps_is_told_to_be_untagged(site: Site) -> None:
    await pull(site, "many", "1")
    await pull(site, "many", "1", "arm64")
    await site.ask("POST", f"/images/{site.name('many:1')}/tag", params={"repo": "mine", "tag": "x"})
    status, records = await site.ask("DELETE", "/images/mine:x", LATEST, params={"platforms": platform("arm64")})
    assert status == 200 and records == [{"Untagged": f"mine:x@{digest(ARM.manifest)}"}]
    assert (await inspect(site, "mine:x", "arm64"))[0] == 404
    assert (await inspect(site, site.name("many:1"), "arm64"))[1]["Id"] == ARM.id


async def test_the_name_goes_with_all_platforms(site: Site) -> None:
    await pull(site, "many", "1")
    await pull(site, "many", "1", "arm64")
    await site.ask("POST", f"/images/{site.name('many:1')}/tag", params={"repo": "mine", "tag": "x"})
    assert (await inspect(site, "mine:x", "arm64"))[1]["Id"] == ARM.id
    await site.ask("DELETE", f"/images/{site.name('many:1')}")
    assert (await inspect(site, "mine:x", "arm64"))[1]["RepoTags"] == ["mine:x"]
    site.users[ARM.id] = [ImageUser("c" * 64, False)]
    status, body = await site.ask("DELETE", "/images/mine:x")
    assert status == 409 and "is using its referenced image" in body["message"]
    site.users.clear()
    _, records = await site.ask("DELETE", "/images/mine:x")
    assert {"Deleted": ARM.id} in records and {"Deleted": AMD.id} in records
    await site.here.assert_empty()


async def test_removal_by_id_leaves_the_other_platform(site: Site) -> None:
    await pull(site, "many", "1")
    await pull(site, "many", "1", "arm64")
    status, records = await site.ask("DELETE", f"/images/{AMD.id}")
    assert status == 200 and {"Deleted": AMD.id} in records
    assert (await inspect(site, site.name("many:1")))[1]["Id"] == ARM.id


async def test_a_moved_name_leaves_the_old_platforms_dangling(site: Site) -> None:
    await pull(site, "many", "1")
    await pull(site, "many", "1", "arm64")
    publish(site, "many", "1", index_of(RISC), RISC)
    await pull(site, "many", "1", "riscv64")
    assert (await inspect(site, site.name("many:1")))[1]["Id"] == RISC.id
    assert (await inspect(site, ARM.id))[1]["RepoTags"] == []
    assert (await inspect(site, site.name("many:1"), "arm64"))[0] == 404


async def test_archives_have_all_platforms_or_those_asked_for(site: Site, tmp_path: Path) -> None:
    await pull(site, "many", "1")
    await pull(site, "many", "1", "arm64")

    async def saved(*architectures: str) -> bytes:
        query = [("names", site.name("many:1")), *(("platform", platform(each)) for each in architectures)]
        async with site.session.get(f"/v{LATEST}/images/get", params=query) as answer:
            assert answer.status == 200
            return await answer.read()

    whole, one = await saved(), await saved("arm64")
    async with image_site(tmp_path / "other") as other:
        _, lines = await other.ask("POST", "/images/load", LATEST, data=whole)
        assert [line["stream"] for line in lines if line.get("stream")] == [
            f"Loaded image: {site.name('many:1')}\n"]
        assert (await inspect(other, site.name("many:1")))[1]["Id"] == AMD.id
        assert (await inspect(other, site.name("many:1"), "arm64"))[1]["Id"] == ARM.id
        assert len((await other.ask("GET", f"/images/{site.name('many:1')}/attestations", LATEST))[1]) == 1
        await other.ask("DELETE", f"/images/{site.name('many:1')}")
        await other.here.assert_empty()
        await other.ask("POST", "/images/load", LATEST, data=one)
        assert (await inspect(other, site.name("many:1")))[1]["Id"] == ARM.id
        assert (await inspect(other, site.name("many:1"), "amd64"))[0] == 404
    async with image_site(tmp_path / "third") as third:
        await third.ask("POST", "/images/load", LATEST, data=whole, params={"platform": platform("arm64")})
        assert (await inspect(third, site.name("many:1")))[1]["Id"] == ARM.id
        assert await third.here.content.info(digest(AMD.layers[1])) is None


async def push(site: Site, address: str, **query: str) -> list[dict[str, Any]]:
    await site.ask("POST", f"/images/{site.name('many:1')}/tag", params={"repo": f"{address}/copy", "tag": "1"})
    _, lines = await site.ask("POST", f"/images/{address}/copy/push", LATEST, params={"tag": "1", **query})
    return lines  # type: ignore[no-any-return]


async def test_push_of_the_whole_index_and_of_one_platform(site: Site, tmp_path: Path) -> None:
    index = index_of(AMD, ARM, attested=True)
    with barque_registry(tmp_path / "registry") as address:
        await pull(site, "many", "1")
        aux = [line["aux"] for line in await push(site, address) if "aux" in line]
        assert aux[0]["Digest"] == digest(AMD.manifest), "the index is not whole here"
        assert aux[1]["manifestPushedInsteadOfIndex"] and aux[1]["originalIndex"]["digest"] == digest(index)
        assert aux[1]["selectedManifest"]["digest"] == digest(AMD.manifest)
        await pull(site, "many", "1", "arm64")
        [aux] = [line["aux"] for line in await push(site, address) if "aux" in line]
        assert aux["Digest"] == digest(index)
        for image in (AMD, ARM, NOTE):
            got = await site.here.puller.describe(parse(f"{address}/copy@{digest(image.manifest)}"), None)
            assert got[0].digest == digest(image.manifest)
        [aux] = [line["aux"] for line in await push(site, address, platform=platform("arm64")) if "aux" in line]
        assert aux["Digest"] == digest(ARM.manifest)
        lines = await push(site, address, platform=platform("riscv64"))
        assert "does not match the specified platform" in lines[-1]["error"]


async def test_an_artifact_is_kept_but_never_run(site: Site, tmp_path: Path) -> None:
    chart = b"a chart"
    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/vnd.example.chart",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(b"{}"), "size": 2},
        "layers": [{"mediaType": "application/vnd.example.chart+tar", "digest": digest(chart), "size": len(chart)}],
    }).encode()
    site.registry.add("chart", "1", SmallImage(manifest, b"{}", [chart]))
    await pull(site, "chart", "1")
    assert await ids(site) == [digest(manifest)]
    status, found = await inspect(site, site.name("chart:1"))
    assert (status, found["Size"], found["RepoTags"]) == (200, len(chart), [site.name("chart:1")])
    with pytest.raises(Exception, match=r"is an artifact \(application/vnd.example.chart\), not an image"):
        await site.here.images.resolve(site.name("chart:1"))
    async with site.session.get(f"/v{LATEST}/images/get", params={"names": site.name("chart:1")}) as answer:
        archive = await answer.read()
    async with image_site(tmp_path / "other") as other:
        await other.ask("POST", "/images/load", LATEST, data=archive)
        assert (await inspect(other, site.name("chart:1")))[1]["Id"] == digest(manifest)
    assert await ids(site, **{"shared-size": "1"}) == [digest(manifest)]
    assert (await site.ask("GET", f"/images/{site.name('chart:1')}/history", LATEST)) == (200, [])
    status, report = await site.ask("POST", "/images/prune", LATEST, params={"filters": '{"dangling": ["false"]}'})
    assert status == 200 and {"Deleted": digest(manifest)} in report["ImagesDeleted"]
    await site.here.assert_empty()
