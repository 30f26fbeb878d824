"""What pip installs from our wheel, in an environment of its own and far from the sources, is the whole program."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE
from tests.e2e.test_autostart import STARTED, place_of

ROOT = Path(__file__).parents[2]
#: The first version that reads the form of our pyproject.toml.
SETUPTOOLS = 77
pytestmark = pytest.mark.skipif(int(version("setuptools").partition(".")[0]) < SETUPTOOLS,
                                reason="setuptools is too old to build the wheel")


def run(*command: str, cwd: str = "/") -> str:
    # No home: pip asks rustc for its version, whose stand-in would make one.
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, timeout=PATIENCE,
                          env={"PATH": os.environ["PATH"], "HOME": "/dev/null"})
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


def sources() -> list[str]:
    names = run("git", "-c", "safe.directory=*", "ls-files", "-z", cwd=str(ROOT)).split("\0")
    return [name for name in names if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The bin directory of a virtual environment with the wheel; the dependencies are this environment's."""
    directory = tmp_path_factory.mktemp("wheel")
    for name in sources():
        target = directory / "tree" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((ROOT / name).read_bytes())
        target.chmod((ROOT / name).stat().st_mode)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    run(*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", str(directory),
        str(directory / "tree"))
    run(sys.executable, "-m", "venv", "--without-pip", str(directory / "venv"))
    python = str(directory / "venv/bin/python")
    wheel, = directory.glob("barque-*.whl")
    run(*pip, "--python", python, "install", "--no-index", "--no-deps", str(wheel))
    packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(packages, "dependencies.pth").write_text(
        f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    yield Path(python).parent


def test_the_three_programs_start(programs: Path, tmp_path: Path) -> None:
    assert run(str(programs / "barque"), "--version").startswith("Barque version ")
    assert run(str(programs / "barqued"), "--version").startswith("Barque version ")
    assert run(str(programs / "barque-runtime"), "--version").startswith("barque-runtime version ")
    (tmp_path / "link").symlink_to(programs / "barque")
    assert "Usage:  barque run " in run(str(tmp_path / "link"), "run", "--help")


def test_every_file_of_the_package_is_installed_and_used(programs: Path) -> None:
    installed = Path(run(str(programs / "python"), "-c", "import barque; print(barque.__file__)").strip()).parent
    assert programs.parent in installed.parents
    wanted = {name.removeprefix("src/barque/") for name in sources() if name.startswith("src/barque/")}
    assert wanted - {str(path.relative_to(installed)) for path in installed.rglob("*")} == set()


def test_the_command_line_starts_the_engine_beside_it(programs: Path, tmp_path: Path) -> None:
    with place_of(tmp_path) as place:
        done = subprocess.run(place.command(str(programs / "barque"), "version", "--format", "{{.Server.Version}}"),
                              capture_output=True, text=True, check=False, timeout=PATIENCE, env=place.environment())
        assert (done.stdout, done.stderr, done.returncode) == (version("barque") + "\n", STARTED, 0)
        executable = os.readlink(f"/proc/{place.pidfile.read_text()}/exe")
        assert executable == os.path.realpath(programs / "python")
        command = Path(f"/proc/{place.pidfile.read_text()}/cmdline").read_bytes().split(b"\0")
        assert command[0] == os.fsencode(programs / "python3")
