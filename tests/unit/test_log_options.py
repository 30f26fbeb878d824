"""Options of the log drivers: dockerd's refusals in its words; what is taken reaches monitor and shipper."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from barque.engine.containers.model import Container
from barque.engine.containers.options import ContainerConfig, HostConfig, LogConfig
from barque.engine.logging import drivers, plan
from barque.errors import InvalidArgument
from barque.supervise.messages import Shipping
from barque.supervise.shippers.orders import FileOrder, FluentdOrder, GelfOrder, JournaldOrder, SyslogOrder

ID = "0123456789ab" * 5 + "cdef"


def container(kind: str, directory: Path, **options: str) -> Container:
    named = {key.replace("_", "-"): value for key, value in options.items()}
    return Container(
        id=ID, name="web", created="2026-01-02T03:04:05Z", image="httpd:2", image_id="sha256:" + "ab" * 32,
        chain_id=None, path="sh", args=["-c", "x"], endpoints={}, mounts=[],
        log_path=plan.path(ID, kind, named, str(directory)),
        config=ContainerConfig(labels={"com.x": "1", "other": "2"}, env=["A_B=3", "C=4"]),
        host_config=HostConfig(log_config=LogConfig(type=kind, config=named)))


@pytest.mark.parametrize(("kind", "options", "text"), [
    ("nosuch", {}, "logger: no log driver named 'nosuch' is registered"),
    ("json-file", {"mode": "x"}, "logger: logging mode not supported: x"),
    ("json-file", {"max-buffer-size": "1m"},
     "logger: max-buffer-size option is only supported with 'mode=non-blocking'"),
    ("json-file", {"mode": "non-blocking", "max-buffer-size": "x"},
     "error parsing option max-buffer-size: invalid size: 'x'"),
    ("json-file", {"foo": "1"}, "unknown log opt 'foo' for json-file log driver"),
    ("json-file", {"max-size": "0"}, "max-size must be a positive number"),
    ("json-file", {"max-file": "0"}, "max-file cannot be less than 1"),
    ("json-file", {"max-file": "x"}, 'strconv.Atoi: parsing "x": invalid syntax'),
    ("json-file", {"compress": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
    ("json-file", {"max-size": "1m", "compress": "true"},
     "compress cannot be true when max-file is less than 2 or max-size is not set"),
    ("local", {"foo": "1"}, "unknown log opt 'foo' for log driver local"),
    ("local", {"max-size": "x"}, "invalid value for max-size: x: invalid size: 'x'"),
    ("local", {"max-file": "1"}, "compression cannot be enabled when max file count is 1"),
    ("syslog", {"cache-disabled": "x"}, "invalid value for option cache-disabled: x"),
    ("syslog", {"foo": "1"}, "unknown log opt 'foo' for syslog log driver"),
    ("syslog", {"syslog-facility": "x"}, "invalid syslog facility"),
    ("syslog", {"syslog-facility": "24"}, "invalid syslog facility"),
    ("syslog", {"syslog-format": "x"}, "Invalid syslog format"),
    ("syslog", {"syslog-address": "ftp://x"}, "unsupported scheme: 'ftp'"),
    ("syslog", {"syslog-address": "unix:///proc/no"}, "stat /proc/no: no such file or directory"),
    ("journald", {"foo": "1"}, "unknown log opt 'foo' for journald log driver"),
    ("gelf", {}, "gelf-address is a required parameter"),
    ("gelf", {"gelf-address": "http://x:1"}, "gelf: endpoint needs to be TCP or UDP"),
    ("gelf", {"gelf-address": "udp://x"}, "gelf: please provide gelf-address as proto://host:port"),
    ("gelf", {"gelf-address": "udp://x:1", "gelf-tcp-max-reconnect": "1"},
     '"gelf-tcp-max-reconnect" is only valid for TCP'),
    ("gelf", {"gelf-address": "tcp://x:1", "gelf-tcp-reconnect-delay": "-1"},
     '"gelf-tcp-reconnect-delay" must be a positive integer'),
    ("gelf", {"gelf-address": "tcp://x:1", "gelf-compression-type": "gzip"}, "compression is only supported on UDP"),
    ("gelf", {"gelf-address": "udp://x:1", "gelf-compression-level": "11"},
     'unknown value "11" for log opt "gelf-compression-level" for gelf log driver'),
    ("gelf", {"gelf-address": "udp://x:1", "foo": "1"}, 'unknown log opt "foo" for gelf log driver'),
    ("fluentd", {"fluentd-address": "ftp://x"}, "invalid fluentd-address (ftp://x): unsupported scheme: 'ftp'"),
    ("fluentd", {"fluentd-address": "tcp://x/y"},
     "invalid fluentd-address (tcp://x/y): should not contain a path element"),
    ("fluentd", {"fluentd-address": "unix://"}, "invalid fluentd-address (unix://): path is empty"),
    ("fluentd", {"fluentd-retry-wait": "5"}, 'time: missing unit in duration "5"'),
    ("fluentd", {"fluentd-max-retries": "x"}, 'strconv.ParseUint: parsing "x": invalid syntax'),
    ("fluentd", {"fluentd-max-retries": "4294967295"}, "invalid fluentd-max-retries: value out of range"),
    ("fluentd", {"fluentd-buffer-limit": "x"}, "invalid size: 'x'"),
    ("fluentd", {"fluentd-async": "x"}, 'strconv.ParseBool: parsing "x": invalid syntax'),
    ("fluentd", {"fluentd-write-timeout": "-1s"},
     "invalid value for fluentd-write-timeout: value must be a duration that is non-negative"),
    ("fluentd", {"fluentd-async-reconnect-interval": "20s"},
     'invalid value for fluentd-async-reconnect-interval: value ("20s") must be between 100ms and 10s'),
    ("local", {"tag": "{{"}, "unclosed action"),
    ("local", {"labels-regex": "("}, "unterminated subpattern"),
])
def test_refusals(kind: str, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        drivers.check(kind, options)
    assert text in caught.value.message


def test_files(tmp_path: Path) -> None:
    config, order = plan.plan(container("json-file", tmp_path), "/s")
    assert order is None
    assert config is not None
    assert (config.path, config.max_size, config.max_files, config.compress, config.format) == (
        f"{tmp_path}/{ID}-json.log", 20 << 20, 5, False, "json-file")
    made = container("json-file", tmp_path, max_size="10k", labels_regex="^com", env="C,D", tag="{{.Name}}/{{.ID}}")
    config, _ = plan.plan(made, "/s")
    assert config is not None
    assert (config.max_size, config.max_files) == (10_000, 1)
    assert config.attrs == {"com.x": "1", "C": "4", "tag": "web/0123456789ab"}
    unbounded, _ = plan.plan(container("json-file", tmp_path, max_size="-1"), "/s")
    assert unbounded is not None
    assert unbounded.max_size == 0
    local, _ = plan.plan(container("local", tmp_path), "/s")
    assert local is not None
    assert (local.path, local.format, local.compress) == (f"{tmp_path}/local-logs/container.log", "local", True)
    assert plan.plan(container("none", tmp_path), "/s") == (None, None)


def test_non_blocking_files_have_a_writer_of_their_own(tmp_path: Path) -> None:
    config, order = plan.plan(container("local", tmp_path, mode="non-blocking", max_buffer_size="4m"), "/s")
    assert config is not None
    assert (config.path, config.shipping) == ("", Shipping("/s", 4 << 20, wait=True))
    assert isinstance(order, FileOrder)
    assert order.log.path == f"{tmp_path}/local-logs/container.log"


@pytest.mark.parametrize(("options", "shipping", "cached"), [
    ({}, Shipping("/s"), True),
    ({"mode": "non-blocking"}, Shipping("/s", 1_000_000), True),
    ({"cache_disabled": "true", "mode": "blocking"}, Shipping("/s"), False),
])
def test_the_way_to_a_target(tmp_path: Path, options: dict[str, str], shipping: Shipping, cached: bool) -> None:
    config, _ = plan.plan(container("syslog", tmp_path, **options), "/s")
    assert config is not None
    assert (config.shipping, config.path) == (shipping, f"{tmp_path}/container-cached.log" if cached else "")


def test_the_copy_has_limits_of_its_own(tmp_path: Path) -> None:
    config, _ = plan.plan(container("syslog", tmp_path, cache_max_size="1m", cache_max_file="3"), "/s")
    assert config is not None
    assert (config.max_size, config.max_files, config.compress, config.format) == (1_000_000, 3, True, "local")


def test_syslog(tmp_path: Path) -> None:
    _, order = plan.plan(container("syslog", tmp_path, syslog_address="tcp+tls://h", syslog_facility="local7",
                                   syslog_format="rfc5424", syslog_tls_skip_verify="true",
                                   tag='{{upper .Name}}-{{index .ContainerLabels "other"}}'), "/s")
    assert isinstance(order, SyslogOrder)
    assert (order.network, order.address, order.facility, order.tag, order.tls.verify) == (
        "tcp+tls", "h:514", 23 << 3, "WEB-2", False)
    _, order = plan.plan(container("syslog", tmp_path), "/s")
    assert order == SyslogOrder(network="", address="", facility=3 << 3, tag="0123456789ab")


def test_journald(tmp_path: Path) -> None:
    _, order = plan.plan(container("journald", tmp_path, labels="com.x", env="A_B"), "/s")
    assert isinstance(order, JournaldOrder)
    assert order.fields == {
        "CONTAINER_ID": ID[:12], "CONTAINER_ID_FULL": ID, "CONTAINER_NAME": "web", "CONTAINER_TAG": ID[:12],
        "SYSLOG_IDENTIFIER": ID[:12], "IMAGE_NAME": "httpd:2", "COM_X": "1", "A_B": "3"}


def test_gelf(tmp_path: Path) -> None:
    _, order = plan.plan(container("gelf", tmp_path, gelf_address="udp://[::1]:12201", gelf_compression_type="none",
                                   gelf_compression_level="-1", labels="other"), "/s")
    assert isinstance(order, GelfOrder)
    assert (order.address, order.compression, order.level) == ("[::1]:12201", "none", -1)
    assert order.extra == {
        "_container_id": ID, "_container_name": "web", "_image_id": "sha256:" + "ab" * 32, "_image_name": "httpd:2",
        "_command": "sh -c x", "_tag": ID[:12], "_created": "2026-01-02T03:04:05Z", "_other": "2"}


def test_fluentd(tmp_path: Path) -> None:
    config, order = plan.plan(container("fluentd", tmp_path, fluentd_address="h", fluentd_async="true",
                                        fluentd_buffer_limit="10", fluentd_retry_wait="1m30s",
                                        fluentd_request_ack="1", fluentd_write_timeout="2s"), "/s")
    assert isinstance(order, FluentdOrder)
    assert (order.network, order.address, order.lazy, order.retry_wait, order.request_ack, order.write_timeout) == (
        "tcp", "h:24224", True, 90.0, True, 2.0)
    assert order.record == {"container_id": ID, "container_name": "/web"}
    assert config is not None
    assert config.shipping == Shipping("/s", 10, count_lines=True)


@pytest.mark.parametrize(("template", "text"), [
    ("{{.ImageName}}/{{.ImageID}}", "httpd:2/abababababab"), ("{{.FullID}}", ID), ("{{.Command}}", "sh -c x"),
    ("{{.Hostname}}", os.uname().nodename), ("{{.DaemonName}}", "docker"), ("{{.ContainerName}}", "/web"),
    ("{{json .ContainerArgs}}", '["-c","x"]'), ("plain", "plain"),
])
def test_tags(tmp_path: Path, template: str, text: str) -> None:
    _, order = plan.plan(container("syslog", tmp_path, tag=template), "/s")
    assert isinstance(order, SyslogOrder)
    assert order.tag == text
