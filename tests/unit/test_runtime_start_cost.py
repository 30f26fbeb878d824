"""What a command of the runtime imports, and that nobody misses what it does not."""

from __future__ import annotations

import subprocess
import sys

#: Each costs a command 1 to 15 ms, or pulls in one that does.
HEAVY = {"asyncio", "dataclasses", "decimal", "inspect", "json", "pathlib", "platform", "re", "socket", "subprocess",
         "tempfile", "textwrap", "threading", "uuid", "msgspec.inspect", "msgspec.toml", "msgspec.yaml",
         "msgspec._json_schema"}
LEAN = "import sys; from barque.runtime import lean; lean.import_msgspec(); "


def run(script: str, *words: str) -> list[str]:
    return subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}; {script}",
                           *words], capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()


def test_nothing_heavy_is_imported_for_a_container():
    loaded = run(LEAN + "from barque.runtime import dispatch, joining, lifecycle; print(*sys.modules, sep='\\n')")
    assert "barque.runtime.create" in loaded
    assert not HEAVY.intersection(loaded)


def test_what_was_left_out_can_be_imported_later():
    script = LEAN + """
from barque.oci import runtime_spec
import re, uuid, msgspec.inspect, decimal
print(re.sub("b+", "-", "abc"), uuid.UUID(int=1), decimal.Decimal("0.1") * 3)
print(runtime_spec.decode(b'{"OCIVERSION": "1.0", "process": null}').oci_version)
print(msgspec.inspect.type_info(int), msgspec.json.decode(b"[1]"))
"""
    assert run(script) == ["a-c 00000000-0000-0000-0000-000000000001 0.3", "1.0",
                           "IntType(gt=None, ge=None, lt=None, le=None, multiple_of=None) [1]"]


def test_whoever_has_imported_them_before_keeps_them():
    script = "import re, uuid; before = re, uuid; " + LEAN + "import re, uuid; print((re, uuid) == before)"
    assert run(script) == ["True"]
