"""The links of the host that macvlan and ipvlan interfaces hang on: found, or made for one network."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from barque.network import bridge as bridges
from barque.network.bridge import KernelNetwork
from barque.network.errors import DriverUnsupported, LoopbackParent, ParentMissing, ParentTaken
from barque.network.model import NetworkSpec
from barque.sys import rtnetlink
from barque.sys.rtnetlink import Link, Netlink


def parent_link(netlink: Netlink, spec: NetworkSpec, alias: str, others: Iterable[KernelNetwork]) -> Link:
    """The parent that ``spec`` asks for, up. ``alias`` marks it where it is made: it goes with the network then.

    ``eth0.10`` is made as VLAN 10 of ``eth0`` if it is not there. Without a parent the containers have a dummy, which
    leads nowhere. Raises ParentMissing, ParentTaken, DriverUnsupported.
    """
    if spec.parent == "lo":  # the kernel has no loopback link of another name, and takes it without a word
        raise LoopbackParent(driver=spec.driver)
    _check_kernel(netlink, spec.driver)
    if not spec.parent:
        name = "dm-" + spec.id[:12]  # as dockerd has it
        return _made(netlink, spec, name, rtnetlink.new_dummy(name, spec.mtu), alias)
    for other in others:
        if other.driver in ("macvlan", "ipvlan") and other.link.name == spec.parent and other.id != spec.id:
            raise ParentTaken(other=other.name, parent=spec.parent)
    link = netlink.link(spec.parent)
    if link is not None and link.alias != alias:
        return link
    name, dot, number = spec.parent.rpartition(".")
    below = netlink.link(name) if dot else None
    if below is None:
        raise ParentMissing(driver=spec.driver, parent=spec.parent)
    if not (number.isascii() and number.isdecimal() and 1 <= int(number) <= 4094):
        raise ParentMissing(driver=spec.driver, parent=f"{spec.parent}: a VLAN's number is between 1 and 4094")
    return _made(netlink, spec, spec.parent, rtnetlink.new_vlan(spec.parent, parent=below.index, number=int(number)),
                 alias)


def _check_kernel(netlink: Netlink, driver: str) -> None:
    try:
        netlink.request(rtnetlink.probe(driver))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            raise DriverUnsupported(driver=driver, reason=f"this kernel has no {driver} interfaces") from error


def _made(netlink: Netlink, spec: NetworkSpec, name: str, make: rtnetlink.Message, alias: str) -> Link:
    try:
        return bridges.ensure_parent(netlink, name, make, alias)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        what = "VLAN interfaces (module 8021q)" if spec.parent else "dummy interfaces, and no parent is given"
        raise DriverUnsupported(driver=spec.driver, reason=f"there is no link {name}, and this kernel has no {what}") \
            from error
