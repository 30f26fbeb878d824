"""The commands of the OCI runtime: same expectations for ours and for runc."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from barque.runtime.dispatch import COMMANDS
from tests.runtime.conftest import CGROUPS, has_ended, wait_until


def wait_for_status(runtime, container: str, status: str) -> None:
    wait_until(lambda: runtime.state(container)["status"] == status)


def test_run_passes_output_and_exit_code(runtime, bundle):
    done = runtime.run(bundle, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert runtime.ok("list", "-q") == ""


def test_run_passes_standard_input(runtime, bundle):
    bundle.save("cat")
    done = subprocess.run([*runtime.base, "run", "--bundle", str(bundle.path), "cat"], input="through\n",
                          capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "through\n"


def test_death_by_signal_is_128_plus_its_number(runtime, bundle):
    bundle.linux["namespaces"] = [item for item in bundle.linux["namespaces"] if item["type"] != "pid"]
    assert runtime.run(bundle, "sh", "-c", "kill -9 $$").returncode == 137


def test_life_from_create_to_delete(runtime, bundle, tmp_path):
    bundle.save("sh", "-c", "trap 'exit 0' TERM; echo > /ready; while :; do sleep 1; done")
    runtime.detached("create", "--bundle", str(bundle.path), "--pid-file", str(tmp_path / "pid"), "life")
    state = runtime.state("life")
    assert state["status"] == "created"
    assert state["bundle"] == str(bundle.path)
    assert int((tmp_path / "pid").read_text()) == state["pid"]
    runtime.ok("start", "life")
    assert runtime.state("life")["status"] == "running"
    again = runtime("start", "life")
    assert again.returncode == 1
    assert "cannot start an already running container" in again.stderr
    refused = runtime("delete", "life")
    assert refused.returncode == 1
    assert "not stopped" in refused.stderr
    wait_until((bundle.rootfs / "ready").exists)
    runtime.ok("kill", "life", "TERM")
    wait_for_status(runtime, "life", "stopped")
    assert runtime("kill", "life", "TERM").returncode == 1
    runtime.ok("delete", "life")
    gone = runtime("state", "life")
    assert gone.returncode == 1
    assert "container does not exist" in gone.stderr


def test_kill_of_a_container_that_shares_its_process_namespace_means_all(barque, bundle):
    bundle.linux["namespaces"] = [item for item in bundle.linux["namespaces"] if item["type"] != "pid"]
    bundle.save("sh", "-c", "sleep 1000 & sleep 1000 & : > /ready; wait")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "wide")
    wait_until((bundle.rootfs / "ready").exists)
    pids = json.loads(barque.ok("ps", "--format", "json", "wide"))
    assert len(pids) == 3
    first = barque.state("wide")["pid"]
    os.kill(first, signal.SIGKILL)
    wait_for_status(barque, "wide", "stopped")
    barque.ok("kill", "wide", "KILL")
    wait_until(lambda: all(map(has_ended, pids)))
    assert barque("kill", "wide", "KILL").returncode == 1


def test_delete_force_ends_a_running_container(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "forced")
    pid = runtime.state("forced")["pid"]
    runtime.ok("delete", "--force", "forced")
    assert has_ended(pid)
    runtime.ok("delete", "--force", "forced")


def test_delete_of_a_created_container(runtime, bundle):
    bundle.save("true")
    runtime.detached("create", "--bundle", str(bundle.path), "unstarted")
    runtime.ok("delete", "unstarted")
    assert runtime.ok("list", "-q") == ""


def test_an_id_is_taken_once(runtime, bundle):
    bundle.save("true")
    runtime.detached("create", "--bundle", str(bundle.path), "twice")
    again = runtime("create", "--bundle", str(bundle.path), "twice")
    assert again.returncode == 1
    assert "container with given ID already exists" in again.stderr
    assert runtime.state("twice")["status"] == "created"


def test_a_cgroup_is_nobody_elses(barque, bundle):
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "first")
    again = barque("run", "--bundle", str(bundle.path), "second")
    assert "container's cgroup is not empty: 1 process(es) found" in again.stderr
    assert barque.state("first")["status"] == "running"
    assert barque.ok("list", "-q").split() == ["first"]


def test_a_frozen_cgroup_takes_no_container(barque, bundle):
    path = Path("/sys/fs/cgroup/freezer", f"barque-frozen-{os.getpid()}")
    if not path.parent.is_dir():
        path = Path("/sys/fs/cgroup", path.name)
    file, frozen, thawed = ("freezer.state", "FROZEN", "THAWED") if path.parent.name == "freezer" else (
        "cgroup.freeze", "1", "0")
    bundle.spec["linux"]["cgroupsPath"] = f"/{path.name}"
    bundle.save("true")
    path.mkdir()
    try:
        (path / file).write_text(frozen)
        refused = barque("run", "--bundle", str(bundle.path), "frozen")
        assert "container's cgroup is frozen" in refused.stderr and refused.returncode == 1
        (path / file).write_text(thawed)
        barque.ok("run", "--bundle", str(bundle.path), "thawed")
        assert not path.exists()
    finally:
        if path.exists():
            path.rmdir()


def test_features_are_runcs_and_more(barque):
    ours = json.loads(barque.ok("features"))
    runcs = json.loads(subprocess.run(["runc", "features"], capture_output=True, check=True, timeout=60).stdout)
    # Options of file systems are passed on unseen; nothing is mounted before, and mandatory locks are gone from Linux.
    assert {*runcs["mountOptions"]} - {*ours["mountOptions"]} == {"acl", "noacl", "remount", "mand"}
    theirs, mine = runcs["linux"], ours["linux"]
    assert {*runcs["hooks"]} == {*ours["hooks"]} and {*theirs["namespaces"]} <= {*mine["namespaces"]}
    assert theirs["capabilities"] == mine["capabilities"]
    for kind in ("actions", "operators"):
        assert {*theirs["seccomp"][kind]} == {*mine["seccomp"][kind]}
    for kind in ("cgroup", "apparmor", "selinux"):
        assert theirs[kind].items() <= mine[kind].items()


def _gone(directory):
    try:
        directory.rmdir()
    except OSError as error:
        # Busy as long as the process has not been reaped.
        return error.errno != errno.EBUSY
    return True


def test_a_container_whose_cgroup_is_gone_can_be_deleted(runtime, bundle):
    bundle.save("true")
    runtime.detached("create", "--bundle", str(bundle.path), "bare")
    runtime.ok("kill", "bare", "KILL")
    wait_for_status(runtime, "bare", "stopped")
    for directory in {tree.resolve() / bundle.cgroup[1:] for tree in (CGROUPS, *CGROUPS.iterdir())}:
        wait_until(lambda path=directory: _gone(path))
    runtime.ok("delete", "--force", "bare")
    assert runtime.ok("list", "-q") == ""


@pytest.mark.parametrize("container", ["../up", "a/b", ""])
def test_ids_are_no_paths(runtime, bundle, container):
    bundle.save("true")
    assert runtime("create", "--bundle", str(bundle.path), container).returncode != 0


@pytest.mark.parametrize(("program", "text"), [
    ("absent", 'exec: "absent": executable file not found in $PATH'),
    ("/absent", 'exec: "/absent": stat /absent: no such file or directory'),
    ("/etc/passwd", 'exec: "/etc/passwd": permission denied')])
def test_a_program_that_cannot_run_fails_the_creation(runtime, bundle, program, text):
    done = runtime.run(bundle, program)
    assert done.returncode == 1
    assert text in done.stderr.replace('\\"', '"')
    assert runtime.ok("list", "-q") == ""


def test_exec_of_a_directory(barque, bundle):
    assert 'exec: "/etc": is a directory' in barque.run(bundle, "/etc").stderr.replace('\\"', '"')


def test_no_bundle_no_container(runtime, tmp_path):
    done = runtime("run", "--bundle", str(tmp_path), "none")
    assert done.returncode == 1
    assert "config.json not found" in done.stderr


def test_errors_go_to_the_log_as_json(runtime, bundle, tmp_path):
    log = tmp_path / "log.json"
    bundle.save("absent")
    done = subprocess.run([*runtime.base, "--log", str(log), "--log-format", "json", "run", "--bundle",
                           str(bundle.path), "logged"], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert log.read_text().splitlines()[-1].startswith('{"level":"error","msg":"')
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["level"] == "error"
    assert "executable file not found in $PATH" in last["msg"]


@pytest.mark.parametrize(("words", "code", "text"), [
    (["bogus"], 3, "No help topic for 'bogus'"),
    (["help", "bogus"], 3, "No help topic for 'bogus'"),
    (["---root", "list"], 1, "bad flag syntax: ---root"),
    (["--debug=maybe", "list"], 1, 'invalid boolean value \\"maybe\\" for -debug: parse error'),
    (["state"], 1, 'requires exactly 1 argument(s)'),
    (["create", "one", "two"], 1, 'requires exactly 1 argument(s)'),
    (["kill"], 1, 'requires a minimum of 1 argument(s)'),
    (["start", "--nonsense", "x"], 1, "flag provided but not defined: -nonsense"),
    (["exec", "absent"], 255, '"exec failed: container does not exist"'),
    (["exec", "absent", "true"], 255, '"exec failed: container does not exist"'),
    (["run", "--bundle", "/", "a b"], 1, "run failed: "),
    (["list", "--format", "xml"], 1, '"invalid format option"'),
    (["list", "--quiet", "--format", "xml"], 0, "")])
def test_wrong_command_lines(runtime, words, code, text):
    done = runtime(*words)
    assert (done.returncode, text in done.stderr) == (code, True), done.stderr


def test_help_names_every_flag(barque):
    assert all(f"   {name}" in barque.ok("--help").splitlines() or f"   {name} <" in barque.ok("--help")
               for name in ("list", "run"))
    for name, command in COMMANDS.items():
        text = barque.ok("help", name)
        assert barque.ok(name, "--help") == text
        assert all(f"   --{flag}" in text for flag in command.flags)
    wrong = barque("create", "--nonsense", "x")
    assert wrong.stdout.startswith("Incorrect Usage: flag provided but not defined: -nonsense\n")
    assert "--console-socket value" in wrong.stdout


def test_no_containers_are_null(runtime):
    assert runtime.ok("list", "--format", "json") == "null\n"


def test_a_created_container_can_be_paused(runtime, bundle):
    bundle.save("true")
    runtime.detached("create", "--bundle", str(bundle.path), "early")
    runtime.ok("pause", "early")
    assert runtime.state("early")["status"] == "paused"
    runtime.ok("resume", "early")
    assert runtime.state("early")["status"] == "created"


def test_a_terminal_in_the_foreground_adds_no_carriage_returns(barque, bundle):
    bundle.process["terminal"] = True
    assert barque.output(bundle, "printf", "one\\ntwo\\n") == "one\ntwo\n"
    bundle.process["terminal"] = False
    bundle.save("sleep", "1000")
    barque.detached("run", "--detach", "--bundle", str(bundle.path), "lines")
    assert barque.ok("exec", "--tty", "lines", "printf", "one\\ntwo\\n") == "one\ntwo\n"
    wrong = barque("exec", "--tty", "--console-socket", "/absent", "lines", "true")
    assert "cannot use console socket if runc will not detach" in wrong.stderr


def test_exec_runs_beside_the_first_process(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "beside")
    done = runtime("exec", "--env", "GIVEN=1", "--cwd", "/tmp", "--user", "1000:1001", "beside", "sh", "-c",
                   "id -u; id -g; pwd; echo $GIVEN; tr '\\0' ' ' </proc/1/cmdline; exit 5")
    assert done.returncode == 5
    assert done.stdout.split() == ["1000", "1001", "/tmp", "1", "sleep", "1000"]
    where = runtime.ok("exec", "beside", "cat", "/proc/self/cgroup")
    assert where == runtime.ok("exec", "beside", "cat", "/proc/1/cgroup")
    pids = json.loads(runtime.ok("ps", "--format", "json", "beside"))
    assert pids == [runtime.state("beside")["pid"]]


def test_exec_needs_a_program_and_a_living_container(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "dead")
    done = runtime("exec", "dead", "absent")
    assert done.returncode == 255
    assert "executable file not found in $PATH" in done.stderr
    runtime.ok("kill", "dead", "KILL")
    wait_for_status(runtime, "dead", "stopped")
    assert "cannot exec in a stopped container" in runtime("exec", "dead", "true").stderr


def test_exec_takes_a_process_document(runtime, bundle, tmp_path):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "document")
    process = {**bundle.process, "args": ["sh", "-c", "echo $X; id -u; id -g"], "env": ["PATH=/bin", "X=y"],
               "user": {"uid": 12, "gid": 34}}
    (tmp_path / "process.json").write_text(json.dumps(process))
    assert runtime.ok("exec", "--process", str(tmp_path / "process.json"), "document").split() == ["y", "12", "34"]


def test_pause_stops_and_resume_continues(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "paused")
    runtime.ok("pause", "paused")
    assert runtime.state("paused")["status"] == "paused"
    assert "paused" in runtime("exec", "paused", "true").stderr
    runtime.ok("resume", "paused")
    assert runtime.state("paused")["status"] == "running"


def test_update_changes_a_limit(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "limited")
    runtime.ok("update", "--pids-limit", "77", "--memory", "64M", "limited")
    text = runtime.ok("events", "--stats", "limited")
    assert text.startswith('{"type":"stats","id":"limited","data":{')
    stats = json.loads(text)
    assert stats["data"]["pids"]["limit"] == 77
    assert stats["data"]["memory"]["usage"]["limit"] == 64 << 20
    assert runtime("update", "--memory", "much", "limited").returncode == 1
    assert runtime("update", "--l3-cache-schema", "L3:0=f", "limited").returncode == 1


def test_the_forms_of_list(runtime, bundle):
    bundle.save("sleep", "1000")
    runtime.detached("run", "--detach", "--bundle", str(bundle.path), "listed")
    [entry] = json.loads(runtime.ok("list", "--format", "json"))
    assert (entry["id"], entry["status"], entry["bundle"]) == ("listed", "running", str(bundle.path))
    title, row = runtime.ok("list").splitlines()
    assert title.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[:3] == ["listed", str(entry["pid"]), "running"]


def test_spec_writes_a_document_that_runs(barque, bundle):
    barque.ok("spec", "--bundle", str(bundle.path))
    assert barque("spec", "--bundle", str(bundle.path)).returncode == 1
    bundle.spec = json.loads((bundle.path / "config.json").read_text())
    assert bundle.process["user"] == {"uid": 0, "gid": 0}
    bundle.process["terminal"] = False
    bundle.linux["cgroupsPath"] = bundle.cgroup
    assert barque.output(bundle, "hostname") == "barque\n"


def test_what_is_not_supported_is_refused(barque, bundle):
    bundle.save("true")
    assert barque("run", "--bundle", str(bundle.path), "--nonsense", "refused").returncode == 1
    assert "is not supported" in barque("--rootless", "true", "run", "--bundle", str(bundle.path), "refused").stderr
    assert "invalid rootless" in barque("--rootless", "maybe", "list").stderr
    assert Path(barque.root).exists() is False or os.listdir(barque.root) == []


def test_it_may_stand_in_under_the_name_of_runc(barque, bundle, tmp_path):
    program = tmp_path / "runc"
    program.symlink_to(barque.base[0])
    bundle.save("echo", "through")
    done = subprocess.run([str(program), *barque.base[1:], "run", "--bundle", str(bundle.path), "link"], check=True,
                          capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.stdout == "through\n"
