"""The static gate: linters, types, layering, dead code and sizes, run as tests: one command is the whole gate."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60

CHECKS = {
    "ruff": [sys.executable, "-m", "ruff", "check", "."],
    "mypy": [sys.executable, "-m", "mypy"],
    "import contracts": [sys.executable, "-c",
                         "from importlinter.cli import lint_imports_command as main; main(['--no-cache'])"],
    "dead code": [sys.executable, "-m", "vulture", "src", "tests", "--min-confidence", "80"],
    "dependencies": [sys.executable, "-m", "deptry", "src"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_static_check(name: str) -> None:
    done = subprocess.run(CHECKS[name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text()
    excused = "long because" in "\n".join(text.splitlines()[:12])
    assert excused or text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{path.name}:{node.lineno} {node.name} has {length} lines"
