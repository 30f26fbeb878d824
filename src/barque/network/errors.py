"""What can go wrong in the network, in dockerd's words (libnetwork and its drivers)."""

from __future__ import annotations

from barque.errors import Conflict, Internal, InvalidArgument, NotFound, PermissionDenied, Unavailable, Unsupported


class AddressesExhausted(Unavailable):
    text = "no available IPv{version} addresses on this network's address pools: {name} ({id})"


class AddressInUse(PermissionDenied):
    text = "Address already in use"


class AddressOutside(InvalidArgument):
    text = "Invalid address {address}: It does not belong to any of this network's subnets"


class GatewayTaken(PermissionDenied):
    text = "failed to allocate gateway ({address}): Address already in use"


class PoolsExhausted(NotFound):
    """The reason says which routes or networks stand in the way of which pools."""

    text = "all predefined address pools have been fully subnetted: {reason}"


class PoolOverlaps(PermissionDenied):
    text = "Pool overlaps with other one on this address space: {subnet} overlaps {other}"


class InvalidPool(InvalidArgument):
    text = "invalid network config:\n{reason}"


class MultipleSubnets(PermissionDenied):
    text = "{driver} driver does not support more than one subnet of a kind"


class LinkTaken(PermissionDenied):
    text = "network with name {name} conflicts with the link {link} of this host: {reason}"


class ParentMissing(InvalidArgument):
    text = "failed to find the parent interface {parent} of the {driver} network on this host"


class LoopbackParent(InvalidArgument):
    text = "loopback interface is not a valid {driver} parent link"


class ParentTaken(PermissionDenied):
    text = "network {other} is already using parent interface {parent}"


class InterfaceTaken(InvalidArgument):
    text = "the container has an interface {interface} already"


class DriverUnsupported(Unsupported):
    text = "the {driver} driver cannot be used: {reason}"


class NetworkMissing(NotFound):
    text = "network {id} not found"


class AlreadyConnected(PermissionDenied):
    text = "endpoint with name {name} already exists in network {network}"


class NotConnected(NotFound):
    text = "container {id} is not connected to network {network}"


class NetworkInUse(PermissionDenied):
    text = "error while removing network: network {name} has active endpoints"


class NoSandbox(Conflict):
    text = "container {id} has no network to change"


class StaticAddressRefused(InvalidArgument):
    text = "invalid config for network bridge: invalid endpoint settings:\n" \
           "user specified IP address is supported on user defined networks only"


class PortFailure(Internal):
    """dockerd answers 500 for taken ports, and clients read the text."""

    text = "driver failed programming external connectivity on endpoint {name} ({endpoint}): {reason}"


class PortsWithoutNetwork(InvalidArgument):
    text = "port publishing needs a network of the container's own: not possible with network mode {mode}"


class PortsOfInternal(InvalidArgument):
    text = "network {network} is internal: its ports can be published for this host alone, not on {address}"


class UnknownMode(InvalidArgument):
    text = "network mode {mode} is not supported by this engine"


class SandboxExists(Conflict):
    text = "container {id} has its network already"
