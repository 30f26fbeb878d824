"""What can go wrong in the network, in dockerd's words (libnetwork and its drivers)."""

from __future__ import annotations

from barque.errors import Conflict, Internal, InvalidArgument, NotFound, PermissionDenied, Unavailable


class AddressesExhausted(Unavailable):
    text = "no available IPv4 addresses on this network's address pools: {name} ({id})"


class AddressInUse(PermissionDenied):
    text = "Address already in use"


class AddressOutside(InvalidArgument):
    text = "Invalid address {address}: It does not belong to any of this network's subnets"


class PoolsExhausted(NotFound):
    """The reason says which routes or networks stand in the way of which pools."""

    text = "all predefined address pools have been fully subnetted: {reason}"


class PoolOverlaps(PermissionDenied):
    text = "Pool overlaps with other one on this address space: {subnet} overlaps {other}"


class StaticAddressRefused(InvalidArgument):
    text = "invalid config for network bridge: invalid endpoint settings:\n" \
           "user specified IP address is supported on user defined networks only"


class PortFailure(Internal):
    """dockerd answers 500 for taken ports, and clients read the text."""

    text = "driver failed programming external connectivity on endpoint {name} ({endpoint}): {reason}"


class PortsWithoutNetwork(InvalidArgument):
    text = "port publishing needs a network of the container's own: not possible with network mode {mode}"


class UnknownMode(InvalidArgument):
    text = "network mode {mode} is not supported by this engine"


class SandboxExists(Conflict):
    text = "container {id} has its network already"
