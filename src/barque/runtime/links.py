"""The container's network links: its loopback, and devices of the host that the document moves in (netDevices)."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping

from barque.oci.runtime_spec import NetDevice
from barque.runtime.failure import RuntimeFailure
from barque.runtime.step import ChildStep, Context
from barque.sys import namespaces
from barque.sys.sockets import AF_INET, SOCK_DGRAM, Socket

_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sh14x")


class BringUpLoopback(ChildStep):
    """A new network namespace has it down, and programs expect 127.0.0.1 to be there (runc does the same)."""

    def describe(self) -> str:
        return "bring up the loopback device"

    def execute(self, context: Context) -> None:
        bring_up_loopback()


def bring_up_loopback() -> None:
    """In the caller's network namespace."""
    with Socket(AF_INET, SOCK_DGRAM) as sock:
        _, flags = _IFREQ.unpack(fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0)))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", flags | _IFF_UP))


def move_devices(devices: Mapping[str, NetDevice], pid: int) -> None:
    """Move links of the caller's network namespace into that of ``pid``, under their new names.

    As the specification has it they keep their permanent global addresses and whether they are up. Raises
    RuntimeFailure.
    """
    # Costs 10 ms to import, for what few containers have.
    from barque.sys import rtnetlink

    target = namespaces.open_namespace(f"/proc/{pid}/ns/net", "network")
    try:
        with rtnetlink.Netlink() as here:
            for name, device in devices.items():
                link = here.link(name)
                if link is None:
                    raise RuntimeFailure("netDevices", errno=19, path=name, detail=f"network device {name!r} not found")
                addresses = [item for item in here.addresses() if item.index == link.index and item.lasting]
                here.request(rtnetlink.move_link(link.index, target, device.name or name))
                with namespaces.visiting([("network", target)]), rtnetlink.Netlink() as there:
                    moved = there.link(device.name or name)
                    if moved is None:
                        raise RuntimeFailure("netDevices", errno=19, path=name, detail=f"{name!r} did not arrive")
                    there.request(*(rtnetlink.add_address(moved.index, item.address, item.prefix_len)
                                    for item in addresses))
                    there.request(rtnetlink.set_link(moved.index, up=link.up))
    except OSError as error:
        raise RuntimeFailure("netDevices", errno=error.errno or 0, detail=f"cannot move network devices: "
                                                                          f"{error.strerror}") from None
    finally:
        os.close(target)
