"""What builds give beyond an image with a name: archives, caches, attestations, histories; through our command line."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import pty
import socket
import stat
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.engine_world import PATIENCE, Done, EngineWorld, engine_world

DIAMOND = """FROM busybox AS base
RUN echo base > /base
FROM base AS left
RUN echo left > /left
FROM base
COPY --from=left /left /
COPY a /copied
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("results")) as made:
        yield made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    (tmp_path / "a").write_text("a\n")
    (tmp_path / "Dockerfile").write_text(DIAMOND)
    return tmp_path


def own(world: EngineWorld, *arguments: str, stdin: str | bytes = "", **environment: str) -> Done:
    """Our own command line."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run([sys.executable, "-m", "barque.cli.main", *arguments], input=data, check=False,
                          capture_output=True, timeout=PATIENCE,
                          env={**world.environment(), "BARQUE_HOST": f"unix://{world.socket}", **environment})
    return Done(done.stdout.decode("latin-1"), done.stderr.decode(), done.returncode)


def build(world: EngineWorld, *arguments: str, stdin: str = "") -> Done:
    done = own(world, "build", *arguments, stdin=stdin)
    assert done.code == 0, (done, world.log[-4000:])
    return done


def text_of(world: EngineWorld, dockerfile: str, *arguments: str) -> Done:
    """A build without files."""
    return own(world, "build", *arguments, "-", stdin=dockerfile)


def reply(world: EngineWorld, path: str) -> Any:
    with urllib.request.urlopen(f"{world.mirror}{path}", timeout=PATIENCE) as answer:
        return json.load(answer)


def asked(world: EngineWorld, path: str) -> Any:
    connection = http.client.HTTPConnection("engine", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(world.socket)
    try:
        connection.request("GET", path)
        return json.load(connection.getresponse())
    finally:
        connection.close()


def registry(world: EngineWorld) -> str:
    return world.mirror.removeprefix("http://")


def forget_cache(world: EngineWorld) -> None:
    world.ok("builder", "prune", "-af")


def test_plain_lines_tell_times_and_reasons(world: EngineWorld, context: Path) -> None:
    forget_cache(world)
    first = build(world, "--progress", "plain", str(context)).err.splitlines()
    assert "#2 [base] RUN echo base > /base" in first
    assert any(line.startswith("#2 DONE ") and line.endswith("s (not built before)") for line in first)
    assert "#7 CACHED" in build(world, str(context)).err.splitlines()
    (context / "a").write_text("other\n")
    changed = build(world, str(context)).err
    assert "#7 DONE" in changed and "(changed: a)" in changed and "#6 CACHED" in changed
    argument = "FROM busybox\nARG V\nRUN echo $V\nRUN true\n"
    text_of(world, argument, "--build-arg", "V=1")
    other = text_of(world, argument, "--build-arg", "V=2").err
    assert "(changed: build argument V)" in other and "(a step before it was built anew)" in other
    assert "(the cache is not used)" in text_of(world, argument, "--no-cache").err


def test_events_are_json_and_quiet_is_quiet(world: EngineWorld, context: Path) -> None:
    events = [json.loads(line) for line in build(world, "--progress", "rawjson", str(context)).err.splitlines()]
    assert events[0]["Event"] == "build" and events[0]["Total"] == 7
    ended = [event for event in events if event["Event"] == "ended"]
    assert [event["Number"] for event in ended] == sorted(range(1, 8), key=[e["Number"] for e in ended].index)
    quiet = build(world, "--progress", "quiet", "-t", "quiet", str(context))
    assert (quiet.out.strip(), quiet.err) == (world.inspect("quiet", "{{.Id}}"), "")


def test_history_of_builds(world: EngineWorld, context: Path) -> None:
    build(world, "-t", "remembered", "--build-arg", "UNUSED=1", str(context))
    failed = text_of(world, "FROM busybox\nRUN echo why; exit 9\n")
    assert failed.code == 9
    rows = own(world, "builder", "history", "ls", "--format", "{{.Status}} {{.Name}}").out.splitlines()
    assert rows[:2] == ["error Dockerfile", "completed remembered:latest"]
    assert own(world, "builder", "history", "logs").out == "#2 why\n"
    record = json.loads(own(world, "builder", "history", "inspect", "--format", "json", "^1").out)
    assert record["ImageID"] == world.inspect("remembered", "{{.Id}}")
    assert record["Arguments"] == {"UNUSED": "1"}
    assert [step["Number"] for step in record["Steps"]] == list(range(1, 8))
    assert "returned a non-zero code: 9" in own(world, "builder", "history", "inspect").out
    assert own(world, "builder", "history", "rm", record["ID"]).code == 0
    assert own(world, "builder", "history", "inspect", record["ID"]).err == (
        f"Error response from daemon: No such build: {record['ID']}\n")


def test_a_running_build_is_in_the_history(world: EngineWorld, context: Path) -> None:
    client = subprocess.Popen([sys.executable, "-m", "barque.cli.main", "build", "--no-cache", "-"],
                              stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              env={**world.environment(), "BARQUE_HOST": f"unix://{world.socket}"})
    assert client.stdin is not None and client.stderr is not None
    client.stdin.write("FROM busybox\nRUN echo begun; sleep 1000\n")
    client.stdin.close()
    while "begun" not in (line := client.stderr.readline()) or "RUN" in line:
        assert line
    assert own(world, "builder", "history", "ls", "--format", "{{.Status}}").out.splitlines()[0] == "running"
    client.kill()
    client.wait(PATIENCE)
    client.stderr.close()
    deadline = time.monotonic() + PATIENCE
    while own(world, "builder", "history", "ls", "--format", "{{.Status}}").out.splitlines()[0] != "cancelled":
        assert time.monotonic() < deadline


def test_outputs_are_files_and_archives(world: EngineWorld, context: Path) -> None:
    before = world.ok("images", "-aq")
    build(world, "-o", str(context / "out"), "-o", f"type=tar,dest={context / 'files.tar'}", str(context))
    assert (context / "out" / "left").read_text() == "left\n"
    assert (context / "out" / "copied").read_text() == "a\n"
    with tarfile.open(context / "files.tar") as archive:
        assert {"base", "left", "copied", "bin/sh"} <= {name.removeprefix("./") for name in archive.getnames()}
    assert world.ok("images", "-aq") == before
    streamed = build(world, "-o", "-", str(context)).out.encode("latin-1")
    with tarfile.open(fileobj=io.BytesIO(streamed)) as archive:
        assert archive.extractfile("left") is not None
    build(world, "-o", f"type=docker,dest={context / 'd.tar'},name=from-archive:1", str(context))
    assert "from-archive" not in world.ok("images")
    world.ok("load", "-qi", str(context / "d.tar"))
    assert world.ok("run", "--rm", "from-archive:1", "cat", "/left") == "left"
    build(world, "-o", f"type=oci,dest={context / 'o.tar'}", str(context))
    found = subprocess.run(["skopeo", "inspect", f"oci-archive:{context / 'o.tar'}"], capture_output=True, check=True)
    assert json.loads(found.stdout)["Os"] == "linux"
    refused = own(world, "build", "-o", "type=tar,dest=x,compression=zstd", str(context))
    assert "cannot be told compression" in refused.err


def test_results_that_would_leave_their_directory(world: EngineWorld, context: Path) -> None:
    """A link in the result does not lead a later file of it out of the directory."""
    text = "FROM busybox AS made\nRUN mkdir /a && ln -s /tmp/outside /a/l\nFROM scratch\nCOPY --from=made /a /\n"
    (context / "Dockerfile").write_text(text)
    done = own(world, "build", "-o", str(context / "out"), str(context))
    assert not os.path.exists("/tmp/outside")
    assert done.code == 0 or "cannot be extracted" in done.err


def test_metadata_names_what_was_made(world: EngineWorld, context: Path) -> None:
    build(world, "-t", "told:2", "--metadata-file", str(context / "m"), "--iidfile", str(context / "i"), str(context))
    told = json.loads((context / "m").read_text())
    assert told["containerimage.config.digest"] == (context / "i").read_text() == world.inspect("told:2", "{{.Id}}")
    assert told["image.name"] == "docker.io/library/told:2"
    assert told["containerimage.descriptor"]["digest"] == told["containerimage.digest"]
    assert own(world, "builder", "history", "inspect", told["barque.build.ref"]).code == 0


def test_caches_go_to_registries_and_come_back(world: EngineWorld, context: Path) -> None:
    ref = f"{registry(world)}/team/cache"
    forget_cache(world)
    build(world, "--cache-to", f"type=registry,ref={ref},mode=max", str(context))
    forget_cache(world)
    again = build(world, "--cache-from", f"type=registry,ref={ref}", "-t", "cached", str(context)).err
    assert again.count(" CACHED\n") == 4
    assert world.ok("run", "--rm", "cached", "cat", "/left") == "left"
    # The cache is this engine's own from now on, but for the layers of what was not used.
    assert build(world, str(context)).err.count(" CACHED\n") == 4
    forget_cache(world)
    assert build(world, "--cache-from", f"type=registry,ref={registry(world)}/none", str(context)).err.count(
        " CACHED\n") == 0


def test_caches_go_to_directories_and_into_images(world: EngineWorld, context: Path) -> None:
    forget_cache(world)
    cache = context / "cache"
    build(world, "--cache-to", f"type=local,dest={cache},mode=max", "-f", str(context / "Dockerfile"), str(context))
    assert (cache / "index.json").is_file()
    forget_cache(world)
    (context / ".dockerignore").write_text("cache\n")
    assert build(world, "--cache-from", f"type=local,src={cache}", str(context)).err.count(" CACHED\n") == 4
    inline = f"{registry(world)}/team/inline"
    secret = "FROM busybox\nRUN --mount=type=cache,target=/c echo made > /made\n"
    assert text_of(world, secret, "--cache-to", "type=inline", "-t", inline, "--push").code == 0
    forget_cache(world)
    world.ok("rmi", inline)
    # A step whose line of history does not say all: only the list in the image's manifest does.
    assert " CACHED\n" in text_of(world, secret, "--cache-from", f"type=registry,ref={inline}").err


def test_damaged_caches_are_refused(world: EngineWorld, context: Path) -> None:
    cache = context / "cache"
    build(world, "--cache-to", f"type=local,dest={cache}", str(context))
    [blob] = [path for path in (cache / "blobs" / "sha256").iterdir() if b'"records"' in path.read_bytes()]
    blob.write_bytes(blob.read_bytes().replace(b"records", b"recordz"))
    forget_cache(world)
    refused = own(world, "build", "--cache-from", f"type=local,src={cache}", str(context))
    assert refused.code == 1
    assert "invalid archive" in refused.err


def test_attestations_are_in_the_index_and_referrers_of_the_image(world: EngineWorld, context: Path) -> None:
    package = "FROM busybox\nRUN mkdir -p /p/x-1.dist-info && printf 'Name: X_y\\nVersion: 1.0\\n' > " \
              "/p/x-1.dist-info/METADATA\n"
    ref = f"{registry(world)}/team/attested:1"
    assert text_of(world, package, "-t", ref, "--sbom", "true", "--attest", "type=provenance,mode=max", "--build-arg",
                   "A=b", "--push").code == 0
    request = urllib.request.Request(f"{world.mirror}/v2/team/attested/manifests/1", headers={
        "Accept": "application/vnd.oci.image.index.v1+json"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        image, attestation = json.load(answer)["manifests"]
    assert attestation["platform"] == {"architecture": "unknown", "os": "unknown"}
    assert attestation["annotations"] == {"vnd.docker.reference.digest": image["digest"],
                                          "vnd.docker.reference.type": "attestation-manifest"}
    referrers = reply(world, f"/v2/team/attested/referrers/{image['digest']}")["manifests"]
    assert [found["digest"] for found in referrers] == [attestation["digest"]]
    layers = reply(world, f"/v2/team/attested/manifests/{attestation['digest']}")["layers"]
    statements = {layer["annotations"]["in-toto.io/predicate-type"]:
                  reply(world, f"/v2/team/attested/blobs/{layer['digest']}") for layer in layers}
    bill = statements["https://spdx.dev/Document"]
    assert bill["subject"][0]["digest"] == {"sha256": image["digest"].removeprefix("sha256:")}
    assert [item["externalRefs"][0]["referenceLocator"] for item in bill["predicate"]["packages"][1:]] == [
        "pkg:pypi/x-y@1.0"]
    provenance = statements["https://slsa.dev/provenance/v1"]["predicate"]
    assert provenance["buildDefinition"]["externalParameters"]["request"]["args"] == {"A": "b"}
    assert provenance["buildDefinition"]["resolvedDependencies"][0]["uri"].startswith("pkg:docker/busybox@latest")
    for _ in ("built", "pulled"):
        forget_cache(world)
        kept = asked(world, f"/v1.55/images/{ref}/json?manifests=1")["Manifests"]
        assert [(entry["Kind"], entry["Available"]) for entry in kept] == [("image", True), ("attestation", True)]
        world.ok("rmi", ref)
        world.ok("pull", "-q", ref)
    assert world.ok("run", "--rm", ref, "cat", "/p/x-1.dist-info/METADATA").startswith("Name: X_y")


def test_squashing_leaves_one_layer(world: EngineWorld) -> None:
    text = ("FROM busybox\nRUN mkdir /d && echo 1 > /d/one && echo 2 > /d/two && ln /d/one /d/hard\n"
            "RUN rm /d/two /data/from-image && echo 3 > /d/one\n"
            "RUN rm -r /home/bob && mkdir /home/bob && echo n > /home/bob/new\n")
    assert text_of(world, text, "-t", "layered").code == 0
    assert text_of(world, text, "-t", "flat", "--squash").code == 0
    assert world.inspect("layered", "{{len .RootFS.Layers}}") == "4"
    assert world.inspect("flat", "{{len .RootFS.Layers}}") == "2"
    listing = ("cd /; find d data home -exec stat -c '%n %a %u %s' {} + | sort; stat -c %h d/one; "
               "cat d/one home/bob/new")
    shown = [world.ok("run", "--rm", name, "sh", "-c", listing) for name in ("layered", "flat")]
    assert shown[0] == shown[1]
    assert "from-image" not in shown[1]
    assert world.ok("history", "--format", "{{.Comment}}", "flat").splitlines()[0].startswith("merge sha256:")


def test_a_failed_step_is_kept_on_demand(world: EngineWorld) -> None:
    failed = text_of(world, "FROM busybox\nRUN echo did > /did; exit 4\n", "--on-failure", "keep")
    assert failed.code == 4
    image = failed.err.partition("kept: barque run --rm -it ")[2].split()[0]
    assert world.ok("run", "--rm", image, "cat", "/did") == "did"
    wrong = text_of(world, "FROM busybox\n", "--on-failure", "whatever")
    assert "keep or remove" in wrong.err


def test_directories_of_the_host_during_run(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nRUN cat /host/a && (echo w > /host/w || echo refused)\n"
    done = text_of(world, text, "-v", f"{context}:/host:ro", "-t", "bound")
    assert "a\n" in done.err and "refused" in done.err
    assert world.ok("run", "--rm", "bound", "sh", "-c", "ls -A /host 2>/dev/null | wc -l") == "0"
    assert " CACHED\n" not in text_of(world, text.replace("cat /host/a && ", "")).err


def test_copies_of_what_may_be_missing_and_of_named_images(world: EngineWorld, context: Path) -> None:
    (context / "Dockerfile").write_text("ARG FROM=busybox\nFROM busybox AS stage-one\nRUN echo one > /one\n"
                                        "FROM busybox\nARG FROM\nARG STAGE=stage-one\n"
                                        "COPY --if-exists nothing* gone a /there/\n"
                                        "COPY --from=${FROM} /etc/passwd /p\nCOPY --from=$STAGE /one /\n")
    build(world, "-t", "optional", str(context))
    assert world.ok("run", "--rm", "optional", "sh", "-c", "ls /there; cat /one; grep -c bob /p") == "a\none\n1"


def test_linked_copies_are_rebased_without_running(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nRUN echo {} > /base\nCOPY --link --chown=7:8 a /linked/a\n"
    (context / "Dockerfile").write_text(text.format(1))
    build(world, "-t", "first", str(context))
    (context / "Dockerfile").write_text(text.format(2))
    again = build(world, "-t", "second", str(context)).err
    assert "#3 CACHED" in again and "#2 DONE" in again
    layers = [json.loads(world.inspect(name, "{{json .RootFS.Layers}}")) for name in ("first", "second")]
    assert layers[0][-1] == layers[1][-1] and layers[0][-2] != layers[1][-2]
    assert world.ok("run", "--rm", "second", "sh", "-c", "cat /base; stat -c '%u:%g' /linked/a") == "2\n7:8"


def test_cache_mounts_are_listed_moved_and_limited(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nRUN --mount=type=cache,id={},target=/c echo {} >> /c/f; cat /c/f; dd if=/dev/zero of=/c/z " \
           "bs=1000 count=1\n"
    assert text_of(world, text.format("one", "x")).code == 0
    names = own(world, "builder", "cache", "ls", "--format", "{{.Name}}").out.splitlines()
    assert "one" in names
    exported = context / "one.tar"
    assert own(world, "builder", "cache", "export", "-o", str(exported), "one").code == 0
    assert own(world, "builder", "cache", "import", "two", str(exported)).code == 0
    assert "#2 0.0" in (again := text_of(world, text.format("two", "y")).err) or "x" in again
    assert " x\n" in again and " y\n" in again
    pruned = own(world, "builder", "cache", "prune", "-f", "--max-size", "1500")
    assert pruned.code == 0
    assert own(world, "builder", "cache", "ls", "--format", "{{.Name}}").out.split() == ["two"]
    assert own(world, "builder", "cache", "export", "none").code == 1
    bad = own(world, "builder", "cache", "import", "two", stdin=b"no archive")
    assert bad.code == 1
    assert own(world, "builder", "cache", "ls", "--format", "{{.Name}}").out.split() == ["two"]


def test_locked_cache_mounts_exclude_each_other_and_private_ones_are_apart(world: EngineWorld) -> None:
    step = ("RUN --mount=type=cache,id={id},target=/c,sharing={sharing} "
            "mkdir /c/mine && sleep 0.3 && rmdir /c/mine && touch /{name}\n")
    for sharing in ("locked", "private"):
        text = (f"FROM busybox AS a\n{step.format(id=sharing, sharing=sharing, name='a')}"
                f"FROM busybox AS b\n{step.format(id=sharing, sharing=sharing, name='b')}"
                "FROM busybox\nCOPY --from=a /a /\nCOPY --from=b /b /\n")
        done = text_of(world, text, "--no-cache")
        assert done.code == 0, done
    shared = text.replace("private", "shared").replace(" && rmdir /c/mine", "")
    assert text_of(world, shared, "--no-cache").code == 1


def test_files_are_read_in_place_only_for_this_user(world: EngineWorld, context: Path) -> None:
    """A directory that is not what the client says, and a client that is somebody else, are refused."""
    program = """
import os, socket, sys
os.setuid(int(sys.argv[2]))
fd = os.open(sys.argv[3], os.O_PATH | os.O_DIRECTORY)
info = os.fstat(fd)
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
number = info.st_ino + int(sys.argv[4])
sock.sendall(f"POST /build?directory={fd}:{info.st_dev}:{number} HTTP/1.1\\r\\nHost: x\\r\\nConnection: close\\r\\n"
             "Content-Length: 0\\r\\n\\r\\n".encode())
print(b"".join(iter(lambda: sock.recv(65536), b"")).decode())
"""
    def ask(user: int, shift: int) -> str:
        return subprocess.run([sys.executable, "-c", program, world.socket, str(user), "/", str(shift)], text=True,
                              capture_output=True, check=False, timeout=PATIENCE).stdout

    os.chmod(world.socket, 0o666)
    for directory in (world.root, *world.root.parents[:-2]):
        directory.chmod(0o711)
    assert "412" in (stranger := ask(12345, 0)).splitlines()[0]
    assert "the client is another user" in stranger
    assert "it is another directory here" in ask(0, 1)
    assert "Cannot locate specified Dockerfile" in ask(0, 0)


def test_a_client_that_is_not_root_sends_the_files(world: EngineWorld, context: Path) -> None:
    program = "import os; os.geteuid = lambda: 12345; from barque.cli.main import main; raise SystemExit(main())"
    done = subprocess.run([sys.executable, "-c", program, "--debug", "build", "-q", str(context)], text=True,
                          env={**world.environment(), "BARQUE_HOST": f"unix://{world.socket}"}, capture_output=True,
                          check=False, timeout=PATIENCE)
    assert (done.returncode, done.stdout) == (0, build(world, "-q", str(context)).out), done
    assert "directory=" not in done.stderr and "POST " in done.stderr


def test_hostile_files_in_place(world: EngineWorld, context: Path) -> None:
    """Links lead nowhere but into the context; FIFOs and devices are copied, not read; sockets are left out."""
    hostile = context / "h"
    hostile.mkdir()
    (hostile / "out").symlink_to("/etc/shadow")
    (hostile / "up").symlink_to("../../../../etc/shadow")
    os.mkfifo(hostile / "pipe")
    os.mknod(hostile / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(hostile / "sock"))
    with open(hostile / "sparse", "wb") as file:
        file.truncate(1 << 30)
    (context / ".dockerignore").write_text("h/sparse\n")
    (context / "Dockerfile").write_text("FROM busybox\nCOPY h /h/\n")
    build(world, "-t", "hostile", str(context))
    listing = world.ok("run", "--rm", "hostile", "sh", "-c", "cd /h; stat -c '%n %F' *")
    assert listing.splitlines() == ["null character special file", "out symbolic link", "pipe fifo", "up symbolic link"]
    for source in ("h/out", "h/up", "h/out/x"):
        (context / "Dockerfile").write_text(f"FROM busybox\nCOPY {source} /x\n")
        assert "file does not exist" in own(world, "build", str(context)).err
    (context / "Dockerfile").write_text("FROM busybox\nCOPY ../../etc/shadow /x\n")
    assert "forbidden path outside the build context" in own(world, "build", str(context)).err


def test_what_a_step_sees_of_its_options(world: EngineWorld, context: Path) -> None:
    """Hosts, limits, platforms, an agent's socket, a network with a resolver."""
    text = """FROM busybox
ARG TARGETPLATFORM BUILDARCH
RUN --mount=type=ssh test -S $SSH_AUTH_SOCK && grep -c '10.9.8.7.added' /etc/hosts && ulimit -n && \
    echo "$TARGETPLATFORM $BUILDARCH" && ls /sys/class/net && \\
    grep -c nameserver /etc/resolv.conf && id -u
USER bob
RUN id -un
"""
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(context / "agent"))
        agent.listen()
        done = text_of(world, text, "--no-cache", "--ssh", f"default={context / 'agent'}", "--ulimit", "nofile=77:88",
                       "--add-host", "added:10.9.8.7", "--platform", "linux/" + _architecture())
    assert done.code == 0, done
    said = [line.split(" ", 2)[2] for line in done.err.splitlines() if line[3:5] == "0."]
    platform = f"linux/{_architecture()} {_architecture()}"
    assert said == ["1", "77", platform, "eth0", "lo", "1", "0", "bob"]


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def test_how_a_step_ended(world: EngineWorld) -> None:
    killed = text_of(world, "FROM busybox\nRUN sh -c 'kill -KILL $$'; exit $?\n")
    assert (killed.code, "returned a non-zero code: 137" in killed.err) == (137, True)
    missing = text_of(world, 'FROM busybox\nRUN ["/no/such"]\n')
    assert missing.code == 127 or "no such file" in missing.err
    greedy = text_of(world, "FROM busybox\nRUN tail /dev/zero\n", "--memory", "16m")
    assert greedy.code == 137 and "it needs more memory than it may have" in greedy.err


def test_failures_name_their_place(world: EngineWorld) -> None:
    text = "FROM busybox\nENV a=b\nRUN echo x; \\\n    exit 5\nRUN true\n"
    failed = text_of(world, text).err
    assert """Dockerfile:3
--------------------
   1 |     FROM busybox
   2 |     ENV a=b
   3 | >>> RUN echo x; \\
   4 | >>>     exit 5
   5 |     RUN true
--------------------
The command""" in failed
    unknown = text_of(world, "FROM busybox\nFOO bar\n")
    assert "Dockerfile:2\n" in unknown.err and "   2 | >>> FOO bar" in unknown.err
    assert unknown.err.endswith("dockerfile parse error on line 2: unknown instruction: FOO\n")


def test_a_terminal_gets_a_tree(world: EngineWorld, context: Path) -> None:
    ours, theirs = pty.openpty()
    client = subprocess.Popen([sys.executable, "-m", "barque.cli.main", "build", "--no-cache", str(context)],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
                              env={**world.environment(), "BARQUE_HOST": f"unix://{world.socket}"})
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while piece := os.read(ours, 65536):
            written += piece
    os.close(ours)
    assert client.wait(PATIENCE) == 0
    last = written.decode().rpartition("\x1b[J")[2]
    assert "(7/7)" in last and "\x1b[34mbase" in last and "├─ \x1b[32m✓" in last and "└─" in last


def test_dockers_client_without_its_plugin_uses_the_classic_builder(world: EngineWorld, context: Path) -> None:
    """As with every engine: it falls back by itself, and refuses by itself where BuildKit is demanded."""
    environment = {**world.environment(), "DOCKER_CONFIG": str(context)}
    del environment["DOCKER_BUILDKIT"]
    fallen, demanded = (subprocess.run(["docker", "build", "-q", str(context)], env={**environment, **more}, text=True,
                                       capture_output=True, check=False, timeout=PATIENCE)
                        for more in ({}, {"DOCKER_BUILDKIT": "1"}))
    if "buildx" in fallen.stdout:
        pytest.skip("docker has its plugin buildx here")
    assert fallen.returncode == 0 and fallen.stdout.startswith("sha256:")
    assert demanded.returncode == 1 and "buildx component is missing" in demanded.stderr


def test_a_static_site(world: EngineWorld) -> None:
    """One of the Dockerfiles that are shown to people."""
    directory = Path(__file__).parents[2] / "demo" / "dockerfiles" / "static-site"
    build(world, "-t", "site", str(directory))
    script = "httpd -p 8080 -h /www; wget -qO- http://127.0.0.1:8080/about.html; ls -ln /www | grep -c ' 1000 '"
    page = world.ok("run", "--rm", "--network", "none", "site", "sh", "-c", script)
    assert "<title>about</title>" in page and "Nothing is known." in page and page.endswith("3")


def test_a_file_that_changes_while_it_is_copied_spoils_no_cache(world: EngineWorld, context: Path) -> None:
    """A writer that never stops: the build ends with a whole copy, or with an error that says why."""
    (context / "Dockerfile").write_text("FROM busybox\nCOPY busy /busy\n")
    (context / "busy").write_bytes(b"0" * 4_000_000)
    writer = subprocess.Popen([sys.executable, "-c", "import sys\nn = 0\nwhile True:\n    n += 1\n"
                               "    open(sys.argv[1], 'r+b').write(str(n % 10).encode() * 4_000_000)",
                               str(context / "busy")])
    try:
        done = own(world, "build", str(context))
    finally:
        writer.kill()
        writer.wait()
    assert done.code == 0 or "was changed while it was copied" in done.err
    settled = (context / "busy").read_bytes()
    build(world, "-o", str(context / "out"), str(context))
    assert (context / "out" / "busy").read_bytes() == settled
