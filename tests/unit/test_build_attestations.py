"""What is found in package databases, and the documents made of it."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import struct

from hypothesis import given
from hypothesis import strategies as st

from barque.build.attest import provenance, spdx
from barque.build.history import BuildRecord
from barque.oci.descriptor import Descriptor
from barque.oci.platform import Platform
from barque.store.place import packages
from barque.store.place.messages import Package
from barque.store.place.sqlite_table import Damaged, rows

DPKG = b"""Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u4
Description: C library
 Package: not-a-field

Package: gone
Status: deinstall ok config-files
Version: 1
"""
APK = b"C:Q1\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\no:musl\n\nP:zlib\nV:1.3-r0\n"


def rpm_header(fields: dict[int, str | int]) -> bytes:
    """An immutable-region-free header (rpm's header format: index entries, then the store)."""
    index, store = b"", b""
    for tag, value in fields.items():
        kind = 4 if isinstance(value, int) else 6
        store += b"\0" * (-len(store) % 4) if kind == 4 else b""
        index += struct.pack(">IIII", tag, kind, len(store), 1)
        store += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">II", len(fields), len(store)) + index + store


def database(blobs: list[bytes]) -> bytes:
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE TABLE Packages (hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB NOT NULL)")
        connection.executemany("INSERT INTO Packages (blob) VALUES (?)", [(blob,) for blob in blobs])
        connection.commit()
        return connection.serialize()
    finally:
        connection.close()


def test_databases_of_distributions() -> None:
    assert list(packages.dpkg(DPKG, "debian")) == [
        Package("deb", "libc6", "2.36-9+deb12u4", "amd64", "debian", source="glibc")]
    assert list(packages.apk(APK, "")) == [
        Package("apk", "musl", "1.2.4-r2", "x86_64", "alpine", "MIT", "musl"),
        Package("apk", "zlib", "1.3-r0", "", "alpine")]
    header = rpm_header({1000: "bash", 1001: "5.2", 1002: "1.fc40", 1003: 2, 1014: "GPL-3.0", 1022: "x86_64"})
    assert list(packages.rpm(database([header, b"short", rpm_header({1000: "gpg-pubkey"})]), "fedora")) == [
        Package("rpm", "bash", "2:5.2-1.fc40", "x86_64", "fedora", "GPL-3.0")]
    metadata = b"Metadata-Version: 2.1\nName: Zope.Interface\nVersion: 6.0\nLicense: ZPL\n\nName: x"
    assert list(packages.python(metadata)) == [
        Package("pypi", "zope-interface", "6.0", license="ZPL")]
    assert list(packages.node(b'{"name": "@a/b", "version": "1.0.0", "license": "MIT"}')) == [
        Package("npm", "@a/b", "1.0.0", license="MIT")]
    assert list(packages.node(b"[" * 100_000)) == []


def test_tables_of_sqlite() -> None:
    source = random.Random(7)
    blobs = [source.randbytes(source.choice([0, 1, 50, 4061, 4062, 9000])) for _ in range(400)]
    data = database(blobs)
    assert [row[1] for row in rows(data, "Packages")] == blobs
    assert list(rows(data, "None")) == []


@given(st.integers(0, 40_000), st.binary(min_size=1, max_size=8))
def test_damaged_databases_end(position: int, junk: bytes) -> None:
    data = bytearray(database([os.urandom(600)] * 40))
    position %= len(data)
    data[position:position + len(junk)] = junk
    try:
        assert len(list(rows(bytes(data), "Packages"))) < 100_000
    except Damaged:
        pass


def test_package_urls() -> None:
    assert [spdx.locator(package) for package in (
        Package("deb", "libc6", "1:2+x", "amd64", "debian"), Package("pypi", "a", "1"), Package("npm", "@a/b", "1"),
        Package("apk", "x", "", "", "alpine"))] == [
        "pkg:deb/debian/libc6@1%3A2%2Bx?arch=amd64", "pkg:pypi/a@1", "pkg:npm/%40a/b@1", "pkg:apk/alpine/x"]


def test_a_bill_of_materials_is_sound_and_the_same_twice() -> None:
    found = [Package("deb", "g++", "1"), Package("deb", "g--", "1"), Package("pypi", "a", "2", license="MIT")]
    digest = "sha256:" + "a" * 64
    document = spdx.document("pkg:docker/x@1", digest, found, "2026-01-01T00:00:00Z", "barque-1")
    assert document == spdx.document("pkg:docker/x@1", digest, found, "2026-01-01T00:00:00Z", "barque-1")
    ids = [item["SPDXID"] for item in document["packages"]]
    assert len(set(ids)) == 4 and all(text.startswith("SPDXRef-") for text in ids)
    related = {(link["spdxElementId"], link["relatedSpdxElement"]) for link in document["relationships"]}
    assert related == {("SPDXRef-DOCUMENT", ids[0]), *((ids[0], other) for other in ids[1:])}


def test_provenance_says_less_where_less_is_wanted() -> None:
    record = BuildRecord(id="i", started=5, dockerfile="Dockerfile", arguments={"TOKEN": "secret"}, platform="linux/x")
    base = Descriptor(media_type="m", digest="sha256:" + "b" * 64, size=1,
                      platform=Platform(os="linux", architecture="arm64"))
    source = provenance.Source("FROM busybox\n", "")
    least = provenance.predicate(record, source, {"busybox": base}, "min", "urn:x", 9)
    assert "secret" not in json.dumps(least)
    assert least["buildDefinition"]["resolvedDependencies"] == [
        {"uri": "pkg:docker/busybox@latest?platform=linux%2Farm64", "digest": {"sha256": "b" * 64}}]
    most = provenance.predicate(record, source, {}, "max", "urn:x", 9)
    assert most["buildDefinition"]["externalParameters"]["request"]["args"] == {"TOKEN": "secret"}
    assert most["buildDefinition"]["internalParameters"]["dockerfile"] == "FROM busybox\n"
