"""A process that shuts itself into one directory for good: no other files, no new privileges, few capabilities.

For a single-threaded process that has imported whatever it will ever need.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Sequence

from barque.sys.caps import bounding, drop_from_bounding, get_sets, set_sets, to_mask
from barque.sys.mounts import PROPAGATION_PRIVATE, attach, clone_tree, pivot_to_cwd, set_propagation_of_all
from barque.sys.namespaces import CLONE_NEWNS, unshare
from barque.sys.prctl import set_dumpable
from barque.sys.seccomp import no_new_privileges

_LIMITS = {resource.RLIMIT_NOFILE: 1024, resource.RLIMIT_CORE: 0, resource.RLIMIT_AS: 4 << 30}


def confine(directory: int, capabilities: Sequence[str], prepare: Callable[[], None] = lambda: None) -> int:
    """Make the directory behind the descriptor the root, and keep only these capabilities.

    Returns a descriptor of the new root; ``directory`` is closed. Without root's rights only the limits apply: what
    the process does is by descriptors anyway. ``prepare`` runs with full rights in the private mount namespace, just
    before the old root goes. Raises OSError.
    """
    if os.geteuid() != 0:
        _limit()
        prepare()
        return directory
    # Cloned before the unshare: afterwards the directory's mount belongs to another namespace, which is EINVAL.
    tree = clone_tree("", at=directory)

    def make() -> int:
        prepare()
        return tree

    root = confine_in(make, capabilities)
    os.close(directory)
    return root


def confine_in(make: Callable[[], int], capabilities: Sequence[str]) -> int:
    """The same with a new root that ``make`` makes, as a detached mount, with full rights in the private namespace."""
    return restrict(capabilities, lambda: _enter(make))


def restrict(capabilities: Sequence[str], enter: Callable[[], int]) -> int:
    """Keep only these capabilities, and limits, once ``enter`` has gone to where the process is to stay.

    ``enter`` has full rights and returns a descriptor of its root, which is passed on. Raises OSError.
    """
    _limit()
    keep = to_mask(tuple(capabilities))
    drop_from_bounding(bounding() & ~keep)  # needs /proc, which the new root lacks
    root = enter()
    no_new_privileges()
    _, permitted, _ = get_sets()
    set_sets(permitted & keep, permitted & keep, 0)
    set_dumpable(False)
    return root


def _limit() -> None:
    for kind, value in _LIMITS.items():
        _, hard = resource.getrlimit(kind)
        bounded = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (bounded, bounded))


def _enter(make: Callable[[], int]) -> int:
    unshare(CLONE_NEWNS)
    set_propagation_of_all(PROPAGATION_PRIVATE)
    tree = make()
    try:
        root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach(tree, root)  # on top of "/": the process stays under it until it pivots
        finally:
            os.close(root)
        os.fchdir(tree)
        pivot_to_cwd()
    finally:
        os.close(tree)
    return os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
