"""The tables of ``meta.db``. Digests are text (``sha256:<hex>``), times are nanoseconds since 1970, sizes bytes.

A migration is never edited once released: add one at the end.
"""

from __future__ import annotations

import sqlite3

from barque.errors import Unsupported

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE blobs (
        digest TEXT PRIMARY KEY, size INTEGER NOT NULL, media_type TEXT NOT NULL, created INTEGER NOT NULL,
        labels TEXT NOT NULL DEFAULT '{}'
    ) WITHOUT ROWID;
    -- One row per directory snapshots/<id>. kind: 'layer' (key is the chain id) or 'container' (key is its id).
    -- cut: the root of this layer is opaque, so that nothing below it shows.
    CREATE TABLE snapshots (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, parent TEXT, diff_id TEXT,
        size INTEGER NOT NULL DEFAULT 0, created INTEGER NOT NULL, cut INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX snapshots_parent ON snapshots (parent);
    CREATE TABLE images (
        name TEXT PRIMARY KEY, digest TEXT NOT NULL, descriptor TEXT NOT NULL, updated INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX images_digest ON images (digest);
    CREATE TABLE leases (id TEXT PRIMARY KEY, why TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;
    -- kind: 'blob' (digest) or 'snapshot' (key).
    CREATE TABLE lease_items (
        lease TEXT NOT NULL REFERENCES leases (id) ON DELETE CASCADE, kind TEXT NOT NULL, item TEXT NOT NULL,
        PRIMARY KEY (lease, kind, item)
    ) WITHOUT ROWID;
    CREATE TABLE containers (id TEXT PRIMARY KEY, name TEXT UNIQUE, document BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE volumes (id TEXT PRIMARY KEY, name TEXT UNIQUE, document BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE networks (id TEXT PRIMARY KEY, name TEXT UNIQUE, document BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE kv (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    """,
    # The boot of the machine under which a layer was unpacked, until its files are known to be on the disk.
    "ALTER TABLE snapshots ADD COLUMN unsynced TEXT",
    """
    -- What a build step made. key: over the state before it and all that it depends on. layer is '' for a step that
    -- changed no files; description is for people. kind: 'step', or 'mount' for a shared cache directory, whose key is
    -- its id and whose snapshot is the container row of that name.
    CREATE TABLE build_cache (
        key TEXT PRIMARY KEY, kind TEXT NOT NULL, parent TEXT NOT NULL, description TEXT NOT NULL,
        layer TEXT NOT NULL DEFAULT '', media_type TEXT NOT NULL DEFAULT '', packed INTEGER NOT NULL DEFAULT 0,
        diff_id TEXT NOT NULL DEFAULT '', chain_id TEXT NOT NULL DEFAULT '', size INTEGER NOT NULL DEFAULT 0,
        created INTEGER NOT NULL, used INTEGER NOT NULL, uses INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    """,
    """
    -- state, text and parts say what the key of a step was made of, so that a build can tell why it missed another one.
    ALTER TABLE build_cache ADD COLUMN state TEXT NOT NULL DEFAULT '';
    ALTER TABLE build_cache ADD COLUMN text TEXT NOT NULL DEFAULT '';
    ALTER TABLE build_cache ADD COLUMN parts TEXT NOT NULL DEFAULT '';
    -- The builds of the past, oldest first. log: the output of the steps, packed.
    CREATE TABLE builds (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, document BLOB NOT NULL, log BLOB NOT NULL
    );
    """,
)


class NewerDatabase(Unsupported):
    text = "the database has schema version {found}, this version knows up to {known}: use a newer barque"


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables to the newest version, each step in one transaction. Raises :class:`NewerDatabase`."""
    connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)")
    row = connection.execute("SELECT version FROM schema_version").fetchone()
    if row is None:
        connection.execute("INSERT INTO schema_version VALUES (0)")
    version = row[0] if row else 0
    if version > len(MIGRATIONS):
        raise NewerDatabase(found=version, known=len(MIGRATIONS))
    for number in range(version, len(MIGRATIONS)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(MIGRATIONS[number]):
                connection.execute(statement)
            connection.execute("UPDATE schema_version SET version = ?", (number + 1,))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _statements(script: str) -> list[str]:
    """Split a script; ``executescript`` would commit the transaction that it runs in."""
    lines = (line for line in script.splitlines() if not line.lstrip().startswith("--"))
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]
