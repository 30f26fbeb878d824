"""``network create``, ``connect``, ``disconnect``."""

from __future__ import annotations

from barque.cli.command import Command
from barque.cli.errors import CommandError
from barque.cli.flags import BOOL, INT, LIST, MAP, STRING, STRINGS, Flag
from barque.cli.spec import checks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from barque.cli.app import App
    from barque.cli.flags import Values


def _pools(values: Values) -> list[dict[str, Any]]:
    """The IPAM pools: each range, gateway and auxiliary address goes to the subnet that holds it."""
    import ipaddress

    if not any(values[flag] for flag in ("ip-range", "gateway", "aux-address")) and len(values["subnet"]) == 1:
        return [{"Subnet": values["subnet"][0]}]  # nothing to sort: the engine says what it thinks of it
    try:
        pools = [(ipaddress.ip_network(text, strict=False), {"Subnet": text}) for text in values["subnet"]]
        for number, (network, _) in enumerate(pools):
            if any(network.version == other.version and network.overlaps(other) for other, _ in pools[:number]):
                raise CommandError("multiple overlapping subnet configuration is not supported")
        for flag, key in (("ip-range", "IPRange"), ("gateway", "Gateway")):
            for text in values[flag]:
                address = ipaddress.ip_address(text.partition("/")[0])
                pool = next((pool for network, pool in pools if address in network), None)
                if pool is None:
                    what = "subnet for range" if flag == "ip-range" else "subnet for gateway"
                    raise CommandError(f"no matching {what} {text}")
                if key in pool:
                    raise CommandError(f"cannot configure multiple {'ranges' if flag == 'ip-range' else 'gateways'} "
                                       f"({text}, {pool[key]}) on the same subnet ({pool['Subnet']})")
                pool[key] = text
        for name, text in values["aux-address"].items():
            address = ipaddress.ip_address(text)
            pool = next((pool for network, pool in pools if address in network), None)
            if pool is None:
                raise CommandError(f"no matching subnet for aux-address {text}")
            pool.setdefault("AuxiliaryAddresses", {})[name] = text
    except ValueError as error:
        raise CommandError(f"invalid address: {error}") from None
    return [dict(pool) for _, pool in pools]


def _create(app: App, values: Values) -> int:
    body: dict[str, Any] = {
        "Name": values.arguments[0], "Driver": values["driver"], "Scope": values["scope"],
        "Internal": values["internal"], "Attachable": values["attachable"], "Ingress": values["ingress"],
        "ConfigOnly": values["config-only"], "Options": values["opt"],
        "Labels": dict(item.partition("=")[::2] for item in values["label"]),
        "IPAM": {"Driver": values["ipam-driver"], "Config": _pools(values), "Options": values["ipam-opt"]},
        "CheckDuplicate": True,  # older engines make a second network of the same name without it
    }
    if values["config-from"]:
        body["ConfigFrom"] = {"Network": values["config-from"]}
    for flag, key in (("ipv4", "EnableIPv4"), ("ipv6", "EnableIPv6")):
        if flag in values.changed:
            body[key] = values[flag]
    answer = app.engine.post("/networks/create", None, body)
    if answer.get("Warning"):
        app.err(f"WARNING: {answer['Warning']}")
    app.line(answer["Id"])
    return 0


def _connect(app: App, values: Values) -> int:
    network, container = values.arguments
    endpoint: dict[str, Any] = {
        "IPAMConfig": {"IPv4Address": values["ip"], "IPv6Address": values["ip6"],
                       "LinkLocalIPs": list(values["link-local-ip"])},
        "Links": list(values["link"]), "Aliases": list(values["alias"]), "GwPriority": values["gw-priority"],
        "DriverOpts": dict(item.partition("=")[::2] for item in values["driver-opt"]),
    }
    app.engine.post(f"/networks/{network}/connect", None, {"Container": container, "EndpointConfig": endpoint})
    return 0


def _disconnect(app: App, values: Values) -> int:
    network, container = values.arguments
    app.engine.post(f"/networks/{network}/disconnect", None, {"Container": container, "Force": values["force"]})
    return 0


def _create_flags() -> list[Flag]:
    return [
        Flag("attachable", "", BOOL, "Containers may be attached by hand"),
        Flag("aux-address", "", MAP, "Addresses of the subnet that the driver must not use"),
        Flag("config-from", "", STRING, "Network to copy the configuration from"),
        Flag("config-only", "", BOOL, "Make a configuration, not a network"),
        Flag("driver", "d", STRING, "Driver that manages the network", "bridge"),
        Flag("gateway", "", STRINGS, "Gateway of the subnet"),
        Flag("ingress", "", BOOL, "Make the swarm's ingress network"),
        Flag("internal", "", BOOL, "No access from and to the outside"),
        Flag("ip-range", "", STRINGS, "Take container addresses from this part of the subnet"),
        Flag("ipam-driver", "", STRING, "Driver that manages the addresses", "default"),
        Flag("ipam-opt", "", MAP, "Options of the address driver"),
        Flag("ipv4", "", BOOL, "Give IPv4 addresses", True),
        Flag("ipv6", "", BOOL, "Give IPv6 addresses"),
        Flag("label", "", LIST, "Set metadata on the network", check=checks.label),
        Flag("opt", "o", MAP, "Options of the driver"),
        Flag("scope", "", STRING, "Scope of the network"),
        Flag("subnet", "", STRINGS, "Subnet in CIDR notation"),
    ]


CREATE = Command("network create", "[OPTIONS] NETWORK", "Create a network", _create, least=1, most=1,
                 flags=_create_flags,
                 examples="barque network create --subnet 10.20.0.0/24 --gateway 10.20.0.1 backend")
CONNECT = Command("network connect", "[OPTIONS] NETWORK CONTAINER", "Connect a container to a network", _connect,
                  least=2,
                  most=2, flags=lambda: [
                      Flag("alias", "", STRINGS, "Alias of the container in the network"),
                      Flag("driver-opt", "", STRINGS, "Options of the driver for this connection"),
                      Flag("gw-priority", "", INT, "The network with the highest number is the default gateway"),
                      Flag("ip", "", STRING, "IPv4 address (172.30.100.104)"),
                      Flag("ip6", "", STRING, "IPv6 address (2001:db8::33)"),
                      Flag("link", "", LIST, "Link to another container", check=checks.link),
                      Flag("link-local-ip", "", STRINGS, "Link-local addresses"),
                  ], examples="barque network connect --alias db backend postgres")
DISCONNECT = Command("network disconnect", "[OPTIONS] NETWORK CONTAINER", "Disconnect a container from a network",
                     _disconnect, least=2, most=2,
                     flags=lambda: [Flag("force", "f", BOOL, "Disconnect although the container is gone")],
                     examples="barque network disconnect backend postgres")
