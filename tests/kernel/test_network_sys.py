"""rtnetlink, network namespaces and nftables as the kernel has them, with ip and nft as oracles."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import threading
from pathlib import Path

import pytest

from barque.sys import netns, nft, rtnetlink
from barque.sys.rtnetlink import Netlink, NetlinkError


def ip(*words: str) -> list[dict[str, object]]:
    return json.loads(subprocess.run(["ip", "-j", *words], check=True, capture_output=True, text=True).stdout)


def test_bridge_addresses_and_routes_are_what_ip_sees() -> None:
    with Netlink() as netlink:
        assert netlink.link("tb0") is None
        netlink.request(rtnetlink.new_bridge("tb0", "02:42:0a:01:02:03", 1400),
                        rtnetlink.set_alias("tb0", "ours"))
        link = netlink.link("tb0")
        assert link is not None
        try:
            netlink.request(rtnetlink.add_address(link.index, ipaddress.ip_address("10.1.2.3"), 24),
                            rtnetlink.add_address(link.index, ipaddress.ip_address("fd00::1"), 64),
                            rtnetlink.set_link(link.index, up=True),
                            rtnetlink.set_default_route(link.index, 4, ipaddress.ip_address("10.1.2.9")))
            shown = ip("addr", "show", "tb0")[0]
            assert (shown["ifname"], shown["address"], shown["mtu"]) == ("tb0", "02:42:0a:01:02:03", 1400)
            assert {"10.1.2.3", "fd00::1"} <= {address["local"] for address in shown["addr_info"]}
            assert [address.get("broadcast") for address in shown["addr_info"]
                    if address["local"] in ("10.1.2.3", "fd00::1")] == ["10.1.2.255", None]
            assert (link.mac, link.mtu, link.kind, link.alias) == ("02:42:0a:01:02:03", 1400, "bridge", "ours")
            assert link.index in [other.index for other in netlink.links() if other.up]
            own = {(str(a.address), a.prefix_len) for a in netlink.addresses() if a.index == link.index}
            assert {("10.1.2.3", 24), ("fd00::1", 64)} <= own
            routes = {(str(r.destination), str(r.gateway)) for r in netlink.routes(4) if r.index == link.index}
            assert routes == {("0.0.0.0/0", "10.1.2.9"), ("10.1.2.0/24", "None")}
            netlink.request(rtnetlink.delete_address(link.index, ipaddress.ip_address("10.1.2.3"), 24))
            assert "10.1.2.3" not in str(ip("addr", "show", "tb0"))
        finally:
            netlink.request(rtnetlink.delete_link(link.index))


def test_errors_carry_the_kernels_explanation_and_later_messages_are_done() -> None:
    with Netlink() as netlink:
        with pytest.raises(NetlinkError) as failed:
            netlink.request(rtnetlink.delete_link(99999),
                            rtnetlink.new_bridge("tb1", "02:42:00:00:00:01", 1500),
                            rtnetlink.new_bridge("x" * 20, "02:42:00:00:00:01", 1500))
        assert failed.value.errno == 19
        with pytest.raises(NetlinkError, match=r"(?i)attribute failed policy|too long|out of range"):
            netlink.request(rtnetlink.new_bridge("x" * 20, "02:42:00:00:00:01", 1500))
        link = netlink.link("tb1")
        assert link is not None
        netlink.request(rtnetlink.delete_link(link.index))


def test_a_fresh_namespace_leaves_this_and_other_threads_alone(tmp_path: Path) -> None:
    home = os.readlink("/proc/thread-self/ns/net")
    seen: list[str] = []
    inside, looked = threading.Event(), threading.Event()

    def look() -> None:
        assert inside.wait(60)
        seen.append(os.readlink("/proc/thread-self/ns/net"))
        looked.set()

    other = threading.Thread(target=look)
    other.start()
    with netns.fresh() as fd:
        assert os.readlink("/proc/thread-self/ns/net") != home
        assert [link["ifname"] for link in ip("link")] == ["lo"]
        inside.set()
        assert looked.wait(60)
    other.join()
    assert seen == [home] and os.readlink("/proc/thread-self/ns/net") == home
    inode = os.fstat(fd).st_ino
    pinned = str(tmp_path / "pinned")
    netns.pin(fd, pinned)
    try:
        os.close(fd)
        assert netns.is_pinned(pinned) and os.stat(pinned).st_ino == inode
        with pytest.raises(FileExistsError):
            netns.pin(0, pinned)
        handle = os.open(pinned, os.O_RDONLY)
        with pytest.raises(ZeroDivisionError), netns.entered(handle):
            assert os.readlink("/proc/thread-self/ns/net") == f"net:[{inode}]"
            raise ZeroDivisionError
        os.close(handle)
        assert os.readlink("/proc/thread-self/ns/net") == home
    finally:
        netns.unpin(pinned)
    netns.unpin(pinned)
    assert not os.path.exists(pinned)


def test_a_failed_pin_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        netns.pin(9999, str(tmp_path / "pin"))
    assert os.listdir(tmp_path) == []


def test_one_wrong_line_undoes_the_whole_transaction() -> None:
    tables = nft.Nftables()
    try:
        with pytest.raises(nft.NftablesError, match="No such file or directory"):
            tables.apply("add table inet t1\nadd rule inet t1 nowhere accept\n")
        assert tables.list("tables") == []
        tables.apply('add table inet t1\nadd set inet t1 s { type ifname; }\nadd element inet t1 s { "a" }\n')
        assert [item["table"]["name"] for item in tables.list("tables")] == ["t1"]
        assert next(item["set"] for item in tables.list("set inet t1 s") if "set" in item)["elem"] == ["a"]
        tables.apply("delete table inet t1")
    finally:
        tables.close()


def test_a_missing_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "_LIBRARY", "libnftables.so.77")
    with pytest.raises(nft.NftablesMissing, match="apt install libnftables1"):
        nft.Nftables()
