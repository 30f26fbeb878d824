"""Firewalls of the host beside ours, as ufw, firewalld and the older iptables set them up."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from barque.engine.network_reach import explain
from barque.network.model import Sandbox
from barque.network.stack import Network
from tests.kernel.network_world import (
    PATIENCE,
    SILENCE,
    Outside,
    Servers,
    ask,
    engine,
    on,
    publish,
    run,
    spec,
    to,
)

#: The shape of ufw: base chains with a policy jump into chains of its own, which end without a verdict.
UFW = """*filter
:INPUT DROP [0:0]
:FORWARD {forward} [0:0]
:OUTPUT ACCEPT [0:0]
:ufw-before-input - [0:0]
:ufw-user-input - [0:0]
:ufw-before-forward - [0:0]
-A INPUT -j ufw-before-input
-A INPUT -j ufw-user-input
-A FORWARD -j ufw-before-forward
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-forward -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-user-input -p tcp --dport 22 -j ACCEPT
COMMIT
"""
FIREWALLD = """table inet firewalld {
    chain filter_FORWARD {
        type filter hook forward priority filter + 10; policy accept;
        ct state { established, related } accept
        jump filter_FORWARD_POLICIES
        reject with icmpx admin-prohibited
    }
    chain filter_FORWARD_POLICIES {
        iifname "lo" accept
    }
    chain filter_INPUT {
        type filter hook input priority filter + 10; policy accept;
        jump filter_INPUT_POLICIES
        counter log drop
    }
    chain filter_INPUT_POLICIES {
        accept
    }
}
"""


@pytest.fixture
def stranger() -> Iterator[Outside]:
    machine = Outside(4)
    yield machine
    machine.close()


def restore(tool: str, rules: str) -> None:
    """``tool`` is iptables-nft or iptables-legacy."""
    subprocess.run([tool + "-restore"], input=rules, text=True, check=True, capture_output=True)


@pytest.fixture
def ufw() -> Iterator[None]:
    if shutil.which("iptables-nft-restore") is None:
        pytest.skip("no iptables")
    yield
    run("nft", "delete", "table", "ip", "filter")


def enters(machine: Outside, port: int, timeout: float = PATIENCE) -> bool:
    try:
        return ask("tcp", machine.host, port, within=machine.as_sandbox(), timeout=timeout).startswith("hello")
    except subprocess.CalledProcessError:
        return False


async def said(network: Network, name: str, sandbox: Sandbox) -> dict[str, object]:
    info = next(item for item in network.networks() if item.name == name)
    return explain(info, [("web", sandbox)], await network.blockers())


@pytest.mark.usefixtures("ufw")
async def test_what_ufw_drops_is_said(network: Network, servers: Servers, stranger: Outside) -> None:
    sandbox = await on(network, 1, to(await network.create_network(spec("a"))), ports=(publish(80, 8021),))
    servers.start(sandbox, "tcp", 80)
    assert enters(stranger, 8021) and not (await network.blockers()).forward
    restore("iptables-nft", UFW.format(forward="DROP"))
    assert not enters(stranger, 8021, SILENCE)
    assert ask("tcp", "127.0.0.1", 8021).startswith("hello"), "from this host nothing is forwarded"
    shown = await said(network, "a", sandbox)
    assert shown["Blockers"] == ["ip filter FORWARD", "ip filter INPUT"]
    assert str(shown["WayOut"]).endswith("unless dropped by ip filter FORWARD")
    assert shown["Ports"][0]["Warning"] == "unless accepted, dropped by ip filter FORWARD"  # type: ignore[index]
    run("iptables-nft", "-I", "FORWARD", "-m", "conntrack", "--ctstate", "DNAT", "-j", "ACCEPT")
    assert enters(stranger, 8021)


@pytest.mark.usefixtures("ufw")
async def test_published_ports_pass_the_input_rules_by_unless_told_to_obey(network: Network, servers: Servers,
                                                                           stranger: Outside) -> None:
    """The complaint of ufw's users: what they never opened is open."""
    careless = await network.create_network(spec("a"))
    careful = await network.create_network(spec("b", 2, obey_input=True))
    one = await on(network, 1, to(careless), ports=(publish(80, 8022),))
    two = await on(network, 2, to(careful), ports=(publish(80, 8023),))
    for sandbox in (one, two):
        servers.start(sandbox, "tcp", 80)
    restore("iptables-nft", UFW.format(forward="ACCEPT"))
    assert enters(stranger, 8022) and not enters(stranger, 8023, SILENCE)
    shown = [await said(network, name, sandbox) for name, sandbox in (("a", one), ("b", two))]
    first, second = (item["Ports"][0] for item in shown)  # type: ignore[index]
    assert "Warning" not in first and "do not see it" in first["Path"]
    assert second["Warning"] == "unless accepted, dropped by ip filter INPUT" and "decide" in second["Path"]
    # ufw allow 8023
    run("iptables-nft", "-A", "ufw-user-input", "-p", "tcp", "--dport", "8023", "-j", "ACCEPT")
    assert enters(stranger, 8023)


async def test_chains_that_reject_in_their_last_rule(network: Network, servers: Servers, stranger: Outside) -> None:
    sandbox = await on(network, 1, to(await network.create_network(spec("a"))), ports=(publish(80, 8024),))
    servers.start(sandbox, "tcp", 80)
    run("nft", FIREWALLD)
    try:
        found = await network.blockers()
        assert found.forward == ("inet firewalld filter_FORWARD",) and not enters(stranger, 8024, SILENCE)
        assert found.input == (), "a chain that it always goes through accepts before"
    finally:
        run("nft", "delete", "table", "inet", "firewalld")


async def test_the_older_iptables_is_read_too(network: Network, servers: Servers, stranger: Outside) -> None:
    if shutil.which("iptables-legacy-restore") is None or not Path("/proc/net/ip_tables_names").exists():
        pytest.skip("no iptables of the older kind")
    sandbox = await on(network, 1, to(await network.create_network(spec("a"))), ports=(publish(80, 8025),))
    servers.start(sandbox, "tcp", 80)
    before = Path("/proc/net/ip_tables_names").read_text()
    await network.blockers()
    assert Path("/proc/net/ip_tables_names").read_text() == before, "looking must not load tables"
    try:
        restore("iptables-legacy", UFW.format(forward="DROP"))
        run("ip6tables-legacy", "-P", "FORWARD", "DROP")
        found = await network.blockers()
        assert found.forward == ("iptables (legacy) filter FORWARD", "ip6tables (legacy) filter FORWARD")
        assert found.input == ("iptables (legacy) filter INPUT",) and not enters(stranger, 8025, SILENCE)
    finally:
        for tool in ("iptables-legacy", "ip6tables-legacy"):
            for chain in ("INPUT", "FORWARD"):
                run(tool, "-P", chain, "ACCEPT")
            run(tool, "-F")
            run(tool, "-X")


async def test_links_take_routes_from_routers_as_before_once_ipv6_forwarding_is_given_back(tmp_path: Path) -> None:
    settings = Path("/proc/sys/net/ipv6/conf")
    forwarding = settings / "all/forwarding"
    before = forwarding.read_text()
    forwarding.write_text("0")
    run("ip", "link", "add", "listens", "type", "veth", "peer", "name", "insists")
    try:
        (settings / "listens/accept_ra").write_text("1")
        (settings / "insists/accept_ra").write_text("2")

        def seen() -> list[str]:
            return [(settings / name).read_text().strip()
                    for name in ("all/forwarding", "listens/accept_ra", "insists/accept_ra")]

        async with engine(tmp_path) as network:
            await network.create_network(spec("six", enable_ipv6=True))
            assert seen() == ["1", "2", "2"]
        assert seen() == ["0", "1", "2"]
    finally:
        forwarding.write_text(before)
        run("ip", "link", "delete", "listens")
