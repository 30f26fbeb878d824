"""The one sqlite database of a data root: WAL, one writer thread, one reader thread.

A transaction is a plain function of the connection that runs on one of the two threads, so that no two of them
interleave and none of them can await in the middle.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import msgspec

from barque.errors import Conflict, DataLoss, Internal
from barque.store.schema import migrate

T = TypeVar("T")

log = logging.getLogger("barque.store.db")
#: Pages in the log before its content moves into the database. Fewer than are reserved, or the log would grow.
_CHECKPOINT = 256
_RESERVED = 384


class BrokenDatabase(DataLoss):
    text = "database {path}: {reason}"


class DiskFull(Internal):
    text = "database: no space left on device"


class Database:
    """Made by :meth:`open`. Owned by the composition root; everyone else borrows it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="db-writer")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="db-reader")
        self._write_connection: sqlite3.Connection
        self._read_connection: sqlite3.Connection

    @classmethod
    async def open(cls, path: str) -> Database:
        """Open or make the database and migrate it; raises :class:`BrokenDatabase`, NewerDatabase, OSError."""
        database = cls(path)
        loop = asyncio.get_running_loop()
        try:
            database._write_connection = await loop.run_in_executor(database._writer, _connect, path, True)
            database._read_connection = await loop.run_in_executor(database._reader, _connect, path, False)
        except BaseException as error:
            database._writer.shutdown()
            database._reader.shutdown()
            if isinstance(error, sqlite3.DatabaseError):
                raise BrokenDatabase(path=path, reason=error) from error
            raise
        return database

    async def write(self, fn: Callable[[sqlite3.Connection], T], *, durable: bool = True) -> T:
        """Run ``fn`` in one transaction on the writer thread; on return it is durable. An exception rolls it back.

        Without ``durable`` it survives the end of this process, but a power cut only once a later durable transaction,
        or :meth:`sync`, has returned: an fsync takes longer than all else. The order is kept either way.
        Small changes succeed on a full disk too (:func:`_reserve`); others raise :class:`DiskFull`. Cancelling the
        caller does not cancel the transaction: it happens whole or not at all.
        """
        return await asyncio.get_running_loop().run_in_executor(
            self._writer, _transaction if durable else _fast_transaction, self._write_connection, "BEGIN IMMEDIATE", fn)

    async def sync(self) -> None:
        """Make durable what was written before."""
        await asyncio.to_thread(_sync, f"{self.path}-wal")

    async def read(self, fn: Callable[[sqlite3.Connection], T]) -> T:
        """Run ``fn`` on the reader thread over one consistent state, which has all writes that have returned."""
        return await asyncio.get_running_loop().run_in_executor(
            self._reader, _transaction, self._read_connection, "BEGIN", fn)

    async def close(self) -> None:
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader, self._read_connection.close)
        await loop.run_in_executor(self._writer, self._write_connection.close)
        self._reader.shutdown()
        self._writer.shutdown()


def _connect(path: str, writer: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    try:
        if writer:
            connection.execute("PRAGMA journal_mode = WAL")
            # FULL: fsync of the log at each commit. NORMAL would lose the last transactions in a power cut.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT}")
            migrate(connection)
            _reserve(connection)
        else:
            connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection


def _fast_transaction(connection: sqlite3.Connection, begin: str, fn: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute("PRAGMA synchronous = NORMAL")
    try:
        return _transaction(connection, begin, fn)
    finally:
        connection.execute("PRAGMA synchronous = FULL")


def _sync(path: str) -> None:
    """Of the log alone: sqlite's locks are on the other files, and closing a descriptor of those would drop them."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fdatasync(fd)
    finally:
        os.close(fd)


def _reserve(connection: sqlite3.Connection) -> None:
    """Have room on the disk for the changes that make room: to remove something is a transaction too.

    The log keeps the blocks that it had once, and pages of a dropped table stay with the database. Both last until it
    is closed, so that this is done at each start.
    """
    size, = connection.execute("PRAGMA page_size").fetchone()
    try:
        connection.execute("CREATE TABLE IF NOT EXISTS reserve (room BLOB)")
        connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (_RESERVED * size,))
        connection.execute("PRAGMA wal_checkpoint(RESTART)")
    except sqlite3.OperationalError as error:
        log.warning("no room to reserve for the database: %s", error)
    try:
        connection.execute("DROP TABLE IF EXISTS reserve")
    except sqlite3.OperationalError as error:
        log.warning("the reserve of the database stays a table until the next start: %s", error)


def _transaction(connection: sqlite3.Connection, begin: str, fn: Callable[[sqlite3.Connection], T]) -> T:
    connection.execute(begin)
    try:
        result = fn(connection)
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise DiskFull() from error
        raise
    return result


class NameTaken(Conflict):
    """``fields``: name, holder (the id of the document that has the name)."""

    text = "name {name!r} is already in use by {holder}"

    @property
    def holder(self) -> str:
        return str(self.fields["holder"])


class Documents(Generic[T]):
    """A table of JSON documents: ``id`` is the key, ``name`` unique where given. ``kind`` is a msgspec.Struct."""

    _TABLES = frozenset({"containers", "volumes", "networks"})

    def __init__(self, db: Database, table: str, kind: type[T]) -> None:
        if table not in self._TABLES:
            raise ValueError(f"no table of documents: {table}")
        self._db = db
        self._table = table
        self._encode = msgspec.json.Encoder().encode
        self._decode = msgspec.json.Decoder(kind).decode

    async def put(self, id: str, name: str | None, document: T, *, durable: bool = True,
                  instead_of: str | None = None) -> None:
        """Insert or replace the document ``id``, and remove the one that it is ``instead_of`` in the same step.

        Raises :class:`NameTaken` where another one has the name.
        """
        data = self._encode(document)

        def put(connection: sqlite3.Connection) -> None:
            if instead_of is not None:
                connection.execute(f"DELETE FROM {self._table} WHERE id = ?", (instead_of,))  # noqa: S608
            holder = connection.execute(
                f"SELECT id FROM {self._table} WHERE name = ? AND id != ?", (name, id)).fetchone()  # noqa: S608
            if holder:
                raise NameTaken(name=name, holder=holder[0])
            connection.execute(
                f"INSERT INTO {self._table} VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE "  # noqa: S608
                "SET name = excluded.name, document = excluded.document", (id, name, data))

        await self._db.write(put, durable=durable)

    async def get(self, id: str) -> T | None:
        row = await self._db.read(lambda connection: connection.execute(
            f"SELECT document FROM {self._table} WHERE id = ?", (id,)).fetchone())  # noqa: S608
        return self._decode(row[0]) if row else None

    async def delete(self, id: str, *, durable: bool = True) -> None:
        """Remove the document; nothing happens where there is none."""
        await self._db.write(lambda connection: connection.execute(
            f"DELETE FROM {self._table} WHERE id = ?", (id,)), durable=durable)  # noqa: S608

    async def sync(self) -> None:
        """See :meth:`Database.sync`."""
        await self._db.sync()

    async def all(self) -> list[tuple[str, T]]:
        """All documents with their ids, ordered by id."""
        rows = await self._db.read(lambda connection: connection.execute(
            f"SELECT id, document FROM {self._table} ORDER BY id").fetchall())  # noqa: S608
        return [(id, self._decode(document)) for id, document in rows]
