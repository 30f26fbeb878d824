"""The nftables tables of this engine: what their rules are, and which set elements a network or a port is.

The rules never change; networks and ports are elements of sets and maps, so one more of them costs the same for the
first and the thousandth. Everything is looked up by the bridge's name. No other table is touched, and an ``accept``
here ends only our own chain: another firewall's ``drop`` still counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

from barque.network.model import Endpoint, PublishedPort, Sandbox, by_way_out

ANY4, ANY6 = "0.0.0.0", "::"
#: Protocols have numbers here: nft would look names up in /etc/protocols, which small systems lack.
_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}

# The order in "publish" is that of precedence: a port on one address beats the same port on all.
# "prerouting": what comes off a wire for 127.0.0.1 is translated to nobody, or whoever can send this host a frame would
#   reach what is published for the host alone. (The kernel throws it away, except on our bridges: "guard" does.)
# "guard": route_localnet on the bridges lets answers to 127.0.0.1 in, and would let a container reach the host's
#   loopback services (CVE-2020-8558). Raw priority comes before conntrack turns an answer's address back into
#   127.0.0.1, so what has such an address here was forged. From an internal network only its own subnet can be
#   reached, whatever routes a container sets.
# "input": who reaches the engine's API has the host; containers get it with credentials, or by its socket.
# "forward": a container is reached from outside only through a published port; "within" are the pairs that may talk
#   (what goes from port to port inside a bridge comes by here only with br_netfilter; else port isolation decides).
# "postrouting": 127.0.0.1 must not leave the host; and an answer between neighbours on one bridge must come back
#   through us, else its source would be the container's address, not the published one. (Where br_netfilter is on,
#   this chain sees such packets without their input link.)
_RULES = """
table inet {table} {{
    set bridges {{ type ifname; }}
    map arriving {{ type ifname : verdict; }}
    set internal {{ type ifname; }}
    set within {{ type ifname . ifname; }}
    set own4 {{ type ifname . ipv4_addr; flags interval; }}
    set own6 {{ type ifname . ipv6_addr; flags interval; }}
    set subnets4 {{ type ipv4_addr; flags interval; }}
    set subnets6 {{ type ipv6_addr; flags interval; }}
    set neighbours4 {{ type ipv4_addr . ipv4_addr; flags interval; }}
    set neighbours6 {{ type ipv6_addr . ipv6_addr; flags interval; }}
    map published4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    map published4_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map published6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
    map published6_any {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}

    chain publish {{
        meta l4proto {{ 6, 17, 132 }} dnat ip to ip daddr . meta l4proto . th dport map @published4
        meta l4proto {{ 6, 17, 132 }} dnat ip to meta l4proto . th dport map @published4_any
        ip6 daddr ::1 return
        meta l4proto {{ 6, 17, 132 }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
        meta l4proto {{ 6, 17, 132 }} dnat ip6 to meta l4proto . th dport map @published6_any
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
        ip daddr 127.0.0.0/8 return
        fib daddr type local jump publish
    }}
    chain output {{
        type nat hook output priority -100; policy accept;
        fib daddr type local jump publish
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr 127.0.0.0/8 oifname @bridges masquerade
        oifname @bridges ct status dnat ip saddr . ip daddr @neighbours4 masquerade
        oifname @bridges ct status dnat ip6 saddr . ip6 daddr @neighbours6 masquerade
        ip saddr @subnets4 oifname != @bridges oifname != "lo" masquerade
        ip6 saddr @subnets6 oifname != @bridges oifname != "lo" masquerade
    }}
    chain contained {{
        ip daddr 127.0.0.0/8 drop
        ip saddr 127.0.0.0/8 drop
    }}
    chain shut_in {{
        jump contained
        meta pkttype host meta nfproto ipv4 iifname . ip daddr != @own4 drop
        meta pkttype host ip6 daddr != fe80::/10 iifname . ip6 daddr != @own6 drop
    }}
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname vmap @arriving
    }}
    {api}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @within accept
        iifname @internal drop
        oifname @internal drop
        oifname @bridges ct state established,related accept
        oifname @bridges ct status dnat accept
        oifname @bridges drop
        iifname @bridges accept
        {closed}
    }}
}}
"""

# Only there when there are such ports: every packet from a container to its host would pass it.
_API = """chain input {{
        type filter hook input priority filter; policy accept;
        tcp dport {{ {ports} }} iifname @bridges drop
    }}"""

# Nearly every packet ends at the first or second "accept", after one look into one set.
_SPOOFING = """
table bridge {table} {{
    set ports {{ type ifname; }}
    set macs {{ type ifname . ether_addr; }}
    set senders4 {{ type ifname . ether_addr . ipv4_addr; }}
    set senders6 {{ type ifname . ether_addr . ipv6_addr; }}
    set targets6 {{ typeof meta iifname . @th,64,128; }}

    chain spoofing {{
        type filter hook prerouting priority -300; policy accept;
        iifname != @ports accept
        iifname . ether saddr . ip saddr @senders4 accept
        iifname . ether saddr . ip6 saddr @senders6 meta l4proto != 58 accept
        iifname . ether saddr != @macs drop
        ether type {{ 8021q, 8021ad }} drop
        ether type ip ip saddr != 0.0.0.0 drop
        ether type arp iifname . arp saddr ether != @macs drop
        ether type arp arp saddr ip != 0.0.0.0 iifname . arp saddr ether . arp saddr ip != @senders4 drop
        icmpv6 type {{ nd-router-advert, nd-redirect }} drop
        ether type ip6 ip6 saddr != {{ ::, fe80::/10 }} iifname . ether saddr . ip6 saddr != @senders6 drop
        icmpv6 type nd-neighbor-advert @th,64,10 != 0x3fa meta iifname . @th,64,128 != @targets6 drop
    }}
}}
"""

# Forwarding is on because we turned it on: what it must not do is make a router out of this host. Physical links have
# no kind at all, which no expression matches; so links of the kinds that containers, virtual machines and tunnels use
# (whoever made them) go on as before, and the rest, one network card to another, is dropped.
GUARD = "IPv{version} forwarding was off before an engine turned it on"
_CLOSED = """meta nfproto {family} meta iifkind {{ "bridge", "veth", "tun", "wireguard" }} accept
        meta nfproto {family} meta oifkind {{ "bridge", "veth", "tun", "wireguard" }} accept
        meta nfproto {family} drop comment "{guard}"
        """


@dataclass(frozen=True, slots=True)
class FirewalledNetwork:
    """What the rules need of one bridge network."""

    bridge: str
    subnet: ipaddress.IPv4Network | None
    subnet6: ipaddress.IPv6Network | None = None
    icc: bool = True
    masquerade: bool = True
    internal: bool = False


def script(table: str, networks: Iterable[FirewalledNetwork], sandboxes: Iterable[Sandbox], *,
           closed: Iterable[int], trusted: Container[str] = (), api_ports: Iterable[int] = (),
           spoofing: bool = True) -> str:
    """A transaction that replaces the tables as a whole, whatever they held.

    ``closed``: for these IP versions see the forward chain. ``trusted`` are ids of networks whose containers may use
    any address. ``api_ports`` of this host are not for containers. ``spoofing``: the kernel has rules for bridges, so
    that containers can be kept to their own addresses.
    """
    ports = ", ".join(map(str, api_ports))
    api = _API.format(ports=ports) if ports else ""
    guards = "".join(_CLOSED.format(family=f"ipv{version}", guard=GUARD.format(version=version))
                     for version in closed)
    parts = [*_emptied(table, bridge=spoofing), _RULES.format(table=table, closed=guards, api=api)]
    if spoofing:
        parts.append(_SPOOFING.format(table=table))
    parts += [line for network in networks for line in network_elements("add", table, network)]
    for sandbox in sandboxes:
        parts += port_elements("add", table, sandbox.endpoints, sandbox.ports)
        parts += [line for endpoint in sandbox.endpoints if spoofing and endpoint.network_id not in trusted
                  for line in endpoint_elements("add", table, endpoint)]
    return "\n".join(parts) + "\n"


def _emptied(table: str, *, bridge: bool) -> list[str]:
    return [f"{verb} table {family} {table}" for family in ("inet", *(["bridge"] if bridge else []))
            for verb in ("add", "delete")]


def removal(table: str, *, spoofing: bool) -> str:
    return "\n".join(_emptied(table, bridge=spoofing)) + "\n"


def network_elements(verb: str, table: str, network: FirewalledNetwork) -> list[str]:
    """The lines that ``add`` or ``delete`` one network."""
    def line(name: str, element: object) -> str:
        return f"{verb} element inet {table} {name} {{ {element} }}"

    bridge = f'"{network.bridge}"'
    lines = [line("bridges", bridge),
             line("arriving", f"{bridge} : jump {'shut_in' if network.internal else 'contained'}")]
    if network.icc:
        lines.append(line("within", f"{bridge} . {bridge}"))
    if network.internal:
        lines.append(line("internal", bridge))
    for version, subnet in ((4, network.subnet), (6, network.subnet6)):
        if subnet is None:
            continue
        lines.append(line(f"neighbours{version}", f"{subnet} . {subnet}"))
        if network.internal:
            lines.append(line(f"own{version}", f"{bridge} . {subnet}"))
        elif network.masquerade:
            lines.append(line(f"subnets{version}", subnet))
    return lines


def endpoint_elements(verb: str, table: str, endpoint: Endpoint) -> list[str]:
    """The lines that ``add`` or ``delete`` what one bridge port may send as; only a bridge has such a port."""
    if not endpoint.port:
        return []
    port = f'"{endpoint.port}"'
    sender = f"{port} . {endpoint.mac}"
    entries = [("ports", port), ("macs", sender)]
    entries += [("senders4", f"{sender} . {address}") for address in (endpoint.ipv4, *endpoint.link_local)
                if address and ":" not in address]
    if endpoint.ipv6:
        number = int(ipaddress.IPv6Address(endpoint.ipv6))
        entries += [("senders6", f"{sender} . {endpoint.ipv6}"), ("targets6", f"{port} . 0x{number:032x}")]
    return [f"{verb} element bridge {table} {name} {{ {element} }}" for name, element in entries]


def port_elements(verb: str, table: str, endpoints: Sequence[Endpoint], ports: Iterable[PublishedPort]) -> list[str]:
    """The lines that ``add`` or ``delete`` published ports; what only the port keeper can serve has none."""
    lines = []
    for port in ports:
        target = port_target(endpoints, port)
        if target is None:
            continue
        version = ipaddress.ip_address(port.host_ip).version
        key = f"{_PROTOCOLS[port.protocol]} . {port.host_port}"
        if port.host_ip in (ANY4, ANY6):
            name = f"published{version}_any"
        else:
            name, key = f"published{version}", f"{port.host_ip} . {key}"
        lines.append(f"{verb} element inet {table} {name} {{ {key} : {target} . {port.container_port} }}")
    return lines


def port_target(endpoints: Sequence[Endpoint], port: PublishedPort) -> str | None:
    """The container's address of the host address's own family, or None: then the kernel shall not translate it."""
    endpoint = serving_endpoint(endpoints, port)
    if endpoint is None or port.relayed:
        return None
    return (endpoint.ipv4 if ipaddress.ip_address(port.host_ip).version == 4 else endpoint.ipv6) or None


def serving_endpoint(endpoints: Iterable[Endpoint], port: PublishedPort) -> Endpoint | None:
    """The endpoint that ``port`` leads to; None on an internal network, unless only this host can come by it."""
    endpoint = ports_endpoint(endpoints)
    if endpoint is not None and not endpoint.leads_out and not ipaddress.ip_address(port.host_ip).is_loopback:
        return None
    return endpoint


def ports_endpoint(endpoints: Iterable[Endpoint]) -> Endpoint | None:
    """The endpoint that published ports lead to: of those on bridges the one that comes first for the way out."""
    return next((endpoint for endpoint in by_way_out(endpoints) if endpoint.port), None)
