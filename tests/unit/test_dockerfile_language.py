"""Reading Dockerfiles: statements, instructions, flags, here-documents and what is said about mistakes."""

from __future__ import annotations

import pytest

from barque.build.dockerfile import instructions as i
from barque.build.dockerfile.arguments import Pair
from barque.build.dockerfile.durations import parse_duration
from barque.build.dockerfile.errors import DockerfileError, ExpansionError, SyntaxProblem
from barque.build.dockerfile.expand import Style, expand, go_quote
from barque.build.dockerfile.parser import parse, parse_one
from barque.build.dockerfile.run_mounts import RunMount
from barque.build.dockerfile.run_mounts import parse as parse_mount

ENV = {"PWD": "/home", "SHELL": "bash", "NULL": "", "FILE": "archive.tar.gz", "PATHS": "a:b:c"}


@pytest.mark.parametrize(("text", "expected"), [
    ("he$PWD", "he/home"), ("he${PWD}x", "he/homex"), ("he\\$PWD", "he$PWD"), ("'$PWD'", "$PWD"), ('"$PWD"', "/home"),
    ("$", "$"), ("$.", "$."), ("$1x", "x"), ("${XXX}", ""), ("${XXX:-a}", "a"), ("${NULL:-a}", "a"),
    ("${NULL-a}", ""), ("${XXX-a}", "a"), ("${XXX:-${YYY:-b}}", "b"), ("${PWD:+x}", "x"), ("${NULL:+x}", ""),
    ("${NULL+x}", "x"), ("${XXX+x}", ""), ("${NULL?}", ""), ("${FILE#*.}", "tar.gz"), ("${FILE##*.}", "gz"),
    ("${FILE%.*}", "archive.tar"), ("${FILE%%.*}", "archive"), ("${FILE%nomatch}", "archive.tar.gz"),
    ("${PATHS/:/-}", "a-b:c"), ("${PATHS//:/-}", "a-b-c"), ("${FILE/?r/X}", "Xchive.tar.gz"),
    ("${PATHS//:/\\}}", "a\\}b\\}c"), ("a\\ b", "a b"), ('"a\\"b"', 'a"b'), ('"a\\tb"', "a\\tb"), ("'a'\\''b'", "a'b"),
])
def test_variables(text: str, expected: str) -> None:
    assert expand(text, ENV).text == expected


@pytest.mark.parametrize(("text", "complaint"), [
    ("${", "syntax error: missing '}'"), ("${}", "syntax error: bad substitution"), ("${PWD", "unsupported modifier"),
    ("${PWD:-x", "syntax error: missing '}'"), ("${XXX?}", "XXX: is not allowed to be unset"),
    ("${NULL:?}", "NULL: is not allowed to be empty"), ("${XXX:?say so}", "XXX: say so"),
    ("'open", "looking for matching single-quote"), ('"open', "looking for matching double-quote"),
    ("${PWD:=x}", "unsupported modifier (:=) in substitution"), ("${PWD/a}", "missing '/' in ${}"),
    ("${PWD:#x}", "unsupported modifier (:#)"), ("${PWD#\\x}", "invalid escape '\\x'"),
])
def test_mistakes_in_variables_are_named(text: str, complaint: str) -> None:
    with pytest.raises(ExpansionError) as caught:
        expand(text, ENV)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith(f"failed to process {go_quote(text)}: ")


def test_words_are_split_after_expansion_but_not_in_quotes() -> None:
    found = expand("$LIST \"$LIST\" 'a b' c\\ d", {"LIST": "x  y"})
    assert found.words == ["x", "y", "x  y", "a b", "c d"]
    assert found.used == {"LIST"}
    assert expand("$A ${B}", {}, Style(keep_unset=True)).text == "$A ${B}"
    assert expand("`$PWD \\a", ENV, Style(escape="`")).text == "$PWD \\a"


def test_statements_are_joined_and_comments_dropped() -> None:
    dockerfile = parse("# hello\n\nFROM scratch\nRUN a \\\n  # why\n  b \\  \n\n  c\nCMD echo \\\\\n")
    run, cmd = dockerfile.stages[0].steps
    assert isinstance(run, i.Run)
    assert run.command.words == ("a   b   c",)
    assert (run.line, run.last_line) == (4, 8)
    assert isinstance(cmd, i.Cmd)
    assert cmd.command.words == ("echo \\\\",)
    assert dockerfile.source.empty_continuations == [8]


def test_directives_come_first_and_once() -> None:
    dockerfile = parse("\ufeff# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN one `\n two\\\n")
    assert dockerfile.source.directives == {"syntax": "docker/dockerfile:1", "escape": "`"}
    assert dockerfile.stages[0].steps[0].text == "RUN one  two\\"
    assert "escape" not in parse("# a comment\n# escape=`\nFROM a\n").source.directives
    with pytest.raises(DockerfileError, match="only one escape parser directive can be used"):
        parse("# escape=`\n# escape=`\nFROM a\n")
    with pytest.raises(DockerfileError, match="invalid escape token 'x' does not match"):
        parse("# escape=x\nFROM a\n")


def test_heredocs() -> None:
    dockerfile = parse("FROM a\nRUN <<EOF cat > x <<-'TWO'\none $A\nEOF\n\tt $A\n\tTWO\n"
                       "COPY <<f.txt <<g /d/\nF\nf.txt\nG\ng\nRUN [\"a\", \"<<EOF\"]\nRUN echo $((1<<2))\n")
    run, copy, json_run, shift = dockerfile.stages[0].steps
    assert isinstance(run, i.Run)
    assert [(d.name, d.expand, d.text) for d in run.heredocs] == [("EOF", True, "one $A\n"), ("TWO", False, "t $A\n")]
    assert isinstance(copy, i.Copy)
    assert [(file.heredoc.name, file.content) for file in copy.files] == [("f.txt", "F\n"), ("g", "G\n")]
    assert (copy.sources, copy.destination) == ((), "/d/")
    assert isinstance(json_run, i.Run)
    assert json_run.heredocs == ()
    assert isinstance(shift, i.Run)
    with pytest.raises(DockerfileError, match="on line 2: unterminated heredoc"):
        parse("FROM a\nRUN <<EOF\n")


def test_every_instruction_is_read() -> None:
    text = """ARG V=1 W
FROM --platform=$BUILDPLATFORM base:$V AS Build
ADD --chown=1:2 --chmod=755 --link --checksum=sha256:0 --keep-git-dir --unpack=false --exclude=a --exclude=b x /y
ARG A
CMD ["a","b"]
COPY --from=build --parents --if-exists ["a b", "c"]
ENTRYPOINT run it
ENV A="b c" D=e\\ f
ENV OLD the value
EXPOSE 80/udp 22
HEALTHCHECK --interval=1m30s --retries=3 CMD curl localhost
HEALTHCHECK NONE
LABEL a=b "c d"=e
MAINTAINER me <me@example.org>
ONBUILD COPY . /app
RUN --mount=type=cache,target=/c --network=none --security=insecure make
SHELL ["/bin/bash", "-c"]
STOPSIGNAL SIGINT
USER me:us
VOLUME /a /b
VOLUME ["/c d"]
WORKDIR /w
"""
    dockerfile = parse(text)
    stage = dockerfile.stages[0]
    assert [(a.key, a.value) for a in dockerfile.arguments[0].arguments] == [("V", "1"), ("W", None)]
    assert (stage.name, stage.start.base, stage.start.platform) == ("build", "base:$V", "$BUILDPLATFORM")
    by_kind: dict[type[i.Instruction], list[i.Instruction]] = {}
    for step in stage.steps:
        by_kind.setdefault(type(step), []).append(step)
    add = by_kind[i.Add][0]
    assert isinstance(add, i.Add)
    assert (add.chown, add.chmod, add.link, add.checksum, add.keep_git_dir, add.unpack, add.exclude) == (
        "1:2", "755", True, "sha256:0", True, False, ("a", "b"))
    copy = by_kind[i.Copy][0]
    assert isinstance(copy, i.Copy)
    assert (copy.sources, copy.destination, copy.source_stage, copy.parents, copy.if_exists) == (
        ("a b",), "c", "build", True, True)
    envs = [pair for step in by_kind[i.Env] if isinstance(step, i.Env) for pair in step.pairs]
    assert envs == [Pair("A", '"b c"'), Pair("D", "e\\ f"), Pair("OLD", "the value", legacy=True)]
    health = by_kind[i.HealthcheckStep][0]
    assert isinstance(health, i.HealthcheckStep)
    assert (health.health.test, health.health.interval, health.health.retries) == (
        ("CMD-SHELL", "curl localhost"), 90 * 10**9, 3)
    expose = by_kind[i.Expose][0]
    assert isinstance(expose, i.Expose)
    assert expose.ports == ("22", "80/udp")
    onbuild = by_kind[i.Onbuild][0]
    assert isinstance(onbuild, i.Onbuild)
    assert onbuild.expression == "COPY . /app"
    assert len(by_kind) == 17


@pytest.mark.parametrize(("statement", "complaint"), [
    ("FOO bar", "unknown instruction: FOO"), ("COPPY a b", "unknown instruction: COPPY (did you mean COPY?)"),
    ("COPY a", "COPY requires at least two arguments, but only one was provided. Destination could not be determined"),
    ("COPY --form=x a b", "unknown flag: --form (did you mean from?)"),
    ("COPY --link=1 a b", "expecting boolean value"),
    ("COPY --chown a b", "missing a value on flag: --chown"), ("COPY --chown=a --chown=b a b", "duplicate flag"),
    ("ENV", "ENV requires at least one argument"), ("ENV a", "ENV must have two arguments"),
    ("ENV a=b c", 'Syntax error - can\'t find = in "c". Must be of the form: name=value'),
    ("ENV =b", "ENV names can not"),
    ("CMD [1]", "when using JSON array syntax, arrays must be comprised of strings only"),
    ("FROM", "FROM requires either one or three arguments"), ("FROM a as 1b", 'invalid name for build stage: "1b"'),
    ("HEALTHCHECK FOO", 'Unknown type "FOO" in HEALTHCHECK (try CMD)'), ("HEALTHCHECK CMD", "Missing command after"),
    ("HEALTHCHECK --interval=1us CMD a", "cannot be less than 1ms"), ("HEALTHCHECK NONE x", "NONE takes no arguments"),
    ("HEALTHCHECK --interval=5 CMD a", 'time: missing unit in duration "5"'),
    ("ONBUILD ONBUILD RUN a", "Chaining ONBUILD"), ("ONBUILD FROM a", "FROM isn't allowed as an ONBUILD trigger"),
    ("SHELL bash", "SHELL requires the arguments to be in JSON form"), ("USER", "USER requires exactly one argument"),
    ("RUN --mount=type=cash,target=/a x", 'unsupported mount type "cash" (did you mean cache?)'),
    ("RUN --network=foo x", 'invalid network mode: "foo"'), ("VOLUME", "VOLUME requires at least one argument"),
])
def test_mistakes_name_line_and_excerpt(statement: str, complaint: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(f"FROM a\n{statement}\nRUN x\n")
    assert caught.value.message.startswith("dockerfile parse error on line 2: ")
    assert complaint in caught.value.message
    assert f">>> {statement}" in caught.value.excerpt


def test_files_without_stages() -> None:
    with pytest.raises(DockerfileError, match="file with no instructions"):
        parse("# nothing\n")
    with pytest.raises(DockerfileError, match="no build stage in current context"):
        parse("RUN a\n")
    assert isinstance(parse_one("RUN <<E\nx\nE"), i.Run)
    with pytest.raises(DockerfileError, match="is not one instruction"):
        parse_one("RUN a\nRUN b")


def test_mounts_of_run() -> None:
    assert parse_mount("target=/x") == RunMount(target="/x")
    assert parse_mount("type=cache,id=c,dst=/x,sharing=locked,mode=0755,uid=5") == RunMount(
        "cache", target="/x", readonly=False, id="c", sharing="locked", mode=0o755, uid=5)
    assert parse_mount('type=tmpfs,"target=/a,b",size=1.5k') == RunMount(
        "tmpfs", target="/a,b", readonly=False, size=1536)
    assert parse_mount("type=secret,id=s,required,env=TOKEN") == RunMount("secret", id="s", required=True, env="TOKEN")
    for wrong in ("type=bind,size=1", "type=secret", "type=bind,mode=1", "foo=1", "target", "type=cache,sharing=no",
                  "type=bind,sharing=locked", "type=tmpfs,target=/a,size=x", "type=cache,target=/a,mode=9"):
        with pytest.raises(SyntaxProblem):
            parse_mount(wrong)


def test_durations() -> None:
    assert parse_duration("1h2m3.5s") == 3_723_500_000_000
    assert parse_duration("-1.5ms") == -1_500_000
    for wrong in ("", "s", "1", "1x"):
        with pytest.raises(SyntaxProblem):
            parse_duration(wrong)
