"""``barque-runtime``: from the start of the interpreter to the command, by the shortest way.

Nothing is imported here that is not needed, since what enters containers may begin twice: once to get off the
interpreter's own file (:mod:`barque.runtime.interpreter`), once for good.
"""

from __future__ import annotations

import gc
import os
import sys

from barque.runtime import interpreter

#: More than a command imports and makes, and little enough to hold for one that stays.
_OBJECTS = 100_000
#: Commands whose process joins a container, or becomes one.
ENTERING = frozenset(("create", "exec", "run"))


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1, and 255 for exec, when it failed)."""
    words = sys.argv[1:] if argv is None else argv
    # An id of the same name costs a few milliseconds, no more.
    if not (ENTERING.isdisjoint(words) or interpreter.is_safe() or interpreter.move_readonly()):
        interpreter.reexec_readonly("barque.runtime.main", words)
    interpreter.hide()
    # Collections while modules are made find nothing; from here on they come when there is a lot.
    gc.set_threshold(_OBJECTS)
    from barque.runtime import lean

    lean.import_msgspec()
    from barque.runtime import dispatch

    return dispatch.run(words)


def leave(code: int) -> None:
    """End the process: taking the interpreter apart costs 1.5 ms and frees nothing that the kernel does not."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
