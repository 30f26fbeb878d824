"""The same words for docker's command line and for ours, against one engine: outputs and exit codes side by side.

Only the name of the program differs, and how long ago something was, which passes between the two runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

DOCKER = shutil.which("docker")
PROGRAMS = ([str(DOCKER)], [sys.executable, "-m", "barque.cli.main"])
#: Exit code, stdout, stderr.
Result = tuple[int, str, str]
ID = re.compile(r"\b[0-9a-f]{64}\b")
_AGE = re.compile(r"\b\d+(?= (second|minute|hour)s?\b)")

#: Cases stand between bars, "_" is a space within a word. ``w1`` runs, ``w2`` has ended.
LISTS = """
ps|ps -a|ps -aq|ps -a --no-trunc|ps -as|ps --format json|ps -a --format {{.Names}}|ps --format {{.Foo}}|ps --format {{
ps --format {{.ID|foo}}|ps --format table_{{.Names}}_{{.Label_"a"}}|ps --filter foo|ps --filter foo=bar|ps -n 1|ps -l -q
images|images -q|images --digests|images --format json|images --no-trunc|network ls|network ls --format json|volume ls
volume ls --format json|system df|system df --format json|history busybox|history --no-trunc -H=false busybox
inspect w1|inspect w1 w2|inspect nope|inspect -f {{.State.Status}} w1 nope|inspect -f {{.State.Nope}} w1
inspect -f {{json_.Config}} w1|inspect -f {{.State.Health}} w1|inspect --type foo w1|inspect --type volume w1
inspect -f {{range_$k,$v_:=_.Config.Labels}}{{$k}}={{$v}}{{end}} w1|inspect -f {{.Id}}{{ w1
image inspect busybox|image inspect nope|network inspect bridge|network inspect nope|volume inspect nope
inspect -s -f {{.Os}} busybox|container inspect nope|port w1|port w1 80|port w1 9000/udp|port w1 81|diff w2|context show
version --format {{.Server.Version}}
info --format {{.Driver}}|events --since 0 --until 0|stats --no-stream w2
"""
ERRORS = """
kill nope|stop nope|start nope|rm nope|rm -f nope|logs nope|rename w1 w2|exec nope x|attach nope|attach w2|exec w2 ls
top w2|unpause w2|wait nope|rmi nope|rmi -f nope|tag busybox BB|tag nope x|update w1|history nope|export nope
commit nope
network rm bridge|network rm nope|network connect nope w1|network create|network create a b|volume rm nope
volume rm -f nope|create --name w1 busybox|run --name w1 busybox|run BusyBox|run nope:x@y|run --rm busybox nope
run --rm busybox /etc|cp nope:/x -|cp w1:/a w1:/b|cp a b|cp w1:/nope .
"""
RUNS = """
run --rm busybox echo hi|run --rm busybox sh -c echo_out;_echo_err_>&2;_exit_3|run --rm busybox false
run --rm -i busybox cat|run --rm -h box -e A=1 -e B busybox env|run --rm -w /tmp busybox pwd|run --rm -u 5:6 busybox id
run --rm --entrypoint echo busybox x y|run --rm --network none busybox true
run --rm -a stderr busybox sh -c echo_x;_echo_y_>&2
run --rm busybox sh -c kill_-9_$$|run --rm -i busybox wc -c|run --rm busybox seq 20000|exec w1 echo hi
exec -i w1 cat|exec w1 sh -c exit_9|exec w1 nope|exec -w /tmp -e A=b w1 env|start -a w2|logs w2|wait w2
"""


def cases(text: str) -> list[str]:
    return [case for line in text.strip().splitlines() for case in line.split("|") if case]


def words(case: str) -> list[str]:
    return [word.replace("_", " ") for word in case.split(" ")]


def invoke(program: list[str], host: str, words: list[str], stdin: bytes = b"") -> Result:
    """What the program answered, in our name."""
    environ = {**os.environ, "DOCKER_HOST": host, "DOCKER_CONFIG": "/nonexistent", "DOCKER_CLI_HINTS": "false"}
    done = subprocess.run([*program, *words], input=stdin, capture_output=True, env=environ, timeout=60, check=False)
    # An archive on standard output is no text; two of them are compared byte by byte all the same.
    out, err = (data.decode(errors="surrogateescape").replace("docker", "barque")
                for data in (done.stdout, done.stderr))
    return done.returncode, out, err


def both(host: str, words: list[str], stdin: bytes = b"") -> tuple[Result, Result]:
    """What docker answered, and what we did, without the numbers of ages, which tick between the two runs.

    Where their widths or their words differ for that, once more.
    """
    for _ in range(4):
        docker, ours = (_ageless(invoke(program, host, words, stdin)) for program in PROGRAMS)
        if docker == ours:
            break
    return docker, ours


def _ageless(result: Result) -> Result:
    code, out, err = result
    return code, _AGE.sub(lambda found: "#" * len(found[0]), out), err
