"""The name server inside containers' networks; dig, getent and name servers of the test's own are the oracles."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from barque.network.hosts_files import OWN_SERVER
from barque.network.model import Attachment, NetworkSpec, Resolving, Sandbox
from barque.network.stack import Network
from tests.kernel.network_world import inside, request, run

#: Asks the questions that are given in hex, one after another by TCP without reading, then reads as many answers.
PIPELINE = """
import socket, sys
question, count = bytes.fromhex(sys.argv[1]), int(sys.argv[2])
s = socket.create_connection(("127.0.0.11", 53), 60)
s.sendall((len(question).to_bytes(2, "big") + question) * count)
if len(sys.argv) > 3:
    print("sent", flush=True)
    sys.stdin.read()
answers = s.makefile("rb")
for _ in range(count): answers.read(int.from_bytes(answers.read(2), "big"))
print("all", flush=True)
"""
#: Asks for one name after another that nobody answers for, until one is refused; then waits.
FLOOD = """
import itertools, socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.connect(("127.0.0.11", 53))
s.settimeout(0.001)
for number in itertools.count():
    name = b"%08d" % number
    s.send(name[-2:] + bytes.fromhex("01000001000000000000") + b"\\x08" + name + b"\\x04test\\0\\0\\x01\\0\\x01")
    try: s.recv(512)
    except TimeoutError: continue
    break
print("full", flush=True)
sys.stdin.read()
"""


async def net(network: Network, name: str, number: int = 1, **more: object) -> NetworkSpec:
    return await network.create_network(NetworkSpec(**{
        "id": f"{number:02x}" * 32, "name": name, "driver": "bridge", "created": "2026-01-01T00:00:00Z"} | more))


def on(made: NetworkSpec, *names: str, **more: object) -> Attachment:
    return Attachment(network_id=made.id, names=names, **more)


async def container(network: Network, number: int, *attachments: Attachment, **more: object) -> Sandbox:
    return await network.setup(request(number, "networks", attachments=attachments, **more))


def dig(sandbox: Sandbox, *words: str) -> list[str]:
    return inside(sandbox, "dig", "@" + OWN_SERVER, "+tries=1", "+time=30", "+short", *words).split()


def status(sandbox: Sandbox, *words: str) -> str:
    text = inside(sandbox, "dig", "@" + OWN_SERVER, "+tries=1", "+time=30", *words)
    return text.split("status: ")[1].split(",")[0]


class Server:
    """A name server that answers every A question with ``address``; ``delay`` None never answers.

    ``records``: so many times; what does not fit into 512 bytes has to be asked for by TCP. ``only``: names that end in
    something else do not exist.
    """

    def __init__(self, host: str, address: str, *, delay: float | None = 0, code: int = 0, ttl: int = 60,
                 records: int = 1, only: bytes = b"") -> None:
        self.asked = 0
        self._records, self._only = records, only
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, 53))
        self._listener = socket.create_server((host, 53))
        self._reply = (address, delay, code, ttl)
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._serve, self._accept)]
        for thread in self._threads:
            thread.start()

    def _answer(self, query: bytes) -> bytes | None:
        address, delay, code, ttl = self._reply
        self.asked += 1
        if delay is None:
            return None
        end = 12 + query[12:].index(b"\0") + 5
        if not query[12:end - 5].endswith(self._only):
            code = 3
        count = self._records if code == 0 and query[end - 4:end - 2] == b"\0\1" else 0
        body = (b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, ttl, 4) + socket.inet_aton(address or "0.0.0.0")) * count
        return query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, count, 0, 0) + query[12:end] + body

    def _serve(self) -> None:
        while True:
            try:
                query, peer = self._socket.recvfrom(4096)
            except OSError:
                return
            if not query:
                return
            answer = self._answer(query)
            if answer is not None:
                if len(answer) > 512:
                    question = query[12:12 + query[12:].index(b"\0") + 5]
                    answer = answer[:2] + b"\x83\x80\0\1" + bytes(6) + question
                self._socket.sendto(answer, peer)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                query = client.recv(4096)
                answer = self._answer(query[2:])
                if answer is not None:
                    client.sendall(struct.pack(">H", len(answer)) + answer)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._socket.getsockname())
        for thread in self._threads:
            thread.join()
        self._socket.close()
        self._listener.close()


@contextmanager
def servers(*made: Server) -> Iterator[None]:
    try:
        yield
    finally:
        for server in made:
            server.close()


async def test_names_aliases_and_reverse(network: Network) -> None:
    web, other = await net(network, "web", enable_ipv6=True), await net(network, "other", 2)
    one = await container(network, 1, on(web, "one", "1000000000", "Alias"))
    two = await container(network, 2, on(web, "two", links={"db": "one"}))
    stranger = await container(network, 3, on(other, "three"))
    end = one.endpoints[0]
    for name in ("one", "ONE", "alias", "1000000000", "one.web", "db"):
        assert dig(two, name) == [end.ipv4], name
    assert dig(two, "one", "AAAA") == [end.ipv6] and dig(two, "+tcp", "one") == [end.ipv4]
    assert dig(two, "-x", end.ipv4) == ["one.web."] and dig(two, "-x", str(end.ipv6)) == ["one.web."]
    assert status(two, "one", "MX") == "NOERROR" and dig(two, "one", "MX") == []
    assert web.ipv4 is not None and status(two, "-x", web.ipv4.gateway) == "NXDOMAIN"
    # Links are the container's own, and names end with the network.
    assert status(one, "db") != "NOERROR" and status(stranger, "one") != "NOERROR"
    assert dig(two, "host.docker.internal") == [web.ipv4.gateway]
    assert dig(one, "host.docker.internal", "AAAA") == [web.ipv6.gateway if web.ipv6 else ""]


async def test_several_containers_of_one_name_take_turns(network: Network) -> None:
    web = await net(network, "web")
    made = [await container(network, number, on(web, f"c{number}", "pool")) for number in range(3)]
    addresses = {sandbox.endpoints[0].ipv4 for sandbox in made}
    answers = [dig(made[0], "pool") for _ in range(3)]
    assert all(set(answer) == addresses for answer in answers)
    assert {answer[0] for answer in answers} == addresses
    await network.teardown(made[1].container_id)
    assert set(dig(made[0], "pool")) == addresses - {made[1].endpoints[0].ipv4}


async def test_names_change_with_connect_and_disconnect(network: Network) -> None:
    a, b = await net(network, "a"), await net(network, "b", 2)
    left, right = await container(network, 1, on(a, "left")), await container(network, 2, on(b, "right"))
    assert status(left, "right") != "NOERROR"
    joined = await network.connect(left.container_id, on(b, "left"))
    assert dig(left, "right") == [right.endpoints[0].ipv4]
    assert dig(right, "left") == [joined.endpoints[1].ipv4]
    await network.disconnect(left.container_id, b.id)
    assert status(right, "left") != "NOERROR" and status(left, "right") != "NOERROR"
    # One that began on the default bridge has a name server from its first network with names on.
    bridged = await network.setup(request(3))
    await network.connect(bridged.container_id, on(a, "late"))
    assert dig(bridged, "left") == [left.endpoints[0].ipv4] and len(dig(left, "late")) == 1


async def test_a_container_can_have_a_name_server_of_its_own_on_port_53(network: Network) -> None:
    web = await net(network, "web")
    one = await container(network, 1, on(web, "one"))
    inside(one, "python3", "-c", "import socket\nu = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
           "u.bind(('0.0.0.0', 53)); t = socket.create_server(('0.0.0.0', 53))")


async def test_names_survive_the_engine_and_the_keeper(tmp_path: Path) -> None:
    from barque.network.model import NetworkSettings

    settings = NetworkSettings(exec_root=str(tmp_path / "exec"))
    first = await Network.open(settings)
    await first.reconcile([])
    web = await net(first, "web")
    one, two = await container(first, 1, on(web, "one")), await container(first, 2, on(web, "two"))
    await first.close()
    assert dig(one, "two") == [two.endpoints[0].ipv4]
    again = await Network.open(settings)
    try:
        await again.reconcile([one], [web])
        assert status(one, "two") != "NOERROR" and dig(one, "one") == [one.endpoints[0].ipv4]
        path = str(tmp_path / "exec" / "names.sock")
        pid = next(int(word[4:]) for line in run("ss", "-xlp").splitlines() if "names.sock" in line and path[-20:]
                   for word in line.replace(",", " ").split() if word.startswith("pid="))
        os.kill(pid, signal.SIGKILL)
        three = await container(again, 3, on(web, "three"))
        for _ in range(100):
            try:
                if dig(one, "+time=1", "three") == [three.endpoints[0].ipv4]:
                    break
            except subprocess.CalledProcessError:
                continue
        assert dig(one, "three") == [three.endpoints[0].ipv4]
    finally:
        await again.close(remove=True)


async def test_other_servers_are_asked_remembered_and_never_waited_for(network: Network) -> None:
    web = await net(network, "web")
    dead, good, broken = (Server("127.0.1.1", "", delay=None), Server("127.0.1.2", "192.0.2.7"),
                          Server("127.0.1.3", "", code=2))
    with servers(dead, good, broken):
        assert web.ipv4 is not None
        one = await container(network, 1, on(web, "one"), resolving=Resolving(servers=("127.0.1.3", "127.0.1.1",
                                                                                       "127.0.1.2")))
        # Servers of the container's own are asked from inside: these are not there.
        assert status(one, "example.test") == "SERVFAIL" and dead.asked == 0
    alias = web.ipv4.gateway
    run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
    run("ip", "addr", "add", "198.51.100.2/32", "dev", "lo")
    run("ip", "addr", "add", "198.51.100.3/32", "dev", "lo")
    dead, good, broken = (Server("198.51.100.1", "", delay=None), Server("198.51.100.2", "192.0.2.7"),
                          Server("198.51.100.3", "", code=2))
    try:
        with servers(dead, good, broken):
            two = await container(network, 2, on(web, "two"), resolving=Resolving(
                servers=("198.51.100.3", "198.51.100.1", "198.51.100.2")))
            assert dig(two, "example.test") == ["192.0.2.7"] and dig(two, "+tcp", "tcp.test") == ["192.0.2.7"]
            for number in range(10):
                assert dig(two, f"n{number}.test") == ["192.0.2.7"]
            assert dead.asked <= 6  # not each time, which would cost some of the time that a client waits
            asked = good.asked
            assert dig(two, "example.test") == ["192.0.2.7"] and good.asked == asked
            shut = await net(network, "shut", 2, internal=True)
            hermit = await container(network, 3, on(shut, "hermit"), resolving=Resolving(servers=(alias,)))
            assert status(hermit, "example.test") == "NXDOMAIN"
            waits = await container(network, 4, on(web, "waits"), resolving=Resolving(servers=("198.51.100.2",),
                                                                                     ndots=True))
            assert status(waits, "single") == "NXDOMAIN" and dig(waits, "single.test") == ["192.0.2.7"]
            alone = await container(network, 5, on(web, "alone"), resolving=Resolving(servers=("198.51.100.1",)))
            assert status(alone, "example.test") == "SERVFAIL"
    finally:
        for number in (1, 2, 3):
            run("ip", "addr", "del", f"198.51.100.{number}/32", "dev", "lo")


@pytest.fixture
def resolvers(tmp_path: Path) -> Iterator[Path]:
    """What the host's /etc/resolv.conf is, for whoever is started while the test runs."""
    file = tmp_path / "resolv.conf"
    file.write_text("")
    run("mount", "--bind", str(file), "/etc/resolv.conf")
    yield file
    run("umount", "/etc/resolv.conf")


def seen_within(seconds: float, look: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not look():
        if time.monotonic() > deadline:
            return False
    return True


async def test_the_hosts_resolv_conf_is_followed(resolvers: Path, network: Network) -> None:
    with servers(first := Server("127.0.1.2", "192.0.2.7"), second := Server("127.0.1.3", "192.0.2.8")):
        one = await container(network, 1, on(await net(network, "web"), "one"))
        assert status(one, "example.test") == "SERVFAIL", "there is no server at all yet"
        # Nobody is at the first address, which costs no time; the second is one that only the host itself reaches.
        resolvers.write_text("nameserver 127.0.1.9\nnameserver 127.0.1.2\n")
        assert seen_within(60, lambda: dig(one, "example.test") == ["192.0.2.7"])
        asked = first.asked
        assert dig(one, "example.test") == ["192.0.2.7"] and first.asked == asked
        resolvers.write_text("nameserver 127.0.1.3\n")
        assert seen_within(60, lambda: dig(one, "example.test") == ["192.0.2.8"]) and second.asked == 1


async def test_answers_are_kept_for_their_time_and_no_longer(resolvers: Path, network: Network) -> None:
    resolvers.write_text("nameserver 127.0.1.2\n")
    with servers(server := Server("127.0.1.2", "192.0.2.7", ttl=1), Server("127.0.1.3", "")):
        one = await container(network, 1, on(await net(network, "web"), "one"))
        assert [dig(one, "example.test") for _ in range(3)] == [["192.0.2.7"]] * 3
        assert seen_within(60, lambda: bool(dig(one, "example.test")) and server.asked >= 2)


async def test_large_answers_come_by_tcp(resolvers: Path, network: Network) -> None:
    resolvers.write_text("nameserver 127.0.1.2\n")
    with servers(Server("127.0.1.2", "192.0.2.7", records=200)):
        one = await container(network, 1, on(await net(network, "web"), "one"))
        cut = inside(one, "dig", "@" + OWN_SERVER, "+tries=1", "+ignore", "+noedns", "big.test")
        assert " tc " in cut.split("flags:")[1].split(";")[0] + " "
        assert dig(one, "+noedns", "big.test") == dig(one, "+tcp", "big.test") == ["192.0.2.7"] * 200
        # Several questions on one connection.
        assert dig(one, "+tcp", "+keepopen", "one", "one.web") == [one.endpoints[0].ipv4] * 2


async def test_what_a_container_is_called_by_many_fits_by_tcp_too(network: Network) -> None:
    web = await net(network, "web")
    made = [await container(network, number, on(web, f"c{number}", "pool")) for number in range(40)]
    addresses = sorted(sandbox.endpoints[0].ipv4 for sandbox in made)
    assert sorted(dig(made[0], "+noedns", "pool")) == sorted(dig(made[0], "pool")) == addresses


async def test_the_resolver_of_the_c_library_searches(resolvers: Path, network: Network, tmp_path: Path) -> None:
    """As a program in the container does: search domains and ndots are its resolver's business, and must fit ours."""
    resolvers.write_text("nameserver 127.0.1.2\n")
    inner = tmp_path / "inner.conf"
    with servers(Server("127.0.1.2", "192.0.2.7", only=b"\4mail\4corp\4test")):
        web = await net(network, "web")
        one = await container(network, 1, on(web, "one"))
        many = await container(network, 2, on(web, "two"), resolving=Resolving(ndots=True))

        def find(sandbox: Sandbox, name: str) -> str:
            lookup = f"mount --bind {inner} /etc/resolv.conf && getent ahostsv4 {name}"
            assert sandbox.netns_path is not None
            done = subprocess.run(["nsenter", "--net=" + sandbox.netns_path, "unshare", "-m", "sh", "-c", lookup],
                                  capture_output=True, text=True, check=False, timeout=60)
            return done.stdout.split()[0] if done.stdout else ""

        for sandbox, ndots in ((one, 0), (many, 2)):
            inner.write_text(f"nameserver {OWN_SERVER}\nsearch corp.test web\noptions ndots:{ndots} attempts:1\n")
            assert find(sandbox, "one") == one.endpoints[0].ipv4
            assert find(sandbox, "mail") == "192.0.2.7" and find(sandbox, "mail.corp.test") == "192.0.2.7"
            assert find(sandbox, "nobody.elsewhere.test.") == ""


async def test_a_name_without_an_address_of_that_kind_exists_nevertheless(network: Network) -> None:
    """NXDOMAIN to the question for an IPv6 address would make resolvers give up the IPv4 one."""
    one = await container(network, 1, on(await net(network, "web"), "one"))
    assert (status(one, "one", "AAAA"), dig(one, "one", "AAAA")) == ("NOERROR", [])
    six = await container(network, 2, on(await net(network, "six", 2, enable_ipv4=False, enable_ipv6=True), "two"))
    assert (status(six, "two", "A"), dig(six, "two", "AAAA")) == ("NOERROR", [six.endpoints[0].ipv6])
    assert dig(six, "-x", str(six.endpoints[0].ipv6)) == ["two.six."]


def question(*labels: bytes) -> bytes:
    name = b"".join(bytes([len(label)]) + label for label in labels)
    return bytes.fromhex("000701000001000000000000") + name + b"\0\0\1\0\1"


@contextmanager
def script_in(sandbox: Sandbox, script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program in the container's network, which has said its first word; it waits for the end of its input."""
    with subprocess.Popen(["nsenter", f"--net={sandbox.netns_path}", sys.executable, "-I", "-S", "-c", script,
                           *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline()
            yield process
        finally:
            process.kill()


async def test_one_container_does_not_decide_what_others_are_told(resolvers: Path, network: Network) -> None:
    """A name with a dot inside a label looks like another one, and nobody has it: others must not get that answer."""
    resolvers.write_text("nameserver 127.0.1.2\n")
    with servers(server := Server("127.0.1.2", "192.0.2.7")):
        web = await net(network, "web")
        attacker, victim = await container(network, 1, on(web, "one")), await container(network, 2, on(web, "two"))
        trick = question(b"www.example", b"test").hex()
        assert inside(attacker, sys.executable, "-I", "-S", "-c", PIPELINE, trick, "1") == "all\n"
        asked = server.asked
        assert dig(victim, "+tcp", "+noedns", "+noad", "www.example.test") == ["192.0.2.7"]
        assert server.asked == asked + 1, "it was told what the other had asked for"


async def test_questions_that_nobody_answers_are_no_trouble_to_others(resolvers: Path, network: Network) -> None:
    resolvers.write_text("nameserver 127.0.1.2\n")
    run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")
    try:
        with servers(Server("127.0.1.2", "192.0.2.7"), Server("198.51.100.1", "", delay=None)):
            web = await net(network, "web")
            attacker = await container(network, 1, on(web, "one"), resolving=Resolving(servers=("198.51.100.1",)))
            victim = await container(network, 2, on(web, "two"))
            with script_in(attacker, FLOOD):
                assert dig(victim, "example.test") == ["192.0.2.7"]
                assert dig(victim, "one") == [attacker.endpoints[0].ipv4]
    finally:
        run("ip", "addr", "del", "198.51.100.1/32", "dev", "lo")


async def test_a_client_that_does_not_read_its_answers_costs_little_memory(resolvers: Path, network: Network) -> None:
    resolvers.write_text("nameserver 127.0.1.2\n")
    with servers(Server("127.0.1.2", "192.0.2.7", records=200)):
        web = await net(network, "web")
        one, two = await container(network, 1, on(web, "one")), await container(network, 2, on(web, "two"))
        big, number = question(b"big", b"test").hex(), 6000
        assert inside(one, sys.executable, "-I", "-S", "-c", PIPELINE, big, "1") == "all\n"  # it is remembered now
        before = resident(network)
        with script_in(one, PIPELINE, big, str(number), "wait") as attacker:
            assert dig(two, "one") == [one.endpoints[0].ipv4]
            assert resident(network) - before < 8 << 20, f"the answers are {number * 3237 >> 20} MiB"
            assert attacker.communicate(timeout=60)[0] == "all\n"  # and they all come once it reads


def resident(network: Network) -> int:
    """Bytes of memory of the name keeper."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asker:
        asker.connect(f"{network.settings.exec_root}/names.sock")
        asker.send(b"list")
        while not (line := asker.recv(256)).startswith(b". "):
            assert line
    pid = int(line.split()[1])
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) << 10


async def test_a_container_told_to_ask_us_through_us_asks_the_hosts_servers(resolvers: Path, network: Network) -> None:
    resolvers.write_text("nameserver 127.0.1.2\n")
    with servers(server := Server("127.0.1.2", "192.0.2.7")):
        one = await container(network, 1, on(await net(network, "web"), "one"),
                              resolving=Resolving(servers=(OWN_SERVER,)))
        assert dig(one, "example.test") == ["192.0.2.7"] and server.asked == 1
