"""The last part of the way, the same for a container's first process and for one that joins later: from a process that
stands in the right namespaces to the program of the document."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from functools import cache
from typing import NoReturn

import msgspec

from barque.oci.runtime_spec import Linux, Process, Seccomp
from barque.runtime import capabilities, labels, seccomp_profile, targets, users, validate
from barque.runtime.failure import RuntimeFailure
from barque.sys import caps, fds, prctl, rlimit, seccomp
from barque.sys import process as sys_process
from barque.sys.tty import make_controlling

#: What dockerd sets as annotations: the raw ``user[:group]``, more groups, whether the directory is to be made.
USER_ANNOTATION = "org.barque.user"
GROUPS_ANNOTATION = "org.barque.groups"
CWD_ANNOTATION = "org.barque.cwd.create"

_DEFAULT_UMASK = 0o022
#: Forty system calls, and a process that starts containers never drops any.
_available = cache(caps.bounding)
_SYS_ADMIN = 1 << caps.NUMBERS["CAP_SYS_ADMIN"]


class Filter(msgspec.Struct, frozen=True):
    """A compiled seccomp program with its seccomp(2) flags."""

    program: bytes
    flags: int


def _compile_filter(profile: Seccomp | None) -> Filter | None:
    """The document's filter, compiled; raises InvalidProfile."""
    if profile is None:
        return None
    return Filter(seccomp_profile.compile(profile), seccomp_profile.filter_flags(profile))


class Payload:
    """What a process is to become. Made in the caller, so that all is decided that can be; used in the child.

    The methods are to be called in the order in which they stand here.
    """

    def __init__(self, process: Process, annotations: dict[str, str], linux: Linux, *,
                 keyring: str | None) -> None:
        self.process = process
        self.user = annotations.get(USER_ANNOTATION) or process.user.username
        self.groups = tuple(filter(None, annotations.get(GROUPS_ANNOTATION, "").split(",")))
        self.linux = linux
        self.filter = _compile_filter(linux.seccomp)
        self.keyring = keyring
        self.sets, self.warnings = capabilities.prepare(process.capabilities, _available())
        self.identity = users.Identity(0, 0, (), "")
        self.labels: labels.Labels | None = None
        #: A later assignment wins, as with a shell.
        self.env = dict(entry.split("=", 1) for entry in process.env)

    def open_labels(self) -> None:
        """While the host's /proc is there."""
        self.labels = labels.Labels(self.process.apparmor_profile, self.process.selinux_label,
                                    keyring=self.keyring is not None)

    def settle(self) -> None:
        """Keyring, limits, scheduling: what needs the privileges that are about to go."""
        process = self.process
        if self.labels is not None:
            self.labels.apply_to_keyring()
        if self.keyring is not None:
            _join_keyring(self.keyring)
        for limit in process.rlimits:
            warning = rlimit.set_limit(limit.type, limit.soft, limit.hard)
            if warning:
                self.warnings.append(warning)
        if process.scheduler is not None:
            wanted = process.scheduler
            flags = sum(prctl.SCHED_FLAGS[name] for name in set(wanted.flags))
            prctl.set_scheduler(prctl.SCHED_POLICIES[wanted.policy], flags=flags, nice=wanted.nice,
                                priority=wanted.priority, deadline=(wanted.runtime, wanted.deadline, wanted.period))
        if process.io_priority is not None:
            prctl.set_io_priority(prctl.IO_CLASSES[process.io_priority.class_], process.io_priority.priority)
        if self.linux.personality is not None:
            prctl.set_personality(prctl.PERSONALITIES[self.linux.personality.domain])
        policy = self.linux.memory_policy
        if policy is not None:
            flags = sum(prctl.MEMORY_POLICY_FLAGS[name] for name in set(policy.flags))
            prctl.set_memory_policy(prctl.MEMORY_POLICIES[policy.mode] | flags, validate.parse_numbers(policy.nodes))

    def identify(self, root: int) -> None:
        """Find out who to become, in the container's own passwd and group files."""
        user = self.process.user
        if self.user or self.groups:
            found = users.resolve(root, self.user, self.groups)
            groups = tuple(dict.fromkeys((*found.groups, *user.additional_gids)))
            self.identity = msgspec.structs.replace(found, groups=groups)
        else:
            home = "" if self.env.get("HOME") else users.home_of(root, user.uid)
            self.identity = users.Identity(user.uid, user.gid, tuple(user.additional_gids), home)

    def make_cwd(self, root: int) -> None:
        """Make the working directory where it is missing."""
        os.close(targets.ensure_directory(root, self.process.cwd))

    def place_stdio(self, sources: tuple[int, int, int] | None, slave: int | None) -> None:
        """Standard input, output and error; the terminal's slave as all three and as the controlling terminal."""
        if slave is not None:
            make_controlling(slave)
            fds.place((slave, slave, slave))
        elif sources is not None:
            fds.place(sources)
        self._own_stdio()

    def _own_stdio(self) -> None:
        """Let the user reopen its own stdio by /dev/stdout; what is shared with others (/dev/null) stays as it is."""
        null = os.makedev(1, 3)
        for fd in range(3):
            try:
                status = os.fstat(fd)
                if status.st_uid != self.identity.uid and not (stat.S_ISCHR(status.st_mode) and
                                                               status.st_rdev == null):
                    os.fchown(fd, self.identity.uid, -1)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS, errno.EBADF):
                    raise

    def enter_cwd(self, root: int) -> None:
        """Change into the working directory by descriptor, so that no magic link leads out (CVE-2024-21626)."""
        cwd = self.process.cwd
        try:
            fd = targets.find(root, cwd)
            os.fchdir(fd)
            os.close(fd)
            os.getcwd()
        except OSError as error:
            raise RuntimeFailure("cwd", syscall="chdir", errno=error.errno or 0, path=cwd,
                                 detail=f'chdir to cwd ("{cwd}") set in config.json failed: '
                                        f"{os.strerror(error.errno or 0).lower()}") from None

    def drop_privileges(self) -> None:
        """Become the user, with the document's capabilities; one more is kept where the filter still needs it."""
        process, identity = self.process, self.identity
        if process.no_new_privileges:
            seccomp.no_new_privileges()
        capabilities.limit_bounding(self.sets)
        set_groups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
        os.setresuid(identity.uid, identity.uid, identity.uid)
        capabilities.apply(self._interim())
        os.umask(_DEFAULT_UMASK if process.user.umask is None else process.user.umask)

    def _interim(self) -> capabilities.CapabilitySets:
        """The final sets; with CAP_SYS_ADMIN while a filter is to be loaded without no_new_privs.

        So the filter can be the last thing before the exec, and a strict one does not forbid what leads there.
        """
        sets = self.sets
        if self.filter is None or self.process.no_new_privileges:
            return sets
        return capabilities.CapabilitySets(sets.bounding, sets.effective | _SYS_ADMIN, sets.permitted | _SYS_ADMIN,
                                           sets.inheritable, sets.ambient)

    def take_labels(self) -> None:
        """What the program is to run under for the host's security modules."""
        if self.labels is not None:
            self.labels.apply()

    def find_program(self) -> str:
        """The path of the program, as the container's user finds it; raises RuntimeFailure(stage "exec")."""
        name = self.process.args[0]
        if "/" in name:
            _check_program(name, name)
            return name
        path = self.env.get("PATH", "")
        for directory in path.split(":") if path and name else ():
            candidate = os.path.join(directory or ".", name)
            try:
                _check_program(name, candidate)
                return candidate
            except RuntimeFailure:
                continue
        raise RuntimeFailure("exec", errno=errno.ENOENT, path=name,
                             detail=f'exec: "{name}": executable file not found in $PATH')

    def execute(self, path: str, offer_listener: Callable[[int], None]) -> NoReturn:
        """Become the program; ``offer_listener`` gets the filter's, if it notifies. Raises RuntimeFailure("exec")."""
        env = self.env if self.env.get("HOME") else {**self.env, "HOME": self.identity.home or "/"}
        program = sys_process.Program(self.process.args, [f"{key}={value}" for key, value in env.items()])
        sys_process.reset_signals()
        if self.filter is not None:
            listener = seccomp_profile.load_filter(self.filter.program, self.filter.flags)
            if listener is not None:
                offer_listener(listener)
            if not self.process.no_new_privileges:
                caps.set_sets(self.sets.effective, self.sets.permitted, self.sets.inheritable)
        try:
            program.execve(path)
        except OSError as error:
            raise RuntimeFailure("exec", syscall="execve", errno=error.errno or 0, path=path,
                                 detail=f"exec {path}: {os.strerror(error.errno or 0).lower()}") from None


def set_groups(groups: Sequence[int]) -> None:
    """setgroups(2); where a single mapping forbids it the caller's own stay (user_namespaces(7)), but none is added."""
    try:
        os.setgroups(groups)
    except PermissionError:
        if groups:
            raise


def _join_keyring(name: str) -> None:
    try:
        prctl.join_session_keyring(name)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise


def _check_program(name: str, path: str) -> None:
    """As Go's exec.LookPath judges a candidate, whose words docker's users know."""
    try:
        status = os.stat(path)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise RuntimeFailure("exec", syscall="stat", errno=error.errno or 0, path=path,
                             detail=f'exec: "{name}": stat {path}: {reason}') from None
    if stat.S_ISDIR(status.st_mode):
        raise RuntimeFailure("exec", errno=errno.EISDIR, path=path, detail=f'exec: "{name}": is a directory')
    if not os.access(path, os.X_OK, effective_ids=True):
        raise RuntimeFailure("exec", errno=errno.EACCES, path=path, detail=f'exec: "{name}": permission denied')
