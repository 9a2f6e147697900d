"""The store over real SQLite: guarded changes, an event for each, charges once, durable and whole."""

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from scd.errors import BadRequest, Outdated
from scd.model import Job, NodeKey, PlanNode, attempt_name
from scd.states import JOB_TRANSITIONS, NODE_TRANSITIONS, JobState, NodeState
from scd.store import JobStore, UsageStore, jobs

from .rows import HASH, attempt, job

pytestmark = pytest.mark.anyio

J, N = JobState, NodeState


async def add(store: JobStore, *nodes: str, state: JobState = J.RUNNING) -> None:
    async with store.database.transaction() as db:
        await store.add(db, job())
        for step in (J.PREPARING, J.RUNNING):
            if state in (J.PREPARING, J.RUNNING) and step in (J.PREPARING, state):
                await store.move(db, HASH, step)
        planned = [PlanNode(name, "0", 0, N.PENDING, ()) for name in nodes]
        await store.set_plan(db, HASH, b"{}", planned, {one.key: 2 for one in planned})


async def test_a_job_comes_back_as_it_was(store: JobStore) -> None:
    wanted = job(reason="x", state=J.REJECTED, ended=3.5)
    async with store.database.transaction() as db:
        await store.add(db, wanted)
    assert await store.job(HASH) == wanted
    assert await store.job("cd" * 16) is None


@pytest.mark.parametrize("target", list(J))
@pytest.mark.parametrize("source", [J.QUEUED, J.PREPARING, J.RUNNING, J.COMPLETED, J.CANCELED])
async def test_only_allowed_changes_happen(store: JobStore, source: JobState, target: JobState) -> None:
    async with store.database.transaction() as db:
        await store.add(db, job(state=source, ended=1.0 if source.ended else None))
        moved = await store.move(db, HASH, target, "because")
    found = await store.job(HASH)
    assert found is not None
    allowed = target in JOB_TRANSITIONS[source]
    assert moved == allowed
    assert found.state == (target if allowed else source)
    assert (found.ended is not None) == found.state.ended


async def test_every_change_leaves_an_event(store: JobStore) -> None:
    await add(store, "syn")
    async with store.database.transaction() as db:
        (node,) = await store.nodes(HASH, db)
        await store.claim_nodes(db, [attempt()])
        assert await store.move_node(db, HASH, node.key, N.ERROR, "it broke")
        assert not await store.move_node(db, HASH, node.key, N.RUNNING), "an ended node does not run again"
    events = [(event.step, event.old, event.new, event.reason) for event in await store.events(HASH)]
    assert events == [
        ("", None, "queued", ""), ("", "queued", "preparing", ""), ("", "preparing", "running", ""),
        ("syn", None, "pending", ""), ("syn", "pending", "queued", ""), ("syn", "queued", "error", "it broke"),
    ]  # fmt: skip
    assert all(abs(event.at - time.time()) < 60 for event in await store.events(HASH))


async def test_a_node_is_claimed_once(store: JobStore) -> None:
    await add(store, "syn")
    async with store.database.transaction() as db:
        await store.claim_nodes(db, [attempt()])
        with pytest.raises(Outdated):
            await store.claim_nodes(db, [attempt("a2", number=2)])
    assert [one.name for one in await store.attempts(HASH)] == ["a1"]


async def test_nodes_are_claimed_together_or_not_at_all(store: JobStore) -> None:
    await add(store, "syn", "place")
    async with store.database.transaction() as db:
        await store.claim_nodes(db, [attempt("a1", step="place")])

    async def claim_both() -> None:
        async with store.database.transaction() as db:
            await store.claim_nodes(db, [attempt("a2"), attempt("a3", step="place")])

    with pytest.raises(Outdated, match="1 of 2 rows"):
        await claim_both()
    assert [one.state for one in await store.nodes(HASH)] == [N.PENDING, N.QUEUED]
    assert [one.name for one in await store.attempts(HASH)] == ["a1"]


async def test_nodes_move_together_or_not_at_all(store: JobStore) -> None:
    await add(store, "syn", "place")
    async with store.database.transaction() as db:
        await store.claim_nodes(db, [attempt()])
    with pytest.raises(Outdated):
        async with store.database.transaction() as db:
            await store.move_nodes(db, HASH, [NodeKey("syn", "0"), NodeKey("place", "0")], N.SUBMITTED)
    assert [one.state for one in await store.nodes(HASH)] == [N.QUEUED, N.PENDING]
    async with store.database.transaction() as db:
        await store.move_nodes(db, HASH, [NodeKey("syn", "0")], N.SUBMITTED)
        await store.submit_attempts(db, {"a1": "17"})
    assert [one.state for one in await store.nodes(HASH)] == [N.SUBMITTED, N.PENDING]
    assert [one.handle for one in await store.attempts(HASH)] == ["17"]


async def test_an_attempt_is_charged_once(store: JobStore) -> None:
    await add(store, "syn")
    ended = attempt(ended=time.time(), elapsed=5.0, state=N.SUCCESS)
    async with store.database.transaction() as db:
        await store.add_attempt(db, attempt())
        assert await store.end_attempt(db, ended)
        assert not await store.end_attempt(db, ended), "it ended twice"
        await store.add_attempt(db, attempt("p", step="", number=1))
        assert await store.end_attempt(db, attempt("p", step="", ended=time.time(), elapsed=9.0, state=N.SUCCESS))
    usage = await UsageStore(store.database).current(["alice"], 0, 100)
    assert usage.core_seconds == 28.0, "elapsed x cores, of a preparation too"
    assert usage.unfinished_jobs == 1


async def test_a_live_node_counts_as_it_runs(store: JobStore) -> None:
    await add(store, "syn")
    async with store.database.transaction() as db:
        await store.add_attempt(db, attempt())
        assert await store.end_attempt(db, attempt(ended=time.time(), elapsed=5.0, state=N.SUCCESS))
    assert (await UsageStore(store.database).current(["alice"], 0, 100, running=7.0)).core_seconds == 17.0


async def test_downloads_count_and_outlive_the_job(store: JobStore) -> None:
    async with store.database.transaction() as db:
        await store.add(db, job(state=J.COMPLETED, ended=1.0))
        await UsageStore(store.database).charge_download(db, "alice", HASH, 1000, 0.5)
        assert await store.delete(db, HASH)
    usage = await UsageStore(store.database).current(["alice"], 0, 100)
    assert usage.result_bytes == 1000, "a delete refunds nothing"


async def test_a_deleted_job_leaves_its_tombstone_alone(store: JobStore) -> None:
    async with store.database.transaction() as db:
        await store.add(db, job(state=J.FAILED, ended=1.0, reason="why"))
        assert await store.delete(db, HASH)
    tombstone = await store.tombstone(HASH)
    assert tombstone is not None
    assert (tombstone.user, tombstone.state, tombstone.reason) == ("alice", J.FAILED, "why")
    assert await store.job(HASH) is None
    assert await store.events(HASH) == []


async def test_an_unfinished_job_is_not_deleted(store: JobStore) -> None:
    await add(store)
    async with store.database.transaction() as db:
        assert not await store.delete(db, HASH)
        assert not await store.delete(db, "cd" * 16), "it was never a job"
    assert await store.job(HASH) is not None
    assert await store.tombstone(HASH) is None, "buried alive"


async def test_a_delete_takes_all_that_hung_on_the_job(store: JobStore) -> None:
    await add(store, "syn")
    async with store.database.transaction() as db:
        await store.add_attempt(db, attempt())
        await store.move(db, HASH, J.FAILED)
        assert await store.delete(db, HASH)
        for table in ("jobs", "nodes", "attempts", "events"):
            (row,) = await db.execute_fetchall(f"SELECT count(*) FROM {table}")
            assert row[0] == 0, table


@pytest.mark.parametrize("target", list(N))
@pytest.mark.parametrize("source", list(N))
async def test_only_allowed_changes_of_nodes_happen(store: JobStore, source: NodeState, target: NodeState) -> None:
    await add(store)
    async with store.database.transaction() as db:
        planned = [PlanNode("syn", "0", 0, source, ())]
        await store.set_plan(db, HASH, b"{}", planned, {planned[0].key: 1})
        before = len(list(await db.execute_fetchall("SELECT id FROM events")))
        moved = await store.move_node(db, HASH, planned[0].key, target, "because")
        (node,) = await store.nodes(HASH, db)
        after = len(list(await db.execute_fetchall("SELECT id FROM events")))
    assert moved == (target in NODE_TRANSITIONS[source])
    assert (node.state, node.reason) == ((target, "because") if moved else (source, ""))
    assert after - before == moved, "an event for each change, and for nothing else"


async def test_a_job_that_is_not_there_does_not_change(store: JobStore) -> None:
    async with store.database.transaction() as db:
        assert not await store.move(db, HASH, J.PREPARING)
        assert not await store.move_node(db, HASH, NodeKey("syn", "0"), N.QUEUED)
        assert not await store.ask_cancel(db, HASH, "x")
        assert not await store.resume(db, HASH, "flow", "default", "d")


async def test_a_cancel_is_asked_for_once_and_only_of_an_unfinished_job(store: JobStore) -> None:
    await add(store)
    async with store.database.transaction() as db:
        assert await store.ask_cancel(db, HASH, "by its user")
        assert not await store.ask_cancel(db, HASH, "again")
        await store.move(db, HASH, J.CANCELED, "by its user")
        assert not await store.ask_cancel(db, HASH, "too late")
    found = await store.job(HASH)
    assert found is not None
    assert found.cancel_reason == "by its user"


async def test_times_of_a_job(store: JobStore) -> None:
    """The first preparation is the start, also of a job that is resumed later."""
    async with store.database.transaction() as db:
        await store.add(db, job())
        await store.move(db, HASH, J.PREPARING)
        (first,) = await db.execute_fetchall("SELECT started, ended FROM jobs")
        await store.move(db, HASH, J.FAILED)
        (ended,) = await db.execute_fetchall("SELECT ended FROM jobs")
        await store.resume(db, HASH, "flow", "default", "d")
        await store.move(db, HASH, J.PREPARING)
    found = await store.job(HASH)
    assert found is not None
    assert abs(first["started"] - time.time()) < 60
    assert first["ended"] is None
    assert ended["ended"] >= first["started"]
    assert (found.started, found.ended) == (first["started"], None)


async def test_an_attempt_keeps_its_first_start_and_its_last_usage(store: JobStore) -> None:
    await add(store, "syn")
    async with store.database.transaction() as db:
        await store.add_attempt(db, attempt())
        await store.start_attempt(db, "a1", 100.0)
        await store.start_attempt(db, "a1", 200.0)
        await store.end_attempt(db, attempt(
            started=300.0, ended=400.0, elapsed=250.0, state=N.ERROR, reason="it broke", exit_code=-9,
            cpu_seconds=7.5, peak_bytes=2**33, read_bytes=1, written_bytes=2, archive="1.1.tar.gz",
        ))  # fmt: skip
    (found,) = await store.attempts(HASH)
    assert found == attempt(
        queued=found.queued, started=100.0, ended=400.0, elapsed=250.0, state=N.ERROR, reason="it broke",
        exit_code=-9, cpu_seconds=7.5, peak_bytes=2**33, read_bytes=1, written_bytes=2, archive="1.1.tar.gz",
    )  # fmt: skip


async def test_the_newest_archive_of_a_node_is_served(store: JobStore) -> None:
    await add(store, "syn")
    key = NodeKey("syn", "0")
    assert await store.archive(HASH, key) is None
    async with store.database.transaction() as db:
        for number, archive in [(1, "1.1.tar.gz"), (2, "1.2.tar.gz"), (3, None)]:
            await store.add_attempt(db, attempt(f"a{number}", number=number))
            await store.end_attempt(
                db, attempt(f"a{number}", number=number, ended=1.0, elapsed=0.0, state=N.ERROR, archive=archive)
            )
    assert await store.archive(HASH, key) == "1.2.tar.gz"
    assert await store.archive(HASH, NodeKey("", "")) is None


async def test_a_job_is_found_by_the_begin_of_its_hash(store: JobStore) -> None:
    hashes = ["ab" + "0" * 30, "ab" + "1" * 30, "ab" + "2" * 30, "cd" + "0" * 30]
    async with store.database.transaction() as db:
        for number, found in enumerate(hashes):
            await store.add(db, job(found, created=float(number), user="bob" if number == 3 else "alice"))
    assert await store.matching("cd", None, 2) == [hashes[3]]
    assert len(await store.matching("ab", None, 2)) == 2, "two are enough to know that it is not unique"
    for nothing in ("ef", "%", "_", "*", "ab%", "a?"):
        assert await store.matching(nothing, None, 2) == [], nothing
    assert await store.known_hashes() == set(hashes)
    assert [found.job_hash for found in await store.select(limit=2)] == [hashes[3], hashes[2]]
    assert [found.job_hash for found in await store.select(users=["alice"], limit=9)] == [
        hashes[2],
        hashes[1],
        hashes[0],
    ]


async def test_unfinished_jobs_come_oldest_first(store: JobStore) -> None:
    async with store.database.transaction() as db:
        for number, state in enumerate([J.RUNNING, J.COMPLETED, J.QUEUED, J.REJECTED]):
            created = 100.0 - number
            await store.add(db, job(f"{number}" * 32, state=state, created=created, ended=1.0 if state.ended else None))
    assert [found.job_hash[0] for found in await store.unfinished()] == ["2", "0"]


async def test_a_resume_keeps_numbers_and_attempts(store: JobStore) -> None:
    await add(store, "a", "b")
    async with store.database.transaction() as db:
        a, _ = await store.nodes(HASH, db)
        await store.claim_nodes(db, [attempt(attempt_name(HASH, 1, 1), step="a")])
        await store.move_node(db, HASH, a.key, N.SUCCESS)
        assert not await store.resume(db, HASH, "flow", "default", "d2"), "it has not ended"
        await store.move(db, HASH, J.FAILED)
        assert await store.resume(db, HASH, "flow", "default", "d2")
        planned = [PlanNode("c", "0", 0, N.PENDING, ()), PlanNode("a", "0", 1, N.SUCCESS, ())]
        await store.set_plan(db, HASH, b"{}", planned, {one.key: 1 for one in planned})
    found = await store.job(HASH)
    assert found is not None
    assert (found.state, found.generation, found.ended, found.digest) == (J.QUEUED, 2, None, "d2")
    nodes = {one.step: (one.n, one.state, one.attempt) for one in await store.nodes(HASH)}
    assert nodes == {"a": (1, N.SUCCESS, 1), "c": (3, N.PENDING, 0)}, "b is no part of the run any more"


async def test_a_node_that_was_left_out_for_a_while_keeps_its_number_and_its_attempts(store: JobStore) -> None:
    """A resume to an earlier step drops it, the next one has it again: its old name is in the journal already."""
    await add(store, "a", "b")
    async with store.database.transaction() as db:
        _, b = await store.nodes(HASH, db)
        await store.claim_nodes(db, [attempt(attempt_name(HASH, b.n, 1), step="b")])
        await store.move_node(db, HASH, b.key, N.SUCCESS)
        for steps in (["a"], ["a", "c"], ["a", "b", "c"]):
            planned = [PlanNode(step, "0", 0, N.PENDING, ()) for step in steps]
            await store.set_plan(db, HASH, b"{}", planned, {one.key: 1 for one in planned})
        nodes = {one.step: one for one in await store.nodes(HASH, db)}
        assert {step: (one.n, one.attempt) for step, one in nodes.items()} == {"a": (1, 0), "b": (2, 1), "c": (3, 0)}
        again = attempt(attempt_name(HASH, 2, 2), step="b", number=2)
        await store.claim_nodes(db, [again])


async def test_a_job_that_cannot_go_on_is_ended_whole(store: JobStore) -> None:
    await add(store, "a", "b")
    async with store.database.transaction() as db:
        await store.claim_nodes(db, [attempt(attempt_name(HASH, 1, 1), step="a")])
        await store.fail(db, HASH, "nonsense")
    found = await store.job(HASH)
    assert found is not None
    assert (found.state, found.reason) == (J.FAILED, "nonsense")
    assert {one.step: one.state for one in await store.nodes(HASH)} == {"a": N.ERROR, "b": N.PENDING}
    assert [(one.state, one.reason) for one in await store.attempts(HASH)] == [(N.ERROR, "nonsense")]


async def test_a_retry_is_known_until_it_was_answered(store: JobStore) -> None:
    async with store.database.transaction() as db:
        await store.add(db, job(created=1000.0))
    assert await store.retried("d", "alice", 900) == HASH
    assert await store.retried("d", "alice", 1001) is None, "too old"
    assert await store.retried("d", "bob", 900) is None
    assert await store.retried("other", "alice", 900) is None
    async with store.database.transaction() as db:
        await store.answered(db, HASH)
    assert await store.retried("d", "alice", 900) is None


async def test_a_transaction_is_all_or_nothing(store: JobStore) -> None:
    async def fail() -> None:
        async with store.database.transaction() as db:
            await store.add(db, job())
            raise BadRequest

    with pytest.raises(BadRequest):
        await fail()
    assert await store.job(HASH) is None


async def test_a_task_cancelled_while_it_waits_for_its_turn_blocks_nobody(store: JobStore) -> None:
    """Its BEGIN may be under way in the database's thread already."""
    async with store.database.transaction() as db:
        pass
    busy = asyncio.create_task(db.execute_fetchall(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 300000) SELECT count(*) FROM n"
    ))  # fmt: skip
    waiting = asyncio.create_task(add(store))
    await asyncio.sleep(0.01)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await busy
    assert await store.job(HASH) is None
    await add(store)
    assert await store.job(HASH) is not None


async def test_another_process_that_writes_is_waited_for(store: JobStore, tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "scd.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(add(store))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    other.execute("COMMIT")
    other.close()
    await asyncio.wait_for(waiting, 30)
    assert await store.job(HASH) is not None


async def test_reads_do_not_wait_for_a_write_and_do_not_see_it(store: JobStore) -> None:
    async with store.database.transaction() as db:
        await store.add(db, job())
        assert await asyncio.wait_for(store.job(HASH), 30) is None
    assert await store.job(HASH) is not None


async def test_the_reading_connection_cannot_write(store: JobStore) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        await store.database.read("DELETE FROM jobs")


async def test_transactions_wait_for_each_other(store: JobStore) -> None:
    order: list[str] = []

    async def one(name: str, pause: float) -> None:
        async with store.database.transaction() as db:
            order.append(f"{name} begins")
            await asyncio.sleep(pause)
            await db.execute("SELECT 1")
            order.append(f"{name} ends")

    await asyncio.gather(one("first", 0.05), one("second", 0))
    assert order == ["first begins", "first ends", "second begins", "second ends"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE jobs SET state = 'lost'",
        "UPDATE jobs SET job_hash = 'x'",
        "UPDATE jobs SET state = 'completed'",
        "UPDATE jobs SET ended = 3",
        "UPDATE jobs SET created = 'yesterday'",
        "UPDATE jobs SET generation = 0",
        "UPDATE jobs SET upload_bytes = -1",
        "UPDATE jobs SET answered = 2",
        "UPDATE jobs SET job_hash = upper(job_hash)",
        "UPDATE nodes SET state = 'canceled'",
        "UPDATE nodes SET cores = 0",
        "UPDATE nodes SET attempt = -1",
        "UPDATE attempts SET state = 'success'",
        "UPDATE attempts SET ended = 1",
        "UPDATE attempts SET state = 'running', ended = 1",
        "UPDATE attempts SET elapsed = -1",
        "UPDATE attempts SET cores = 0",
        "INSERT INTO ledger (at, user, job_hash, core_seconds) VALUES (1, 'a', 'x', -1)",
        "INSERT INTO ledger (at, user, job_hash, result_bytes) VALUES (1, 'a', 'x', 1.5)",
        'INSERT INTO nodes (job_hash, step, "index", n, state) VALUES (\'' + HASH + "', '', '0', 7, 'pending')",
        'INSERT INTO nodes (job_hash, step, "index", n, state) VALUES (\'' + HASH + "', 'b', '0', 1, 'pending')",
        'INSERT INTO nodes (job_hash, step, "index", n, state) VALUES (\'' + "cd" * 16 + "', 'a', '0', 1, 'pending')",
    ],
)
async def test_the_database_refuses_nonsense(store: JobStore, statement: str) -> None:
    await add(store, "syn")
    async with store.database.transaction() as db:
        await store.add_attempt(db, attempt())
    with pytest.raises(sqlite3.IntegrityError):
        async with store.database.transaction() as db:
            await db.execute(statement)


async def test_a_node_is_found_by_the_clients_word(store: JobStore) -> None:
    await add(store, "place.global")
    found = await store.node_named(HASH, "place.global0")
    assert found is not None
    assert found.key == NodeKey("place.global", "0")
    assert await store.node_named(HASH, "place.global") is None


@pytest.mark.parametrize("state", [None, JobState.FAILED])
async def test_a_page_of_jobs_touches_no_more_than_it_shows(store: JobStore, state: JobState | None) -> None:
    """By its plan: one search in an index that has the order of the list, no sorting, no scan."""
    async with store.database.transaction() as db:
        for number in range(200):
            end = JobState.FAILED if number % 50 == 0 else JobState.COMPLETED
            for user in ("alice", "bob"):
                one = job(f"{number:031x}{user[0]}", user=user, state=end, created=float(number // 2), ended=999.0)
                await store.add(db, one)
    shown: list[Job] = []
    while page := await store.page("alice", state, (shown[-1].created, shown[-1].job_hash) if shown else None, 7):
        shown += page
    assert [found.user for found in shown] == ["alice"] * (4 if state else 200)
    assert shown == sorted(shown, key=lambda found: (found.created, found.job_hash), reverse=True)
    plan = await store.database.read(
        f"EXPLAIN QUERY PLAN {jobs._PAGE if state is None else jobs._PAGE_OF_STATE}",
        {"user": "alice", "state": state, "created": 9e9, "job_hash": "", "limit": 7},
    )
    index = "jobs_by_user (user=?" if state is None else "jobs_by_user_state (user=? AND state=?"
    steps = [str(row["detail"]) for row in plan]
    assert [step.startswith(f"SEARCH jobs USING INDEX {index}") for step in steps] == [True], steps
