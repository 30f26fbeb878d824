"""rtnetlink(7) in the few messages that container networking needs: links, addresses, routes.

A message is made by a function (``new_veth(...)``) and sent by a :class:`Netlink` socket, several in one send. A socket
belongs for ever to the network namespace in which it was opened, whatever its thread enters later.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST, _ACK, _DUMP, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x300, 0x100, 0x200, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSGERR_ATTR_MSG = 1
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _DELADDR, _GETADDR = 16, 17, 18, 20, 21, 22
_NEWROUTE, _GETROUTE = 24, 26
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 5, 10, 18
_IFLA_IFALIAS, _IFLA_NET_NS_FD, _IFLA_GROUP, _IFLA_MACVLAN_MODE, _IFLA_VLAN_ID = 20, 28, 27, 1, 1
_IFLA_IPVLAN_MODE, _IFLA_IPVLAN_FLAGS, _IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS = 1, 2, 29, 1 << 3
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA, _VETH_INFO_PEER = 1, 2, 4, 5, 1
_IFLA_BRPORT_MODE, _IFLA_BRPORT_ISOLATED = 4, 33
_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS, _IFA_F_NODAD = 1, 2, 4, 8, 0x02
_IFA_F_PERMANENT, _RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0x80, 0, 253
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 1, 4, 5, 15
_RT_TABLE_MAIN, _RTPROT_BOOT, _RTN_UNICAST = 254, 3, 1
_IFF_UP = 0x1
#: macvlan modes by their names in ip-link(8).
MACVLAN_MODES = {"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}
IPVLAN_MODES = {"l2": 0, "l3": 1, "l3s": 2}
IPVLAN_FLAGS = {"bridge": 0, "private": 1, "vepa": 2}

#: So many acknowledgements fit into the receive buffer.
_AT_ONCE = 64
_HEADER = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_IFADDR = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")


@dataclass(frozen=True, slots=True)
class Message:
    """One request: its type, its flags besides NLM_F_REQUEST|NLM_F_ACK, and the bytes behind the header."""

    kind: int
    flags: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mac: str
    mtu: int
    master: int
    kind: str
    up: bool
    alias: str


@dataclass(frozen=True, slots=True)
class Address:
    index: int
    address: IPAddress
    prefix_len: int
    #: Whether it was given (and will not run out) and is meant for others than this link.
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route: where to, through which link; ``gateway`` is None for what is on the link."""

    destination: IPNetwork
    index: int
    table: int
    gateway: IPAddress | None


class NetlinkError(OSError):
    """What the kernel refused; the text carries its own explanation where it gave one (extended ack)."""


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", len(value) + 4, kind) + value + b"\0" * (-len(value) % 4)


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _mac_bytes(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _family(address: IPAddress) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def new_bridge(name: str, mac: str, mtu: int) -> Message:
    """A bridge, still down. Its MAC is fixed, else it would change with every port that comes and goes."""
    payload = (_IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name) + _attribute(_IFLA_ADDRESS, _mac_bytes(mac))
               + _u32(_IFLA_MTU, mtu)
               + _attribute(_IFLA_LINKINFO, _text(_IFLA_INFO_KIND, "bridge")))
    return Message(_NEWLINK, _CREATE | _EXCL, payload)


def new_veth(name: str, *, mtu: int, peer: str, peer_netns: int) -> Message:
    """A veth pair, both ends down: ``name`` here, ``peer`` in the namespace of fd ``peer_netns``."""
    other = (_IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, peer) + _u32(_IFLA_MTU, mtu)
             + _u32(_IFLA_NET_NS_FD, peer_netns))
    data = _attribute(_IFLA_INFO_DATA, _attribute(_VETH_INFO_PEER, other))
    payload = (_IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name) + _u32(_IFLA_MTU, mtu)
               + _attribute(_IFLA_LINKINFO, _text(_IFLA_INFO_KIND, "veth") + data))
    return Message(_NEWLINK, _CREATE | _EXCL, payload)


def new_macvlan(name: str, *, parent: int, mode: str, netns: int, mtu: int) -> Message:
    """A macvlan interface on link ``parent``, down, in the namespace of fd ``netns``; ``mode``: MACVLAN_MODES."""
    return _new_upon(name, parent, "macvlan", _u32(_IFLA_MACVLAN_MODE, MACVLAN_MODES[mode]),
                     _u32(_IFLA_NET_NS_FD, netns) + (_u32(_IFLA_MTU, mtu) if mtu else b""))


def new_ipvlan(name: str, *, parent: int, mode: str, flag: str, netns: int, mtu: int) -> Message:
    """As :func:`new_macvlan`, an ipvlan interface; ``mode`` and ``flag``: IPVLAN_MODES, IPVLAN_FLAGS."""
    data = (_attribute(_IFLA_IPVLAN_MODE, struct.pack("=H", IPVLAN_MODES[mode]))
            + _attribute(_IFLA_IPVLAN_FLAGS, struct.pack("=H", IPVLAN_FLAGS[flag])))
    return _new_upon(name, parent, "ipvlan", data,
                     _u32(_IFLA_NET_NS_FD, netns) + (_u32(_IFLA_MTU, mtu) if mtu else b""))


def new_vlan(name: str, *, parent: int, number: int) -> Message:
    """The interface for VLAN ``number`` of link ``parent``, down."""
    return _new_upon(name, parent, "vlan", _attribute(_IFLA_VLAN_ID, struct.pack("=H", number)), b"")


def new_dummy(name: str, mtu: int) -> Message:
    """A link that leads nowhere, down."""
    return Message(_NEWLINK, _CREATE | _EXCL, _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
                   + _u32(_IFLA_MTU, mtu) + _attribute(_IFLA_LINKINFO, _text(_IFLA_INFO_KIND, "dummy")))


def probe(kind: str) -> Message:
    """Refused in any case: with EOPNOTSUPP where the kernel has no links of that kind."""
    return _new_upon("probe", 0x7FFFFFFF, kind, b"", b"")


def _new_upon(name: str, parent: int, kind: str, data: bytes, more: bytes) -> Message:
    payload = (_IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name) + _u32(_IFLA_LINK, parent) + more
               + _attribute(_IFLA_LINKINFO, _text(_IFLA_INFO_KIND, kind) + _attribute(_IFLA_INFO_DATA, data)))
    return Message(_NEWLINK, _CREATE | _EXCL, payload)


def set_link(index: int, *, up: bool | None = None, mac: str | None = None, mtu: int | None = None) -> Message:
    flags = _IFF_UP if up else 0
    payload = _IFINFO.pack(0, 0, index, flags, 0 if up is None else _IFF_UP)
    if mac is not None:
        payload += _attribute(_IFLA_ADDRESS, _mac_bytes(mac))
    if mtu is not None:
        payload += _u32(_IFLA_MTU, mtu)
    return Message(_NEWLINK, 0, payload)


def set_name(index: int, name: str) -> Message:
    """Rename a link that is down."""
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + _text(_IFLA_IFNAME, name))


def set_alias(name: str, alias: str) -> Message:
    """Write ``alias`` on a link; the kernel takes none while it makes one."""
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
                   + _attribute(_IFLA_IFALIAS, alias.encode()))


def move_link(index: int, netns: int, name: str) -> Message:
    """Move a link into the namespace of fd ``netns``, under ``name`` there. It arrives down and without addresses."""
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + _text(_IFLA_IFNAME, name)
                   + _u32(_IFLA_NET_NS_FD, netns))


def set_port(name: str, master: int) -> Message:
    """Make link ``name`` a port of bridge ``master``, and set it up."""
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, 0, _IFF_UP, _IFF_UP) + _text(_IFLA_IFNAME, name)
                   + _u32(_IFLA_MASTER, master))


def set_down(name: str) -> Message:
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, 0, 0, _IFF_UP) + _text(_IFLA_IFNAME, name))


def set_hairpin(name: str) -> Message:
    """Let bridge port ``name`` send out again what came in through it."""
    return _set_bridge_port(name, _IFLA_BRPORT_MODE)


def set_isolated(name: str) -> Message:
    """Forbid bridge port ``name`` all traffic with other isolated ports; the bridge itself can still be reached."""
    return _set_bridge_port(name, _IFLA_BRPORT_ISOLATED)


def _set_bridge_port(name: str, flag: int) -> Message:
    data = _attribute(_IFLA_INFO_SLAVE_DATA, _attribute(flag, b"\1"))
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
                   + _attribute(_IFLA_LINKINFO, _text(_IFLA_INFO_SLAVE_KIND, "bridge") + data))


def delete_link(index: int) -> Message:
    return Message(_DELLINK, 0, _IFINFO.pack(0, 0, index, 0, 0))


def set_group(index: int, group: int) -> Message:
    return Message(_NEWLINK, 0, _IFINFO.pack(0, 0, index, 0, 0) + _u32(_IFLA_GROUP, group))


def delete_group(group: int) -> Message:
    """Delete all links of a group: the kernel waits once for all of them, not once for each."""
    return Message(_DELLINK, 0, _IFINFO.pack(0, 0, 0, 0, 0) + _u32(_IFLA_GROUP, group))


def _address(kind: int, flags: int, index: int, address: IPAddress, prefix_len: int) -> Message:
    scope = _RT_SCOPE_LINK if address.is_link_local else _RT_SCOPE_UNIVERSE
    payload = _IFADDR.pack(_family(address), prefix_len, 0, scope, index)
    payload += _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)
    if address.version == 6:
        # Duplicate address detection would hold the address back for a second; the allocator rules duplicates out.
        payload += _u32(_IFA_FLAGS, _IFA_F_NODAD)
    elif prefix_len < 31:
        # The kernel makes the route, but programs ask for the address (SIOCGIFBRDADDR), which is else 0.0.0.0.
        network = ipaddress.ip_network((address, prefix_len), strict=False)
        payload += _attribute(_IFA_BROADCAST, network.broadcast_address.packed)
    return Message(kind, flags, payload)


def add_address(index: int, address: IPAddress, prefix_len: int) -> Message:
    return _address(_NEWADDR, _CREATE | _EXCL, index, address, prefix_len)


def delete_address(index: int, address: IPAddress, prefix_len: int) -> Message:
    return _address(_DELADDR, 0, index, address, prefix_len)


def set_default_route(index: int, version: int, gateway: IPAddress | None) -> Message:
    """The default route of IP ``version``, in the place of the one that is there; without a gateway to all the link."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    scope = _RT_SCOPE_LINK if gateway is None and version == 4 else _RT_SCOPE_UNIVERSE
    payload = _RTMSG.pack(family, 0, 0, 0, _RT_TABLE_MAIN, _RTPROT_BOOT, scope, _RTN_UNICAST, 0)
    payload += (_attribute(_RTA_GATEWAY, gateway.packed) if gateway else b"") + _u32(_RTA_OIF, index)
    return Message(_NEWROUTE, _CREATE | _REPLACE, payload)


class Netlink:
    """A NETLINK_ROUTE socket of the namespace that the calling thread is in. Not for two threads at once."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, *messages: Message) -> None:
        """Send all messages and wait for all acknowledgements; raises the first error, the others are done."""
        failure: NetlinkError | None = None
        for start in range(0, len(messages), _AT_ONCE):
            failed = self._request(messages[start:start + _AT_ONCE])
            failure = failure or failed
        if failure is not None:
            raise failure

    def _request(self, messages: Sequence[Message]) -> NetlinkError | None:
        first = self._sequence + 1
        self._socket.send(b"".join(self._frame(message, _REQUEST | _ACK) for message in messages))
        failure: NetlinkError | None = None
        missing = set(range(first, self._sequence + 1))
        while missing:
            for kind, flags, sequence, body in self._receive():
                if kind == _NLMSG_ERROR and sequence in missing:
                    missing.discard(sequence)
                    failure = failure or _failure(flags, body)
        return failure

    def links(self) -> list[Link]:
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + _u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
        return [_link(body) for body in self._dump(_GETLINK, payload)]

    def link(self, name: str) -> Link | None:
        """The link of that name, or None."""
        payload = _IFINFO.pack(0, 0, 0, 0, 0) + _text(_IFLA_IFNAME, name)
        self._socket.send(self._frame(Message(_GETLINK, 0, payload), _REQUEST))
        for kind, flags, _, body in self._receive():
            if kind == _NEWLINK:
                return _link(body)
            failure = _failure(flags, body)
            if failure is not None and failure.errno != 19:  # ENODEV
                raise failure
        return None

    def addresses(self) -> list[Address]:
        found = []
        for body in self._dump(_GETADDR, _IFADDR.pack(0, 0, 0, 0, 0)):
            _, prefix_len, flags, scope, index = _IFADDR.unpack_from(body)
            attributes = dict(_attributes(body[_IFADDR.size:]))
            packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS)
            if packed is not None:
                found.append(Address(index, ipaddress.ip_address(packed), prefix_len,
                                     bool(flags & _IFA_F_PERMANENT) and scope == _RT_SCOPE_UNIVERSE))
        return found

    def routes(self, version: int = 4) -> list[Route]:
        """The unicast routes of all tables for IP ``version``."""
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        found = []
        for body in self._dump(_GETROUTE, _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
            _, length, _, _, table, _, _, kind, _ = _RTMSG.unpack_from(body)
            attributes = dict(_attributes(body[_RTMSG.size:]))
            if kind != _RTN_UNICAST:
                continue
            packed = attributes.get(_RTA_DST, b"\0" * (4 if version == 4 else 16))
            gateway = attributes.get(_RTA_GATEWAY)
            found.append(Route(ipaddress.ip_network((packed, length)), _number(attributes.get(_RTA_OIF)),
                               _number(attributes.get(_RTA_TABLE)) or table,
                               None if gateway is None else ipaddress.ip_address(gateway)))
        return found

    def _frame(self, message: Message, flags: int) -> bytes:
        self._sequence += 1
        return _HEADER.pack(_HEADER.size + len(message.payload), message.kind, message.flags | flags,
                            self._sequence, 0) + message.payload + b"\0" * (-len(message.payload) % 4)

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        data = self._socket.recv(1 << 18)
        offset = 0
        while offset + _HEADER.size <= len(data):
            length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
            yield kind, flags, sequence, data[offset + _HEADER.size:offset + length]
            offset += (length + 3) & ~3

    def _dump(self, kind: int, payload: bytes) -> list[bytes]:
        self._socket.send(self._frame(Message(kind, _DUMP, payload), _REQUEST))
        found: list[bytes] = []
        while True:
            for answer, flags, sequence, body in self._receive():
                if sequence != self._sequence:
                    continue
                if answer == _NLMSG_DONE:
                    return found
                if answer == _NLMSG_ERROR:
                    raise _failure(flags, body) or NetlinkError(5, "netlink dump ended without an answer")
                found.append(body)


def _number(value: bytes | None) -> int:
    return int.from_bytes(value, "little" if struct.pack("=H", 1) == b"\1\0" else "big") if value else 0


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            return
        yield kind & 0x3FFF, data[offset + 4:offset + length]
        offset += (length + 3) & ~3


def _failure(flags: int, body: bytes) -> NetlinkError | None:
    code = -struct.unpack_from("=i", body)[0]
    if code == 0:
        return None
    text = os.strerror(code)
    if flags & _NLM_F_ACK_TLVS:
        # With NETLINK_CAP_ACK only the header of the request is echoed before the attributes.
        start = 4 + _HEADER.size if flags & _NLM_F_CAPPED else 4 + ((struct.unpack_from("=I", body, 4)[0] + 3) & ~3)
        detail = dict(_attributes(body[start:])).get(_NLMSGERR_ATTR_MSG)
        if detail:
            text += ": " + detail.rstrip(b"\0").decode(errors="replace")
    return NetlinkError(code, text)


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    attributes = dict(_attributes(body[_IFINFO.size:]))
    info = dict(_attributes(attributes.get(_IFLA_LINKINFO, b"")))
    return Link(index, attributes[_IFLA_IFNAME].rstrip(b"\0").decode(), attributes.get(_IFLA_ADDRESS, b"").hex(":"),
                _number(attributes.get(_IFLA_MTU)), _number(attributes.get(_IFLA_MASTER)),
                info.get(_IFLA_INFO_KIND, b"").rstrip(b"\0").decode(), bool(flags & _IFF_UP),
                attributes.get(_IFLA_IFALIAS, b"").rstrip(b"\0").decode(errors="replace"))
