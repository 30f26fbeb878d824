"""Layout, database, documents and leases on a real directory."""

from __future__ import annotations

import asyncio
import sqlite3
import stat
from pathlib import Path

import msgspec
import pytest

from barque.errors import DataLoss
from barque.store.db import Database, Documents, NameTaken
from barque.store.layout import BrokenLayout, Layout, NewerLayout, RootInUse
from barque.store.leases import Leases
from barque.store.locks import KeyedLocks
from barque.store.schema import MIGRATIONS, NewerDatabase


class Thing(msgspec.Struct):
    value: int


def test_layout_is_private_and_locked(tmp_path: Path) -> None:
    layout = Layout.open(str(tmp_path / "root"))
    assert stat.S_IMODE((tmp_path / "root").stat().st_mode) == 0o710
    assert stat.S_IMODE(Path(layout.blobs).stat().st_mode) == 0o700
    with pytest.raises(RootInUse, match=r"in use by the process with the id [0-9]+"):
        Layout.open(str(tmp_path / "root"))
    layout.close()
    Layout.open(str(tmp_path / "root")).close()


def test_layout_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    Layout.open(str(tmp_path)).close()
    (tmp_path / "version").write_text("99\n")
    with pytest.raises(NewerLayout):
        Layout.open(str(tmp_path))
    (tmp_path / "version").write_text("")
    with pytest.raises(BrokenLayout):
        Layout.open(str(tmp_path))
    (tmp_path / "version").write_text("1\n")
    Layout.open(str(tmp_path)).close()  # a refusal does not keep the lock


async def test_transaction_is_whole_or_absent(tmp_path: Path) -> None:
    db = await Database.open(str(tmp_path / "meta.db"))

    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO kv VALUES ('a', 'b')")
        raise ValueError("stop")

    with pytest.raises(ValueError, match="stop"):
        await db.write(half)
    assert await db.read(lambda c: c.execute("SELECT count(*) FROM kv").fetchone()[0]) == 0
    await db.write(lambda c: c.execute("INSERT INTO kv VALUES ('a', 'b')"))
    assert await db.read(lambda c: c.execute("SELECT count(*) FROM kv").fetchone()[0]) == 1
    with pytest.raises(sqlite3.OperationalError):
        await db.read(lambda c: c.execute("DELETE FROM kv"))
    await db.close()


async def test_commits_are_synchronous(tmp_path: Path) -> None:
    db = await Database.open(str(tmp_path / "meta.db"))
    # A pragma inside a transaction still answers: 2 is FULL.
    assert await db.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0]) == 2
    assert await db.write(lambda c: c.execute("PRAGMA journal_mode").fetchone()[0]) == "wal"
    await db.close()


async def test_commits_that_need_not_be_durable_do_not_change_those_that_must(tmp_path: Path) -> None:
    db = await Database.open(str(tmp_path / "meta.db"))
    documents = Documents(db, "volumes", Thing)
    assert await db.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0], durable=False) == 1
    await documents.put("1", "one", Thing(1), durable=False)
    assert await documents.get("1") == Thing(1)
    with pytest.raises(NameTaken):
        await documents.put("2", "one", Thing(2), durable=False)
    await db.sync()
    assert await db.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0]) == 2
    await documents.delete("1", durable=False)
    assert await documents.get("1") is None
    await db.close()


async def test_newer_and_broken_databases_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "meta.db"
    db = await Database.open(str(path))
    await db.write(lambda c: c.execute("UPDATE schema_version SET version = ?", (len(MIGRATIONS) + 1,)))
    await db.close()
    with pytest.raises(NewerDatabase):
        await Database.open(str(path))
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(DataLoss, match="not a database"):
        await Database.open(str(path))


async def test_documents(tmp_path: Path) -> None:
    db = await Database.open(str(tmp_path / "meta.db"))
    things = Documents(db, "containers", Thing)
    await things.put("1", "one", Thing(1))
    await things.put("2", None, Thing(2))
    await things.put("3", None, Thing(3))
    await things.put("1", "uno", Thing(11))
    assert await things.get("1") == Thing(11)
    assert await things.get("9") is None
    with pytest.raises(NameTaken) as caught:
        await things.put("2", "uno", Thing(2))
    assert caught.value.holder == "1"
    await things.delete("1")
    await things.delete("1")
    assert await things.all() == [("2", Thing(2)), ("3", Thing(3))]
    with pytest.raises(ValueError, match="no table"):
        Documents(db, "blobs; DROP TABLE kv", Thing)
    await db.close()


async def test_lease_lives_as_long_as_its_block(tmp_path: Path) -> None:
    db = await Database.open(str(tmp_path / "meta.db"))
    leases = Leases(db)

    def count(table: str) -> object:
        return db.read(lambda c: c.execute(f"SELECT count(*) FROM {table}").fetchone()[0])

    with pytest.raises(RuntimeError, match="inside"):
        async with leases.hold("test") as lease:
            await db.write(lambda c: lease.add(c, "blob", "sha256:x"))
            assert await count("lease_items") == 1
            raise RuntimeError("inside")
    assert (await count("leases"), await count("lease_items")) == (0, 0)
    holder = leases.hold("never left")
    await holder.__aenter__()
    assert await leases.expire_all() == 1
    await holder.__aexit__(None, None, None)
    await db.close()


async def test_keyed_locks_forget_keys_and_survive_cancelling() -> None:
    locks = KeyedLocks()
    await locks.acquire("a")
    waiter = asyncio.ensure_future(locks.acquire("a"))
    other = asyncio.ensure_future(locks.acquire("a"))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert not other.done()
    locks.release("a")
    await other
    locks.release("a")
    assert locks._locks == {}
