"""Who starts next: turns of users, nodes that do not fit, limits of running nodes; simulated over whole jobs."""

import itertools
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from scd.model import PREPARE, NodeKey
from scd.share import Pick, Room, Running, Shares, Waiting, no_room


class Machine:
    """Nodes with lengths, run by Shares as the scheduler does: a node ends, then whatever fits starts."""

    def __init__(self, cores: int):
        self.cores = cores
        self.now = 0.0
        self.shares = Shares()
        self.jobs: dict[str, dict[str, list[tuple[NodeKey, int, float]]]] = {}
        self.running: list[tuple[float, float, Pick]] = []  # end, start, what
        self.started: list[tuple[float, Pick]] = []
        self.rooms: dict[str, int] = {}

    def submit(self, user: str, job: str, nodes: Sequence[tuple[int, float]]) -> None:
        lengths = [(NodeKey(f"n{n}", "0"), cores, length) for n, (cores, length) in enumerate(nodes)]
        self.jobs.setdefault(user, {})[job] = lengths

    def turn(self) -> list[Pick]:
        waiting = {
            user: [Waiting(job, [(key, cores) for key, cores, _ in nodes]) for job, nodes in jobs.items() if nodes]
            for user, jobs in self.jobs.items()
        }
        running: dict[str, list[Running]] = {}
        for _, start, pick in self.running:
            running.setdefault(pick.user, []).append(Running(pick.cores, self.now - start))
        rooms = {user: [Room(most - len(running.get(user, ())), "full")] for user, most in self.rooms.items()}
        free = self.cores - sum(pick.cores for *_, pick in self.running)
        waiting = {user: parts for user, parts in waiting.items() if parts}
        picks = self.shares.choose(waiting, running, rooms, free, self.cores)
        for pick in picks:
            (node,) = (one for one in self.jobs[pick.user][pick.job_hash] if one[0] == pick.key)
            self.jobs[pick.user][pick.job_hash].remove(node)
            self.running.append((self.now + node[2], self.now, pick))
            self.started.append((self.now, pick))
        assert sum(pick.cores for *_, pick in self.running) <= self.cores, "more cores are given than there are"
        return picks

    def step(self) -> bool:
        """The next end of a node; whether there was one."""
        if not self.running:
            return False
        self.running.sort(key=lambda one: one[0])
        self.now = self.running[0][0]
        while self.running and self.running[0][0] == self.now:
            _, start, pick = self.running.pop(0)
            self.shares.charge(pick.user, pick.cores, self.now - start)
        return True

    def run(self) -> None:
        self.turn()
        while self.step():
            self.turn()

    def first(self, user: str) -> float:
        return next(at for at, pick in self.started if pick.user == user)


def test_a_large_job_does_not_delay_another_users_first_node() -> None:
    machine = Machine(2)
    machine.submit("alice", "large", [(1, 10.0)] * 5000)
    machine.turn()
    for _ in range(100):
        machine.step()
        machine.turn()
    came = machine.now
    machine.submit("bob", "small", [(1, 10.0)])
    machine.turn()
    machine.step()
    machine.turn()
    assert machine.first("bob") - came <= 10.0


def test_who_comes_back_is_served_next_whatever_he_has_used() -> None:
    machine = Machine(1)
    machine.submit("bob", "early", [(1, 1000.0)] * 5)
    machine.run()
    machine.submit("alice", "large", [(1, 1.0)] * 1000)
    machine.turn()
    came = machine.now
    machine.submit("bob", "late", [(1, 1.0)])
    machine.run()
    late = next(at for at, pick in machine.started if pick.job_hash == "late")
    assert late - came <= 1.0


def test_users_share_by_core_seconds_not_by_nodes() -> None:
    machine = Machine(1)
    machine.submit("alice", "long", [(1, 60.0)] * 50)
    machine.submit("bob", "short", [(1, 1.0)] * 5000)
    machine.turn()
    while machine.now < 2000:
        machine.step()
        machine.turn()
    had = {user: sum(60.0 if user == "alice" else 1.0 for _, pick in machine.started if pick.user == user)
           for user in ("alice", "bob")}  # fmt: skip
    assert abs(had["alice"] - had["bob"]) <= 130


def test_a_users_jobs_go_in_order_of_submission() -> None:
    machine = Machine(1)
    for job in ("one", "two", "three"):
        machine.submit("alice", job, [(1, 1.0)] * 3)
    machine.run()
    assert [pick.job_hash for _, pick in machine.started] == ["one"] * 3 + ["two"] * 3 + ["three"] * 3


def test_a_first_node_that_needs_the_machine_waits_for_those_that_run_alone() -> None:
    machine = Machine(4)
    machine.submit("alice", "narrow", [(1, 10.0 + n % 3) for n in range(500)])
    machine.turn()
    machine.step()
    machine.turn()
    came = machine.now
    machine.submit("bob", "wide", [(4, 5.0)])
    machine.run()
    assert machine.first("bob") - came <= 12.0, "no node is started before one that nobody may overtake"


def test_a_wide_node_of_a_busy_user_is_overtaken_a_few_times_and_then_held_for() -> None:
    machine = Machine(4)
    machine.submit(
        "alice", "job", [(1, 7.0 + n) for n in range(4)] + [(4, 1.0)] + [(1, 10.0 + n % 7) for n in range(90)]
    )
    machine.run()
    order = [pick.key for _, pick in machine.started]
    place = order.index(NodeKey("n4", "0"))
    assert 4 <= place <= 4 + 4, "it is overtaken by as many nodes as the machine has cores"


def test_over_the_limit_of_running_nodes_others_go_on() -> None:
    machine = Machine(4)
    machine.rooms = {"alice": 1}
    machine.submit("alice", "a", [(1, 5.0)] * 4)
    machine.submit("bob", "b", [(1, 5.0)] * 4)
    assert sorted(pick.user for pick in machine.turn()) == ["alice", "bob", "bob", "bob"]


def test_a_group_has_one_room_for_all() -> None:
    room = Room(3, "full")
    waiting = {user: [Waiting(user, [(NodeKey(str(n), "0"), 1) for n in range(9)])] for user in ("alice", "bob")}
    picks = Shares().choose(waiting, {}, {"alice": [room], "bob": [room]}, 8, 8)
    assert len(picks) == 3
    assert room.left == 0


def test_who_has_no_room_is_told_of_the_first_limit_that_is_reached() -> None:
    own, group, whole = Room(1, "over yours"), Room(0, "over your group's"), Room(-1, "over everybody's")
    assert no_room([own, group, whole]) == "over your group's"
    assert no_room([own]) == no_room([]) == ""


def test_a_job_is_prepared_also_over_the_limit_of_running_nodes() -> None:
    waiting = {"alice": [Waiting("one", [(NodeKey("syn", "0"), 1)]), Waiting("two", [(PREPARE, 1)])]}
    picks = Shares().choose(waiting, {}, {"alice": [Room(0, "full")]}, 4, 4)
    assert [(pick.job_hash, pick.key) for pick in picks] == [("two", PREPARE)]


def test_the_queue_goes_round_the_users() -> None:
    assert Shares().order({"alice": ["a1", "a2", "a3"], "bob": ["b1"]}, {"alice": [Running(1, 5.0)]}) == [
        "b1", "a1", "a2", "a3"
    ]  # fmt: skip


nodes = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 50).map(float)), min_size=1, max_size=12)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from("abcd"), st.lists(nodes, min_size=1, max_size=3), min_size=1), st.integers(1, 4))
def test_every_node_runs_once_and_the_machine_is_never_idle_for_nothing(
    users: dict[str, list[list[tuple[int, float]]]], cores: int
) -> None:
    machine = Machine(cores)
    count = itertools.count()
    wanted = 0
    for user, jobs in users.items():
        for job in jobs:
            machine.submit(user, f"{user}{next(count)}", [(min(wide, cores), length) for wide, length in job])
            wanted += len(job)
    machine.run()
    assert len(machine.started) == wanted, "something waits for ever"
    assert len({(pick.job_hash, pick.key) for _, pick in machine.started}) == wanted
