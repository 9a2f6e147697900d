"""Licences of tools: whole jobs, run by the real dispatch over a clock of the test's own."""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from scd.config import Config, Settings
from scd.dispatch import Dispatch
from scd.live import LiveJob
from scd.model import Job, Node, NodeKey, Plan, PlanNode
from scd.placement import LOCAL, Misplaced, check_license, license_of, place
from scd.states import JobState, NodeState

Work = tuple[str, int, float]  # a node's tool, cores and length in seconds


def settings(licenses: dict[str, Any], cores: int = 4, **more: Any) -> Settings:
    full = {name: {"tools": [name], "slurm": name} | ({"count": one} if isinstance(one, int) else one)
            for name, one in licenses.items()}  # fmt: skip
    return Settings(msgspec.convert({"licenses": full, "local": {"cores": cores}, **more}, Config))


def job(user: str, name: str, works: Sequence[Work], *, slurm: bool = False, maxnodes: int | None = None) -> LiveJob:
    """One whose nodes can all start at once."""
    scheduler = "slurm" if slurm else None
    plan = Plan(
        "top", "job0", "flow",
        tuple(PlanNode(f"n{n}", "0", 0, NodeState.PENDING, (), tool=tool, task="run", scheduler=scheduler)
              for n, (tool, _, _) in enumerate(works)),
        (), maxnodes,
    )  # fmt: skip
    row = Job(name, user, JobState.RUNNING, "", "top", "job0", "flow", "default", 0.0, 0.0, None, 0, "", True, None, 1,
              msgspec.json.encode(plan))  # fmt: skip
    nodes = [Node(name, f"n{n}", "0", n, NodeState.PENDING, "", 0, cores) for n, (_, cores, _) in enumerate(works)]
    return LiveJob(row, nodes, [])


class Site:
    def __init__(self, held: Settings):
        self.settings = held
        self.dispatch = Dispatch(held)
        self.now = 0.0
        self.jobs: dict[str, LiveJob] = {}
        self.works: dict[str, Sequence[Work]] = {}
        self.most: defaultdict[str, int | None] = defaultdict(lambda: None)
        self.running: list[tuple[float, float, str, str]] = []  # end, start, job, attempt
        self.had: defaultdict[tuple[str, str], float] = defaultdict(float)  # seconds of a tool, by user and tool
        self.ended = 0

    def submit(self, user: str, works: Sequence[Work], *, slurm: bool = False, maxnodes: int | None = None) -> LiveJob:
        name = f"{len(self.jobs):032x}"
        self.jobs[name], self.works[name] = job(user, name, works, slurm=slurm, maxnodes=maxnodes), works
        self.most[name] = maxnodes
        return self.jobs[name]

    def turn(self) -> list[str]:
        """The tools of what starts."""
        started = []
        for pick in self.dispatch.choose(list(self.jobs.values()), {}):
            live = self.jobs[pick.job_hash]
            planned = live.planned(pick.key)
            assert planned is not None
            where = place(self.settings.config, planned, live.job.user)
            attempt = live.node_attempt(live.nodes[pick.key], pick.cores, where.executor, 0, self.now)
            live.queue(attempt)
            tool, cores, length = self.works[pick.job_hash][live.nodes[pick.key].n]
            assert pick.cores == (cores if where.executor == LOCAL else 0), "it gets other cores than it has asked for"
            self.running.append((self.now + length, self.now, pick.job_hash, attempt.name))
            started.append(tool)
            assert not (most := self.most[pick.job_hash]) or len(live.attempts) <= most, "more run than maxnodes"
        held = self.dispatch.licenses.held(self.jobs.values())
        for name, one in self.settings.config.licenses.items():
            assert held[name] <= one.count, f"{held[name]} of {one.count} {name} licences are held"
        return started

    def step(self) -> bool:
        """The next end of a node; whether there was one."""
        if not self.running:
            return False
        self.running.sort()
        end, start, name, attempt_name = self.running.pop(0)
        self.now = end
        live = self.jobs[name]
        attempt = msgspec.structs.replace(live.attempts.pop(attempt_name), elapsed=end - start, ended=end)
        live.change_node(attempt.key, NodeState.SUCCESS)
        self.dispatch.charge(live, attempt)
        self.had[live.job.user, self.works[name][live.nodes[attempt.key].n][0]] += end - start
        self.ended += 1
        return True

    def run(self, until: float = float("inf")) -> None:
        self.turn()
        while self.now < until and self.step():
            self.turn()


def test_no_more_run_than_there_are_licences_and_others_go_on() -> None:
    site = Site(settings({"vcs": 2}, cores=8))
    live = site.submit("alice", [("vcs", 1, 5.0)] * 5 + [("yosys", 1, 5.0)] * 3)
    assert Counter(site.turn()) == {"vcs": 2, "yosys": 3}
    assert live.told == "n2/0 and 2 more: waiting for a vcs licence (2 of 2 in use)"
    assert live.waits().nodes["n4/0"] == "waiting for a vcs licence (2 of 2 in use)"
    site.step()
    assert site.turn() == ["vcs"]


@pytest.mark.parametrize("slurm", [False, True])
def test_a_node_without_a_licence_does_not_take_the_place_of_one_that_needs_none(slurm: bool) -> None:
    """``maxnodes`` bounds what runs: what cannot run does not count."""
    site = Site(settings({"vcs": {"count": 1, "slurm": ""}}, slurm={}))
    site.submit("bob", [("vcs", 1, 50.0)])
    assert site.turn() == ["vcs"]
    live = site.submit("alice", [("vcs", 1, 5.0), ("vcs", 1, 5.0), ("yosys", 1, 5.0)], slurm=slurm, maxnodes=1)
    assert site.turn() == ["yosys"]
    assert site.turn() == [], "more nodes of the job run than its maxnodes"
    site.step()
    assert site.turn() == []
    assert live.told == "n0/0 and 1 more: waiting for a vcs licence (1 of 1 in use)"
    site.run()
    assert (site.had["alice", "vcs"], site.now) == (10.0, 60.0)


def test_whose_turn_it_is_not_to_have_a_licence_lets_another_of_its_job_go() -> None:
    site = Site(settings({"vcs": 1}))
    site.submit("alice", [("vcs", 1, 5.0)] * 2)
    site.submit("bob", [("vcs", 1, 5.0), ("yosys", 1, 5.0)], maxnodes=1)
    assert sorted(site.turn()) == ["vcs", "yosys"]


def test_what_waits_behind_maxnodes_keeps_no_licence_from_others() -> None:
    site = Site(settings({"vcs": 2}))
    alice = site.submit("alice", [("vcs", 1, 5.0)] * 2, maxnodes=1)
    site.submit("bob", [("vcs", 1, 5.0)])
    assert site.turn() == ["vcs", "vcs"]
    assert len(alice.attempts) == 1


def test_nobody_is_said_to_lack_a_licence_that_is_free() -> None:
    site = Site(settings({"vcs": 1}, cores=1))
    site.submit("bob", [("yosys", 1, 5.0)])
    site.turn()
    live = site.submit("alice", [("yosys", 1, 5.0), ("vcs", 1, 5.0)], maxnodes=1)
    assert site.turn() == []
    assert live.waits().nodes == {"n0/0": "waiting for cores", "n1/0": "waiting for other nodes of its job"}


def test_other_users_do_not_wait_for_somebodys_licence() -> None:
    site = Site(settings({"vcs": 1}, cores=2))
    site.submit("alice", [("vcs", 1, 50.0)] * 100)
    site.turn()
    site.submit("bob", [("yosys", 1, 1.0)] * 20)
    site.run(until=45.0)
    assert site.had["bob", "yosys"] == 20.0, "a core stood idle beside nodes that wait for a licence"


def test_the_end_of_a_node_frees_its_licence_however_it_ended() -> None:
    site = Site(settings({"vcs": 1}))
    live = site.submit("alice", [("vcs", 1, 5.0)] * 2)
    site.turn()
    (attempt,) = live.attempts.values()
    del live.attempts[attempt.name]  # lost with its runner
    live.change_node(attempt.key, NodeState.ERROR)
    assert site.turn() == ["vcs"]


def test_what_ran_before_a_restart_still_holds_its_licence() -> None:
    site = Site(settings({"vcs": 1}))
    live = site.submit("alice", [("vcs", 1, 5.0)] * 2)
    site.turn()
    after = Site(site.settings)  # whose memory is empty; what lives is read from the database
    after.jobs[live.job_hash] = LiveJob(live.job, live.nodes.values(), live.attempts.values())
    after.works[live.job_hash] = site.works[live.job_hash]
    assert after.turn() == []


def test_a_licence_goes_round_the_users_whatever_else_they_run() -> None:
    """Bob has had many more core-seconds than alice, for ever: his one tool must not wait for ever."""
    site = Site(settings({"vcs": 1}, cores=8))
    site.submit("alice", [("vcs", 1, 10.0)] * 60)
    site.submit("bob", [("yosys", 1, 9.0)] * 600 + [("vcs", 1, 10.0)] * 60)
    site.run(until=500.0)
    assert abs(site.had["alice", "vcs"] - site.had["bob", "vcs"]) <= 20.0, site.had
    assert site.had["alice", "vcs"] + site.had["bob", "vcs"] >= 480.0, "the licence stood idle"


def test_a_licence_is_shared_by_time_not_by_nodes() -> None:
    site = Site(settings({"vcs": 1}))
    site.submit("alice", [("vcs", 1, 60.0)] * 20)
    site.submit("bob", [("vcs", 1, 2.0)] * 400)
    site.run(until=1000.0)
    assert abs(site.had["alice", "vcs"] - site.had["bob", "vcs"]) <= 130.0, site.had


def test_a_user_who_needs_cores_alone_has_his_turns_beside_those_who_need_licences() -> None:
    site = Site(settings({"vcs": 4}))
    site.submit("alice", [("vcs", 1, 10.0)] * 400)
    site.submit("bob", [("vcs", 1, 10.0)] * 400)
    site.submit("carol", [("yosys", 1, 10.0)] * 400)
    site.run(until=1000.0)
    assert site.had["carol", "yosys"] >= 4 * 1000.0 / 3 - 100.0, site.had


def test_a_node_that_needs_all_cores_and_a_licence_gets_both_in_the_end() -> None:
    site = Site(settings({"vcs": 1}))
    site.submit("bob", [("yosys", 1, 5.0)] * 3 + [("vcs", 4, 1.0)] + [("yosys", 1, 5.0)] * 500)
    site.submit("alice", [("vcs", 1, 7.0)] * 500)
    site.run(until=300.0)
    assert site.had["bob", "vcs"] == 1.0, "it waits for ever"


def test_a_task_has_a_licence_of_its_own_and_several_tools_have_one_together() -> None:
    config = settings({"calibre": 1, "drc": {"count": 1, "tools": ["calibre/drc", "assura"]}}).config
    found = {
        (tool, task): license_of(config, PlanNode("s", "0", 0, NodeState.PENDING, (), tool=tool, task=task))
        for tool, task in (("calibre", "drc"), ("calibre", "lvs"), ("assura", "drc"), ("yosys", "syn"), (None, None))
    }
    assert list(found.values()) == ["drc", "calibre", "drc", "", ""]


def test_a_node_that_can_never_have_one_is_refused_by_name() -> None:
    live = job("alice", "0" * 32, [("vcs", 1, 1.0)])
    planned = live.planned(NodeKey("n0", "0"))
    assert planned is not None
    with pytest.raises(Misplaced, match=r"^n0/0 needs a vcs licence, and this server has none\.$"):
        check_license(settings({"vcs": 0}).config, planned)
    check_license(settings({"vcs": 1}).config, planned)


def test_slurm_counts_what_it_is_told_of_and_scd_what_it_is_not() -> None:
    told = Site(settings({"vcs": {"count": 1, "slurm": "vcs@flex"}}, slurm={}))
    live = told.submit("alice", [("vcs", 1, 5.0)] * 3, slurm=True)
    assert told.turn() == ["vcs"] * 3
    assert told.dispatch.licenses.held([live]) == {}
    planned = live.planned(NodeKey("n0", "0"))
    assert planned is not None
    assert place(told.settings.config, planned, "alice").license == "vcs@flex"
    check_license(settings({"vcs": 0}, slurm={}).config, planned)

    untold = Site(settings({"vcs": {"count": 2, "slurm": ""}}, slurm={}))
    untold.submit("alice", [("vcs", 1, 5.0)] * 3, slurm=True)
    untold.submit("bob", [("vcs", 1, 5.0)])
    assert untold.turn() == ["vcs"] * 2, "those in Slurm and those here are not counted together"
    assert place(untold.settings.config, planned, "alice").license == ""
    with pytest.raises(Misplaced):
        check_license(settings({"vcs": {"count": 0, "slurm": ""}}, slurm={}).config, planned)


def test_fewer_licences_after_a_reload_take_none_away() -> None:
    site = Site(settings({"vcs": 3}))
    live = site.submit("alice", [("vcs", 1, 5.0), ("vcs", 1, 6.0), ("vcs", 1, 7.0), ("vcs", 1, 1.0)])
    site.turn()
    fewer = settings({"vcs": 1}).config
    site.settings.config = fewer
    site.dispatch.choose([live], {})
    assert live.told == "n3/0: waiting for a vcs licence (3 of 1 in use)"
    for _ in range(2):
        site.step()
        assert site.dispatch.choose([live], {}) == []
    site.step()
    assert site.turn() == ["vcs"]


TOOLS = st.sampled_from(["vcs", "genus", "yosys"])
WORKS = st.lists(st.tuples(TOOLS, st.integers(1, 4), st.integers(1, 50).map(float)), min_size=1, max_size=10)


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), WORKS, st.booleans(), st.sampled_from([None, 1, 2])), min_size=1, max_size=5
    ),
    st.integers(1, 4), st.integers(1, 3), st.integers(1, 2), st.sampled_from([None, 1, 2]),
)  # fmt: skip
def test_never_more_are_held_than_there_are_and_every_node_runs(
    jobs: list[tuple[str, list[Work], bool, int | None]], cores: int, vcs: int, genus: int, most: int | None
) -> None:
    """``turn`` looks at what is held each time."""
    licenses = {"vcs": vcs, "genus": {"count": genus, "slurm": ""}}
    site = Site(settings(licenses, cores, slurm={}, limits={"max_running_nodes": most}))
    wanted = 0
    for user, works, slurm, maxnodes in jobs:
        narrow = [(tool, min(wide, cores), length) for tool, wide, length in works]
        site.submit(user, narrow, slurm=slurm, maxnodes=maxnodes)
        wanted += len(works)
    for _ in itertools.count():
        site.turn()
        used = sum(attempt.cores for live in site.jobs.values() for attempt in live.attempts.values())
        assert used <= cores
        if not site.step():
            break
    assert site.ended == wanted, "something waits for ever"
