"""All tests, as ``make test`` runs them: the virtual machines, which only compute, behind everything else.

With arguments it is pytest with these.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).parent
MACHINES = sorted(str(path.relative_to(TESTS.parent)) for path in TESTS.glob("*/test_*_vm.py"))
PYTEST = (sys.executable, "-m", "pytest")


def main(arguments: list[str]) -> int:
    if arguments:
        return subprocess.run([*PYTEST, *arguments], check=False).returncode
    with tempfile.TemporaryFile() as output:
        machines = subprocess.Popen([*PYTEST, *MACHINES], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                    preexec_fn=lambda: os.nice(19))
        try:
            rest = subprocess.run([*PYTEST, *(f"--ignore={path}" for path in MACHINES)], check=False).returncode
            print("\nand in virtual machines, meanwhile:", flush=True)
            code = machines.wait()
        finally:
            machines.terminate()
            machines.wait()
        output.seek(0)
        sys.stdout.buffer.write(output.read())
    return rest or code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
