"""The pure parts of a build: which stages are needed, arguments, configuration steps, comments, the order of output."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from barque.build import comments, plan
from barque.build.args import BuildArguments, Expansion, platform_arguments
from barque.build.dockerfile.errors import SyntaxProblem
from barque.build.dockerfile.instructions import Argument
from barque.build.dockerfile.parser import parse, parse_one
from barque.build.output import Transcript
from barque.build.ports import STDERR, STDOUT, StepExit
from barque.build.remote import GitAddress, parse_git
from barque.build.state import State
from barque.build.steps import config
from barque.build.steps.files import is_git, is_http
from barque.build.steps.run import Command, CommandFailed, command_of, follow
from barque.errors import InvalidArgument
from barque.oci.image import Healthcheck
from barque.oci.patterns import BadPattern, Patterns, go_match, has_wildcards, read_ignore_file
from barque.oci.platform import Platform
from barque.store.place import modes

AMD64 = Platform(os="linux", architecture="amd64")


def planned(text: str, target: str = "", **given: str) -> plan.Plan:
    arguments = BuildArguments(given, platform_arguments(AMD64, AMD64, target))
    dockerfile = parse(text)
    for step in dockerfile.arguments:
        arguments.declare_global(step.arguments)
    return plan.make(dockerfile, target, arguments)


def test_only_needed_stages_are_planned() -> None:
    text = ("FROM a AS one\nRUN x\nFROM b AS two\nFROM c AS three\nCOPY --from=one /x /y\nFROM three\n"
            "RUN --mount=from=0,target=/m x\n")
    assert [stage.number for stage in planned(text).stages] == [0, 2, 3]
    assert [stage.number for stage in planned(text, "two").stages] == [1]
    assert [stage.number for stage in planned(text, "1").stages] == [1]
    assert planned(text).stages[-1].needs == {0, 2}
    assert planned(text, "one").total_steps == 2
    with pytest.raises(plan.NoSuchTarget, match="failed to reach build target nope in Dockerfile"):
        planned(text, "nope")


def test_names_in_from_are_expanded() -> None:
    text = ("ARG TAG=1 S=one\nFROM base:$TAG AS one\nFROM scratch\nARG S\nCOPY --from=$S /a /b\n"
            "COPY --from=img:2 /c /d\n")
    found = planned(text, TAG="9")
    assert [(stage.number, stage.base.image) for stage in found.stages] == [(0, "base:9"), (1, "scratch")]
    assert found.stages[1].base.is_scratch
    assert found.stages[1].sources == {"one": plan.Origin(stage=0), "img:2": plan.Origin(image="img:2")}
    with pytest.raises(SyntaxProblem, match=r"base name .* should not be blank"):
        planned("ARG X\nFROM $X\n")
    with pytest.raises(SyntaxProblem, match="invalid from flag value 3: index out of bounds"):
        planned("FROM a\nCOPY --from=3 /a /b\n")


def test_arguments_of_stages() -> None:
    arguments = BuildArguments({"A": "given", "HTTP_PROXY": "p", "TYPO": "1", "N": None},
                               platform_arguments(AMD64, AMD64, "t"))
    arguments.declare_global([Argument("G", "global"), Argument("A", "default")])
    stage = arguments.stage()
    assert stage.allowed() == {"HTTP_PROXY": "p"}
    stage.declare(Argument("A", "other"))
    stage.declare(Argument("G", None))
    stage.declare(Argument("TARGETARCH", None))
    stage.declare(Argument("N", "fallback"))
    assert stage.allowed() == {"A": "given", "G": "global", "TARGETARCH": "amd64", "N": "fallback", "HTTP_PROXY": "p"}
    assert stage.for_run({"A": "from ENV"}) == ["G=global", "HTTP_PROXY=p", "N=fallback", "TARGETARCH=amd64"]
    assert "HTTP_PROXY=p" not in stage.in_history({})
    assert arguments.stage().allowed() == {"HTTP_PROXY": "p"}
    assert arguments.unused() == ["TYPO"]
    assert arguments.for_from()["TARGETSTAGE"] == "t"


def apply(*texts: str) -> tuple[State, list[str]]:
    state, said = State(platform=AMD64), []
    for text in texts:
        expansion = Expansion(state.env, "\\")
        change = config.apply(state, parse_one(text).expanded(expansion), expansion)
        state = change.state
        said.append(change.comment)
    return state, said


def test_configuration_steps() -> None:
    state, said = apply(
        "ENV A=1 B='2 3'", "ENV A=$A-x", "LABEL k=v", "CMD echo hi", "ENTRYPOINT [\"e\"]", "EXPOSE 80 9000-9001/udp",
        "USER u:g", "VOLUME /a", "STOPSIGNAL sigterm", "SHELL [\"s\", \"-c\"]", "ONBUILD RUN x", "MAINTAINER m")
    made = state.config
    assert made.env == ("A=1-x", "B=2 3")
    assert (made.cmd, made.entrypoint) == (("/bin/sh", "-c", "echo hi"), ("e",))
    assert made.exposed_ports == {"80/tcp": {}, "9000/udp": {}, "9001/udp": {}}
    assert (made.user, made.volumes, made.stop_signal, made.shell) == ("u:g", {"/a": {}}, "sigterm", ("s", "-c"))
    assert (made.labels, made.on_build, state.author) == ({"k": "v"}, ("RUN x",), "m")
    assert said == ["ENV A=1 B=2 3", "ENV A=1-x", "LABEL k=v", 'CMD ["/bin/sh" "-c" "echo hi"]', 'ENTRYPOINT ["e"]',
                    "EXPOSE 80 9000-9001/udp", "USER u:g", "VOLUME [/a]", "STOPSIGNAL sigterm", "SHELL [s -c]",
                    "ONBUILD RUN x", "MAINTAINER m"]


def test_an_entrypoint_drops_the_command_of_the_base_only() -> None:
    base = State(platform=AMD64).configured(apply("CMD [\"from base\"]")[0].config)
    change = config.apply(base, parse_one("ENTRYPOINT [\"e\"]"), Expansion({}, "\\"))
    assert change.state.config.cmd is None
    assert apply("CMD [\"own\"]", "ENTRYPOINT [\"e\"]")[0].config.cmd == ("own",)


@pytest.mark.parametrize(("text", "complaint"), [
    ("EXPOSE x", "Invalid containerPort: x"), ("EXPOSE 1/foo", "Invalid proto: foo"), ("EXPOSE 70000", "Invalid"),
    ("STOPSIGNAL FOO", "Invalid signal: FOO"), ("ENV $NONE=1", "ENV names can not be blank"),
])
def test_configuration_steps_that_make_no_sense(text: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        apply(text)


def test_comments_are_dockers() -> None:
    assert comments.healthcheck(Healthcheck(test=("CMD-SHELL", "true"), interval=5 * 10**9)) == \
        'HEALTHCHECK &{["CMD-SHELL" "true"] "5s" "0s" "0s" \'\\x00\'}'
    assert comments.run(("sh", "-c", "x"), ["A=1", "B=2"]) == "|2 A=1 B=2 sh -c x"
    assert comments.nop(("/bin/sh", "-c"), "ENV A=b") == "/bin/sh -c #(nop)  ENV A=b"
    assert [comments.duration(value) for value in (0, 1_500_000, 90 * 10**9, 3_600_500_000_000)] == [
        "0s", "1.5ms", "1m30s", "1h0m0.5s"]


def test_state_is_named_by_content_not_by_time() -> None:
    state = State(platform=AMD64)
    early, late = (state.stepped(moment, "x", None) for moment in ("2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"))
    assert early.content_key == late.content_key
    assert early.image_id != late.image_id
    assert early.content_key != state.stepped("2020-01-01T00:00:00Z", "y", None).content_key


def test_working_directories() -> None:
    assert config.working_directory("", "a/../b") == "/b"
    assert config.working_directory("/x", "y") == "/x/y"
    assert config.working_directory("/x", "/") == "/"
    with pytest.raises(InvalidArgument, match="cannot normalize nothing"):
        config.working_directory("/x", "")


def test_output_keeps_the_order_of_the_file() -> None:
    sent: list[object] = []
    transcript = Transcript(sent.append)
    first, second = transcript.channel(), transcript.channel()
    second.text("2")
    assert sent == []
    first.text("1")
    first.close()
    second.warning("3")
    assert sent == [{"stream": "1"}, {"stream": "2"}, {"stream": "\x1b[91m3\x1b[0m"}]
    quiet: list[object] = []
    silent = Transcript(quiet.append, quiet=True)
    channel = silent.channel()
    channel.text("x")
    channel.aux({"ID": "i"})
    silent.say("done")
    assert quiet == [{"aux": {"ID": "i"}}, {"stream": "done"}]


def test_commands_with_heredocs() -> None:
    def command(text: str) -> tuple[str, ...]:
        step = parse(f"FROM a\n{text}\n").stages[0].steps[0]
        made = command_of(step, ("/bin/sh", "-c"))  # type: ignore[arg-type]
        return (*made.argv, made.script)

    assert command("RUN <<E\na\nE") == ("/bin/sh", "-c", "a\n", "")
    assert command("RUN cat <<E\na\nE") == ("/bin/sh", "-c", "cat <<E\na\nE", "")
    assert command("RUN <<E\n#!/bin/x\na\nE") == ("/dev/pipes/E", "#!/bin/x\na\n")
    assert command("RUN [\"a\", \"b\"]") == ("a", "b", "")


class Finished:
    """A step that has said these pieces and ended with ``code``."""

    id = "c" * 64
    mount_points = ()

    def __init__(self, pieces: list[tuple[int, bytes]], code: int) -> None:
        self._pieces = pieces
        self._code = code

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        for piece in self._pieces:
            yield piece

    async def wait(self) -> StepExit:
        return StepExit(self._code)


async def test_output_of_steps_is_whole_characters() -> None:
    sent: list[object] = []
    channel = Transcript(sent.append).channel()
    whole = "é".encode()
    pieces = [(STDOUT, b"a" + whole[:1]), (STDERR, b"e"), (STDOUT, whole[1:]), (STDOUT, b"\xff")]
    await follow(Finished(pieces, 0), channel, Command(("x",), ("x",)))
    assert sent == [{"stream": "a"}, {"stream": "\x1b[91me\x1b[0m"}, {"stream": "é"}, {"stream": "\ufffd"}]
    with pytest.raises(CommandFailed, match="The command 'sh -c x' returned a non-zero code: 4") as caught:
        await follow(Finished([], 4), channel, Command(("sh", "-c", "x"), ("sh", "-c", "x")))
    assert caught.value.code == 4


def test_remote_sources() -> None:
    assert parse_git("https://h/r.git#v1:sub/dir") == GitAddress("https://h/r.git", "v1", "sub/dir")
    assert parse_git("github.com/a/b") == GitAddress("https://github.com/a/b")
    with pytest.raises(InvalidArgument):
        parse_git("--upload-pack=x")
    assert [is_git(text) for text in ("git@h:r", "https://h/r.git#b", "https://h/r", "a.git", "git://h/r")] == [
        True, True, False, False, True]
    assert is_http("http://h/f")
    assert not is_http("https://h/r.git")


@pytest.mark.parametrize(("patterns", "yes", "no"), [
    (["a"], ["a", "a/b"], ["b/a", "ab"]), (["**/a"], ["a", "x/y/a", "x/a/b"], ["xa"]),
    (["*.md", "!r.md"], ["a.md"], ["r.md", "d/a.md"]),
    (["d", "!d/keep"], ["d", "d/x"], ["d/keep", "d/keep/y"]), (["a/**"], ["a/b", "a/b/c"], ["a"]),
    (["a/**/z"], ["a/z", "a/b/z", "a/b/c/z"], ["az"]), (["?x"], ["ax"], ["x", "/x"]), (["[a-c]"], ["b"], ["d"]),
    (["[^a]"], ["b"], ["a"]), (["a.b"], ["a.b"], ["axb"]), (["\\*"], ["*"], ["a"]), (["!a"], [], ["a"]),
    (["x+(y)"], ["x+(y)"], ["xxy"]), (["**", "!a/b"], ["c", "a"], ["a/b"]),
])
def test_ignore_patterns(patterns: list[str], yes: list[str], no: list[str]) -> None:
    compiled = Patterns(patterns)
    assert [path for path in yes if not compiled.matches(path)] == []
    assert [path for path in no if compiled.matches(path)] == []


def test_ignore_files() -> None:
    text = "\ufeff# comment\n\n  /a/b/../c  \n!  /x\n #not a comment\n./d/\n"
    assert read_ignore_file(text) == ["a/c", "!x", "#not a comment", "d"]
    for wrong in ("[", "a\\", "!"):
        with pytest.raises(BadPattern):
            Patterns([wrong])


def test_wildcards_of_sources() -> None:
    assert [has_wildcards(text) for text in ("a*", "a\\*", "a[b", "a?", "a")] == [True, False, True, True, False]
    assert go_match("a/**").match("a/b")
    assert not go_match("a/**").match("a/b/c")
    assert go_match("a/**", deep=True).match("a/b/c")


@pytest.mark.parametrize(("text", "mode", "directory", "expected"), [
    ("755", 0, False, 0o755), ("01777", 0, True, 0o1777), ("u=rwX,go=rX", 0o600, False, 0o644),
    ("u=rwX,go=rX", 0o700, True, 0o755), ("a+x", 0o644, False, 0o755), ("go-rwx", 0o755, False, 0o700),
    ("+t", 0o755, True, 0o1755), ("u+s", 0o755, False, 0o4755), ("g=u", 0o740, False, 0o770),
])
def test_chmod(text: str, mode: int, directory: bool, expected: int) -> None:
    assert modes.apply(text, mode, directory) == expected


def test_chmod_of_nonsense() -> None:
    for wrong in ("", "999", "u", "77777", "u+q"):
        with pytest.raises(modes.BadMode):
            modes.check(wrong)
