"""docker's own command line builds images with this engine."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.engine_world import PATIENCE, Done, EngineWorld, engine_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineWorld]:
    with engine_world(tmp_path_factory.mktemp("build")) as made:
        yield made


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A few files whose owners, modes and times are known."""
    (tmp_path / "d" / "deep").mkdir(parents=True)
    for name, mode in (("a", 0o644), ("d/b", 0o600), ("d/deep/c", 0o755)):
        (tmp_path / name).write_text(f"{name}\n")
        (tmp_path / name).chmod(mode)
        os.utime(tmp_path / name, (1_500_000_000, 1_500_000_000))
    (tmp_path / "d" / "link").symlink_to("../a")
    return tmp_path


def classic(world: EngineWorld) -> dict[str, str]:
    return {**world.environment(), "DOCKER_BUILDKIT": "0"}


def attempt(world: EngineWorld, context: Path, dockerfile: str, *flags: str) -> Done:
    (context / "Dockerfile").write_text(dockerfile)
    done = subprocess.run(["docker", "build", *flags, str(context)], capture_output=True, text=True, check=False,
                          env=classic(world), timeout=PATIENCE)
    return Done(done.stdout, done.stderr, done.returncode)


def build(world: EngineWorld, context: Path, dockerfile: str, *flags: str, tag: str = "made") -> str:
    done = attempt(world, context, dockerfile, "-t", tag, *flags)
    assert done.code == 0, (done, world.log[-4000:])
    return done.out


def shell(world: EngineWorld, script: str, image: str = "made") -> str:
    return world.ok("run", "--rm", "--network", "none", "-u", "0", "--entrypoint", "/bin/sh", image, "-c", script)


def left_behind(world: EngineWorld) -> list[str]:
    return [*os.listdir(world.root / "data" / "build" / "scratch"), *world.ok("ps", "-aq").split()]


def begin(world: EngineWorld, context: Path) -> subprocess.Popen[bytes]:
    """A build in the middle of a step that does not end."""
    (context / "Dockerfile").write_text("FROM busybox\nRUN echo begun; sleep 1000\n")
    client = subprocess.Popen(["docker", "build", "--no-cache", str(context)], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, env=classic(world))
    assert client.stdout is not None
    while (line := client.stdout.readline()) != b"begun\n":
        assert line
    return client


def test_the_stream_is_dockers(world: EngineWorld, context: Path) -> None:
    text = ("ARG V=1\nFROM busybox AS base\nARG V\nRUN echo said; echo $V > /v\nFROM base\nCOPY a /x/\n"
            "CMD [\"cat\", \"/v\"]\n")
    flags = ("--build-arg", "V=7", "--label", "k=it's")
    lines = build(world, context, text, *flags).splitlines()
    steps = [line for line in lines if line.startswith("Step ")]
    assert steps == ["Step 1/8 : ARG V=1", "Step 2/8 : FROM busybox AS base", "Step 3/8 : ARG V",
                     "Step 4/8 : RUN echo said; echo $V > /v", "Step 5/8 : FROM base", "Step 6/8 : COPY a /x/",
                     "Step 7/8 : CMD [\"cat\", \"/v\"]", "Step 8/8 : LABEL k=it's"]
    assert "said" in lines
    assert lines[-2].startswith("Successfully built ")
    assert lines[-1] == "Successfully tagged made:latest"
    assert world.ok("run", "--rm", "made") == "7"
    assert world.inspect("made", "{{index .Config.Labels \"k\"}}") == "it's"
    again = build(world, context, text, *flags)
    assert again.count(" ---> Using cache") == 5
    assert again.splitlines()[-2] == lines[-2]
    other = build(world, context, text, "--build-arg", "V=8")
    assert other.count(" ---> Using cache") == 1
    assert world.ok("run", "--rm", "made") == "8"


def test_history_says_what_docker_says(world: EngineWorld, context: Path) -> None:
    build(world, context, "FROM busybox\nENV A=b\nRUN true\nCOPY a /x/\nADD a d/b /y/\nWORKDIR /w\nEXPOSE 80\n"
                          "CMD echo hi\n")
    said = world.ok("history", "--no-trunc", "--format", "{{.CreatedBy}}", "made").splitlines()
    # The two digests are those that dockerd 20.10 gives these files.
    assert said[:7] == [
        '/bin/sh -c #(nop)  CMD ["/bin/sh" "-c" "echo hi"]', "/bin/sh -c #(nop)  EXPOSE 80",
        "/bin/sh -c #(nop) WORKDIR /w",
        "/bin/sh -c #(nop) ADD multi:ebc9d3e111bdb2ec22bc12b260f7684fbbee96bfd9335547f63a2fe630f2d8b7 in /y/ ",
        "/bin/sh -c #(nop) COPY file:61f4faee8d3546bc59f21fe6168a562bac0717406832d488e77bd582568a57fb in /x/ ",
        "/bin/sh -c true", "/bin/sh -c #(nop)  ENV A=b"]


def test_copies_keep_modes_and_times_and_take_owners(world: EngineWorld, context: Path) -> None:
    build(world, context, """FROM busybox
RUN mkdir -m 711 /there && ln -s /there /lnk
COPY d /new/dir
COPY d /lnk
COPY --chown=bob:wheel d/b /own/b
COPY --chmod=640 a /modes/
COPY --chown=7 d /seven
COPY --from=busybox /etc/passwd /from/
COPY d/deep d/* /wild/
""")
    names = "new new/dir new/dir/b new/dir/deep/c there there/b own own/b modes/a seven seven/b wild/c wild/b"
    listing = shell(world, f"cd /; stat -c '%a %u:%g %Y %F %n' {names}")
    assert [line.replace("1500000000", "T") for line in listing.splitlines() if "directory" not in line] == [
        "600 0:0 T regular file new/dir/b", "755 0:0 T regular file new/dir/deep/c", "600 0:0 T regular file there/b",
        "600 1000:10 T regular file own/b", "640 0:0 T regular file modes/a", "600 7:7 T regular file seven/b",
        "755 0:0 T regular file wild/c", "600 0:0 T regular file wild/b"]
    directories = {line.split()[-1]: line.split()[:2] for line in listing.splitlines() if "directory" in line}
    assert directories == {"new": ["755", "0:0"], "new/dir": ["755", "0:0"], "there": ["711", "0:0"],
                           "own": ["755", "1000:10"], "seven": ["755", "7:7"]}
    assert shell(world, "readlink /new/dir/link; cat /from/passwd | head -n 1; ls /there") == \
        "../a\nroot:x:0:0:root:/root:/bin/sh\nb\ndeep\nlink"


def test_layers_hold_what_a_step_changed_and_no_mount_points(world: EngineWorld, context: Path) -> None:
    build(world, context, "FROM busybox\nRUN echo x > /only && rm /data/from-image\nRUN true\n")
    layers = json.loads(world.ok("image", "inspect", "-f", "{{json .RootFS.Layers}}", "made"))
    assert len(layers) == 2
    upper = world.inspect("made", "{{.GraphDriver.Data.UpperDir}}")
    assert sorted(os.listdir(upper)) == ["data", "only"]
    assert shell(world, "cat /only; ls /data") == "x"


def test_archives_are_unpacked_by_add_only(world: EngineWorld, context: Path) -> None:
    with tarfile.open(context / "t.tgz", "w:gz") as tar:
        for name in ("in/x", "y"):
            entry = tarfile.TarInfo(name)
            entry.uid, entry.size = 55, 1
            tar.addfile(entry, io.BytesIO(b"z"))
    build(world, context,
          "FROM busybox\nADD t.tgz /one/\nCOPY t.tgz /two/\nADD --unpack=false t.tgz a /three/\nADD a /four\n")
    assert shell(world, "cd /; ls one two three; stat -c %u one/y; cat four") == \
        "one:\nin\ny\n\nthree:\na\nt.tgz\n\ntwo:\nt.tgz\n55\na"


def test_mounts_of_steps_leave_nothing_in_the_image(world: EngineWorld, context: Path) -> None:
    text = """FROM busybox AS tools
RUN mkdir /t && echo tool > /t/x
FROM busybox
RUN --mount=type=bind,source=d,target=/m/ctx cat /m/ctx/b && ! touch /m/ctx/new
RUN --mount=type=bind,source=d,target=/m/ctx,rw echo changed > /m/ctx/b
RUN --mount=from=tools,source=/t,target=/tools cat /tools/x
RUN --mount=type=cache,target=/c,id=shared,sharing=locked echo once >> /c/log; cp /c/log /first
RUN --mount=type=cache,target=/c,id=shared echo twice >> /c/log; cp /c/log /second
RUN --mount=type=tmpfs,target=/tm,size=1m echo gone > /tm/x
RUN --mount=type=secret,id=none cat /run/secrets/none || echo no secret > /none
RUN --network=none ls /sys/class/net > /net
"""
    build(world, context, text)
    assert shell(world, "cat /first /second /none /net").split("\n") == ["once", "once", "twice", "no secret", "lo"]
    assert not {"m", "tools", "c", "tm", "run"} & set(shell(world, "ls /").split())
    required = attempt(world, context, "FROM busybox\nRUN --mount=type=secret,id=s,required true\n")
    assert "secret s: not found" in required.err + required.out


def test_heredocs_make_files_and_run(world: EngineWorld, context: Path) -> None:
    build(world, context, """FROM busybox
ENV WHO=me
COPY <<plain <<'quoted' /d/
to $WHO
plain
to $WHO
quoted
RUN <<EOF
echo first > /out
echo $((20 + 22)) >> /out
EOF
RUN <<EOF
#!/bin/busybox sh
echo "script ${0##*/}" >> /out
EOF
""")
    assert shell(world, "cat /d/plain /d/quoted /out") == "to me\nto $WHO\nfirst\n42\nscript EOF"


def test_triggers_run_in_the_next_build(world: EngineWorld, context: Path) -> None:
    build(world, context, "FROM busybox\nONBUILD COPY a /triggered\nONBUILD RUN echo ran > /ran\n", tag="parent")
    out = build(world, context, "FROM parent\nRUN cat /triggered\n")
    assert "# Executing 2 build triggers" in out
    assert shell(world, "cat /triggered /ran") == "a\nran"
    assert world.inspect("made", "{{json .Config.OnBuild}}") == "null"


def test_stages_run_side_by_side_and_only_where_needed(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox AS unused\nRUN exit 9\n"
    for name, other in (("one", "two"), ("two", "one")):
        wait = f"i=0; while [ ! -e /s/{other} ] && [ $i -lt 1200 ]; do sleep 0.05; i=$((i+1)); done; [ -e /s/{other} ]"
        text += f"FROM busybox AS {name}\nRUN --mount=type=cache,id=s,target=/s touch /s/{name} && {wait}\n"
    # Each of the two stages waits for the other one: they can only end if they run at the same time.
    build(world, context, text + "FROM busybox\nCOPY --from=one /etc/passwd /1\nCOPY --from=two /etc/passwd /2\n")


@pytest.mark.parametrize(("dockerfile", "complaint", "code"), [
    ("FROM busybox\nRUN exit 3\n", "The command '/bin/sh -c exit 3' returned a non-zero code: 3", 3),
    ("FROM busybox\nFOO\n", "dockerfile parse error on line 2: unknown instruction: FOO", 1),
    ("FROM busybox\nCOPY nope /x\n",
     "COPY failed: file not found in build context or excluded by .dockerignore: stat nope: file does not exist", 1),
    ("FROM busybox\nCOPY a d/b /x\n",
     "When using COPY with more than one source file, the destination must be a directory and end with a /", 1),
    ("FROM busybox\nCOPY ../a /x\n", "COPY failed: forbidden path outside the build context: ../a ()", 1),
    ("FROM busybox\nCOPY --chown=no a /x\n", "can't find uid for user no: no such user: no", 1),
    ("FROM busybox\nADD a /etc/passwd/x\n", "failed to copy files", 1),
    ("FROM busybox\nADD http://127.0.0.1:1/x /\n", 'Get "http://127.0.0.1:1/x": dial tcp 127.0.0.1:1: connect: '
     "connection refused", 1),
    ("FROM scratch\n", "No image was generated. Is your Dockerfile empty?", 1),
    ("", "the Dockerfile (Dockerfile) cannot be empty", 1),
    ("FROM busybox\nENV A=${B:=c}\n", "unsupported modifier (:=) in substitution", 1),
    ("FROM busybox\nRUN --security=insecure true\n", "granting security.insecure is not allowed", 1),
    ("FROM busybox\nCOPY https://h/f /x\n", "COPY failed: source can't be a URL for COPY", 1),
])
def test_mistakes(world: EngineWorld, context: Path, dockerfile: str, complaint: str, code: int) -> None:
    done = attempt(world, context, dockerfile)
    assert complaint in done.err + done.out
    assert done.code == code
    assert left_behind(world) == []


def test_a_failed_step_leaves_the_image_before_it(world: EngineWorld, context: Path) -> None:
    done = attempt(world, context, "FROM busybox\nRUN echo so far > /far\nRUN exit 1\n")
    ids = [line.split()[-1] for line in done.out.splitlines() if line.startswith(" ---> ") and "Running" not in line]
    assert shell(world, "cat /far", ids[-1]) == "so far"


def test_hostile_links_stay_inside(world: EngineWorld, context: Path) -> None:
    (context / "out").symlink_to("/")
    (context / "up").symlink_to("../../../../../../../..")
    (world.root / "host-secret").write_text("secret")
    os.mkfifo(context / "pipe")
    for source in (f"out{world.root}/host-secret", f"up{world.root}/host-secret"):
        assert attempt(world, context, f"FROM busybox\nCOPY {source} /x\n").code != 0
    mounted = attempt(world, context, f"FROM busybox\nRUN --mount=type=bind,source=out{world.root},target=/m ls /m\n")
    assert mounted.code != 0
    build(world, context, "FROM busybox\nRUN ln -s /proc/self/root/../.. /esc && ln -s /../../.. /esc2\n"
                          "COPY a /esc2/x\nCOPY d /esc3/..//y/\n")
    assert shell(world, "cat /x /y/b") == "a\nd/b"


def archive(*members: tuple[str, bytes, str, bytes]) -> bytes:
    """A tar of (name, type, link, content), with a Dockerfile that copies all of it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        own_file = ("Dockerfile", tarfile.REGTYPE, "", b"FROM busybox\nCOPY . /all\n")
        for name, kind, link, content in (own_file, *members):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname, entry.size = kind, link, len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("members", [
    [("../escaped", tarfile.REGTYPE, "", b"x")],
    [("/abs/escaped", tarfile.REGTYPE, "", b"x")],
    [("l", tarfile.SYMTYPE, "../../../../../..", b""), ("l/escaped", tarfile.REGTYPE, "", b"x")],
    [("l", tarfile.SYMTYPE, "/etc", b""), ("h", tarfile.LNKTYPE, "l/passwd", b"")],
    [("h", tarfile.LNKTYPE, "/etc/passwd", b"")],
    [("d", tarfile.REGTYPE, "", b""), ("d/x", tarfile.REGTYPE, "", b"x")],
    [("null", tarfile.CHRTYPE, "", b""), ("pipe", tarfile.FIFOTYPE, "", b"")],
    [("a" * 300, tarfile.DIRTYPE, "", b"")],
])
def test_hostile_archives_are_refused_or_stay_inside(world: EngineWorld,
                                                    members: list[tuple[str, bytes, str, bytes]]) -> None:
    done = subprocess.run(["docker", "build", "-t", "hostile", "-"], input=archive(*members), capture_output=True,
                          check=False, env=classic(world), timeout=PATIENCE)
    if done.returncode == 0:
        assert "root:" not in shell(world, "cat /all/h 2>/dev/null || true", "hostile")
    else:
        # The device is 0:0, which overlayfs would take for a whiteout: the kernel refuses to make one.
        assert any(text in done.stderr for text in (b"Error processing tar file", b"failed to copy files")), done
    for outside in (world.root, world.root / "data", world.root / "data" / "build", Path("/"), Path("/abs")):
        assert not (outside / "escaped").exists()
    assert left_behind(world) == []


def test_holes_stay_holes(world: EngineWorld, context: Path) -> None:
    with open(context / "sparse", "wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["tar", "--sparse", "--format=gnu", "-cf", "ctx.tar", "sparse", "a"], cwd=context, check=True)
    (context / "sparse").unlink()
    (context / "Other").write_text("FROM busybox\nCOPY sparse /s\n")
    subprocess.run(["tar", "-rf", "ctx.tar", "--format=gnu", "Other"], cwd=context, check=True)
    done = subprocess.run(["docker", "build", "-t", "made", "-f", "Other", "-"], check=False, capture_output=True,
                          input=(context / "ctx.tar").read_bytes(), env=classic(world), timeout=PATIENCE)
    assert done.returncode == 0, done
    assert shell(world, "stat -c '%s' /s; test $(stat -c '%b' /s) -lt 100 && echo sparse") == "1073741824\nsparse"


def test_docker_py_builds(world: EngineWorld, context: Path) -> None:
    import docker

    (context / "Dockerfile").write_text("FROM busybox\nARG A\nRUN echo $A > /a\n")
    with contextlib.closing(docker.DockerClient(base_url=f"unix://{world.socket}")) as client:
        image, log = client.images.build(path=str(context), tag="from-py", buildargs={"A": "1"}, labels={"l": "v"})
        assert image.id == world.inspect("from-py", "{{.Id}}")
        assert image.labels["l"] == "v"
        assert any("Successfully built" in line.get("stream", "") for line in log)
        with pytest.raises(docker.errors.BuildError, match="returned a non-zero code: 5"):
            client.images.build(fileobj=io.BytesIO(b"FROM busybox\nRUN exit 5\n"))
        assert client.api.prune_builds()["SpaceReclaimed"] >= 0


def test_a_client_that_goes_away_ends_the_build(world: EngineWorld, context: Path) -> None:
    client = begin(world, context)
    client.send_signal(signal.SIGINT)
    client.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while left_behind(world):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_daemon_leaves_nothing_behind(world: EngineWorld, context: Path) -> None:
    client = begin(world, context)
    world.end(signal.SIGKILL)
    client.communicate(timeout=PATIENCE)
    world.start()
    assert left_behind(world) == []
    build(world, context, "FROM busybox\nRUN echo after\n")


def test_same_inputs_give_the_same_image(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nARG SOURCE_DATE_EPOCH\nRUN mkdir /x && echo y > /x/y\nCOPY a d /z/\nWORKDIR /w\n"
    flags = ("--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1600000000")
    build(world, context, text, *flags)
    first = world.inspect("made", "{{.Id}} {{.Created}}")
    build(world, context, text, *flags)
    assert world.inspect("made", "{{.Id}} {{.Created}}") == first
    assert first.endswith("2020-09-13T12:26:40Z")


def test_cache_is_listed_and_pruned(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nRUN echo cached > /c\n"
    build(world, context, text, tag="cached")
    assert " ---> Using cache" in build(world, context, text, tag="cached")
    assert "echo cached" in world.ok("system", "df", "-v", "--format", "{{json .BuildCache}}")
    world.ok("system", "prune", "-af", "--filter", "label=kept")
    assert " ---> Using cache" in build(world, context, text, tag="cached")
    world.ok("builder", "prune", "-af")
    assert " ---> Using cache" not in build(world, context, text, tag="cached")
    assert shell(world, "cat /c", "cached") == "cached"


def test_contexts_from_standard_input(world: EngineWorld, context: Path) -> None:
    done = subprocess.run(["docker", "build", "-t", "made", "-"], input="FROM busybox\nRUN echo piped > /p\n",
                          text=True, capture_output=True, check=False, timeout=PATIENCE, env=classic(world))
    assert done.returncode == 0, done
    assert shell(world, "cat /p") == "piped"
    done = subprocess.run(["docker", "build", "-t", "made", "-f", "-", str(context)], text=True, capture_output=True,
                          input="FROM busybox\nCOPY a /aside\n", check=False, timeout=PATIENCE, env=classic(world))
    assert done.returncode == 0, done
    assert shell(world, "cat /aside") == (context / "a").read_text().strip()
    (context / "Other").write_text("FROM busybox\nCOPY . /all\n")
    (context / ".dockerignore").write_text("d\n!d/b\n.dockerignore\nOther\n")
    done = subprocess.run(["docker", "build", "-q", "-t", "made", "-f", str(context / "Other"), str(context)],
                          text=True, capture_output=True, check=False, timeout=PATIENCE, env=classic(world))
    assert done.stdout.strip() == world.inspect("made", "{{.Id}}")
    assert shell(world, "cd /all; find . | sort") == ".\n./a\n./d\n./d/b"


def own(world: EngineWorld, *arguments: str, stdin: str = "", **environment: str) -> Done:
    """Our own command line."""
    done = subprocess.run([sys.executable, "-m", "barque.cli.main", *arguments], input=stdin, text=True, check=False,
                          capture_output=True, timeout=PATIENCE,
                          env={**world.environment(), "BARQUE_HOST": f"unix://{world.socket}", **environment})
    return Done(done.stdout, done.stderr, done.returncode)


@pytest.mark.parametrize("pattern", ["[", "!"])
def test_a_wrong_pattern_of_the_ignore_file_is_named(world: EngineWorld, context: Path, pattern: str) -> None:
    (context / "Dockerfile").write_text("FROM busybox\nCOPY . /all\n")
    (context / ".dockerignore").write_text(pattern + "\n")
    done = own(world, "build", str(context))
    assert done.code == 1
    assert "Error checking context: '" in done.err + done.out


def test_own_command_line_sends_what_dockers_sends(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nCOPY . /all\n"
    (context / ".dockerignore").write_text("d/deep\nDockerfile\n")
    (context / "hard").hardlink_to(context / "a")
    os.mkfifo(context / "pipe")
    build(world, context, text, tag="theirs")
    done = own(world, "build", "-t", "ours", str(context))
    assert done.code == 0, done
    assert world.inspect("ours", "{{.Id}}") == world.inspect("theirs", "{{.Id}}")
    assert shell(world, "cd /all; find . | sort", "ours").split() == [
        ".", "./.dockerignore", "./a", "./d", "./d/b", "./d/link", "./hard", "./pipe"]
    failed = own(world, "build", "-", stdin="FROM busybox\nRUN exit 7\n")
    assert (failed.code, "returned a non-zero code: 7" in failed.err) == (7, True)


def test_own_command_line_passes_secrets_and_checks(world: EngineWorld, context: Path) -> None:
    text = ("FROM busybox\nRUN --mount=type=secret,id=tok cp /run/secrets/tok /copied\n"
            "RUN --mount=type=secret,id=tok,env=TOKEN echo $TOKEN > /env\n")
    done = own(world, "build", "-q", "-t", "made", "--iidfile", str(context / "id"), "--secret", "id=tok,env=VALUE",
               "-", stdin=text, VALUE="hush")
    assert done.out.strip() == (context / "id").read_text() == world.inspect("made", "{{.Id}}")
    assert shell(world, "cat /copied; echo; cat /env; test ! -e /run") == "hush\nhush"
    assert "hush" not in world.ok("history", "--no-trunc", "made") + world.ok("image", "inspect", "made")
    checked = own(world, "build", "--check", "-", stdin="FROM busybox\nMAINTAINER me\nCOPY $NOPE /x\n")
    assert checked.code == 1
    assert "WARNING: MaintainerDeprecated" in checked.out
    assert "Usage of undefined variable '$NOPE'" in checked.out
    fine = own(world, "build", "--check", "-", stdin="FROM busybox\nRUN exit 1\n")
    assert (fine.code, fine.out) == (0, "Check complete, no warnings found.\n")


def test_images_can_be_the_cache(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nRUN echo costly > /c\nENV A=b\n"
    build(world, context, text, tag="cache-source")
    world.ok("builder", "prune", "-af")
    out = build(world, context, text, "--cache-from", "cache-source,not-here")
    assert out.count(" ---> Using cache") == 2
    assert world.inspect("made", "{{.Id}}") == world.inspect("cache-source", "{{.Id}}")


def test_steps_of_other_images_do_not_count_where_images_are_named(world: EngineWorld, context: Path) -> None:
    text = "FROM busybox\nCOPY a /a\nRUN echo costly > /c\nENV A=b\n"
    build(world, context, text, tag="cache-source")
    assert build(world, context, text, "--cache-from", "cache-source").count(" ---> Using cache") == 3
    assert " ---> Using cache" not in build(world, context, text, "--cache-from", "not-here")
    assert build(world, context, text).count(" ---> Using cache") == 3


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A directory and its address on loopback."""
    directory = tmp_path_factory.mktemp("served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield directory, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_add_from_addresses(world: EngineWorld, context: Path, served: tuple[Path, str]) -> None:
    directory, address = served
    (directory / "file.txt").write_text("remote\n")
    os.utime(directory / "file.txt", (1_400_000_000, 1_400_000_000))
    build(world, context, f"FROM busybox\nADD {address}/file.txt /r/\nADD {address}/file.txt /named\n")
    assert shell(world, "stat -c '%a %u %Y' /r/file.txt; cat /named") == "600 0 1400000000\nremote"
    wrong = attempt(world, context, f"FROM busybox\nADD --checksum=sha256:{'0' * 64} {address}/file.txt /x\n")
    assert "digest mismatch" in wrong.err + wrong.out
    missing = attempt(world, context, f"FROM busybox\nADD {address}/none /x\n")
    assert "with status 404" in missing.err + missing.out


def git(directory: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "init.defaultBranch=main", *arguments],
                   cwd=directory, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_sources(world: EngineWorld, context: Path, served: tuple[Path, str]) -> None:
    directory, address = served
    work = directory / "work"
    (work / "sub").mkdir(parents=True)
    (work / "sub" / "f").write_text("in git\n")
    (work / "esc").symlink_to("/etc")
    git(work, "init", "-q")
    git(work, "add", ".")
    git(work, "commit", "-qm", "x")
    git(directory, "clone", "-q", "--bare", "work", "repo.git")
    git(directory / "repo.git", "update-server-info")
    build(world, context, f"FROM busybox\nADD {address}/repo.git#main:sub /g\n")
    assert shell(world, "cat /g/f; ls -A /g") == "in git\nf"
    escaping = attempt(world, context, f"FROM busybox\nADD {address}/repo.git#main:esc /g\n")
    assert escaping.code != 0
