"""The build checks: each rule finds what it is for, and nothing in a file that is fine."""

from __future__ import annotations

import pytest

from barque.build.dockerfile.lint import lint, report
from barque.build.dockerfile.parser import parse

PLATFORM = {"TARGETPLATFORM": "linux/amd64", "BUILDPLATFORM": "linux/amd64", "TARGETARCH": "amd64"}


def rules(text: str, ignore: tuple[str, ...] = ()) -> list[tuple[str, int]]:
    found = lint(parse(text), PLATFORM, ignore, lambda name: frozenset(["BASE"]) if name == "known" else None)
    return [(finding.rule, finding.line) for finding in found]


@pytest.mark.parametrize(("text", "expected"), [
    ("FROM a AS One\n", [("StageNameCasing", 1)]),
    ("FROM a as one\n", [("FromAsCasing", 1)]),
    ("FROM a\nRUN x \\\n\n  y\n", [("NoEmptyContinuation", 4)]),
    ("FROM a\nRUN x\nrun y\n", [("ConsistentInstructionCasing", 3)]),
    ("from a\nrun x\nRUN y\n", [("ConsistentInstructionCasing", 3)]),
    ("FROM a AS x\nFROM b AS x\n", [("DuplicateStageName", 2)]),
    ("FROM a AS context\n", [("ReservedStageName", 1)]),
    ("FROM a\nCMD echo\n", [("JSONArgsRecommended", 2)]),
    ("FROM a\nSHELL [\"sh\"]\nCMD echo\n", []),
    ("FROM a\nMAINTAINER me\n", [("MaintainerDeprecated", 2)]),
    ("ARG TAG=1\nFROM a:${TAGG}\n", [("InvalidDefaultArgInFrom", 2), ("UndefinedArgInFrom", 2)]),
    ("ARG TAG\nFROM a:$TAG\n", [("InvalidDefaultArgInFrom", 2)]),
    ("FROM a\nWORKDIR x\nWORKDIR y\n", [("WorkdirRelativePath", 2)]),
    ("FROM a\nWORKDIR /x\nWORKDIR y\n", []),
    ("FROM scratch\nCOPY $NONE /x\n", [("UndefinedVar", 2)]),
    ("FROM known\nARG A\nENV B=$A$BASE$PATH\nCOPY $B /x\n", []),
    ("FROM known AS k\nENV B=1\nFROM k\nCOPY $B $BASE $C /x/\n", [("UndefinedVar", 4)]),
    ("FROM unknown\nCOPY $MAYBE /x\n", []),
    ("FROM a\nCMD [\"a\"]\nCMD [\"b\"]\n", [("MultipleInstructionsDisallowed", 2)]),
    ("FROM a\nENV A b\n", [("LegacyKeyValueFormat", 2)]),
    ("FROM --platform=$TARGETPLATFORM a\n", [("RedundantTargetPlatform", 1)]),
    ("FROM --platform=linux/amd64 a\n", [("FromPlatformFlagConstDisallowed", 1)]),
    ("FROM --platform=linux/amd64 a AS build_amd64\n", []),
    ("FROM a\nENV API_KEY=x\nARG GITHUB_TOKEN\nENV PUBLIC_KEY=x\n",
     [("SecretsUsedInArgOrEnv", 2), ("SecretsUsedInArgOrEnv", 3)]),
    ("FROM a\nEXPOSE 80/TCP 1.2.3.4:80:80\n", [("ExposeInvalidFormat", 2), ("ExposeProtoCasing", 2)]),
    ("# check=skip=JSONArgsRecommended\nFROM a\nCMD echo\n", []),
    ("# check=skip=all\nFROM a AS One\nCMD echo\n", []),
    ("# check=experimental=all\nFROM a\n# wrong words\nARG NAME\n", [("InvalidDefinitionDescription", 4)]),
    ("FROM a\n# wrong words\nARG NAME\n", []),
    ("# syntax=docker/dockerfile:1\nARG V=1\nFROM a:$V AS b\nRUN x\nFROM b\nCOPY --from=b /x /y\nCMD [\"z\"]\n", []),
])
def test_rules(text: str, expected: list[tuple[str, int]]) -> None:
    assert rules(text) == expected


def test_ignored_sources_are_found_where_nothing_is_taken_back() -> None:
    text = "FROM a\nCOPY secret.txt /x\nCOPY other /y\nCOPY --from=a secret.txt /z\n"
    assert rules(text, ("*.txt",)) == [("CopyIgnoredFile", 2)]
    assert rules(text, ("*.txt", "!secret.txt")) == []


def test_report_shows_rule_place_and_excerpt() -> None:
    text = "FROM a\nMAINTAINER me\n"
    shown = report(lint(parse(text), PLATFORM), text, "Dockerfile")
    assert shown == (
        "Check complete, 1 warning has been found!\n\n"
        "WARNING: MaintainerDeprecated - https://docs.docker.com/go/dockerfile/rule/maintainer-deprecated/\n"
        "Maintainer instruction is deprecated in favor of using label\nDockerfile:2\n--------------------\n"
        "   1 |     FROM a\n   2 | >>> MAINTAINER me\n--------------------\n\n")
    assert report([], "FROM a\n", "Dockerfile") == "Check complete, no warnings found.\n"
