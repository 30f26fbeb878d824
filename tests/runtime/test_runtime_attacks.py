"""Attacks on the runtime, run for real: what an image or a neighbour may try, and the flaw that each one once was."""

from __future__ import annotations

import importlib
import json
import os
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from barque.runtime import capabilities, init, seccomp_profile, targets
from barque.runtime.failure import RuntimeFailure
from barque.sys.libc import libc
from tests.kernel.in_child import in_child

RENAME_EXCHANGE = 2


def bind(destination, source, *options):
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options]}


@pytest.fixture
def victim(tmp_path):
    """A directory of the host that no container may reach."""
    path = tmp_path / "victim"
    path.mkdir()
    (path / "secret").write_text("of the host\n")
    return path


@pytest.mark.parametrize("link", ["absolute", "dotdot"])
def test_mount_targets_stay_in_the_root(runtime, bundle, victim, tmp_path, link):
    """CVE-2018-15664, CVE-2021-30465: a target that leads out by a symbolic link is looked up within the root."""
    way_out = str(victim) if link == "absolute" else "../" * 20 + str(victim).lstrip("/")
    (bundle.rootfs / "leads-out").symlink_to(way_out)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/planted").write_text("planted\n")
    bundle.spec["mounts"].append(bind("/leads-out/made", tmp_path / "data"))
    assert runtime.output(bundle, "cat", f"{victim}/made/planted") == "planted\n"
    assert os.listdir(victim) == ["secret"]


def test_a_mount_target_that_changes_all_the_time(tmp_path, victim):
    """CVE-2021-30465, the race: another container swaps a directory for a link while the target is being made."""
    root = tmp_path / "root"
    (root / "swap").mkdir(parents=True)
    (root / "other").symlink_to(victim)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            libc.renameat2(-100, os.fsencode(root / "swap"), -100, os.fsencode(root / "other"), RENAME_EXCHANGE)

    thread = threading.Thread(target=swap)
    thread.start()
    root_fd = os.open(root, os.O_PATH)
    try:
        for number in range(300):
            try:
                os.close(targets.ensure_directory(root_fd, f"swap/d{number}/e"))
            except (FileNotFoundError, FileExistsError, NotADirectoryError):
                continue
    finally:
        stop.set()
        thread.join()
        os.close(root_fd)
    assert os.listdir(victim) == ["secret"]


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
def test_proc_and_sys_must_be_ordinary_directories(runtime, bundle, kind):
    """CVE-2019-19921: an image whose /proc is a link sends the runtime's own writes elsewhere."""
    name = {"proc": "proc", "sysfs": "sys"}[kind]
    (bundle.rootfs / "elsewhere").mkdir()
    (bundle.rootfs / name).symlink_to("elsewhere")
    done = runtime.run(bundle, "true")
    assert done.returncode != 0
    assert "must be mounted on" in done.stderr


@pytest.mark.parametrize("destination", ["/proc", "/proc/self", "/proc/sys/kernel", "/proc/1/attr", "/innocent"])
def test_nothing_covers_proc(runtime, bundle, tmp_path, destination):
    """CVE-2019-16884, CVE-2023-28642, CVE-2025-52881: files of /proc replaced by ones that the image controls."""
    (tmp_path / "fake").mkdir()
    (bundle.rootfs / "innocent").symlink_to("proc/self")
    bundle.spec["mounts"].append(bind(destination, tmp_path / "fake"))
    done = runtime.run(bundle, "true")
    assert done.returncode != 0
    assert "cannot be mounted because it is" in done.stderr


def test_files_of_proc_that_lxcfs_replaces(runtime, bundle, tmp_path):
    (tmp_path / "meminfo").write_text("replaced\n")
    bundle.spec["mounts"].append(bind("/proc/meminfo", tmp_path / "meminfo"))
    assert runtime.output(bundle, "cat", "/proc/meminfo") == "replaced\n"


@pytest.mark.parametrize("mounted", [True, False])
def test_dev_as_a_symbolic_link(barque, bundle, victim, mounted):
    """CVE-2026-41579: devices made, and opened, wherever the image's /dev leads."""
    (bundle.rootfs / "dev").symlink_to(victim)
    if not mounted:
        bundle.spec["mounts"] = [item for item in bundle.spec["mounts"] if not item["destination"].startswith("/dev")]
    done = barque.run(bundle, "true")
    assert done.returncode != 0
    assert "symbolic link" in done.stderr
    assert os.listdir(victim) == ["secret"]


def test_devices_that_the_image_brought_are_not_trusted(barque, bundle):
    """CVE-2025-31133, CVE-2025-52565: a file in the place of a device is covered by the real one."""
    bundle.spec["mounts"] = [item for item in bundle.spec["mounts"] if not item["destination"].startswith("/dev")]
    (bundle.rootfs / "dev").mkdir()
    (bundle.rootfs / "dev/null").write_text("not the null device\n")
    (bundle.rootfs / "dev/zero").symlink_to("/etc/passwd")
    done = barque.run(bundle, "true")
    assert done.returncode != 0
    assert "/dev/zero of the container is a symbolic link" in done.stderr
    (bundle.rootfs / "dev/zero").unlink()
    assert barque.output(bundle, "stat", "-c", "%t:%T", "/dev/null") == "1:3\n"


def test_masked_paths_do_not_use_the_containers_null(barque, bundle, tmp_path):
    """CVE-2025-31133: /dev/null of the container is a link when the masks are put in place."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/null").symlink_to("/etc/passwd")
    bundle.spec["mounts"] = [item for item in bundle.spec["mounts"] if not item["destination"].startswith("/dev")]
    bundle.spec["mounts"].append(bind("/dev", tmp_path / "dev"))
    assert barque.output(bundle, "cat", "/proc/timer_list") == ""


@pytest.mark.parametrize("made", ["true", "false"])
def test_the_working_directory_is_never_a_leaked_descriptor(barque, bundle, made):
    """CVE-2024-21626: WORKDIR /proc/self/fd/N, with N open on a directory of the host."""
    bundle.spec["annotations"] = {"org.barque.cwd.create": made}
    root = os.open("/", os.O_RDONLY)
    try:
        for number in range(3, 12):
            bundle.process["cwd"] = f"/proc/self/fd/{number}"
            done = barque.run(bundle, "ls", pass_fds=(root,))
            assert done.returncode != 0
            assert done.stdout == ""
    finally:
        os.close(root)


def test_exec_into_a_leaked_descriptor(barque, bundle):
    """The same by exec, whose process has the host's directories open at its start."""
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "leak")
    for number in range(3, 12):
        done = barque("exec", "--cwd", f"/proc/self/fd/{number}", "leak", "ls")
        assert done.returncode != 0
        assert done.stdout == ""


@pytest.fixture
def interpreter_copy(tmp_path):
    """An interpreter that nobody else runs, up to ``-c``: a file that runs is busy for writers."""
    folder = tmp_path / "environment"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(os.path.realpath(sys.executable), folder / "bin/python3")
    (folder / "pyvenv.cfg").write_text(f"home = {os.path.dirname(os.path.realpath(sys.executable))}\n")
    return ["env", f"LD_LIBRARY_PATH={sys.base_prefix}/lib", str(folder / "bin/python3"), "-IS", "-c"]


@pytest.mark.parametrize("way", ["moved", "started again"])
def test_the_interpreter_cannot_be_overwritten(barque, bundle, interpreter_copy, way):
    """CVE-2019-5736: a container keeps /proc/PID/exe of a joining process and reopens it for writing afterwards.

    The attacker has CAP_SYS_PTRACE, as a container may, so that it gets hold of the file at all.
    """
    names = ["CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE"]
    bundle.process["capabilities"] = {"bounding": names, "permitted": names, "effective": names}
    attack = """
found=
while [ -z "$found" ]; do
    for p in /proc/[0-9]*; do
        case "$(readlink $p/exe)" in */busybox|"") continue;; esac
        # Without command a process that is gone by now would end the shell; it may also have become another program.
        command exec 9<$p/exe
        case "$(readlink /proc/self/fd/9)" in */busybox|"") continue;; esac
        found=1
        break
    done
done 2>/dev/null
echo held
read gone
for try in 1 2 3; do
    if (exec 8>/proc/self/fd/9) 2>/tmp/why; then echo WRITABLE; else cat /tmp/why; fi
    if echo x | dd of=/proc/self/fd/9 conv=notrunc 2>/tmp/why; then echo WRITABLE; else cat /tmp/why; fi
done
"""
    bundle.save("sh", "-c", attack)
    script = f"import sys; sys.path[:] = {sys.path!r}; from barque.runtime import interpreter, main; "
    if way == "started again":
        script += "interpreter.move_readonly = lambda: False; "
    joining = [*interpreter_copy, script + "main.leave(main.main())"]
    container = subprocess.Popen([*barque.base, "run", "--bundle", str(bundle.path), "attack"], text=True,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert container.stdin and container.stdout
    deadline = time.monotonic() + 120
    while not select.select([container.stdout], [], [], 0)[0]:
        assert time.monotonic() < deadline
        subprocess.run([*joining, *barque.base[1:], "exec", "attack", "true"], check=False, timeout=60)
    answer, _ = container.communicate("gone\n", timeout=60)
    assert "held" in answer
    assert "WRITABLE" not in answer
    # A read-only mount, or a sealed copy.
    assert answer.count("Read-only file system") + answer.count("Operation not permitted") == 6, answer


def test_a_running_interpreter_is_moved_where_it_is_in_a_library(interpreter_copy):
    """And goes on as if nothing was: lazily bound functions, libraries loaded later, children."""
    script = (f"import sys; sys.path[:] = {sys.path!r}; from barque.runtime import interpreter\n"
              "print(interpreter.move_readonly(), interpreter.is_safe())\n"
              "import os, decimal, socket, ssl, sqlite3, subprocess\n"
              "print(decimal.Decimal(1) / 3, sqlite3.connect(':memory:').execute('select 1').fetchone())\n"
              "print(subprocess.run([sys.executable, '-c', 'print(1)'], stdout=subprocess.PIPE).stdout)\n")
    done = subprocess.run([*interpreter_copy, script], capture_output=True, text=True, check=True, timeout=30)
    moved = "/libpython" in Path("/proc/self/maps").read_text()
    assert done.stdout.splitlines() == [f"{moved} {moved}", "0.3333333333333333333333333333 (1,)", "b'1\\n'"]


@pytest.mark.parametrize(("small", "copied"), [(0, False), (1 << 40, True)])
def test_interpreters_of_any_size_are_kept_from_writers(tmp_path, small, copied):
    (tmp_path / "probe.py").write_text(
        "import os, sys\nfrom barque.runtime import interpreter\nleave = sys.exit\n"
        "def main(): print(os.readlink('/proc/self/exe').startswith('/memfd:'), interpreter.is_safe())\n")
    script = (f"import sys; sys.path.append({str(tmp_path)!r}); from barque.runtime import interpreter; "
              f"interpreter._SMALL = {small}; interpreter.reexec_readonly('probe', [])")
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{copied} True\n"


def test_a_fifo_as_passwd_does_not_hang(barque, bundle):
    """CVE-2024-9676: reading it would wait for ever."""
    (bundle.rootfs / "etc/passwd").unlink()
    os.mkfifo(bundle.rootfs / "etc/passwd")
    bundle.spec["annotations"] = {"org.barque.user": "worker"}
    assert "/etc/passwd of the container is not a regular file" in barque.run(bundle, "true").stderr


def test_a_link_as_passwd_is_not_followed(barque, bundle, victim):
    (bundle.rootfs / "etc/passwd").unlink()
    (bundle.rootfs / "etc/passwd").symlink_to("/etc/group")
    bundle.spec["annotations"] = {"org.barque.user": "root"}
    assert "cannot read /etc/passwd of the container" in barque.run(bundle, "true").stderr


def test_an_endless_passwd_is_not_read(barque, bundle):
    with open(bundle.rootfs / "etc/passwd", "wb") as file:
        file.truncate(1 << 40)
    bundle.spec["annotations"] = {"org.barque.user": "worker"}
    assert "/etc/passwd of the container is too large" in barque.run(bundle, "true").stderr


def test_sysctls_do_not_leave_their_directory(runtime, bundle):
    for key in ("net.ipv4/../../../../etc/passwd", "net.../../kernel/core_pattern", "kernel.core_pattern"):
        bundle.linux["sysctl"] = {key: "x"}
        assert runtime.run(bundle, "true").returncode != 0


def test_the_runtimes_socket_is_not_reachable_from_inside(barque, bundle):
    """CVE-2020-15257: an abstract socket of the runtime, seen through a shared network namespace."""
    bundle.linux["namespaces"] = [item for item in bundle.linux["namespaces"] if item["type"] != "network"]
    bundle.save("true")
    barque.detached("create", "--bundle", str(bundle.path), "waiting")
    bundle.linux["cgroupsPath"] += "-2"
    listed = barque.output(bundle, "cat", "/proc/net/unix")
    assert "start.sock" in listed
    assert "@" not in listed


@pytest.mark.parametrize(("kind", "text"), [("tmpfs", "a terminal needs a devpts"), ("link", "is a symbolic link")])
def test_a_terminal_is_one_of_the_containers_own(barque, bundle, victim, kind, text):
    """CVE-2025-52565: /dev/pts or /dev/console replaced, so that the host's files are mounted or opened for it."""
    bundle.process["terminal"] = True
    if kind == "tmpfs":
        next(item for item in bundle.spec["mounts"] if item["destination"] == "/dev/pts").update(
            type="tmpfs", source="tmpfs", options=["mode=755"])
    else:
        bundle.spec["mounts"] = [item for item in bundle.spec["mounts"] if item["destination"] != "/dev"]
        (bundle.rootfs / "dev").mkdir()
        (bundle.rootfs / "dev/console").symlink_to(victim / "secret")
    done = barque.run(bundle, "true")
    assert done.returncode != 0
    assert text in done.stderr
    assert (victim / "secret").read_text() == "of the host\n"


def test_a_failure_says_what_and_where():
    failure = RuntimeFailure.of("mount x", OSError(13, "Permission denied in open_tree", "/x"))
    assert (failure.stage, failure.syscall, failure.errno, failure.path) == ("mount x", "open_tree", 13, "/x")
    assert RuntimeFailure.from_dict(failure.to_dict()).to_dict() == failure.to_dict()


def test_no_way_to_a_release_agent(runtime, bundle):
    """CVE-2022-0492: a program of the host's is named in a cgroup hierarchy that the container mounts for itself."""
    bundle.process["noNewPrivileges"] = False
    bundle.linux["seccomp"] = msgspec.to_builtins(seccomp_profile.default_profile(frozenset(
        bundle.process["capabilities"]["bounding"])))
    attack = """
for kind in cgroup cgroup2; do mkdir -p /tmp/$kind; mount -t $kind none /tmp/$kind && echo MOUNTED; done
unshare -UrmC sh -c 'mount -t cgroup -o memory none /tmp && echo MOUNTED'
unshare -Ur true && echo UNSHARED
for file in $(find /sys/fs/cgroup -name release_agent -o -name notify_on_release -o -name cgroup.procs); do
    (echo 1 > $file) 2>/dev/null && echo WRITTEN $file
done
exit 0
"""
    done = runtime.run(bundle, "sh", "-c", attack)
    assert (done.returncode, done.stdout) == (0, "")
    assert "not permitted" in done.stderr


def test_groups_and_capabilities_of_the_caller_do_not_come_along(runtime, bundle):
    """CVE-2022-36109, CVE-2023-25173: supplementary groups; CVE-2022-24769: inheritable capabilities."""
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.save("grep", "-E", "^(Groups|CapInh|CapAmb|CapEff):", "/proc/self/status")
    program = ["setpriv", "--groups", "4,27", "--inh-caps", "+net_raw", *runtime.base, "run", "--bundle",
               str(bundle.path), "groups"]
    done = subprocess.run(program, capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
    fields = {key: value.split() for key, _, value in (line.partition(":") for line in done.stdout.splitlines())}
    assert fields == {"Groups": [], "CapInh": ["0" * 16], "CapAmb": ["0" * 16], "CapEff": ["0" * 16]}


def test_capabilities_added_by_exec_do_not_outlive_a_change_of_user(runtime, bundle):
    """CVE-2022-29162: exec --cap made them inheritable."""
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "caps")
    text = runtime.ok("exec", "--cap", "CAP_NET_RAW", "caps", "grep", "-E", "^Cap(Inh|Amb|Prm):", "/proc/self/status")
    fields = {key: int(value, 16) for key, _, value in (line.partition(":") for line in text.splitlines())}
    assert fields["CapInh"] == fields["CapAmb"] == 0
    assert fields["CapPrm"] & 1 << 13


def test_a_joining_process_cannot_be_looked_into(barque, bundle):
    """CVE-2016-9962: the first process opens descriptors of one that has entered but not executed yet, and still holds
    the host's. Root of the container, with all that docker gives it; CAP_SYS_PTRACE would let it do anything to others.
    """
    names = capabilities.docker_caps([], [])
    bundle.process["capabilities"] = {"bounding": names, "permitted": names, "effective": names}
    attack = """
while [ ! -e /stop ]; do
    for p in /proc/[0-9]*; do
        [ "${p#/proc/}" = 1 ] || [ -n "$(readlink $p/exe)" ] || echo > /seen
        for fd in $p/fd/*; do
            case "$(readlink $fd)" in /proc/*|"") ;; /*) [ -d "$fd/" ] && echo FOUND $(readlink $fd);; esac
        done
    done
done 2>/dev/null
"""
    bundle.save("sh", "-c", attack)
    container = subprocess.Popen([*barque.base, "run", "--bundle", str(bundle.path), "attack"], text=True,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    tries, deadline = 0, time.monotonic() + 120
    while tries < 20 or not (bundle.rootfs / "seen").exists():
        assert time.monotonic() < deadline, "no process was met before its exec"
        tries += barque("exec", "attack", "true").returncode == 0
    (bundle.rootfs / "stop").touch()
    answer, _ = container.communicate(timeout=60)
    assert answer == ""


def test_a_runtime_in_a_chroot_makes_no_container(barque, bundle, tmp_path):
    """Where the top of the chroot is a mount, pivot_root changes that one; who enters the mount namespace later would
    come in by its own root, the host's, and `exec` would run there.
    """
    bundle.save("true")
    (tmp_path / "top").mkdir()
    script = 'mount --make-rprivate / && mount --rbind / "$1" && exec chroot "$@"'
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path / "top"), *barque.base, "run",
                           "--bundle", str(bundle.path), "chrooted"], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 1
    assert "the runtime is in a chroot" in done.stderr


def test_nothing_is_imported_from_the_container():
    """CVE-2019-14271: what has entered loads its libraries from there. An import of a child that is cut off fails."""
    def child() -> str:
        init.separate(0)
        assert "wave" not in sys.modules
        with pytest.raises(ImportError), pytest.warns(ImportWarning):
            importlib.import_module("wave")
        return "refused"

    assert in_child(child) == "refused"


@pytest.mark.parametrize("user", [{"uid": 0xFFFFFFFF, "gid": 1}, {"uid": -1, "gid": 1}, {"uid": 1, "gid": 0xFFFFFFFF},
                                  {"uid": 1 << 32, "gid": 1}, {"uid": 1, "gid": 1, "additionalGids": [-1]}])
def test_ids_that_mean_no_change_do_not_leave_root(barque, bundle, tmp_path, user):
    """setresuid(-1) changes nothing and succeeds: the program would be root (CVE-2026-46680's kind)."""
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "ids")
    process = tmp_path / "process.json"
    process.write_text(json.dumps({**bundle.process, "args": ["id"], "user": user}))
    done = barque("exec", "--process", str(process), "ids")
    assert (done.returncode, done.stdout) == (255, "")
    assert "uids and gids must be in range 0-4294967294" in done.stderr
    barque.ok("delete", "--force", "ids")
    bundle.process["user"] = user
    done = barque.run(bundle, "id")
    assert (done.returncode, done.stdout) == (1, "")
    assert "uids and gids must be in range 0-4294967294" in done.stderr
