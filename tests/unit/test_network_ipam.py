from __future__ import annotations

import ipaddress
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from barque.network.errors import AddressesExhausted, AddressInUse, AddressOutside, PoolsExhausted
from barque.network.ipam import Addresses, IPNetwork, Taken, choose_subnet, mac_for, subnets
from barque.network.model import DEFAULT_POOLS, AddressPool

SUBNET = IPv4Network("10.9.0.0/28")
GATEWAY = IPv4Address("10.9.0.1")


def used(*networks: IPNetwork) -> Taken:
    return Taken((network, "a route") for network in networks)


def addresses(**more: object) -> Addresses:
    return Addresses("n", "id", SUBNET, GATEWAY, **more)


@given(st.lists(st.one_of(st.just(-1), st.integers(0, 40)), max_size=120))
def test_no_address_is_given_twice_nor_lost(steps: list[int]) -> None:
    """-1 allocates, n releases the n-th of those that are out."""
    pool, out = addresses(), []
    for step in steps:
        if step >= 0:
            if out:
                pool.release(out.pop(step % len(out)))
        elif len(out) == 13:
            with pytest.raises(AddressesExhausted):
                pool.allocate()
        else:
            address = pool.allocate()
            assert address in SUBNET and address not in out
            assert address not in (GATEWAY, SUBNET.network_address, SUBNET.broadcast_address)
            out.append(address)


def test_a_released_address_is_not_the_next_one() -> None:
    pool = addresses()
    first = pool.allocate()
    pool.release(first)
    assert pool.allocate() != first


def test_claims() -> None:
    pool = addresses(within=IPv4Network("10.9.0.8/30"))
    assert pool.claim(IPv4Address("10.9.0.3")) == IPv4Address("10.9.0.3")
    with pytest.raises(AddressInUse):
        pool.claim(IPv4Address("10.9.0.3"))
    with pytest.raises(AddressInUse):
        pool.claim(GATEWAY)
    with pytest.raises(AddressOutside, match=r"Invalid address 10\.8\.0\.1: It does not belong to any"):
        pool.claim(IPv4Address("10.8.0.1"))
    assert [str(pool.allocate()) for _ in range(4)] == ["10.9.0.8", "10.9.0.9", "10.9.0.10", "10.9.0.11"]


def test_the_gateway_cannot_be_released() -> None:
    pool = addresses()
    pool.release(GATEWAY)
    with pytest.raises(AddressInUse):
        pool.claim(GATEWAY)


@given(st.lists(st.sampled_from(list(subnets(DEFAULT_POOLS))), max_size=20),
       st.lists(st.ip_addresses(v=4, network="172.16.0.0/12"), max_size=5))
def test_chosen_subnet_overlaps_nothing_and_is_the_first_such(whole: list[IPv4Network],
                                                              hosts: list[IPv4Address]) -> None:
    taken = [*whole, *map(IPv4Network, hosts)]
    chosen = choose_subnet(subnets(DEFAULT_POOLS), used(*taken))
    assert not any(chosen.overlaps(network) for network in taken)
    earlier = list(subnets(DEFAULT_POOLS))
    assert all(any(subnet.overlaps(network) for network in taken) for subnet in earlier[:earlier.index(chosen)])


def test_exhaustion_names_the_clash_and_a_vpn_that_takes_everything_is_no_clash() -> None:
    pools = [AddressPool("10.0.0.0/23", 24)]
    with pytest.raises(PoolsExhausted, match=r"10\.0\.0\.0/8 of a route covers 10\.0\.0\.0/24"):
        choose_subnet(subnets(pools), used(IPv4Network("10.0.0.0/8")))
    halves = list(ipaddress.IPv4Network("0.0.0.0/0").subnets())
    assert choose_subnet(subnets(pools), used(*halves)) == IPv4Network("10.0.0.0/24")


def test_mac_follows_the_address() -> None:
    assert mac_for(IPv4Address("172.17.0.2")) == "02:42:ac:11:00:02"
