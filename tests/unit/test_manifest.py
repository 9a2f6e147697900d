"""What the daemon reads of an uploaded manifest: real ones of both ends of the supported range, and hostile ones."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scd.errors import BadRequest
from scd.manifest import Manifest, check_name, decode
from scd.model import NodeKey

DATA = Path(__file__).parent.parent / "data"
DEEP = b"[" * 100_000 + b"]" * 100_000

Tree = dict[str, Any]


def parameter(value: object, key: str = "*") -> Tree:
    return {"node": {key: {key: {"value": value, "signature": None}}}}


def manifest(nodes: Tree | None = None, scheduler: object = None, **option: Any) -> Tree:
    texts: Tree = {"flow": "f", "jobname": "job0", "design": "top"} | option
    return {
        "schemaversion": parameter("0.57.2", "default"),
        "option": {
            **{key: parameter(value) for key, value in texts.items()},
            "scheduler": {"name": parameter(scheduler)},
        },
        "flowgraph": {"f": {"syn": {"0": {}}} if nodes is None else nodes},
    }


def read(tree: object) -> Manifest:
    return decode(json.dumps(tree).encode())


def refusal(raw: object) -> str:
    with pytest.raises(BadRequest) as caught:
        decode(raw if isinstance(raw, bytes) else json.dumps(raw).encode())
    return caught.value.message


# -- real ones


@pytest.mark.parametrize(("version", "schema"), [("0.37.12", "0.54.0"), ("0.38.11", "0.57.2")])
def test_real_manifests(version: str, schema: str) -> None:
    """As project.getdict() gave them: ``global`` up to 0.37, ``*`` from 0.38 on."""
    found = decode(gzip.decompress((DATA / f"manifest-{version}.json.gz").read_bytes()))
    middle = [NodeKey("mid", str(number)) for number in range(8)]
    assert found == Manifest(
        schema_version=schema, design="top", jobname="try-1", flow="fan",
        nodes=(NodeKey("first", "0"), NodeKey("last", "0"), *middle), schedulers=frozenset(),
    )  # fmt: skip


def test_eleven_megabytes() -> None:
    """An ASIC target's manifest is mostly libraries, of which nothing is read."""
    tree = manifest()
    tree["library"] = {f"cell{n}": parameter("x" * 1000) for n in range(10_500)}
    raw = json.dumps(tree).encode()
    assert len(raw) > 11e6
    assert decode(raw).nodes == (NodeKey("syn", "0"),)


@pytest.mark.parametrize("key", ["*", "global", "default"])
def test_a_global_value_under_each_of_its_keys(key: str) -> None:
    tree = manifest()
    tree["option"]["jobname"] = parameter("mine", key)
    assert read(tree).jobname == "mine"


def test_a_value_that_was_set_wins_over_the_default() -> None:
    for key in ("*", "global"):
        tree = manifest()
        tree["option"]["jobname"]["node"] = parameter("job0", "default")["node"] | parameter("mine", key)["node"]
        assert read(tree).jobname == "mine"


def test_a_value_of_one_node_is_not_the_global_one() -> None:
    tree = manifest()
    tree["option"]["design"] = {"node": {"syn": {"0": {"value": "other"}}}}
    assert refusal(tree) == "The manifest has no value for option,design."


def test_templates_are_no_nodes() -> None:
    nodes = {"default": {"default": {}}, "__meta__": {"x": 1}, "syn": {"0": {}, "default": {}, "__meta__": {}}}
    assert read(manifest(nodes)).nodes == (NodeKey("syn", "0"),)


# -- names that become directories


@pytest.mark.parametrize("name", ["syn", "place.global", "a b", ".hidden", "...", "-rf", "ü", "x" * 128, "syn1'\"$;&"])
def test_names_that_can_be_directories(name: str) -> None:
    assert check_name(name, "step") == name


@pytest.mark.parametrize(
    "name",
    [".", "..", "/", "/etc", "../up", "a/b", "a\\b", "a\0b", "a\nb", "a\rb", "\x1b[2J", "a\x7f", "a\x85", "a\u2028b",
     "\ud800"],
)  # fmt: skip
def test_names_that_cannot_be_directories(name: str) -> None:
    with pytest.raises(BadRequest) as caught:
        check_name(name, "step")
    assert caught.value.message == f"The step {name!r} cannot be a directory name."


@pytest.mark.parametrize("name", ["", "x" * 129, "ü" * 65])
def test_names_of_a_wrong_length(name: str) -> None:
    """In bytes: a directory name may have 255, and archives add to it."""
    with pytest.raises(BadRequest, match=r"^The step must have 1 to 128 characters\.$"):
        check_name(name, "step")


@pytest.mark.parametrize("where", ["design", "jobname", "step", "index"])
def test_every_name_is_checked(where: str) -> None:
    name = "../../etc"
    if where == "step":
        tree = manifest({name: {"0": {}}})
    elif where == "index":
        tree = manifest({"syn": {name: {}}})
    else:
        tree = manifest()
        tree["option"][where] = parameter(name)
    assert refusal(tree) == f"The {where} '../../etc' cannot be a directory name."


@given(st.text())
def test_a_name_that_passes_is_one_component_of_a_path(name: str) -> None:
    try:
        check_name(name, "step")
    except BadRequest:
        return
    path = Path("/root", name)
    assert path.parent == Path("/root")
    assert path.name == name
    assert "\n" not in name


# -- names that the client could not tell apart


def test_nodes_that_are_one_to_the_client() -> None:
    assert refusal(manifest({"syn1": {"0": {}}, "syn": {"10": {}}})) == (
        "The nodes syn1/0 and syn/10 are both 'syn10' to the client. Rename one of the steps."
    )


@pytest.mark.parametrize(("step", "index"), [("status", "0"), ("statu", "s"), ("messag", "e"), ("nul", "l")])
def test_words_of_the_protocol_itself(step: str, index: str) -> None:
    tree = manifest({step: {index: {}}})
    if step + index == "status0":
        assert read(tree).nodes == (NodeKey("status", "0"),)
    else:
        assert refusal(tree) == (
            f"A node may not be called {step + index!r}: the protocol uses that word. Rename step {step!r}."
        )


# -- schedulers that would dispatch a second time


@pytest.mark.parametrize("name", ["docker", "lsf", "sge"])
@pytest.mark.parametrize("key", ["*", "global", "default", "syn"])
def test_foreign_schedulers(name: str, key: str) -> None:
    """Set for all, or for one node alone."""
    tree = manifest()
    tree["option"]["scheduler"]["name"] = parameter(None, "default")
    tree["option"]["scheduler"]["name"]["node"] |= parameter(name, key)["node"]
    assert refusal(tree) == (
        f"This server does not run nodes by the scheduler {name!r}. Unset option,scheduler,name and submit again."
    )


@pytest.mark.parametrize("name", [None, "slurm"])
def test_schedulers_that_scd_replaces(name: str | None) -> None:
    assert read(manifest(scheduler=name)).schedulers == ({name} if name else set())


def test_a_manifest_without_any_scheduler() -> None:
    tree = manifest()
    del tree["option"]["scheduler"]
    assert read(tree).schedulers == frozenset()


# -- no manifest at all


@pytest.mark.parametrize("flow", ["other", "default", "__meta__"])
def test_the_selected_flow_is_missing(flow: str) -> None:
    tree = manifest(flow=flow)
    tree["flowgraph"] |= {"default": {}, "__meta__": {}}
    assert refusal(tree) == f"The manifest selects the flow {flow!r} but does not hold it."


@pytest.mark.parametrize("nodes", [{}, {"syn": {}}, {"default": {"default": {}}}])
def test_a_flow_without_nodes(nodes: Tree) -> None:
    assert refusal(manifest(nodes)) == "The flow 'f' has no nodes."


@pytest.mark.parametrize("key", ["flow", "design", "jobname"])
@pytest.mark.parametrize("value", [None, "", 5, ["top"], {"a": 1}, True])
def test_values_that_are_no_text(key: str, value: object) -> None:
    tree = manifest()
    tree["option"][key] = parameter(value)
    assert refusal(tree) == f"The manifest has no value for option,{key}."


WHOLE = json.dumps(manifest()).encode()


@pytest.mark.parametrize(
    "raw",
    [b"", b" ", b"null", b"[]", b"5", b"{}", b"\xff\xfe{}", WHOLE[:-1], WHOLE[: len(WHOLE) // 2], WHOLE + b"x",
     WHOLE.replace(b'"f"', b'"\xff"'), WHOLE.replace(b'"top"', b'"\\ud800"'), b"\x80\x04pickle"],
)  # fmt: skip
def test_what_is_no_json_of_siliconcompiler(raw: bytes) -> None:
    assert refusal(raw).startswith("The manifest is not one of SiliconCompiler: ")


@pytest.mark.parametrize("key", ["schemaversion", "option", "flowgraph"])
@pytest.mark.parametrize("value", [None, 5, "x", [], {"f": 5}, {"f": {"syn": 5}}])
def test_wrong_types_and_missing_parts(key: str, value: object) -> None:
    assert refusal({**manifest(), key: value}).startswith("The manifest is not one of SiliconCompiler: ")
    partial = manifest()
    del partial[key]
    assert refusal(partial) == (f"The manifest is not one of SiliconCompiler: Object missing required field `{key}`.")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"schemaversion": ' + DEEP + b"}",
        WHOLE[:-1] + b', "unknown": ' + DEEP + b"}",
        WHOLE.replace(b'"0": {}', b'"0": ' + DEEP),
        WHOLE.replace(b'"top"', DEEP),
        WHOLE.replace(b'"value": null', b'"value": ' + DEEP),
        b'{"x":' + b'{"x":' * 100_000,
    ],
    ids=["parameter", "unknown key", "node", "value", "scheduler", "unclosed"],
)
def test_a_tower_of_brackets_does_not_bring_the_daemon_down(raw: bytes) -> None:
    text = refusal(raw)
    assert text == "The manifest is nested too deeply." or text.startswith("The manifest is not one of SiliconCompiler")


WORDS = st.sampled_from(["node", "*", "value", "f", "option", "flow"])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(), inner, max_size=3),
)
PLACES = [
    "schemaversion", "option", "option flow", "option scheduler", "option scheduler name node",
    "option design node * *", "flowgraph", "flowgraph f", "flowgraph f syn",
]  # fmt: skip


@given(junk=JUNK, where=st.sampled_from(PLACES))
def test_no_json_anywhere_raises_anything_else(junk: object, where: str) -> None:
    tree = manifest()
    place = tree
    *outer, last = where.split(" ")
    for key in outer:
        place = place[key]
    place[last] = junk
    try:
        found = read(tree)
    except BadRequest:
        return
    assert found.nodes
    assert found.design == check_name(found.design, "design")
