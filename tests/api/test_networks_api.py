"""The routes of networks over the real service and a database, with a network beneath that touches no kernel."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from barque.api.routes.networks import routes
from barque.engine.containers.options import EndpointSettings
from barque.engine.networks import NetworkService
from barque.errors import BarqueError
from barque.network.model import Blockers, Endpoint, NetworkInfo, NetworkSpec, PublishedPort, Sandbox, Subnet
from barque.store.db import Database, Documents

BRIDGE, HOST, NONE = "b" * 64, "c" * 64, "bd" + "0" * 62


class Networks:
    def __init__(self) -> None:
        self.specs: dict[str, NetworkSpec] = {}

    def networks(self) -> list[NetworkInfo]:
        return [NetworkInfo(id=BRIDGE, name="bridge", driver="bridge", created="2026-01-01T00:00:00Z", bridge="brq-1",
                            subnet="172.17.0.0/16", gateway="172.17.0.1", mtu=1500, publish_ip="0.0.0.0"),
                NetworkInfo(id=HOST, name="host", driver="host", created="2026-01-01T00:00:00Z"),
                NetworkInfo(id=NONE, name="none", driver="null", created="2026-01-01T00:00:00Z"),
                *(NetworkInfo(id=spec.id, name=spec.name, driver=spec.driver, created=spec.created, spec=spec)
                  for spec in self.specs.values())]

    async def create_network(self, spec: NetworkSpec) -> NetworkSpec:
        four = spec.ipv4 or Subnet(subnet="172.18.0.0/16", gateway="172.18.0.1")
        self.specs[spec.id] = msgspec.structs.replace(spec, ipv4=four)
        return self.specs[spec.id]

    async def blockers(self) -> Blockers:
        return Blockers(forward=("ip filter FORWARD",), input=("ip filter INPUT",))

    async def remove_networks(self, network_ids: Collection[str]) -> None:
        for network_id in network_ids:
            del self.specs[network_id]


class Memberships:
    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    async def connect(self, network: str, container: str, settings: EndpointSettings) -> None:
        self.calls.append(("connect", network, container, settings.aliases, settings.gw_priority))

    async def disconnect(self, network: str, container: str, *, force: bool) -> None:
        self.calls.append(("disconnect", network, container, force))


def sandbox(network_id: str, name: str) -> Sandbox:
    return Sandbox(container_id="1" * 64, mode="bridge", netns_path="/x", endpoints=(
        Endpoint(network_name=name, network_id=network_id, endpoint_id="e" * 64, interface="eth0",
                 mac="02:42:ac:11:00:02", ipv4="172.17.0.2", prefix_len=16, gateway="172.17.0.1"),))


@web.middleware
async def errors(request: web.Request, handler: object) -> web.StreamResponse:
    try:
        return await handler(request)  # type: ignore[operator]
    except BarqueError as error:
        return web.json_response({"message": error.message}, status=error.status)


class World:
    """``sandboxes`` are the containers that run; ``events`` what was told."""

    def __init__(self, db: Database) -> None:
        self.sandboxes = [("web", sandbox(BRIDGE, "bridge")),
                          ("bare", Sandbox(container_id="2" * 64, mode="none", netns_path="/y"))]
        self.events: list[tuple[str, str, Mapping[str, str]]] = []
        self.memberships = Memberships()
        self.documents = Documents(db, "networks", NetworkSpec)
        self.service = NetworkService(
            Networks(), self.documents, lambda: self.sandboxes,
            lambda kind, action, _id, attributes: self.events.append((kind, action, attributes)))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    db = await Database.open(str(tmp_path / "meta.db"))
    yield World(db)
    await db.close()


@pytest.fixture
async def client(world: World) -> AsyncIterator[TestClient]:
    app = web.Application(middlewares=[errors])
    app.add_routes(routes(world.service, world.memberships))
    async with TestClient(TestServer(app)) as made:
        yield made


async def create(client: TestClient, name: str, **more: object) -> tuple[int, dict[str, str]]:
    answer = await client.post("/networks/create", json={"Name": name, **more})
    return answer.status, await answer.json()


async def test_inspect_bridge(client: TestClient) -> None:
    for ref in ("bridge", BRIDGE, "bb"):
        body = await (await client.get(f"/networks/{ref}")).json()
        assert body["Name"] == "bridge" and body["IPAM"]["Config"] == [
            {"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]
        assert body["Options"]["com.docker.network.bridge.name"] == "brq-1"
        assert body["Containers"] == {"1" * 64: {
            "Name": "web", "EndpointID": "e" * 64, "MacAddress": "02:42:ac:11:00:02", "IPv4Address": "172.17.0.2/16",
            "IPv6Address": ""}}
    none = await (await client.get("/networks/none")).json()
    assert list(none["Containers"]) == ["2" * 64] and none["Driver"] == "null"


async def test_unknown_and_ambiguous(client: TestClient) -> None:
    answer = await client.get("/networks/nope")
    assert (answer.status, await answer.json()) == (404, {"message": "network nope not found"})
    assert (await client.get("/networks/b")).status == 400


async def test_create_is_shown_stored_told_and_removed(client: TestClient, world: World) -> None:
    options = {"com.docker.network.bridge.enable_icc": "false", "com.docker.network.driver.mtu": "1400",
               "com.docker.network.bridge.name": "br0", "com.docker.network.bridge.host_binding_ipv4": "127.0.0.1"}
    pools = [{"Subnet": "10.9.0.0/24", "IPRange": "10.9.0.128/25", "Gateway": "10.9.0.254",
              "AuxiliaryAddresses": {"tv": "10.9.0.7"}}]
    status, made = await create(client, "back end", Driver="bridge", CheckDuplicate=True, Internal=True,
                                Attachable=True, EnableIPv6=True, Labels={"a": "b"}, Options=options,
                                IPAM={"Driver": "default", "Config": pools})
    assert status == 201 and made["Warning"] == "", "nothing leaves an internal network"
    shown = await (await client.get("/networks/back end")).json()
    assert shown["Id"] == made["Id"] and shown["IPAM"]["Config"] == pools and shown["Options"] == options
    assert shown["IPAM"]["Options"] is None, "as the client wrote it"
    assert shown["Internal"] and shown["Attachable"] and shown["EnableIPv6"] and shown["Labels"] == {"a": "b"}
    (stored,) = await world.service.stored()
    assert (stored.icc, stored.mtu, stored.bridge, stored.publish_ip) == (False, 1400, "br0", "127.0.0.1")
    assert await create(client, "back end") == (409, {"message": "network with name back end already exists"})
    world.sandboxes.append(("busy", sandbox(made["Id"], "back end")))
    answer = await client.delete("/networks/back end")
    assert (answer.status, (await answer.json())["message"]) == (
        403, f'error while removing network: network back end has active endpoints (name:"busy" id:"{"e" * 12}")')
    world.sandboxes.pop()
    assert (await client.delete("/networks/back end")).status == 204 and await world.service.stored() == []
    assert [(kind, action, attributes["name"]) for kind, action, attributes in world.events] == [
        ("network", "create", "back end"), ("network", "destroy", "back end")]


@pytest.mark.parametrize(("body", "status", "text"), [
    ({"Name": "host"}, 403, "operation is not permitted on predefined host network"),
    ({"Name": ""}, 400, "invalid network name"), ({"Name": "a/b"}, 400, "invalid network name"),
    ({"Name": " "}, 400, "invalid network name"), ({"Name": "a "}, 400, "invalid network name"),
    ({"Name": "x", "Driver": "weave"}, 404, "plugin not found"), ({"Name": "x", "Driver": "overlay"}, 501, "no swarm"),
    ({"Name": "x", "Driver": "ipvlan", "Options": {"ipvlan_mode": "l4"}}, 400, "not one of l2, l3, l3s"),
    ({"Name": "x", "Driver": "host"}, 403, 'only one instance of "host" network is allowed'),
    ({"Name": "x", "Scope": "swarm"}, 503, "This node is not a swarm manager"),
    ({"Name": "x", "Options": {"colour": "red"}}, 400, "invalid option 'colour'"),
    ({"Name": "x", "Options": {"com.docker.network.driver.mtu": "9"}}, 400, "an MTU is between"),
    ({"Name": "x", "Options": {"com.docker.network.bridge.enable_icc": "maybe"}}, 400, "invalid syntax"),
    ({"Name": "x", "EnableIPv4": False}, 400, "IPv4 or IPv6 must be enabled"),
    ({"Name": "x", "EnableIPv4": False, "EnableIPv6": True, "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}]}}, 400,
     "IPv4 has not been enabled"),
    ({"Name": "x", "ConfigOnly": True, "Internal": True}, 403, "configuration network can only contain network"),
    ({"Name": "x", "ConfigOnly": True, "ConfigFrom": {"Network": "y"}}, 403, "cannot depend on another configuration"),
    ({"Name": "x", "ConfigFrom": {"Network": "none"}}, 404, 'configuration network "none" does not exist'),
    ({"Name": "x", "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}, {"Subnet": "10.2.0.0/24"}]}}, 403, "more than one"),
    ({"Name": "x", "IPAM": {"Config": [{"Gateway": "10.1.0.1"}]}}, 400, "needs a subnet"),
    ({"Name": "x", "IPAM": {"Config": [{"Subnet": "fd00::/64"}]}}, 400, "not been enabled")])
async def test_refusals(client: TestClient, body: dict[str, object], status: int, text: str) -> None:
    answer = await client.post("/networks/create", json=body)
    assert answer.status == status and text in (await answer.json())["message"]


async def test_a_firewall_in_the_way_of_a_new_network_is_named(client: TestClient) -> None:
    _, made = await create(client, "web")
    assert "ip filter FORWARD drops by default" in made["Warning"]


async def test_networks_made_from_a_configuration(client: TestClient, world: World) -> None:
    pools = [{"Subnet": "10.9.0.0/24", "Gateway": "10.9.0.254"}]
    options = {"com.docker.network.driver.mtu": "1400"}
    await create(client, "conf", ConfigOnly=True, IPAM={"Config": pools}, Options=options, Labels={"a": "b"})
    shown = await (await client.get("/networks/conf")).json()
    assert shown["ConfigOnly"] and shown["Driver"] == "null" and shown["IPAM"]["Config"] == pools
    status, _ = await create(client, "real", ConfigFrom={"Network": "conf"}, Internal=True)
    real = await (await client.get("/networks/real")).json()
    assert status == 201 and (real["ConfigFrom"], real["ConfigOnly"], real["Driver"], real["Internal"]) == (
        {"Network": "conf"}, False, "bridge", True)
    assert real["IPAM"]["Config"] == pools and real["Options"] == options and real["Labels"] == {"a": "b"}
    assert next(spec.mtu for spec in await world.service.stored() if spec.name == "real") == 1400
    for more, text in (({"Labels": {"c": "d"}}, "user specified configurations are not supported"),
                       ({"EnableIPv4": False}, "user specified configurations are not supported"),
                       ({"Options": options}, "network driver options are not supported")):
        status, answer = await create(client, "other", ConfigFrom={"Network": "conf"}, **more)
        assert status == 403 and text in answer["message"]
    answer = await client.delete("/networks/conf")
    assert (answer.status, (await answer.json())["message"]) == (403, 'configuration network "conf" is in use')
    await client.post("/networks/prune")
    assert [spec.name for spec in await world.service.stored()] == ["conf"]
    assert (await client.delete("/networks/conf")).status == 204


async def test_predefined_networks_stay_and_bodies_are_checked(client: TestClient) -> None:
    answer = await client.delete("/networks/bridge")
    assert (answer.status, (await answer.json())["message"]) == (
        403, "bridge is a pre-defined network and cannot be removed")
    answer = await client.post("/networks/create", data=b"{", headers={"Content-Type": "application/json"})
    assert answer.status == 400


async def test_the_firewall_is_explained(client: TestClient, world: World) -> None:
    _, made = await create(client, "shut", Internal=True)
    published = [PublishedPort(container_port=80, protocol="tcp", host_ip=address, host_port=8080, relayed=relayed)
                 for address, relayed in (("0.0.0.0", False), ("127.0.0.1", False), ("0.0.0.0", True))]
    for number, network_id in enumerate((BRIDGE, made["Id"])):
        place = msgspec.structs.replace(sandbox(network_id, "x").endpoints[0], port="veth1")
        world.sandboxes.append((f"p{number}", msgspec.structs.replace(
            sandbox(network_id, "x"), endpoints=(place,), ports=tuple(published))))
    shown = await (await client.get("/networks/bridge/firewall")).json()
    assert [len(port["ReachedBy"]) for port in shown["Ports"]] == [3, 1, 3]
    assert [port.get("Warning") for port in shown["Ports"]] == [
        "unless accepted, dropped by ip filter FORWARD", None, "unless accepted, dropped by ip filter INPUT"]
    assert "INPUT rules decide" in shown["Ports"][2]["Path"]
    assert shown["WayOut"] == "with this host's address, unless dropped by ip filter FORWARD"
    assert shown["ThisHost"].endswith("unless dropped by ip filter INPUT")
    shut = await (await client.get("/networks/shut/firewall")).json()
    assert {tuple(port["ReachedBy"]) for port in shut["Ports"]} == {("this host",)} and "none" in shut["WayOut"]
    assert (await client.get("/networks/nope/firewall")).status == 404


async def test_connect_and_disconnect_are_passed_on(client: TestClient, world: World) -> None:
    body = {"Container": "web", "EndpointConfig": {"Aliases": ["db"], "GwPriority": 5}}
    assert (await client.post("/networks/backend/connect", json=body)).status == 200
    assert (await client.post("/networks/backend/disconnect", json={"Container": "web", "Force": True})).status == 200
    assert world.memberships.calls == [("connect", "backend", "web", ["db"], 5), ("disconnect", "backend", "web", True)]


@pytest.mark.parametrize(("filters", "names"), [
    ("", ["bridge", "host", "none", "mine"]), ('{"driver":["bridge"]}', ["bridge", "mine"]),
    ('{"name":{"o":true}}', ["host", "none"]), ('{"id":["bd00000000"]}', ["none"]), ('{"type":["custom"]}', ["mine"]),
    ('{"type":["builtin"],"name":["host"]}', ["host"]), ('{"label":["x"]}', []), ('{"label":["k=v"]}', ["mine"]),
    ('{"dangling":["true"]}', ["mine"]), ('{"dangling":["false"],"scope":["local"]}', ["bridge", "host", "none"]),
    ('{"scope":["swarm"]}', [])])
async def test_filters(client: TestClient, filters: str, names: list[str]) -> None:
    await create(client, "mine", Labels={"k": "v"})
    answer = await client.get("/networks", params={"filters": filters})
    assert [item["Name"] for item in await answer.json()] == names


@pytest.mark.parametrize("filters", ['{"colour":["red"]}', "[", '{"type":["odd"]}', '{"dangling":["maybe"]}'])
async def test_bad_filters(client: TestClient, filters: str) -> None:
    assert (await client.get("/networks", params={"filters": filters})).status == 400


@pytest.mark.parametrize(("filters", "removed"), [
    ("", ["a", "b"]), ('{"label":["keep"]}', ["b"]), ('{"label!":["keep"]}', ["a"]), ('{"until":["24h"]}', None)])
async def test_prune_takes_what_nobody_uses(client: TestClient, world: World, filters: str, removed: list[str] | None
                                            ) -> None:
    await create(client, "a")
    await create(client, "b", Labels={"keep": ""})
    _, used = await create(client, "used")
    world.sandboxes.append(("busy", sandbox(used["Id"], "used")))
    answer = await client.post("/networks/prune", params={"filters": filters})
    assert await answer.json() == {"NetworksDeleted": removed}
    assert "used" in [spec.name for spec in await world.service.stored()]
