"""The database file: opened, refused, migrated, backed up, restored, and what happens when its disk is full."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from scd.errors import DatabaseError
from scd.store import Database, JobStore, back_up, restore
from scd.store.reserve import Reserve
from scd.store.versions import migrations, newest

from .rows import HASH, job

pytestmark = pytest.mark.anyio

DATA = Path(__file__).resolve().parents[1] / "data"
RELEASED = sorted(DATA.glob("schema-*.db"))


async def hashes(path: Path) -> set[str]:
    """The jobs in a database, read as scdctl reads it."""
    async with await Database.open_readonly(path) as database:
        return await JobStore(database).known_hashes()


async def test_durability_is_asked_for(database: Database) -> None:
    async with database.transaction() as db:
        (synchronous,) = await db.execute_fetchall("PRAGMA synchronous")
        (mode,) = await db.execute_fetchall("PRAGMA journal_mode")
    assert (synchronous[0], mode[0]) == (2, "wal"), "a commit must have reached the disk when it returns"


async def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "scd.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DatabaseError, match=rf"was written by a newer scd \(schema 99, this one knows {newest()}\)"):
        await Database.open(tmp_path / "scd.db")


async def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    await (await Database.open(tmp_path / "scd.db")).close()
    content = bytearray((tmp_path / "scd.db").read_bytes())
    content[4096:12000] = b"\xff" * (12000 - 4096)
    (tmp_path / "scd.db").write_bytes(content)
    with pytest.raises(DatabaseError, match=r"is damaged \(.*\)\. Restore one: scdctl restore FILE"):
        await Database.open(tmp_path / "scd.db")


async def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scd.db").write_bytes(b"not a database at all" * 1000)
    with pytest.raises(
        DatabaseError, match=r"is damaged \(file is not a database\)\. Restore one: scdctl restore FILE$"
    ):
        await Database.open(tmp_path / "scd.db")
    with pytest.raises(DatabaseError, match="file is not a database"):
        await Database.open_readonly(tmp_path / "scd.db")


async def test_migrating_an_empty_file_gives_the_fresh_schema(tmp_path: Path) -> None:
    (tmp_path / "scd.db").touch()
    await (await Database.open(tmp_path / "scd.db")).close()
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
    migrated = sqlite3.connect(tmp_path / "scd.db")
    fresh = sqlite3.connect(":memory:")
    for _, script in migrations():
        fresh.executescript(script.read_text())
    assert migrated.execute(query).fetchall() == fresh.execute(query).fetchall()
    assert [version for version, _ in migrations()] == list(range(1, len(migrations()) + 1)), "no version left out"
    tables = [
        row[0] for row in fresh.execute("SELECT name FROM pragma_table_list WHERE strict = 0 AND schema = 'main'")
    ]
    assert [name for name in tables if not name.startswith("sqlite_")] == [], "a table that is not STRICT"
    migrated.close()
    fresh.close()


async def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """A table that is in the way, at the end of the script: nothing of what stands before it stays."""
    with sqlite3.connect(tmp_path / "scd.db") as connection:
        connection.execute("CREATE TABLE ledger (x)")
    connection.close()
    with pytest.raises(DatabaseError, match="table ledger already exists"):
        await Database.open(tmp_path / "scd.db")
    connection = sqlite3.connect(tmp_path / "scd.db")
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("ledger",)]
    assert connection.execute("PRAGMA user_version").fetchone() == (0,)
    connection.close()


@pytest.mark.parametrize("name", ["a b.db", "100%.db", "what?.db", "#1.db", "ü.db"])
async def test_a_file_name_is_no_url(tmp_path: Path, name: str) -> None:
    await (await Database.open(tmp_path / name)).close()
    assert await hashes(tmp_path / name) == set()


async def test_a_reader_of_another_schema_is_sent_away(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "scd.db") as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DatabaseError, match="has another schema than this version reads; start scd once to migrate it"):
        await Database.open_readonly(tmp_path / "scd.db")


async def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    for _ in range(2):
        await (await Database.open(tmp_path / "scd.db")).close()
    connection = sqlite3.connect(tmp_path / "scd.db")
    assert connection.execute("PRAGMA user_version").fetchone() == (len(migrations()),)
    connection.close()


async def test_reading_beside_a_daemon(tmp_path: Path) -> None:
    async with await Database.open(tmp_path / "scd.db") as writer:
        async with writer.transaction() as db:
            await JobStore(writer).add(db, job())
        assert await hashes(tmp_path / "scd.db") == {HASH}


# -- migrations


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, by the columns that the first schema has."""
    connection = sqlite3.connect(path)
    first = sqlite3.connect(":memory:")
    first.executescript(migrations()[0][1].read_text())
    found = {}
    for (table,) in first.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
        columns = ", ".join(f'"{row[1]}"' for row in first.execute(f"PRAGMA table_info({table})"))
        found[table] = connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2, 3").fetchall()
    connection.close()
    first.close()
    return found


@pytest.mark.parametrize("released", RELEASED, ids=lambda path: path.name)
async def test_a_database_of_each_released_schema_is_taken_over_whole(tmp_path: Path, released: Path) -> None:
    path = tmp_path / "scd.db"
    shutil.copy(released, path)
    before = content(path)
    assert all(before.values()), "the fixture should have rows in each table"
    async with await Database.open(path) as database:
        store = JobStore(database)
        jobs = await store.select(limit=100)
        assert {"completed", "failed", "canceled", "timeout", "running", "queued"} <= {str(one.state) for one in jobs}
        for one in jobs:
            assert all(attempt.lost is False for attempt in await store.attempts(one.job_hash))
            assert all(node.retries == 0 for node in await store.nodes(one.job_hash))
        assert await store.damage() == []
    assert content(path) == before
    old = released.name.removesuffix(".db")
    assert content(tmp_path / f"scd.db.{old}") == before, "the database was not backed up before it was changed"


def test_there_is_a_fixture_of_each_older_schema() -> None:
    assert [path.name for path in RELEASED] == [f"schema-{version}.db" for version in range(1, newest())]


async def test_a_migrated_database_shrinks_when_rows_go(tmp_path: Path) -> None:
    path = tmp_path / "scd.db"
    shutil.copy(RELEASED[0], path)
    async with await Database.open(path) as database:
        store = JobStore(database)
        async with database.transaction() as db:
            for number in range(300):
                await store.add(db, job(f"{number:032x}", state="completed", ended=1.0, plan=None, flow="x" * 10_000))
        await database.shrink(10_000)
        grown = path.stat().st_size
        assert grown > 3_000_000
        async with database.transaction() as db:
            for number in range(300):
                assert await store.delete(db, f"{number:032x}")
        await database.shrink(10_000)
        assert path.stat().st_size < grown / 4


# -- backups


async def test_a_backup_taken_in_use_is_restored(tmp_path: Path) -> None:
    path, kept = tmp_path / "scd.db", tmp_path / "backup"
    async with await Database.open(path) as database:
        store = JobStore(database)
        await database.write(lambda db: store.add(db, job()))
        await back_up(path, kept)
        assert kept.stat().st_mode & 0o777 == 0o600
        await database.write(lambda db: store.add(db, job("cd" * 16)))
    replaced = await restore(path, kept)
    assert await hashes(path) == {HASH}, "the restored one is the backup"
    assert replaced is not None
    assert await hashes(replaced) == {HASH, "cd" * 16}, "what was replaced is kept"
    assert not [name for name in os.listdir(tmp_path) if "restoring" in name]


async def test_a_log_of_the_replaced_database_is_not_replayed(tmp_path: Path) -> None:
    """After a crash the newest changes are in the log only: they belong to the old file."""
    path, kept, crashed = tmp_path / "scd.db", tmp_path / "backup", tmp_path / "crashed"
    async with await Database.open(path) as database:
        await back_up(path, kept)
        await database.write(lambda db: JobStore(database).add(db, job()))
        for suffix in ("", "-wal", "-shm"):
            shutil.copy(f"{path}{suffix}", f"{crashed}{suffix}")
    assert os.path.getsize(f"{crashed}-wal") > 0
    replaced = await restore(crashed, kept)
    assert await hashes(crashed) == set()
    assert replaced is not None
    assert await hashes(replaced) == {HASH}


async def test_an_older_backup_is_replaced_and_nothing_else(tmp_path: Path, database: Database) -> None:
    target = tmp_path / "there"
    await back_up(database.path, target)
    await back_up(database.path, target)
    target.write_text("my notes")
    with pytest.raises(DatabaseError, match="exists and is no backup of scd; it is left alone"):
        await back_up(database.path, target)
    assert target.read_text() == "my notes"
    with pytest.raises(DatabaseError, match="is a directory; name a file in it"):
        await back_up(database.path, tmp_path)


async def test_a_backup_that_fails_leaves_the_older_one(tmp_path: Path, database: Database) -> None:
    target = tmp_path / "gone" / "backup"
    with pytest.raises(DatabaseError, match="cannot be copied to"):
        await back_up(database.path, target)
    assert not target.exists()


@pytest.mark.parametrize("what", ["missing", "text", "other", "damaged", "newer"])
async def test_what_is_no_backup_is_not_restored(tmp_path: Path, database: Database, what: str) -> None:
    source = tmp_path / "backup"
    async with database.transaction() as db:
        for number in range(200):
            await JobStore(database).add(db, job(f"{number:032x}"))
    match what:
        case "text":
            source.write_text("not a database" * 1000)
        case "other":
            other = sqlite3.connect(source)
            other.executescript("CREATE TABLE x (y); PRAGMA user_version = 2;")
            other.close()
        case "damaged":
            await back_up(database.path, source)
            spoilt = bytearray(source.read_bytes())
            spoilt[8192:20000] = os.urandom(20000 - 8192)
            source.write_bytes(spoilt)
        case "newer":
            await back_up(database.path, source)
            ahead = sqlite3.connect(source)
            ahead.execute(f"PRAGMA user_version = {newest() + 1}")
            ahead.close()
    with pytest.raises(DatabaseError):
        await restore(database.path, source)
    assert len(await JobStore(database).known_hashes()) == 200, "the database was touched"


async def test_a_damaged_database_names_its_newest_backup(tmp_path: Path) -> None:
    path, kept = tmp_path / "scd.db", tmp_path / "nightly.db"
    await (await Database.open(path)).close()
    await back_up(path, kept)
    path.write_bytes(b"spoilt" * 3000)
    with pytest.raises(DatabaseError, match=rf"Its newest known backup: scdctl restore {kept}$"):
        await Database.open(path)
    await restore(path, kept)
    await (await Database.open(path)).close()


# -- the reserve


def test_the_reserve_is_given_up_in_slices(tmp_path: Path) -> None:
    """What filled the disk takes the first of them too."""
    reserve = Reserve(tmp_path / "reserve")
    assert reserve.hold()
    size = reserve.size
    assert (tmp_path / "reserve").stat().st_blocks * 512 >= size >= 2**20, "it is a hole, not space"
    slices = 0
    while reserve.release():
        slices += 1
        assert reserve.size < size
    assert slices == 8
    assert reserve.size == 0
    assert reserve.hold()
    assert reserve.size == size


async def test_opening_holds_the_reserve(tmp_path: Path, database: Database) -> None:
    assert database.reserve.size > 0


async def test_an_empty_file_is_not_taken_for_a_new_database(tmp_path: Path) -> None:
    """Where jobs or a backup say that there was one: it would forget them all."""
    path = tmp_path / "scd.db"
    path.touch()
    with pytest.raises(DatabaseError, match=r"is damaged \(it is empty, and was not\)"):
        await Database.open(path, expected=True)
    async with await Database.open(path):  # a first start that was killed
        pass
    await back_up(path, tmp_path / "backup.db")
    path.write_bytes(b"")
    with pytest.raises(DatabaseError, match=f"scdctl restore {tmp_path}/backup.db"):
        await Database.open(path)
