"""Our command line beside docker's against a real dockerd: same words, same output, same exit code.

Skipped where docker.io's dockerd, docker's client or a static busybox is absent. Only the name of the program differs,
and how long ago something was, which passes between the two runs.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_pair import DOCKER, ERRORS, ID, LISTS, RUNS, both, cases, words

DOCKERD, BUSYBOX = shutil.which("dockerd"), shutil.which("busybox")
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not (DOCKERD and DOCKER and BUSYBOX), reason="needs dockerd, docker and busybox"),
]
APPLETS = ("sh", "echo", "cat", "true", "false", "sleep", "ls", "id", "env", "pwd", "head", "kill", "seq", "wc", "stty")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host of a dockerd of our own, ready, with the image ``busybox``."""
    directory = tmp_path_factory.mktemp("dockerd")
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(str(directory / "notify"))
    notify.settimeout(60)
    host = f"unix://{directory}/docker.sock"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            # In a network namespace of its own, since dockerd leaves its bridge and its tables behind.
            ["unshare", "--net", str(DOCKERD), "--data-root", str(directory / "root"), "--exec-root",
             str(directory / "exec"), "-H", host,
             "--pidfile", str(directory / "pid"), "--bip", "10.99.0.1/24"], stdout=log, stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": str(directory / "notify")}, start_new_session=True)
    try:
        while b"READY=1" not in notify.recv(4096):
            pass
        archive = directory / "rootfs.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(str(BUSYBOX), "bin/busybox")
            for applet in APPLETS:
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            for name in ("etc", "tmp", "proc", "sys", "dev"):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
        docker = [str(DOCKER), "-H", host]
        subprocess.run([*docker, "import", "-c", 'CMD ["sh"]', str(archive), "busybox:latest"], check=True,
                       capture_output=True)
        subprocess.run([*docker, "run", "-d", "--name", "w1", "-p", "18080:80", "-p", "9000-9002:9000-9002/udp",
                        "--label", "a=b", "-v", "/v", "busybox", "sleep", "1000"], check=True, capture_output=True)
        subprocess.run([*docker, "run", "--name", "w2", "busybox", "true"], check=True, capture_output=True)
        yield host
    finally:
        subprocess.run([str(DOCKER), "-H", host, "rm", "-f", "w1", "w2"], check=False, capture_output=True)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        notify.close()


USAGE = """
foo|container foo|rm|ps x|port|tag a|port a b c|run|exec w1|ps --foo|ps -z|ps --last|run -|run -e|run --name|--foo
run --rm=x busybox|run --ulimit nofile busybox|run --ulimit foo=1 busybox|run --ulimit nofile=3:2 busybox
run --memory 1x busybox|run --cpus x busybox|run -e = busybox|run --restart foo:x busybox|run --restart :3 busybox
run --network a --network host busybox|run --network name= busybox|run --network name=foo,zz=1 busybox
run --network-alias x busybox|run --ip 1.2.3.4 --mac-address zz busybox|run --pid foo busybox|run --cgroupns foo busybox
run --mount type=bind busybox|run --mount foo busybox|run --mount type=bind,src=/a busybox
run --mount type=tmpfs,dst=/x,tmpfs-size=zz busybox|run --rm --restart always busybox|run --pull foo busybox
run --device x busybox|run --device-cgroup-rule x busybox|run --add-host x busybox|run --dns x busybox
run --label = busybox
run --gpus x=y busybox|run -a foo busybox|run --health-interval -1s busybox|run --health-interval 1 busybox
run --security-opt foo busybox|run --env-file /nope busybox|run --expose x busybox|run --sysctl foo=1 busybox
run --link a:b:c busybox|run --dns-search %% busybox|run --blkio-weight-device x busybox
run --blkio-weight 99999999 busybox
run --device-read-bps /dev/x:z busybox|run --no-healthcheck --health-cmd x busybox|run --cpu-shares x busybox
run --log-driver none --log-opt a=b busybox|run --storage-opt foo busybox|run -d -a stdout busybox
run --memory-swappiness 300 busybox|run -it busybox sh|run -p 99999:1 busybox|run -p 80/foo busybox
run -p 1-3:80-81 busybox
run -p 127.0.0.1:x:80 busybox|exec -w|-H a -H b ps
"""
@pytest.mark.parametrize("case", cases(LISTS.replace("{{.ID|foo}}", "{{.ID¦foo}}")))
def test_lists_and_inspections(engine: str, case: str) -> None:
    docker, ours = both(engine, words(case.replace("¦", "|")))
    assert ours == docker


@pytest.mark.parametrize("case", cases(ERRORS))
def test_engine_errors(engine: str, case: str) -> None:
    docker, ours = both(engine, words(case))
    assert ours == docker


@pytest.mark.parametrize("case", cases(USAGE))
def test_usage_errors(engine: str, case: str) -> None:
    docker, ours = both(engine, words(case))
    assert ours == docker


@pytest.mark.parametrize("case", cases(RUNS))
def test_streams_and_exit_codes(engine: str, case: str) -> None:
    docker, ours = both(engine, words(case), b"some input\n" * 3000)
    # Which of two new names a container gets is the engine's affair.
    assert ours[:2] == docker[:2]
    assert ID.sub("ID", ours[2]) == ID.sub("ID", docker[2])


def test_large_input_comes_back_whole(engine: str) -> None:
    data = os.urandom(3 << 20)
    done = subprocess.run([sys.executable, "-m", "barque.cli.main", "-H", engine, "run", "--rm", "-i", "busybox",
                           "cat"],
                          input=data, capture_output=True, timeout=60, check=True)
    assert done.stdout == data


def test_create_sends_what_docker_sends(engine: str) -> None:
    flags = ("--memory 64m --memory-swap 128m --cpus 0.5 --pids-limit 50 --cap-add NET_ADMIN --cap-drop MKNOD -p 81:80 "
             "-P --expose 90 --env A=1 --label a=b --tmpfs /t --ulimit nofile=10:20 --restart on-failure:2 --read-only "
             "--hostname h --dns 1.2.3.4 --add-host a:1.2.3.4 --sysctl net.ipv4.ip_forward=1 --shm-size 1m --init "
             "--security-opt no-new-privileges --device /dev/null --stop-timeout 3 --stop-signal INT -v name:/x:ro "
             "-v /y --mount type=tmpfs,dst=/z --health-cmd true --group-add 5 --log-opt max-size=1m --user 1 "
             "--workdir /tmp -t -i")
    documents = []
    for command in ([str(DOCKER)], [sys.executable, "-m", "barque.cli.main"]):
        made = subprocess.run([*command, "-H", engine, "create", *flags.split(), "busybox", "x"], capture_output=True,
                              text=True, check=True)
        shown = subprocess.run([str(DOCKER), "-H", engine, "inspect", "-f", "{{json .Config}}\n{{json .HostConfig}}",
                                made.stdout.strip()], capture_output=True, text=True, check=True)
        subprocess.run([str(DOCKER), "-H", engine, "rm", "-v", made.stdout.strip()], capture_output=True, check=True)
        documents.append(shown.stdout)
    assert documents[1] == documents[0]


def test_copies_are_the_same(engine: str, tmp_path: Path) -> None:
    source = tmp_path / "src"
    (source / "sub").mkdir(parents=True)
    (source / "a").write_text("hello")
    (source / "l").symlink_to("a")
    os.link(source / "a", source / "h")
    (source / "sub" / "big").write_bytes(os.urandom(300_000))
    listings = []
    for number, command in enumerate(([str(DOCKER)], [sys.executable, "-m", "barque.cli.main"])):
        def run(*arguments: str, program: list[str] = command) -> int:
            return subprocess.run([*program, "-H", engine, "cp", *arguments], capture_output=True,
                                  check=False).returncode

        codes = [run(str(source), f"w1:/tmp/new{number}"), run(f"{source}/.", f"w1:/tmp/new{number}"),
                 run(f"{source}/a", f"w1:/tmp/new{number}/renamed"), run(f"{source}/a", "w1:/tmp/none/"),
                 run(str(source), f"w1:/tmp/new{number}/renamed"), run("/nonexistent", "w1:/tmp")]
        out = tmp_path / f"out{number}"
        out.mkdir()
        codes += [run(f"w1:/tmp/new{number}/.", str(out)), run(f"w1:/tmp/new{number}/a", f"{out}/aa"),
                  run(f"w1:/tmp/new{number}/sub", f"{out}/aa"), run("-L", f"w1:/tmp/new{number}/l", f"{out}/followed")]
        tree = sorted((str(path.relative_to(out)), oct(path.lstat().st_mode), path.lstat().st_nlink,
                       os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "")
                      for path in out.rglob("*"))
        listings.append((codes, tree))
    assert listings[1] == listings[0]


class Terminal:
    """A program on a pseudo terminal of 24 by 80."""

    def __init__(self, *command: str) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(24, 80)
        self.process = subprocess.Popen(command, stdin=self.slave, stdout=self.slave, stderr=self.slave,
                                        start_new_session=True, preexec_fn=self._take)
        self.seen = b""

    def _take(self) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSCTTY, 0)

    def resize(self, rows: int, columns: int) -> None:
        termios.tcsetwinsize(self.slave, (rows, columns))

    def expect(self, text: bytes) -> None:
        while text not in self.seen:
            if not select.select([self.master], [], [], 60)[0]:
                raise AssertionError(f"no {text!r} in {self.seen!r}")
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text)[2]

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def end(self) -> tuple[int, bool]:
        """(exit code, whether the terminal is as it was before)."""
        code = self.process.wait(60)
        cooked = bool(termios.tcgetattr(self.slave)[3] & termios.ICANON)
        os.close(self.master)
        os.close(self.slave)
        return code, cooked


def ours(engine: str, *arguments: str) -> Terminal:
    return Terminal(sys.executable, "-m", "barque.cli.main", "-H", engine, *arguments)


def test_terminal_size_input_and_exit_code(engine: str) -> None:
    terminal = ours(engine, "run", "-it", "--rm", "busybox", "sh")
    terminal.expect(b"/ # ")
    for number, size in enumerate(((24, 80), (30, 90))):
        terminal.resize(*size)
        # dockerd is told the size of a container that runs already.
        terminal.type(b"while [ \"$(stty size)\" != '%d %d' ]; do true; done; echo si''zed %d\r" % (*size, number))
        terminal.expect(b"sized %d" % number)
    terminal.type(b"\x03exit 7\r")
    assert terminal.end() == (7, True)


def test_detach_and_attach_again(engine: str) -> None:
    terminal = ours(engine, "run", "-it", "--name", "t1", "busybox", "sh")
    terminal.expect(b"/ # ")
    terminal.type(b"\x10\x11")
    assert terminal.end() == (0, True)
    terminal = ours(engine, "attach", "--detach-keys", "ctrl-a,d", "t1")
    terminal.type(b"\recho at''tached\r")
    terminal.expect(b"attached")
    terminal.type(b"\x01d")
    terminal.expect(b"read escape sequence")
    assert terminal.end() == (1, True)
    subprocess.run([str(DOCKER), "-H", engine, "rm", "-f", "t1"], capture_output=True, check=True)


def test_the_terminal_comes_back_when_we_are_terminated(engine: str) -> None:
    terminal = ours(engine, "run", "-it", "--rm", "--sig-proxy=false", "--name", "t2", "busybox", "sh")
    terminal.expect(b"/ # ")
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == (128 + signal.SIGTERM, True)
    subprocess.run([str(DOCKER), "-H", engine, "rm", "-f", "t2"], capture_output=True, check=True)


def test_signals_go_to_the_container(engine: str) -> None:
    script = "trap 'echo got; exit 5' USR1; echo ready; while true; do sleep 0.05; done"
    process = subprocess.Popen([sys.executable, "-m", "barque.cli.main", "-H", engine, "run", "--rm", "busybox", "sh",
                                "-c",
                                script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGUSR1)
    assert process.stdout.read() == b"got\n"
    assert process.wait(60) == 5
    process.stdout.close()


FAR = """#!/bin/sh
# Stands in for ssh: what it was asked to run there runs here.
echo "$@" > {log}
while [ "$1" != -- ]; do shift; done
shift 2
exec sh -c "$*"
"""


def test_an_engine_behind_ssh(engine: str, tmp_path: Path) -> None:
    """The real client on both ends of the pipe, with its streams and half-closes."""
    for name, text in (("ssh", FAR.format(log=tmp_path / "log")),
                       ("barque", f'#!/bin/sh\nexec {sys.executable} -m barque.cli.main "$@"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_CONFIG": "/nonexistent"}
    host = f"ssh://me@far:2222{engine.removeprefix('unix://')}"
    done = subprocess.run([sys.executable, "-m", "barque.cli.main", "-H", host, "run", "--rm", "-i", "busybox", "cat"],
                          input=b"through the pipe", capture_output=True, env=environ, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"through the pipe", b"")
    assert (tmp_path / "log").read_text().startswith("-o ConnectTimeout=30 -T -l me -p 2222 -- far sh -c ")
