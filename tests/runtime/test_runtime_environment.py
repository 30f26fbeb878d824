"""What a container's process finds around it: same expectations for ours and for runc."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.runtime.conftest import ANSWER, living, read_until


def status_fields(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def mount(destination: str, source: Path | str, *options: str, kind: str = "bind") -> dict[str, object]:
    return {"destination": destination, "type": kind, "source": str(source), "options": list(options)}


def test_the_user_and_its_groups(runtime, bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 1001, "additionalGids": [29, 4000]}
    fields = status_fields(runtime.output(bundle, "cat", "/proc/self/status"))
    assert fields["Uid"].split() == ["1000"] * 4
    assert fields["Gid"].split() == ["1001"] * 4
    assert fields["Groups"].split() == ["29", "4000"]


def test_home_comes_from_the_passwd_file(runtime, bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 1001}
    assert runtime.output(bundle, "sh", "-c", "echo $HOME") == "/home/worker\n"


def test_a_given_home_stays(runtime, bundle):
    bundle.process["env"].append("HOME=/given")
    assert runtime.output(bundle, "sh", "-c", "echo $HOME") == "/given\n"


def test_the_umask(runtime, bundle):
    assert runtime.output(bundle, "sh", "-c", "umask") == "0022\n"
    bundle.process["user"]["umask"] = 0o77
    assert runtime.output(bundle, "sh", "-c", "umask") == "0077\n"


def test_capabilities_are_exactly_those_of_the_document(runtime, bundle):
    names = ["CAP_CHOWN", "CAP_KILL"]
    bundle.process["capabilities"] = {"bounding": [*names, "CAP_MKNOD"], "permitted": names, "effective": ["CAP_KILL"]}
    bundle.process["noNewPrivileges"] = False
    fields = status_fields(runtime.output(bundle, "cat", "/proc/self/status"))
    # Exec computes the sets of a root process from the bounding set (capabilities(7)).
    assert int(fields["CapBnd"], 16) == 1 << 0 | 1 << 5 | 1 << 27
    assert int(fields["CapPrm"], 16) == 1 << 0 | 1 << 5 | 1 << 27
    assert int(fields["CapInh"], 16) == int(fields["CapAmb"], 16) == 0


def test_a_user_keeps_only_ambient_capabilities(runtime, bundle):
    names = ["CAP_NET_BIND_SERVICE"]
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["capabilities"] = dict.fromkeys(
        ("bounding", "permitted", "effective", "inheritable", "ambient"), names)
    fields = status_fields(runtime.output(bundle, "cat", "/proc/self/status"))
    assert {int(fields[key], 16) for key in ("CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd")} == {1 << 10}


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_the_seccomp_filter_is_loaded_whatever_no_new_privs_says(runtime, bundle, no_new_privileges):
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}]}
    done = runtime.run(bundle, "sh", "-c", "mkdir /tmp/x; grep -E '^(NoNewPrivs|Seccomp|CapEff):' /proc/self/status")
    assert "not supported" in done.stderr
    fields = status_fields(done.stdout)
    assert fields["NoNewPrivs"] == str(int(no_new_privileges))
    assert fields["Seccomp"] == "2"
    assert int(fields["CapEff"], 16) == 1 << 29 | 1 << 5 | 1 << 10


def test_a_filter_may_forbid_all_that_leads_to_the_program(barque, bundle):
    """Only exec and what the program itself uses are let through; the set-up happens before the filter."""
    bundle.process["noNewPrivileges"] = False
    bundle.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
        {"names": ["execve", "write", "exit", "exit_group", "brk", "mmap", "mprotect", "arch_prctl", "set_tid_address",
                   "set_robust_list", "rseq", "prlimit64", "readlink", "readlinkat", "getrandom", "fstat", "newfstatat",
                   "getuid", "setuid", "getpid", "getgid", "setgid", "ioctl", "capset"], "action": "SCMP_ACT_ALLOW"}]}
    assert barque.output(bundle, "echo", "through") == "through\n"


def test_resource_limits(runtime, bundle):
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                                 {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]
    assert runtime.output(bundle, "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c").split() == ["100", "200", "0"]


def test_a_limit_beyond_ours_is_a_warning(barque, bundle):
    bundle.process["rlimits"] = [{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}]
    assert int(barque.output(bundle, "sh", "-c", "ulimit -Hn")) > 0


def test_signals_are_as_at_the_start_of_the_world(runtime, bundle):
    bundle.save("cat", "/proc/self/status")
    done = subprocess.run([*runtime.base, "run", "--bundle", str(bundle.path), "signals"], capture_output=True,
                          text=True, check=True, timeout=60, restore_signals=False, stdin=subprocess.DEVNULL)
    fields = status_fields(done.stdout)
    # The C library keeps signals 32 and 33 to itself: neither it nor Go's lets a program set them.
    reserved = 1 << 31 | 1 << 32
    assert {int(fields[key], 16) & ~reserved for key in ("SigBlk", "SigIgn", "SigCgt")} == {0}


def test_the_working_directory_is_made(runtime, bundle):
    bundle.process["cwd"] = "/made/here"
    assert runtime.output(bundle, "pwd") == "/made/here\n"
    assert (bundle.rootfs / "made/here").is_dir()


def test_a_user_without_access_to_its_working_directory(runtime, bundle):
    (bundle.rootfs / "private").mkdir(mode=0o700)
    bundle.process["cwd"] = "/private"
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.process["capabilities"] = {}
    assert runtime.run(bundle, "pwd").returncode == 0


def test_names_of_the_machine(runtime, bundle):
    bundle.spec["hostname"] = "some-host"
    assert runtime.output(bundle, "hostname") == "some-host\n"


def test_the_domain_name(barque, bundle):
    bundle.spec["domainname"] = "some.domain"
    assert barque.output(bundle, "cat", "/proc/sys/kernel/domainname") == "some.domain\n"


def test_namespaces_are_new(runtime, bundle):
    lines = runtime.output(bundle, "sh", "-c", "for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done")
    own = {os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "net", "ipc", "uts", "mnt")}
    assert len(set(lines.split())) == 5
    assert not own & set(lines.split())


def test_the_cgroup_namespace_begins_at_the_own_cgroup(runtime, bundle):
    lines = runtime.output(bundle, "cat", "/proc/self/cgroup").split()
    assert {line.rpartition(":")[2] for line in lines if not line.startswith("0:")} == {"/"}


def test_joining_a_namespace_by_path(runtime, bundle):
    with living("--net") as pid:
        for item in bundle.linux["namespaces"]:
            if item["type"] == "network":
                item["path"] = f"/proc/{pid}/ns/net"
        expected = os.readlink(f"/proc/{pid}/ns/net")
        assert runtime.output(bundle, "readlink", "/proc/self/ns/net").strip() == expected


def test_a_user_namespace(runtime, bundle):
    bundle.linux["namespaces"].append({"type": "user"})
    maps = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    bundle.linux["uidMappings"] = bundle.linux["gidMappings"] = maps
    for folder, names, files in os.walk(bundle.rootfs):
        for name in [".", *names, *files]:
            os.chown(os.path.join(folder, name), 100000, 100000, follow_symlinks=False)
    for path in (bundle.path, *list(bundle.path.parents)[:3]):
        path.chmod(0o755)
    script = "id -u; cat /proc/self/uid_map; echo x > /tmp/mine; echo y > /dev/null; ls -l /dev/zero"
    lines = runtime.output(bundle, "sh", "-c", script).splitlines()
    assert lines[0] == "0"
    assert lines[1].split() == ["0", "100000", "65536"]
    assert lines[2].startswith("crw-rw-rw-")
    assert (bundle.rootfs / "tmp/mine").stat().st_uid == 100000


def test_a_time_namespace(barque, bundle):
    bundle.linux["namespaces"].append({"type": "time"})
    bundle.linux["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
    assert float(barque.output(bundle, "cut", "-d", " ", "-f1", "/proc/uptime")) > 1_000_000


def test_sysctls_of_the_own_namespaces(runtime, bundle):
    bundle.linux["sysctl"] = {"net.ipv4.ip_unprivileged_port_start": "0", "kernel.shmmax": "65536"}
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax"
    assert runtime.output(bundle, "sh", "-c", script).split() == ["0", "65536"]


def test_the_default_devices_and_links(runtime, bundle):
    script = ("cd /dev; stat -c '%n %F %t:%T %a' null zero full random urandom tty; "
              "for l in fd stdin ptmx; do readlink $l; done")
    bundle.linux["devices"] = [{"path": "/dev/extra", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640,
                                "uid": 5, "gid": 6}]
    lines = runtime.output(bundle, "sh", "-c", script + "; stat -c '%t:%T %a %u %g' extra").splitlines()
    assert [line.split()[0] + " " + line.split()[-2] for line in lines[:6]] == [
        "null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"]
    assert {line.split()[-1] for line in lines[:6]} == {"666"}
    assert lines[6:9] == ["/proc/self/fd", "/proc/self/fd/0", "pts/ptmx"]
    assert lines[9] == "1:3 640 5 6"


def test_masked_and_readonly_paths(runtime, bundle):
    script = "cat /proc/keys /proc/timer_list; ls /sys/firmware; echo x > /proc/sys/kernel/domainname"
    done = runtime.run(bundle, "sh", "-c", script)
    assert done.stdout == ""
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_a_readonly_root(runtime, bundle):
    bundle.spec["root"]["readonly"] = True
    done = runtime.run(bundle, "sh", "-c", "echo x > /file; echo y > /dev/shm/file && cat /dev/shm/file")
    assert done.stdout == "y\n"
    assert "Read-only file system" in done.stderr
    assert not (bundle.rootfs / "file").exists()


def test_binds_of_files_and_directories(runtime, bundle, tmp_path):
    (tmp_path / "data/sub").mkdir(parents=True)
    (tmp_path / "data/file").write_text("content\n")
    bundle.spec["mounts"] += [mount("/deep/target", tmp_path / "data", "rbind", "rprivate"),
                              mount("/etc/one", tmp_path / "data/file", "bind", "ro", "noexec")]
    script = ("cat /deep/target/file /etc/one; echo new > /deep/target/made; echo z > /etc/one; "
              "grep /etc/one /proc/mounts")
    done = runtime.run(bundle, "sh", "-c", script)
    assert done.stdout.startswith("content\ncontent\n")
    assert "Read-only file system" in done.stderr
    flags = done.stdout.splitlines()[-1].split()[3].split(",")
    assert {"ro", "noexec"} <= set(flags)
    assert (tmp_path / "data/made").read_text() == "new\n"
    assert (tmp_path / "data/file").read_text() == "content\n"


def test_readonly_reaches_beneath_only_when_asked(runtime, bundle, tmp_path):
    (tmp_path / "tree/inner").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tmp_path / "tree/inner")], check=True)
    try:
        bundle.spec["mounts"] += [mount("/top", tmp_path / "tree", "rbind", "ro"),
                                  mount("/all", tmp_path / "tree", "rbind", "rro")]
        script = "for p in top/a top/inner/b all/c all/inner/d; do touch $p 2>/dev/null && echo $p; done; true"
        assert runtime.output(bundle, "sh", "-c", f"cd /; {script}").split() == ["top/inner/b"]
    finally:
        subprocess.run(["umount", str(tmp_path / "tree/inner")], check=True)


def test_tmpfs_options(runtime, bundle):
    bundle.spec["mounts"].append(mount("/tmp", "tmpfs", "nosuid", "noexec", "size=64k", kind="tmpfs"))
    lines = runtime.output(bundle, "sh", "-c", "stat -c %a /tmp; grep ' /tmp ' /proc/mounts").splitlines()
    assert lines[0] == "1777"
    assert {"nosuid", "noexec", "size=64k"} <= set(lines[1].split()[3].split(","))


def test_propagation(runtime, bundle, tmp_path):
    (tmp_path / "p").mkdir()
    bundle.spec["mounts"] += [mount("/a", tmp_path / "p", "bind", "rshared"), mount("/b", tmp_path / "p", "bind")]
    lines = {line.split()[4]: line.split(" - ")[0].split()[6:]
             for line in runtime.output(bundle, "cat", "/proc/self/mountinfo").splitlines()}
    assert any(item.startswith("shared:") for item in lines["/a"])
    assert lines["/b"] == []


def test_hooks_run_in_order_with_the_state(runtime, bundle, tmp_path):
    log = tmp_path / "hooks"
    names = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
    bundle.spec["hooks"] = {name: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo {name} $(cat) >> {log}"]}]
                            for name in names}
    runtime.output(bundle, "true")
    lines = log.read_text().splitlines()
    assert [line.split()[0] for line in lines] == list(names)
    assert all('"id":"run-test"' in line for line in lines)


@pytest.mark.parametrize("name", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_fails_the_creation(runtime, bundle, name):
    bundle.spec["hooks"] = {name: [{"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]}]}
    done = runtime.run(bundle, "true")
    assert done.returncode != 0
    assert "exit status 3" in done.stderr
    assert runtime.ok("list", "-q") == ""


def test_a_hook_that_takes_too_long(runtime, bundle):
    bundle.spec["hooks"] = {"prestart": [{"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]}
    assert "timeout" in runtime.run(bundle, "true").stderr


def test_a_terminal_by_the_console_socket(runtime, bundle, tmp_path):
    bundle.process["terminal"] = True
    bundle.process["consoleSize"] = {"height": 33, "width": 99}
    bundle.save("sh", "-c", "tty; stty size; stat -c %F /dev/console; read x; echo got $x")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(ANSWER)
        listener.bind(str(tmp_path / "console.sock"))
        listener.listen()
        runtime.detached("run", "--detach", "--bundle", str(bundle.path), "--console-socket",
                         str(tmp_path / "console.sock"), "terminal")
        connection, _ = listener.accept()
        with connection:
            _, fds, _, _ = socket.recv_fds(connection, 100, 1)
    master = fds[0]
    # What is typed is echoed at once: not before the program has said what it has to say.
    text = read_until(master, b"special file\r\n")
    os.write(master, b"typed\n")
    text += read_until(master, None)
    os.close(master)
    lines = text.decode().split("\r\n")
    assert lines[:3] == ["/dev/pts/0", "33 99", "character special file"]
    assert "got typed" in lines


def test_descriptors_do_not_leak(runtime, bundle):
    bundle.save("ls", "/proc/self/fd")
    root = os.open("/", os.O_RDONLY)
    try:
        done = subprocess.run([*runtime.base, "run", "--bundle", str(bundle.path), "fds"], pass_fds=(root,),
                              capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
    finally:
        os.close(root)
    assert done.stdout.split() == ["0", "1", "2", "3"]


def test_descriptors_that_are_to_be_preserved(runtime, bundle):
    bundle.save("sh", "-c", "echo through >&3; test -e /proc/self/fd/4; echo $?")
    reader, writer = os.pipe()
    program = ["bash", "-c", f'exec 3>&{writer}; exec "$@"', "bash", *runtime.base, "run", "--preserve-fds", "1",
               "--bundle", str(bundle.path), "kept"]
    with os.fdopen(reader) as file:
        try:
            done = subprocess.run(program, pass_fds=(writer,), capture_output=True, text=True, check=True, timeout=60,
                                  stdin=subprocess.DEVNULL)
        finally:
            os.close(writer)
        assert read_until(file.fileno(), None) == b"through\n"
    assert done.stdout == "1\n"


def test_personality_and_scheduling(barque, bundle):
    bundle.linux["personality"] = {"domain": "LINUX32"}
    bundle.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 7}
    bundle.process["ioPriority"] = {"class": "IOPRIO_CLASS_IDLE", "priority": 0}
    script = "uname -m; cut -d ' ' -f 19,41 /proc/self/stat; ionice -p $$"
    assert barque.output(bundle, "sh", "-c", script).splitlines() == ["i686", "7 3", "idle"]


def test_a_memory_policy_and_a_personality_hold_for_every_process(barque, bundle):
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("needs a kernel with NUMA")
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "900"}
    assert "set_mempolicy: invalid argument" in barque.run(bundle, "true").stderr
    bundle.linux["personality"] = {"domain": "LINUX32"}
    bundle.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"] * 2}
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "numa")
    first = Path(f"/proc/{barque.state('numa')['pid']}/numa_maps").read_text()
    assert first.split()[1] == "bind=static:0"
    line, machine = barque.ok("exec", "numa", "sh", "-c", "head -n 1 /proc/self/numa_maps; uname -m").splitlines()
    assert line.split()[1] == "bind=static:0"
    assert machine == "i686"


@pytest.mark.parametrize("wanted", ["private", "rslave", "shared", "unbindable"])
def test_propagation_of_the_root(barque, bundle, wanted):
    bundle.linux["rootfsPropagation"] = wanted
    lines = barque.output(bundle, "cat", "/proc/self/mountinfo").splitlines()
    [tags] = [line.split(" - ")[0].split()[6:] for line in lines if line.split()[4] == "/"]
    kinds = {"private": "", "rslave": "master", "shared": "shared", "unbindable": "unbindable"}
    assert [tag.partition(":")[0] for tag in tags] in ([kinds[wanted]], [] if wanted in ("private", "rslave") else None)


def test_oom_score(runtime, bundle):
    bundle.process["oomScoreAdj"] = 321
    assert runtime.output(bundle, "cat", "/proc/self/oom_score_adj") == "321\n"


def test_an_oom_score_that_may_not_be_lowered_is_no_failure(barque, bundle):
    bundle.process["oomScoreAdj"] = -999
    assert int(barque.output(bundle, "cat", "/proc/self/oom_score_adj")) in (-999, 0)


def test_cgroups_are_visible_and_readonly(runtime, bundle):
    done = runtime.run(bundle, "sh", "-c", "ls /sys/fs/cgroup; mkdir /sys/fs/cgroup/memory/x /sys/fs/cgroup/x")
    assert done.stdout
    assert "Read-only file system" in done.stderr


def test_stdio_belongs_to_the_user(runtime, bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    assert runtime.output(bundle, "sh", "-c", "echo reopened > /dev/stdout") == "reopened\n"


def test_the_null_device_of_the_host_keeps_its_owner(runtime, bundle):
    bundle.process["user"] = {"uid": 1000, "gid": 1000}
    bundle.save("true")
    before = os.stat("/dev/null")
    assert runtime.run(bundle, "true").returncode == 0
    assert os.stat("/dev/null").st_uid == before.st_uid
    assert stat.S_ISCHR(before.st_mode)
