"""Where nodes run, and with what."""

from typing import Any

import msgspec
import pytest

from scd.config import Config
from scd.model import NodeKey, PlanNode
from scd.placement import (
    Misplaced,
    Partition,
    Placement,
    check,
    more_memory,
    place,
    preparation,
    prepares,
    vouch,
)  # fmt: skip
from scd.states import NodeState

GIB = 2**30


def config(slurm: dict[str, Any] | None = None, **dispatch: Any) -> Config:
    found = {"local": {"cores": 8}, "dispatch": dispatch, "slurm": slurm if slurm is not None else {}}
    return msgspec.convert(found, Config, dec_hook=lambda kind, value: kind(value))


def node(step: str = "syn", **facts: Any) -> PlanNode:
    return PlanNode(step, "0", 0, NodeState.PENDING, (), **facts)


ROUTES = [
    {"step": "route*", "executor": "slurm", "partition": "bigmem"},
    {"step": "syn", "executor": "local"},
]


@pytest.mark.parametrize(
    ("default", "step", "scheduler", "executor", "partition"),
    [
        ("local", "place", None, "local", ""),
        ("local", "place", "slurm", "slurm", ""),
        ("slurm", "place", None, "slurm", ""),
        ("local", "route.global", None, "slurm", "bigmem"),
        ("slurm", "syn", "slurm", "local", ""),
    ],
)
def test_a_route_wins_over_the_manifest_and_that_over_the_default(
    default: str, step: str, scheduler: str | None, executor: str, partition: str
) -> None:
    found = place(config(default=default, route=ROUTES), node(step, scheduler=scheduler), "alice")
    assert (found.executor, found.partition) == (executor, partition)


@pytest.mark.parametrize(
    ("default", "steps", "schedulers", "executor"),
    [
        ("local", ["syn", "place"], [], "local"),
        ("local", ["place"], ["slurm"], "slurm"),
        ("local", ["syn"], ["slurm"], "local"),
        ("local", ["syn", "route"], [], "slurm"),
        ("slurm", ["place"], [], "slurm"),
        ("slurm", ["syn"], [], "local"),
    ],
)
def test_a_job_is_prepared_where_the_tools_of_its_nodes_are(
    default: str, steps: list[str], schedulers: list[str], executor: str
) -> None:
    nodes = [NodeKey(step, "0") for step in steps]
    assert prepares(config(default=default, route=ROUTES), nodes, schedulers) == executor


def test_without_slurm_all_is_local() -> None:
    nothing = msgspec.structs.replace(config(), slurm=None)
    assert prepares(nothing, [NodeKey("a", "0")], ["slurm"]) == "local"
    assert place(nothing, node(scheduler="slurm"), "").executor == "local"
    assert preparation(nothing, "slurm", "") == Placement()


def test_a_node_gets_what_it_asks_for_within_the_bounds() -> None:
    bounds = {"max_cores": 16, "max_memory": 32 * GIB, "max_time": 7200, "partition": "p", "account": "lab"}
    asked = node(scheduler="slurm", cores=64, memory=100_000, timeout=3600.0, defer="now+1hour", queue="q")
    assert place(config(bounds), asked, "") == Placement("slurm", 16, 32 * GIB, 3720.0, "q", "lab", "now+1hour", ())


def test_a_node_that_asks_for_nothing_gets_the_defaults_or_the_bounds() -> None:
    found = place(config({"cores": 2, "memory": GIB, "time": 600}), node(scheduler="slurm"), "")
    assert (found.cores, found.memory, found.time) == (2, GIB, 600.0)
    bound = place(config({"max_memory": GIB, "max_time": 600}), node(scheduler="slurm"), "")
    assert (bound.memory, bound.time) == (GIB, 600.0)


def test_a_user_has_a_slurm_account_of_his_own() -> None:
    users = {"alice": {"password_hash": "$argon2id$", "slurm_account": "vlsi"}, "bob": {"password_hash": "$argon2id$"}}
    found = msgspec.convert({"users": users, "slurm": {"account": "lab"}}, Config)
    assert [place(found, node(scheduler="slurm"), user).account for user in ("alice", "bob", "")] == [
        "vlsi",
        "lab",
        "lab",
    ]


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (("--qos=high",), ("--qos=high",)),
        (("--qos", "high"), ("--qos=high",)),
        (("--qos high",), ("--qos=high",)),
        (("--exclusive",), ("--exclusive",)),
        (("--exclusive", "--qos=a b"), ("--exclusive", "--qos=a b")),
        (("--qos=--wrap=x",), ("--qos=--wrap=x",)),  # one word: never an option of its own
        (("--qos high --wrap=x",), ("--qos=high --wrap=x",)),
    ],
)
def test_allowed_options_are_passed_as_one_word_each(given: tuple[str, ...], passed: tuple[str, ...]) -> None:
    allowed = config({"allow_options": ["--qos", "--exclusive"]})
    assert place(allowed, node(scheduler="slurm", options=given), "").options == passed


@pytest.mark.parametrize(
    "given", [("--wrap=id",), ("-qhigh",), ("--qo=high",), ("high",), ("--qos", "--wrap=id"), ("",)]
)
def test_other_options_are_refused_by_name(given: tuple[str, ...]) -> None:
    with pytest.raises(Misplaced, match="syn/0 asks for the option"):
        place(config({"allow_options": ["--qos"]}), node(scheduler="slurm", options=given), "")


@pytest.mark.parametrize("value", ["\n--wrap=id", "a\0b", "ä"])
def test_a_value_that_cannot_be_one_is_refused(value: str) -> None:
    with pytest.raises(Misplaced):
        place(config({"allow_options": ["--qos"]}), node(scheduler="slurm", options=(f"--qos={value}",)), "")


@pytest.mark.parametrize("queue", ["other", "big,mem", "a b", "--wrap=id"])
def test_queues_that_are_not_for_manifests(queue: str) -> None:
    with pytest.raises(Misplaced, match="asks for the queue"):
        place(config({"queues": ["big*"]}), node(scheduler="slurm", queue=queue), "")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"time": 3601.0}, r"asks for 01:01:00, and .* compute gives 01:00:00 at most \(MaxTime\)"),
        ({"cores": 9}, "asks for 9 cores, and .* gives 8 at most"),
        ({"memory": 5 * GIB}, r"asks for 5GiB, and .* gives 4GiB at most"),
        ({"partition": "none"}, "asks for the queue 'none'; there are big, compute"),
    ],
)
def test_what_would_never_start_is_refused(asked: dict[str, Any], words: str) -> None:
    there = {
        "compute": Partition("compute", 3600.0, 8, 4 * GIB, True),
        "big": Partition("big", None, None, None),
    }
    wanted = Placement(executor="slurm", **asked)
    with pytest.raises(Misplaced, match=f"syn/0 {words}"):
        check(wanted, there, "syn/0")
    check(wanted, {}, "syn/0")  # Slurm has not told its limits
    check(msgspec.structs.replace(wanted, executor="local"), there, "syn/0")
    check(msgspec.structs.replace(wanted, partition="big"), there, "syn/0")


def test_more_memory_within_the_bound() -> None:
    grows = config({"memory_on_oom": 2.0, "max_memory": 3 * GIB})
    assert more_memory(grows, GIB) == 2 * GIB
    assert more_memory(grows, 2 * GIB) == 3 * GIB
    assert more_memory(grows, 3 * GIB) is None
    assert more_memory(grows, 0) is None
    assert more_memory(config(), GIB) is None


SITE = {
    "partition": "compute", "account": "eda", "queues": ["big*"], "allow_options": ["--qos", "--exclusive"],
    "max_cores": 4, "max_memory": 8 * GIB, "max_time": 3600.0,
}  # fmt: skip


def site(**more: Any) -> Config:
    users = {"alice": {"account": "alice", "slurm_account": "vlsi"}, "bob": {"account": "bob", "slurm_account": "dsp"}}
    found = {"dispatch": {"route": ROUTES}, "slurm": {**SITE, **more}, "users": users, "local": {"account": "guest"}}
    return msgspec.convert(found, Config, dec_hook=lambda kind, value: kind(value))


@pytest.mark.parametrize("facts", [
    {}, {"cores": 400, "memory": 10**6, "timeout": 10**6.0}, {"queue": "big1"}, {"defer": "now+1hour"},
    {"options": ("--qos=high", "--exclusive")},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("step", ["place", "route"])
@pytest.mark.parametrize("user", ["alice", "bob", "somebody"])
def test_what_manifests_get_is_vouched_for(step: str, facts: dict[str, Any], user: str) -> None:
    ours = site()
    for made in (place(ours, node(step, scheduler="slurm", **facts), user), preparation(ours, "slurm", user)):
        vouch(ours, made, ours.account_of(user))


@pytest.mark.parametrize("usual", [{"memory": 16 * GIB}, {"time": 7200.0}, {"cores": 8}], ids=str)
def test_what_the_site_gives_by_itself_is_vouched_for(usual: dict[str, Any]) -> None:
    vouch(site(**usual), preparation(site(**usual), "slurm", "alice"), "alice")


@pytest.mark.parametrize("wrong", [
    {"executor": "local"}, {"cores": 0}, {"cores": 5}, {"cores": -1}, {"memory": -1}, {"memory": 9 * GIB},
    {"time": 3601.0}, {"time": -1.0}, {"partition": "others"}, {"partition": "big 1"}, {"partition": "--uid=0"},
    {"account": "dsp"}, {"account": "--uid=0"}, {"begin": "now --uid=0"}, {"options": ("--uid=0",)},
    {"options": ("--qos=a\nb",)}, {"options": ("--qos", "0")}, {"options": ("script.sh",)},
], ids=str)  # fmt: skip
def test_what_no_manifest_gets_is_not_vouched_for(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"executor": "slurm", "cores": 4, "memory": 8 * GIB, "time": 3600.0, "account": "vlsi"}
    vouch(site(), Placement(**good), "alice")
    with pytest.raises(Misplaced):
        vouch(site(), Placement(**{**good, **wrong}), "alice")


def test_without_slurm_nothing_is_vouched_for() -> None:
    with pytest.raises(Misplaced):
        vouch(msgspec.structs.replace(site(), slurm=None), Placement("slurm"), "alice")
