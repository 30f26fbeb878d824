"""The manual: a page for every command, which man(1) can show."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from barque.cli import table
from barque.cli.main import main


@pytest.fixture(scope="module")
def manual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("man")
    assert main(["docs", "man", str(directory)]) == 0
    return directory / "man1"


def test_there_is_a_page_for_everything(manual: Path) -> None:
    names = {"barque", *("barque-" + path.replace(" ", "-") for path in [*table.TABLE, *table.GROUPS]
                         if not table.hidden(path))}
    assert {page.stem for page in manual.iterdir()} == names
    assert all(page.suffix == ".1" for page in manual.iterdir())
    run = (manual / "barque-run.1").read_text()
    assert "\\fB\\-p, \\-\\-publish\\fR \\fIlist\\fR" in run
    assert "barque run \\-it \\-\\-rm debian bash" in run


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff to read the pages")
def test_pages_are_good_markup(manual: Path) -> None:
    pages = [str(page) for page in sorted(manual.iterdir())]
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", *pages], capture_output=True, text=True, check=False,
                          stdin=subprocess.DEVNULL, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--volumes-from list" in re.sub(".\b", "", done.stdout)  # bold and underlined, as printers did it


def test_a_place_that_cannot_be_written_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["docs", "man", str(tmp_path / "file")]) == 1
    assert "cannot write the manual to" in capsys.readouterr().err
