"""Lists of manifests: made, annotated, pushed and read back, beside docker's command line on the same files."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli_pair import DOCKER, PROGRAMS
from tests.e2e.engine_world import PATIENCE, Done, busybox_registry

OURS = PROGRAMS[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """(a client configuration, the prefix of names in a registry with a busybox)."""
    root = tmp_path_factory.mktemp("lists")
    with busybox_registry(root) as port:
        yield root / "config", f"127.0.0.1:{port}/library"


def run(place: tuple[Path, str], *words: str, program: list[str] = OURS) -> Done:
    environment = {"PATH": os.environ["PATH"], "HOME": str(place[0]), "DOCKER_CONFIG": str(place[0])}
    done = subprocess.run([*program, "manifest", *words], capture_output=True, text=True, check=False,
                          env=environment, timeout=PATIENCE)
    return Done(done.stdout, done.stderr, done.returncode)


def test_a_list_is_made_annotated_pushed_and_removed(place: tuple[Path, str]) -> None:
    image, target = f"{place[1]}/busybox:latest", f"{place[1]}/all:1"
    assert run(place, "create", target, image) == Done(f"Created manifest list {target}\n", "", 0)
    assert "refusing to amend" in run(place, "create", target, image).err
    assert run(place, "create", "--amend", target, image).code == 0
    assert run(place, "annotate", "--arch", "arm64", "--variant", "v8", target, image) == Done("", "", 0)
    assert run(place, "annotate", "--os", "beos", target, image).err == (
        "manifest entry for image has unsupported os/arch combination: beos/arm64\n")
    # docker reads the file that we wrote.
    theirs = run(place, "inspect", target, image, program=[str(DOCKER)])
    assert theirs.code == 0, theirs
    assert json.loads(theirs.out) == json.loads(run(place, "inspect", target, image).out)
    pushed = run(place, "push", target)
    assert (pushed.err, pushed.code) == ("", 0)
    assert run(place, "rm", target) == Done("", "", 0)
    assert run(place, "rm", target) == Done("", f"No such manifest: {target}\n", 1)
    read = json.loads(run(place, "inspect", target).out)
    assert [entry["platform"] for entry in read["manifests"]] == [
        {"architecture": "arm64", "os": "linux", "variant": "v8"}]
    verbose = json.loads(run(place, "inspect", "-v", target).out)
    assert verbose[0]["Descriptor"] == read["manifests"][0]
    assert verbose[0]["OCIManifest"]["layers"]


def test_an_image_reads_as_docker_reads_it(place: tuple[Path, str]) -> None:
    image = f"{place[1]}/busybox:latest"
    theirs = run(place, "inspect", "--insecure", image, program=[str(DOCKER)])
    ours = run(place, "inspect", "--insecure", image)
    assert json.loads(ours.out) == json.loads(theirs.out)


@pytest.mark.parametrize(("words", "text"), [
    (["push", "nope:1"], "No such manifest: docker.io/library/nope:1"),
    (["annotate", "nope:1", "x"], "manifest for image x does not exist in nope:1"),
    (["inspect", "nope:1", "x"], "no such manifest: docker.io/library/x:latest"),
    (["create", "Bad", "x"], "invalid reference format: repository name (library/Bad) must be lowercase"),
])
def test_refusals(place: tuple[Path, str], words: list[str], text: str) -> None:
    assert run(place, *words) == Done("", text + "\n", 1)


def test_other_registries_are_refused(place: tuple[Path, str]) -> None:
    assert run(place, "create", "other.example/all:1", f"{place[1]}/busybox").code == 0
    done = run(place, "push", "other.example/all:1")
    assert done.code == 1
    assert done.err.startswith("cannot use source images from a different registry than the target image: 127.0.0.1:")
