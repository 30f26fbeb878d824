"""``barque-runtime``: from the start of the interpreter to the command, by the shortest way.

Nothing is imported here that is not needed, since what enters containers begins twice: once to get off the
interpreter's own file (:mod:`barque.runtime.interpreter`), once for good.
"""

from __future__ import annotations

import gc
import os
import sys

from barque.runtime import interpreter

#: Commands whose process joins a container, or becomes one.
ENTERING = frozenset(("create", "exec", "run"))


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status (1, and 255 for exec, when it failed)."""
    words = sys.argv[1:] if argv is None else argv
    # An id of the same name costs a few milliseconds, no more.
    if not ENTERING.isdisjoint(words) and not interpreter.is_safe():
        interpreter.reexec_readonly("barque.runtime.main", words)
    interpreter.hide()
    # msgspec takes this if it is there, which is a quarter of a start, for what Python has by itself since 3.11.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    # Collections while modules are made find nothing.
    gc.disable()
    from barque.runtime import dispatch

    gc.freeze()
    gc.enable()
    return dispatch.run(words)


def leave(code: int) -> None:
    """End the process: taking the interpreter apart costs 1.5 ms and frees nothing that the kernel does not."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
