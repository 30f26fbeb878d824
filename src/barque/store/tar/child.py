"""The work on archives of strangers, in a forked process that shuts itself into the target directory first.

Entry points are :data:`WORKERS`: functions of a request and descriptors that return a result, for a process forked
for this one call (it is confined for good afterwards). ``python -I -m barque.store.tar.child KIND FD...`` does the
same with the request on standard input and the result on standard output. Imports are all at the top: past the pivot
there is nothing to import from.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from hashlib import sha256

from barque.store.confine import confine
from barque.store.copyup import run_copyup
from barque.store.place.copy import run_place
from barque.store.place.packages import run_packages
from barque.store.place.survey import run_survey
from barque.store.tar.ahead import ahead, hashed
from barque.store.tar.apply import Extractor
from barque.store.tar.compress import BadStream, open_stream
from barque.store.tar.diff import write_tree
from barque.store.tar.errors import TarError
from barque.store.tar.messages import (
    PackRequest,
    PackResult,
    RemoveRequest,
    RemoveResult,
    UnpackRequest,
    UnpackResult,
    WorkerError,
    decode,
    encode,
)
from barque.store.tar.reader import Stream
from barque.store.tar.writer import Writer
from barque.store.tree import remove_tree

#: SYS_ADMIN is for trusted.overlay.opaque, the others for owners, modes, devices and file capabilities.
_CAPABILITIES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP",
                 "CAP_SYS_ADMIN")
_READ = 1 << 20
_LOWEST = 19
_SPACE = (errno.ENOSPC, errno.EDQUOT)


def run(request: bytes, fds: list[int]) -> bytes:
    """Confine this process to the directory ``fds[1]`` and unpack the stream ``fds[0]`` there.

    Answers an encoded :class:`UnpackResult`, failures included.
    """
    source, target = fds
    try:
        root = confine(target, _CAPABILITIES)
    except OSError as error:
        return encode(UnpackResult(error=_system(error, "confine")))
    return encode(unpack(decode(request, UnpackRequest), source, root))


def unpack(request: UnpackRequest, source: int, root: int) -> UnpackResult:
    """Unpack without confining the process; the umask is 0 afterwards."""
    os.umask(0)
    try:
        fcntl.fcntl(source, fcntl.F_SETPIPE_SZ, _READ)
    except OSError:
        pass  # a file, or more than this user may have: smaller reads then
    state = sha256()
    plain = open_stream(request.compression, lambda: os.read(source, _READ))
    blocks = ahead(hashed(plain, state.update))
    stream = Stream(blocks)
    extractor = Extractor(root, request.limits, request.whiteouts)
    try:
        extractor.run(stream)
        stream.drain()
        diff_id = f"sha256:{state.hexdigest()}"
    except (TarError, BadStream) as error:
        return UnpackResult(error=WorkerError("invalid", str(error), "unpack"))
    except OSError as error:
        return UnpackResult(error=_system(error, "unpack"))
    finally:
        blocks.close()
    if request.expected_diff_id and diff_id != request.expected_diff_id:
        return UnpackResult(diff_id=diff_id, error=WorkerError(
            "invalid", f"layers from manifest don't match image configuration: diff id {diff_id} is not "
            f"{request.expected_diff_id}", "verify"))
    return UnpackResult(diff_id, extractor.size, extractor.count, extractor.implicit_dirs, extractor.foreign_links,
                        extractor.cut)


def run_pack(request: bytes, fds: list[int]) -> bytes:
    """Confine this process to the directory ``fds[0]`` and write its archive, itself included, to ``fds[1]``.

    Answers an encoded :class:`PackResult`.
    """
    name = decode(request, PackRequest).name
    directory, output = fds
    try:
        root = confine(directory, (*_CAPABILITIES, "CAP_DAC_READ_SEARCH"))
        writer = Writer(lambda data: _write_all(output, data), sparse=True)
        write_tree(writer, root, name)
        writer.close()
    except OSError as error:
        return encode(PackResult(_system(error, "pack")))
    return encode(PackResult())


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]


def run_remove(request: bytes, fds: list[int]) -> bytes:
    """Delete trees in the directory ``fds[0]``, at the lowest priority; answers an encoded :class:`RemoveResult`.

    Not confined: each step of it is one name below one descriptor, and no link is followed.
    """
    os.nice(_LOWEST)
    try:
        for name in decode(request, RemoveRequest).names:
            remove_tree(fds[0], name)
    except OSError as error:
        return encode(RemoveResult(_system(error, "remove")))
    return encode(RemoveResult())


def _system(error: OSError, stage: str) -> WorkerError:
    path = os.fsencode(error.filename) if isinstance(error.filename, str | bytes) else b""
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    kind = "space" if error.errno in _SPACE else "system"
    return WorkerError(kind, f"{os.fsdecode(path)}: {reason}" if path else reason, stage, error.errno or 0, path)


WORKERS: dict[str, Callable[[bytes, list[int]], bytes]] = {
    "unpack": run, "pack": run_pack, "copyup": run_copyup, "remove": run_remove, "survey": run_survey,
    "place": run_place, "packages": run_packages}


def main(arguments: list[str]) -> int:
    kind, *numbers = arguments
    fds = [int(number) for number in numbers]
    request = sys.stdin.buffer.read()
    result = WORKERS[kind](request, fds)
    sys.stdout.buffer.write(result)
    sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    # Not sys.exit: a thread that still reads would be ended with pthread_exit, which loads a library from the old root.
    os._exit(main(sys.argv[1:]))
