"""The image routes over a real store and a registry on loopback, in the shapes of several API versions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from barque.engine.image_removal import ImageUser
from barque.image.client.auth import Credentials
from tests.api.image_site import Site, image_site
from tests.image_world import INDEX, digest, make_image, make_index, refusal, tar_of

BASE = {"a": b"x" * 1000}
OLD = make_image(BASE, created="2020-01-01T00:00:00Z", Labels={"kind": "old"}, Cmd=["true"])
NEW = make_image(BASE, {"b": b"y" * 500}, created="2024-01-01T00:00:00.5Z", Labels={"kind": "new", "x": "1"})


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with image_site(tmp_path) as found:
        for name, image in (("old", OLD), ("group/new", NEW)):
            found.registry.add(name, "latest", image)
        yield found


async def test_pull_streams_and_tells(site: Site) -> None:
    lines = await site.pull("group/new")
    assert lines[0] == {"status": "Pulling from group/new", "id": "latest"}
    assert {"status": "Pulling fs layer", "progressDetail": {}, "id": digest(NEW.layers[0])[7:19]} in lines
    assert lines[-1] == {"status": f"Status: Downloaded newer image for {site.name('group/new:latest')}"}
    assert site.events == [("pull", site.name("group/new:latest"), {"name": site.name("group/new")})]


async def test_pull_without_tag_takes_all_tags(site: Site) -> None:
    async def tags(request: web.Request) -> web.StreamResponse | None:
        return web.json_response({"tags": ["one", "two"]}) if request.path.endswith("/tags/list") else None

    site.registry.faults.append(tags)
    for tag in ("one", "two"):
        site.registry.add("many", tag, OLD)
    status, _ = await site.ask("POST", "/images/create", params={"fromImage": site.name("many")})
    assert status == 200
    assert (await site.here.images.resolve(OLD.id)).repo_tags == [site.name("many:one"), site.name("many:two")]


async def test_errors_before_and_within_the_stream(site: Site) -> None:
    status, body = await site.ask("POST", "/images/create", params={"fromImage": site.name("nothing"), "tag": "v1"})
    assert status == 404
    assert body["message"] == f"manifest for {site.name('nothing:v1')} not found: manifest unknown: manifest unknown"
    site.registry.blobs[digest(OLD.layers[0])] = bytes(len(OLD.layers[0]))
    status, lines = await site.ask("POST", "/images/create", params={"fromImage": site.name("old"), "tag": "latest"})
    assert status == 200
    text = f"filesystem layer verification failed for digest {digest(OLD.layers[0])}"
    assert lines[-1] == {"errorDetail": {"message": text}, "error": text}


@pytest.mark.parametrize(("params", "status", "text"), [
    ({"fromImage": "UPPER", "tag": "x"}, 400, "must be lowercase"),
    ({"fromImage": "scratch", "tag": "latest"}, 403, "'scratch' is a reserved name"),
    ({"fromSrc": "http://127.0.0.1:1/x.tar"}, 500, "connection refused"),
    ({"fromSrc": "ftp://127.0.0.1:1/x.tar"}, 400, "is not an address to import from"),
    ({"fromImage": "a", "platform": "windows/x/y/z"}, 400, "cannot parse platform specifier"),
])
async def test_bad_pulls(site: Site, params: dict[str, str], status: int, text: str) -> None:
    found, body = await site.ask("POST", "/images/create", params=params)
    assert found == status
    assert text in body["message"]


async def test_client_that_goes_away_ends_the_pull(site: Site) -> None:
    reached = asyncio.Event()

    async def stuck(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" in request.path:
            reached.set()
            await asyncio.sleep(60)
        return None

    site.registry.faults.append(stuck)
    pull = asyncio.create_task(site.pull("old"))
    await reached.wait()
    pull.cancel()
    await asyncio.gather(pull, return_exceptions=True)
    await asyncio.wait_for(site.collected.wait(), 60)
    await site.here.assert_empty()


async def test_list_shapes(site: Site) -> None:
    await site.pull("old")
    await site.pull("group/new")
    site.users[NEW.id] = [ImageUser("c" * 64, True)]
    _, found = await site.ask("GET", "/images/json", "1.51")
    assert [image["Id"] for image in found] == [NEW.id, OLD.id]
    assert found[0] == {
        "Containers": 1, "Created": 1704067200, "Id": NEW.id, "Labels": {"kind": "new", "x": "1"}, "ParentId": "",
        "RepoDigests": [site.name(f"group/new@{digest(NEW.manifest)}")], "RepoTags": [site.name("group/new:latest")],
        "SharedSize": -1, "Size": 1500}
    _, found = await site.ask("GET", "/images/json?shared-size=1", "1.42")
    assert [(image["SharedSize"], image["VirtualSize"], image["Containers"]) for image in found] == \
        [(1000, 1500, -1), (1000, 1000, -1)]


async def test_dangling_names_of_old_clients(site: Site) -> None:
    await site.pull("old")
    await site.ask("POST", f"/images/{OLD.id}/tag", params={"repo": "mine", "tag": "v1"})
    await site.ask("DELETE", f"/images/{site.name('old:latest')}")
    site.users[OLD.id] = [ImageUser("c" * 64, False)]
    status, records = await site.ask("DELETE", "/images/mine:v1?force=0")
    assert status == 409
    await site.here.names.remove("docker.io/library/mine:v1", keep={OLD.id})
    for version, tags in (("1.42", ["<none>:<none>"]), ("1.43", [])):
        _, found = await site.ask("GET", "/images/json", version)
        assert found[0]["RepoTags"] == tags
    assert records["message"].startswith('conflict: unable to remove repository reference "mine:v1" (must force)')


@pytest.mark.parametrize(("wanted", "ids"), [
    ({"label": ["kind=old"]}, {OLD.id}), ({"label": ["kind"]}, {OLD.id, NEW.id}), ({"label": ["kind", "x=2"]}, set()),
    ({"reference": ["*/old"]}, {OLD.id}), ({"reference": ["*/*/new:lat*"]}, {NEW.id}), ({"reference": ["*"]}, set()),
    ({"before": [NEW.id]}, {OLD.id}), ({"since": [OLD.id]}, {NEW.id}), ({"until": ["2022-01-01"]}, {OLD.id}),
    ({"dangling": ["true"]}, set()), ({"dangling": ["false"]}, {OLD.id, NEW.id}),
])
async def test_list_filters(site: Site, wanted: dict[str, list[str]], ids: set[str]) -> None:
    await site.pull("old")
    await site.pull("group/new")
    _, found = await site.ask("GET", "/images/json", params={"filters": json.dumps(wanted)})
    assert {image["Id"] for image in found} == ids


async def test_unknown_filter(site: Site) -> None:
    status, body = await site.ask("GET", "/images/json", params={"filters": '{"color": ["red"]}'})
    assert (status, body["message"]) == (400, "invalid filter 'color'")


async def test_inspect_and_history(site: Site) -> None:
    await site.pull("group/new")
    status, found = await site.ask("GET", f"/images/{site.name('group/new')}/json", "1.41")
    assert status == 200
    assert (found["Id"], found["Os"], found["Architecture"], found["Size"]) == (NEW.id, "linux", "amd64", 1500)
    assert found["RootFS"]["Layers"] == json.loads(NEW.config)["rootfs"]["diff_ids"]
    assert found["Config"]["Labels"] == {"kind": "new", "x": "1"}
    assert found["Config"]["Hostname"] == ""
    assert Path(found["GraphDriver"]["Data"]["UpperDir"], "b").read_bytes() == b"y" * 500
    _, modern = await site.ask("GET", f"/images/{NEW.id[7:15]}/json", "1.52")
    assert modern["Config"] == {"Labels": {"kind": "new", "x": "1"}}
    assert {"Container", "VirtualSize", "Parent"} & modern.keys() == set()
    _, history = await site.ask("GET", f"/images/{site.name('group/new')}/history")
    assert [(step["Id"], step["CreatedBy"], step["Size"]) for step in history] == \
        [(NEW.id, "layer 1", 500), ("<missing>", "layer 0", 1000)]


async def test_unknown_images(site: Site) -> None:
    for method, path in (("GET", "/images/some/thing/json"), ("GET", "/images/some/thing/history"),
                         ("POST", "/images/some/thing/tag?repo=x"), ("DELETE", "/images/some/thing")):
        status, body = await site.ask(method, path)
        assert (status, body["message"]) == (404, "No such image: some/thing:latest")


async def test_remove_by_name_takes_digest_and_layers(site: Site) -> None:
    await site.pull("old")
    image = await site.here.images.resolve(OLD.id)
    status, records = await site.ask("DELETE", f"/images/{site.name('old')}")
    assert status == 200
    assert records == [{"Untagged": site.name("old:latest")}, {"Untagged": site.name(f"old@{digest(OLD.manifest)}")},
                       {"Deleted": OLD.id}, {"Deleted": image.chain_id}]
    assert [action for action, _, _ in site.events] == ["pull", "untag", "delete"]
    await site.here.assert_empty()


async def test_shared_layer_survives_the_removal(site: Site) -> None:
    await site.pull("old")
    await site.pull("group/new")
    _, records = await site.ask("DELETE", f"/images/{NEW.id[7:19]}")
    assert [list(record) for record in records] == [["Untagged"], ["Untagged"], ["Deleted"], ["Deleted"]]
    mount = await site.here.snapshots.image_mount(str((await site.here.images.resolve(OLD.id)).chain_id))
    assert Path(mount.lower[0], "a").exists()


async def test_images_in_use(site: Site) -> None:
    await site.pull("old")
    container = ImageUser("0123456789abcdef" * 4, True)
    short = OLD.id[7:19]
    site.users[OLD.id] = [container]
    name = site.name("old:latest")
    for path, text in (
            (name, f'conflict: unable to remove repository reference "{name}" (must force) - container 0123456789ab '
                   f"is using its referenced image {short}"),
            (OLD.id, f"conflict: unable to delete {short} (cannot be forced) - image is being used by running "
                     "container 0123456789ab")):
        status, body = await site.ask("DELETE", f"/images/{path}")
        assert (status, body["message"]) == (409, text)
    site.users[OLD.id] = [ImageUser(container.container_id, False)]
    status, body = await site.ask("DELETE", f"/images/{OLD.id}")
    assert (status, body["message"]) == (409, f"conflict: unable to delete {short} (must be forced) - image is being "
                                              "used by stopped container 0123456789ab")
    site.users[OLD.id] = [container]
    status, records = await site.ask("DELETE", f"/images/{name}?force=1")
    assert (status, [list(record) for record in records]) == (200, [["Untagged"], ["Untagged"]])
    assert (await site.here.images.resolve(OLD.id)).repo_tags == []


async def test_image_with_two_names(site: Site) -> None:
    await site.pull("old")
    status, _ = await site.ask("POST", f"/images/{site.name('old')}/tag", params={"repo": "mine", "tag": "v1"})
    assert status == 201
    status, body = await site.ask("DELETE", f"/images/{OLD.id}")
    assert (status, body["message"]) == (409, f"conflict: unable to delete {OLD.id[7:19]} (must be forced) - image is "
                                              "referenced in multiple repositories")
    _, records = await site.ask("DELETE", "/images/mine:v1")
    assert records == [{"Untagged": "mine:v1"}]
    assert (await site.ask("GET", f"/images/{site.name('old')}/json"))[0] == 200


async def test_prune(site: Site) -> None:
    await site.pull("old")
    await site.pull("group/new")
    _, report = await site.ask("POST", "/images/prune")
    assert report == {"ImagesDeleted": None, "SpaceReclaimed": 0}
    site.users[OLD.id] = [ImageUser("c" * 64, False)]
    _, report = await site.ask("POST", "/images/prune", params={"filters": '{"dangling": ["false"]}'})
    assert {"Deleted": NEW.id} in report["ImagesDeleted"]
    assert report["SpaceReclaimed"] == 500
    assert site.events[-1] == ("prune", "", {"reclaimed": "500"})
    assert [row.id for row in await site.here.names.list()] == [OLD.id] * 2


async def test_distribution(site: Site) -> None:
    status, found = await site.ask("GET", f"/distribution/{site.name('old')}/json")
    assert status == 200
    assert found["Descriptor"] == {"mediaType": "application/vnd.oci.image.manifest.v1+json",
                                   "digest": digest(OLD.manifest), "size": len(OLD.manifest)}
    assert found["Platforms"] == [{"architecture": "amd64", "os": "linux"}]


async def test_auth(site: Site) -> None:
    async def guard(request: web.Request) -> web.StreamResponse | None:
        if request.headers.get("Authorization") == Credentials(username="ann", password="right").basic:
            return None
        return refusal(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate='Basic realm="x"')

    site.registry.faults.append(guard)
    for password, status in (("right", 200), ("wrong", 401)):
        body = {"username": "ann", "password": password, "serveraddress": site.registry.address}
        found, answer = await site.ask("POST", "/auth", json=body)
        assert found == status
        if status == 200:
            assert answer == {"Status": "Login Succeeded", "IdentityToken": ""}
        else:
            assert "unauthorized: incorrect username or password" in answer["message"]


async def test_search(site: Site) -> None:
    """The registry's own search, filtered here as dockerd does."""
    hits = [{"name": "httpd", "description": "web", "star_count": 9, "is_official": True},
            {"name": "me/httpd", "description": None, "star_count": 1, "is_automated": True}]

    async def index(request: web.Request) -> web.StreamResponse | None:
        if request.path != "/v1/search":
            return None
        assert dict(request.query) == {"q": "httpd", "n": "7"}
        return web.json_response({"query": "httpd", "num_results": 2, "results": hits})

    async def names(**query: str) -> list[str]:
        asked = {"term": site.name("httpd"), "limit": "7", **query}
        status, body = await site.ask("GET", "/images/search", params=asked)
        assert status == 200, body
        return [found["name"] for found in body]

    assert (await site.ask("GET", "/images/search", params={"term": site.name("httpd")}))[0] == 500
    site.registry.faults.append(index)
    assert await names() == ["httpd", "me/httpd"]
    assert await names(filters='{"is-official":["true"]}') == ["httpd"]
    assert await names(filters='{"stars":["2"]}') == ["httpd"]
    assert await names(filters='{"is-automated":["true"]}') == ["me/httpd"]
    for query in ({"limit": "101"}, {"filters": '{"stars":["x"]}'}, {"filters": '{"a":["x"]}'}, {"term": "http://x"}):
        assert (await site.ask("GET", "/images/search", params={"term": "x", **query}))[0] == 400


async def test_save_load_round_trip(site: Site) -> None:
    """The archive has the length that its header says, and brings back the very same image."""
    await site.pull("group/new")
    async with site.session.get("/v1.45/images/get", params={"names": site.name("group/new")}) as answer:
        archive = await answer.read()
        assert answer.status == 200 and answer.content_length == len(archive)
    await site.ask("DELETE", f"/images/{NEW.id}", params={"force": "1"})
    status, lines = await site.ask("POST", "/images/load", data=archive)
    assert status == 200
    assert lines[-1] == {"stream": f"Loaded image: {site.name('group/new:latest')}\n"}
    status, body = await site.ask("GET", f"/images/{site.name('group/new')}/json")
    assert status == 200 and body["Id"] == NEW.id
    assert ("save", NEW.id, {"name": NEW.id}) in site.events and ("load", NEW.id, {"name": NEW.id}) in site.events


async def test_load_refuses_what_is_no_archive(site: Site) -> None:
    status, lines = await site.ask("POST", "/images/load", data=b"x" * 2000)
    assert status == 200 and lines[-1]["error"].startswith("invalid archive: ")
    assert (await site.ask("GET", "/images/nothing/get"))[0] == 404


async def test_import_from_the_body(site: Site) -> None:
    status, lines = await site.ask("POST", "/images/create", data=tar_of({"etc/motd": b"hi"}),
                                   params={"fromSrc": "-", "repo": "made", "tag": "v1", "message": "by hand"})
    assert status == 200
    image_id = lines[-1]["status"]
    status, body = await site.ask("GET", "/images/made:v1/json")
    assert body["Id"] == image_id and body["Comment"] == "by hand" and body["RepoTags"] == ["made:v1"]
    assert ("import", image_id, {"name": "made:v1"}) in site.events
    status, body = await site.ask("POST", "/images/create", data=b"", params={"fromSrc": "-"})
    assert status == 400 and body["message"] == "failed to import: the archive is empty"


async def test_manifests_of_an_index(site: Site) -> None:
    """An index is listed whole: what is here, and what is not."""
    other = make_image({"a": b"arm"}, architecture="arm64")
    index = make_index({"amd64": NEW, "arm64": other})
    site.registry.add("many", "unused", NEW)
    site.registry.manifests["many:1"] = site.registry.manifests[f"many:{digest(index)}"] = (INDEX, index)
    await site.pull("many", "1")
    status, body = await site.ask("GET", f"/images/{site.name('many:1')}/json", "1.48", params={"manifests": "1"})
    assert status == 200 and body["Id"] == NEW.id
    assert body["Descriptor"] == {"mediaType": INDEX, "digest": digest(index), "size": len(index)}
    mine, theirs = body["Manifests"]
    assert mine["ID"] == digest(NEW.manifest) and mine["Available"] and mine["Kind"] == "image"
    assert mine["ImageData"]["Platform"] == {"architecture": "amd64", "os": "linux"}
    assert mine["ImageData"]["Size"]["Unpacked"] == 1500
    size = len(NEW.manifest) + sum(map(len, NEW.blobs.values()))
    assert mine["Size"] == {"Content": size, "Total": size + 1500}
    assert theirs["ID"] == digest(other.manifest) and not theirs["Available"] and theirs["Size"]["Content"] == 0
    status, [listed] = await site.ask("GET", "/images/json", "1.48", params={"manifests": "1"})
    assert listed["Manifests"] == body["Manifests"]
    status, body = await site.ask("GET", f"/images/{NEW.id}/json", "1.48")
    assert "Manifests" not in body


async def test_import_from_an_address(site: Site) -> None:
    async def file(request: web.Request) -> web.StreamResponse | None:
        if request.path == "/moved":
            return web.Response(status=302, headers={"Location": "/root.tar"})
        return web.Response(body=tar_of({"etc/motd": b"hi"})) if request.path == "/root.tar" else None

    site.registry.faults.append(file)
    status, lines = await site.ask("POST", "/images/create", params={"fromSrc": site.name("moved"), "repo": "made"})
    assert status == 200, lines
    assert lines[0]["status"] == "Importing" and lines[0]["progressDetail"]["total"] == len(tar_of({"etc/motd": b"hi"}))
    _, body = await site.ask("GET", "/images/made/json")
    assert body["Id"] == lines[-1]["status"] and body["Comment"] == f"Imported from {site.name('moved')}"
    status, body = await site.ask("POST", "/images/create", params={"fromSrc": f"http://{site.name('none')}"})
    assert status == 404 and "with status 404" in body["message"]
