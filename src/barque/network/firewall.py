"""The one nftables table of this engine: what its rules are, and which set elements a network or a port is.

The rules never change; networks and ports are elements of sets and maps, so one more of them costs the same for the
first and the thousandth. Everything is looked up by the bridge's name. No other table is touched, and an ``accept``
here ends only our own chain: another firewall's ``drop`` still counts.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from barque.network.model import Endpoint, PublishedPort, Sandbox

ANY4, ANY6 = "0.0.0.0", "::"

# The order in "publish" is that of precedence: a port on one address beats the same port on all.
# "guard": route_localnet on the bridges lets answers to 127.0.0.1 in, and would let a container reach the host's
#   loopback services (CVE-2020-8558). Raw priority comes before conntrack turns an answer's address back into
#   127.0.0.1, so what has such an address here was forged.
# "forward": a container is reached from outside only through a published port; "within" are the pairs that may talk
#   (what goes from port to port inside a bridge comes by here only with br_netfilter; else port isolation decides).
# "postrouting": 127.0.0.1 must not leave the host; and an answer between neighbours on one bridge must come back
#   through us, else its source would be the container's address, not the published one. (Where br_netfilter is on,
#   this chain sees such packets without their input link.)
_RULES = """
table inet {table} {{
    set bridges {{ type ifname; }}
    set within {{ type ifname . ifname; }}
    set subnets4 {{ type ipv4_addr; flags interval; }}
    set neighbours4 {{ type ipv4_addr . ipv4_addr; flags interval; }}
    map published4 {{ type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service; }}
    map published4_any {{ type inet_proto . inet_service : ipv4_addr . inet_service; }}
    map published6 {{ type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service; }}
    map published6_any {{ type inet_proto . inet_service : ipv6_addr . inet_service; }}

    chain publish {{
        meta l4proto {{ tcp, udp, sctp }} dnat ip to ip daddr . meta l4proto . th dport map @published4
        meta l4proto {{ tcp, udp, sctp }} dnat ip to meta l4proto . th dport map @published4_any
        ip6 daddr ::1 return
        meta l4proto {{ tcp, udp, sctp }} dnat ip6 to ip6 daddr . meta l4proto . th dport map @published6
        meta l4proto {{ tcp, udp, sctp }} dnat ip6 to meta l4proto . th dport map @published6_any
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat; policy accept;
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
        ip saddr @subnets4 oifname != @bridges oifname != "lo" masquerade
    }}
    chain guard {{
        type filter hook prerouting priority raw; policy accept;
        iifname @bridges ip daddr 127.0.0.0/8 drop
        iifname @bridges ip saddr 127.0.0.0/8 drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname . oifname @within accept
        oifname @bridges ct state established,related accept
        oifname @bridges ct status dnat accept
        oifname @bridges drop
        iifname @bridges accept
        {closed}
    }}
}}
"""

# Forwarding is on because we turned it on: what it must not do is make a router out of this host. Physical links have
# no kind at all, which no expression matches; so links of the kinds that containers, virtual machines and tunnels use
# (whoever made them) go on as before, and the rest, one network card to another, is dropped.
_CLOSED = """meta iifkind { "bridge", "veth", "tun", "wireguard" } accept
        meta oifkind { "bridge", "veth", "tun", "wireguard" } accept
        drop comment "forwarding was off before this engine turned it on\""""


@dataclass(frozen=True, slots=True)
class FirewalledNetwork:
    """What the rules need of one network: its bridge, its subnet, and two of its options."""

    bridge: str
    subnet: ipaddress.IPv4Network
    icc: bool = True
    masquerade: bool = True


def script(table: str, networks: Iterable[FirewalledNetwork], sandboxes: Iterable[Sandbox], *, closed: bool) -> str:
    """A transaction that replaces the table as a whole, whatever it held. ``closed``: see the forward chain."""
    parts = [f"table inet {table}", f"delete table inet {table}",
             _RULES.format(table=table, closed=_CLOSED if closed else "")]
    parts += [line for network in networks for line in network_elements("add", table, network)]
    parts += [line for sandbox in sandboxes for line in port_elements("add", table, sandbox.endpoints, sandbox.ports)]
    return "\n".join(parts) + "\n"


def removal(table: str) -> str:
    return f"table inet {table}\ndelete table inet {table}\n"


def network_elements(verb: str, table: str, network: FirewalledNetwork) -> list[str]:
    """The lines that ``add`` or ``delete`` one network."""
    lines = [f'{verb} element inet {table} bridges {{ "{network.bridge}" }}',
             f"{verb} element inet {table} neighbours4 {{ {network.subnet} . {network.subnet} }}"]
    if network.masquerade:
        lines.append(f"{verb} element inet {table} subnets4 {{ {network.subnet} }}")
    if network.icc:
        lines.append(f'{verb} element inet {table} within {{ "{network.bridge}" . "{network.bridge}" }}')
    return lines


def port_elements(verb: str, table: str, endpoints: Sequence[Endpoint], ports: Iterable[PublishedPort]) -> list[str]:
    """The lines that ``add`` or ``delete`` published ports; what only the port keeper can serve has none."""
    lines = []
    for port in ports:
        target = port_target(endpoints, port)
        if target is None:
            continue
        version = ipaddress.ip_address(port.host_ip).version
        key = f"{port.protocol} . {port.host_port}"
        if port.host_ip in (ANY4, ANY6):
            name = f"published{version}_any"
        else:
            name, key = f"published{version}", f"{port.host_ip} . {key}"
        lines.append(f"{verb} element inet {table} {name} {{ {key} : {target} . {port.container_port} }}")
    return lines


def port_target(endpoints: Sequence[Endpoint], port: PublishedPort) -> str | None:
    """The container's address of the host address's own family, or None: then the kernel cannot translate it."""
    version = ipaddress.ip_address(port.host_ip).version
    if not endpoints:
        return None
    return endpoints[0].ipv4 if version == 4 else endpoints[0].ipv6
