"""The nftables scripts: what is in them is seen by the kernel's tests, here is what a poorer kernel gets."""

from __future__ import annotations

import ipaddress

from barque.network.firewall import FirewalledNetwork, port_target, removal, script
from barque.network.model import Endpoint, PublishedPort, Sandbox

NETWORK = FirewalledNetwork("br0", ipaddress.IPv4Network("10.0.0.0/24"))


def endpoint(**more: object) -> Endpoint:
    return Endpoint(**{"network_name": "n", "network_id": "i", "endpoint_id": "e", "interface": "eth0", "port": "veth1",
                       "mac": "02:00:00:00:00:01", "ipv4": "10.0.0.2", "prefix_len": 24, "gateway": "10.0.0.1"} | more)


def port(host_ip: str, **more: object) -> PublishedPort:
    return PublishedPort(container_port=80, protocol="tcp", host_ip=host_ip, host_port=8080, **more)


def test_a_kernel_without_rules_for_bridges_gets_none() -> None:
    sandbox = Sandbox(container_id="c", mode="bridge", netns_path="/x", endpoints=(endpoint(),),
                      ports=(port("0.0.0.0"),))
    full = script("t", [NETWORK], [sandbox], closed=())
    assert "table bridge t {" in full and "add element bridge t macs" in full
    poor = script("t", [NETWORK], [sandbox], closed=(), spoofing=False)
    assert "table bridge" not in poor and "element bridge" not in poor and "published4_any" in poor
    assert "bridge" in removal("t", spoofing=True) and "bridge" not in removal("t", spoofing=False)


def test_where_a_published_port_leads() -> None:
    first, second = endpoint(gw_priority=1, ipv4="10.0.0.9"), endpoint(network_name="a", ipv6="fd00::2")
    assert port_target([second, first], port("0.0.0.0")) == "10.0.0.9"
    assert port_target([second], port("::")) == "fd00::2"
    assert port_target([first], port("::")) is None and port_target([first], port("0.0.0.0", relayed=True)) is None
    # Nobody comes from outside to an internal network; and a macvlan has no port on a bridge to lead to.
    internal = endpoint(gateway="")
    assert port_target([internal], port("0.0.0.0")) is None and port_target([internal], port("127.0.0.1")) == "10.0.0.2"
    assert port_target([endpoint(port="")], port("0.0.0.0")) is None
