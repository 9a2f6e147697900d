"""Licences of tools, held by real nodes of a real daemon; and what is said of nodes that wait, by each who says it."""

import itertools
import json
import os
import signal
from collections.abc import Callable

import httpx2

from ..harness import Daemon, wait_until
from .submission import collected, manifest
from .test_limits import configure, ctl, running, state, submitted, users, wait_for_text

NewDaemon = Callable[..., Daemon]
# All nodes that run a script are of the tool execute.
SLEEP = ("work", "script=sleep 300", "threads=1")
FOUR = ("workers", "script=sleep 300", "threads=1")
LICENSE = '[local]\ncores = 8\n[licenses]\nexecute = {}\n[licenses.other]\ncount = 3\ntools = ["builtin/none"]\n'


def submit(daemon: Daemon, what: tuple[str, ...]) -> str:
    answer = daemon.submit(manifest(*what), collected(*what))
    assert answer.status_code == 200, answer.text
    return str(answer.json()["job_hash"])


def reason(daemon: Daemon, job_hash: str, node: str) -> str:
    """As ``scdctl nodes`` has it."""
    found = json.loads(ctl(daemon, "--json", "nodes", "-j", job_hash))["nodes"]
    return str({f"{one['step']}/{one['index']}": one["reason"] for one in found}.get(node, "not prepared yet"))


def lacks_one(daemon: Daemon, job_hash: str) -> bool:
    return reason(daemon, job_hash, "work/0") == "waiting for an execute licence (1 of 1 in use)"


def live(daemon: Daemon) -> int:
    (row,) = daemon.rows("SELECT count(*) AS n FROM attempts WHERE step = 'work' AND ended IS NULL")
    return int(row["n"])


def metric(daemon: Daemon, name: str) -> float:
    with httpx2.Client(transport=httpx2.HTTPTransport(uds=f"{daemon.state}/scd.sock")) as client:
        text = client.get("http://scd/metrics").text
    return float(next(line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(name)))


def test_two_of_four_run_and_everybody_is_told_what_the_others_wait_for(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(LICENSE.format(2))
    job_hash = submit(daemon, FOUR)
    wait_until(lambda: running(daemon, "") == 2, "two nodes do not run", 60)
    waits = "waiting for an execute licence (2 of 2 in use)"
    assert wait_for_text(daemon, job_hash, f"work/2 and 1 more: {waits}", {}), "the client is not told"
    assert reason(daemon, job_hash, "work/3") == waits
    assert f"Reason={waits}" in ctl(daemon, "show", job_hash)
    assert f"work/2 and 1 more: {waits}" in ctl(daemon, "jobs", "-P", "-o", "reason")
    page = httpx2.get(f"{daemon.url}/job/{job_hash}").text
    assert page.count(waits) == 3, "the page does not say it of the job and of both nodes"
    assert metric(daemon, 'scd_licenses_in_use{license="execute"}') == 2
    assert metric(daemon, 'scd_licenses{license="execute"}') == 2
    assert metric(daemon, 'scd_licenses{license="other"}') == 3

    other = submit(daemon, ("chain",))
    assert daemon.wait(other, 120)["status"] == "completed", "a job without the tool waits for its licence"
    ctl(daemon, "cancel", job_hash)
    daemon.wait(job_hash, 60)
    wait_until(lambda: metric(daemon, 'scd_licenses_in_use{license="execute"}') == 0, "ended nodes hold licences")


def test_a_node_that_ends_hands_its_licence_on_and_a_lost_one_too(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(LICENSE.format(1))
    first = submit(daemon, SLEEP)
    daemon.wait_for_node(first, "work0", "running", 60)
    second, third = submit(daemon, SLEEP), submit(daemon, SLEEP)
    wait_until(lambda: lacks_one(daemon, second) and lacks_one(daemon, third), "it is not said why they wait", 60)
    daemon.kill_node(first, "work")
    wait_until(lambda: state(daemon, first)["state"] == "failed", "the node is not seen to have ended", 60)
    daemon.wait_for_node(second, "work0", "running", 60)
    assert live(daemon) == 1, "two nodes hold the one licence"
    os.kill(daemon.pid_of(second, "runner"), signal.SIGKILL)
    wait_until(lambda: state(daemon, second)["state"] == "failed", "the node is not seen to be lost", 60)
    daemon.wait_for_node(third, "work0", "running", 60)
    assert live(daemon) == 1


def test_what_goes_on_over_a_restart_holds_its_licence(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(LICENSE.format(1))
    first = submit(daemon, SLEEP)
    daemon.wait_for_node(first, "work0", "running", 60)
    second = submit(daemon, SLEEP)
    wait_until(lambda: lacks_one(daemon, second), "it is not said why it waits", 60)
    daemon.stop(signal.SIGKILL)
    assert reason(daemon, second, "work/0") == "", "something is said that nobody knows while scd is down"
    assert "Reason" not in ctl(daemon, "show", second).split("work/0", 1)[1]
    daemon.start()
    wait_until(lambda: lacks_one(daemon, second), "it is not said again", 60)
    assert live(daemon) == 1
    assert metric(daemon, 'scd_licenses_in_use{license="execute"}') == 1
    assert reason(daemon, second, "after/0") == "waiting for work/0"
    ctl(daemon, "cancel", first)
    daemon.wait_for_node(second, "work0", "running", 60)


def test_a_reload_changes_the_number_and_none_at_all_is_refused(new_daemon: NewDaemon) -> None:
    daemon = new_daemon("[local]\ncores = 8\n")
    configure(daemon, "[licenses]\nexecute = 0\n")
    ctl(daemon, "reload")
    answer = daemon.wait(submit(daemon, SLEEP), 60)
    assert answer["status"] == "rejected"
    assert answer["message"] == "work/0 needs an execute licence, and this server has none."
    configure(daemon, "[licenses]\nexecute = 1\n")
    ctl(daemon, "reload")
    job_hash = submit(daemon, FOUR)
    wait_until(lambda: running(daemon, "") == 1, "no node runs", 60)
    configure(daemon, "[licenses]\nexecute = 3\n")
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: running(daemon, "") == 3, "more licences change nothing", 60)
    assert reason(daemon, job_hash, "work/3") == "waiting for an execute licence (3 of 3 in use)"
    configure(daemon, "")
    ctl(daemon, "reload")
    wait_until(lambda: running(daemon, "") == 4, "a node waits for a licence that is none any more", 60)


def test_a_licence_goes_to_another_user_before_a_second_one_to_the_first(new_daemon: NewDaemon) -> None:
    daemon = new_daemon(LICENSE.format(1) + users("alice", "bob"))
    hers = [submitted(daemon, ("work", "script=sleep 1", "threads=1"), "alice") for _ in range(4)]
    his = submitted(daemon, ("work", "script=sleep 1", "threads=1"), "bob")
    daemon.wait(his, 120, {"username": "bob", "key": "bob"})
    nodes = daemon.rows(
        "SELECT * FROM attempts JOIN jobs USING (job_hash) WHERE step = 'work' ORDER BY attempts.queued"
    )
    began = [row["user"] for row in nodes]
    assert began.index("bob") <= 2, f"bob waited for nearly all that alice had queued before him: {began}"
    for one in hers:
        assert daemon.wait(one, 120, {"username": "alice", "key": "alice"})["status"] == "completed"
    spans = sorted((row["started"], row["ended"]) for row in daemon.rows(
        "SELECT started, ended FROM attempts WHERE step = 'work'"))  # fmt: skip
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans)), "two ran at once"
