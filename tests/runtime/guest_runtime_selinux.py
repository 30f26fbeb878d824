"""Containers under SELinux, with a policy of a few lines; run in the virtual machine.

What the policy does not name is allowed; so it names what is to be seen: files, keys, and who may become whom.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from barque.engine import selinux
from barque.oci.mount import Mount
from barque.runtime import labels
from tests.runtime.conftest import Bundle, Runtime

SELINUXFS = Path("/sys/fs/selinux")
CURRENT = "/proc/self/attr/current"
HOST = selinux.Labels("u:r:container_t:s0", "u:object_r:container_file_t:s0")
LABELS = selinux.Labels(f"{HOST.process}:c1,c2", f"{HOST.mount}:c1,c2")
#: The kernel knows these by their order (initial_sid_to_string.h).
INITIAL = (
    "kernel", "security", "unlabeled", "fs", "file", "file_labels", "init", "any_socket", "port", "netif", "netmsg",
    "node", "igmp_packet", "icmp_socket", "tcp_socket", "sysctl_modprobe", "sysctl", "sysctl_fs", "sysctl_kernel",
    "sysctl_net", "sysctl_net_unix", "sysctl_vm", "sysctl_dev", "kmod", "policy", "scmp_packet", "devnull")
#: All others are the host's.
CONTEXTS = {"kernel": "u:r:host_t:s0 - s0:c0.c7", "file": "u:object_r:tmpfs_t:s0", "unlabeled": "u:object_r:tmpfs_t:s0"}
FILE = "read write open execute entrypoint execute_no_trans"
#: What cannot be labelled otherwise; nothing is asked about them.
OTHERS = ("dir", "lnk_file", "chr_file", "blk_file", "sock_file", "fifo_file")


def each(names: Iterable[str], line: str) -> str:
    return "\n".join(line.replace("NAME", name) for name in names)


SIDS = "\n".join(f"sid {name} {CONTEXTS.get(name, 'u:r:host_t:s0')}" for name in INITIAL)
POLICY = f"""
class process
class file
class key
{each(OTHERS, "class NAME")}
{each(INITIAL, "sid NAME")}
class process {{ transition dyntransition setexec setkeycreate }}
class file {{ {FILE} }}
class key {{ view }}
{each(OTHERS, "class NAME { audit_access }")}
sensitivity s0;
dominance {{ s0 }}
{each("01234567", "category cNAME;")}
level s0:c0.c7;
mlsconstrain file {{ {FILE} }} (h1 dom h2);
policycap nnp_nosuid_transition;
attribute everything;
type host_t, everything;
type container_t, everything;
type container_file_t, everything;
type proc_t, everything;
type tmpfs_t, everything;
role r;
role r types {{ host_t container_t }};
allow host_t everything:file *;
allow host_t everything:process *;
allow host_t everything:key *;
allow container_t {{ container_file_t proc_t container_t }}:file *;
allow container_t container_t:{{ process key }} *;
user u roles {{ r }} level s0 range s0 - s0:c0.c7;
{SIDS}
fs_use_trans tmpfs u:object_r:tmpfs_t:s0;
fs_use_trans mqueue u:object_r:tmpfs_t:s0;
fs_use_trans devpts u:object_r:tmpfs_t:s0;
fs_use_xattr overlay u:object_r:tmpfs_t:s0;
genfscon proc / u:object_r:proc_t:s0
genfscon sysfs / u:object_r:proc_t:s0
genfscon rootfs / u:object_r:tmpfs_t:s0
"""


@pytest.fixture(scope="module", autouse=True)
def enforcing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not (SELINUXFS / "load").exists():
        subprocess.run(["mount", "-t", "selinuxfs", "selinuxfs", str(SELINUXFS)], check=True)
    assert not labels.has_selinux()
    labels.has_selinux.cache_clear()
    folder = tmp_path_factory.mktemp("policy")
    (folder / "policy.conf").write_text(POLICY)
    done = subprocess.run(["checkpolicy", "-M", "-U", "allow", "-c", "33", "-o", "policy", "policy.conf"], cwd=folder,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (SELINUXFS / "load").write_bytes((folder / "policy").read_bytes())
    (SELINUXFS / "enforce").write_text("1")
    yield
    (SELINUXFS / "enforce").write_text("0")


@pytest.fixture
def labelled(bundle: Bundle) -> Bundle:
    selinux.relabel(str(bundle.rootfs), LABELS.mount, shared=False)
    bundle.process["selinuxLabel"] = LABELS.process
    bundle.linux["mountLabel"] = LABELS.mount
    return bundle


def label_of(path: str | Path) -> str:
    return os.getxattr(path, "security.selinux", follow_symlinks=False).rstrip(b"\0").decode()


class TestSelinux:
    def test_processes_and_mounts(self, barque: Runtime, labelled: Bundle) -> None:
        labelled.linux["maskedPaths"] = ["/proc/fs"]
        labelled.save("sh", "-c", "echo x >/dev/shm/x && exec sleep 1000")
        barque.detached("run", "--detach", "--bundle", str(labelled.path), "joined")
        pid = barque.state("joined")["pid"]
        assert Path(f"/proc/{pid}/attr/current").read_text().rstrip("\0\n") == LABELS.process
        for path in ("/dev/shm", "/dev/shm/x", "/dev/mqueue", "/dev/pts", "/proc/fs"):
            assert label_of(f"/proc/{pid}/root{path}") == LABELS.mount, path
        # The policy lets a container see keys of its own label alone.
        assert "_ses.joined" in barque.ok("exec", "joined", "cat", "/proc/keys")
        assert barque.ok("exec", "joined", "cat", CURRENT).rstrip("\0\n") == LABELS.process
        other = f"{HOST.process}:c1,c2,c4"
        assert barque.ok("exec", "--process-label", other, "joined", "cat", CURRENT).rstrip("\0\n") == other
        refused = barque("exec", "--process-label", "no:such:label:s0", "joined", "true")
        assert "cannot take the SELinux label 'no:such:label:s0'" in refused.stderr
        # A label whose categories do not cover those of the files may not even execute them.
        assert "ermission denied" in barque("exec", "--process-label", f"{HOST.process}:c3", "joined", "true").stderr
        barque.ok("delete", "--force", "joined")

    def test_files_of_the_host_and_of_others(self, barque: Runtime, labelled: Bundle, tmp_path: Path) -> None:
        """As ``-v`` shows them without a mode, with ``z`` and with ``Z`` of two containers."""
        for name in ("none", "shared", "own", "others"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text(f"{name}\n")
            (tmp_path / name / "link").symlink_to("/etc/passwd")
            labelled.spec["mounts"].append({"destination": f"/{name}", "type": "bind", "options": ["rbind"],
                                            "source": str(tmp_path / name)})
        selinux.relabel(str(tmp_path / "shared"), LABELS.mount, shared=True)
        selinux.relabel(str(tmp_path / "own"), LABELS.mount, shared=False)
        selinux.relabel(str(tmp_path / "others"), f"{HOST.mount}:c1,c3", shared=False)
        assert label_of(tmp_path / "shared/file") == HOST.mount
        assert label_of(tmp_path / "own") == label_of(tmp_path / "own/link") == LABELS.mount
        before = label_of("/etc/passwd") if os.path.exists("/etc/passwd") else ""
        done = barque.run(labelled, "sh", "-c", "cat /none/file; cat /shared/file; cat /own/file; cat /others/file")
        assert done.stdout == "shared\nown\n"
        assert done.stderr.count("ermission denied") == 2
        assert before == (label_of("/etc/passwd") if os.path.exists("/etc/passwd") else "")

    def test_the_root_of_the_engines_containers(self, tmp_path: Path) -> None:
        """An overlay that is mounted with the label; two categories have a comma, which is one of mount options too."""
        for name in ("lower", "upper", "work", "at"):
            (tmp_path / name).mkdir()
        (tmp_path / "lower/file").touch()
        mount = Mount("overlay", lower=(str(tmp_path / "lower"),), upper=str(tmp_path / "upper"),
                      work=str(tmp_path / "work"), options=(f"context={LABELS.mount}",))
        look = ("import os, sys; from barque.oci.mount import Mount; from barque.runtime import rootfs; "
                f"rootfs.mount_on({mount!r}, sys.argv[1]); open(sys.argv[1] + '/new', 'w'); "
                "print(*(os.getxattr(sys.argv[1] + name, 'security.selinux') for name in ('/file', '/new', '/')))")
        done = subprocess.run(["unshare", "-m", "python", "-c", look, str(tmp_path / "at")], capture_output=True,
                              text=True, check=True)
        assert done.stdout.split() == [str(f"{LABELS.mount}\0".encode())] * 3
