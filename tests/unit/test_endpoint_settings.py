"""What a client may ask for one network of a container, and what becomes of it."""

from __future__ import annotations

import pytest

from barque.engine.containers.endpoints import IFNAME, SYSCTLS, ConfigurationOnly, checked, driver_options
from barque.engine.containers.options import EndpointIPAMConfig, EndpointSettings
from barque.errors import InvalidArgument
from barque.network.model import NetworkInfo, NetworkSpec, Subnet


def info(driver: str = "bridge", **more: object) -> NetworkInfo:
    spec = NetworkSpec(**{"id": "i", "name": "web", "driver": driver, "created": "",
                          "ipv4": Subnet(subnet="10.0.0.0/24")} | more)
    return NetworkInfo(id="i", name="web", driver=driver, created="", spec=spec)


def test_driver_options() -> None:
    settings = EndpointSettings(driver_opts={
        IFNAME: "lan0", SYSCTLS: "net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.ifname.accept_ra=0"})
    options = driver_options(checked(info(), settings))
    assert options.interface == "lan0" and options.sysctls == {
        "net.ipv4.conf.IFNAME.log_martians": "1", "net.ipv6.conf.ifname.accept_ra": "0"}
    assert driver_options(EndpointSettings()).interface is None
    others = EndpointSettings(driver_opts={"colour": "red"})
    assert checked(info(), others) == others


@pytest.mark.parametrize(("options", "text"), [
    ({"com.docker.network.colour": "red"}, "unknown driver option 'com.docker.network.colour'"),
    ({IFNAME: "lo"}, "invalid interface name 'lo'"),
    ({IFNAME: "a b"}, "invalid interface name"), ({IFNAME: "x" * 16}, "invalid interface name"),
    ({IFNAME: "a/../b"}, "invalid interface name"),
    ({SYSCTLS: "net.ipv4.conf.eth0.log_martians=1"}, "unrecognised network interface sysctl"),
    ({SYSCTLS: "kernel.x.y.IFNAME.z=1"}, "unrecognised network interface sysctl"),
    ({SYSCTLS: "net.ipv4.conf/../../x.IFNAME.z=1"}, "unrecognised network interface sysctl"),
    ({SYSCTLS: "net.ipv4.conf.IFNAME.log_martians"}, "to have format name=value")])
def test_wrong_driver_options(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid endpoint settings") as failed:
        checked(info(), EndpointSettings(driver_opts=options))
    assert text in failed.value.message


@pytest.mark.parametrize("address", ["10.0.0.7", "x", "", "fd00::1", "fe80::1%eth0"])
def test_what_is_no_link_local_address(address: str) -> None:
    with pytest.raises(InvalidArgument, match="invalid link-local IP address: "):
        checked(info(), EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.3.4", address])))


def test_networks_without_interfaces_of_the_containers_own() -> None:
    with pytest.raises(ConfigurationOnly):
        checked(info(config_only=True), EndpointSettings())
    with pytest.raises(InvalidArgument, match="no interface to set up"):
        checked(info("host"), EndpointSettings(driver_opts={IFNAME: "lan0"}))
