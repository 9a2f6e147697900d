"""The flowgraph as a picture: every node is there once, nothing overlaps, edges go downwards."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scd.model import NodeKey, PlanNode
from scd.states import NodeState
from scd.web.picture import NODE_HEIGHT, NODE_WIDTH, Picture, draw, in_order

from ..integration.seeded import large_plan


def flow(*inputs: tuple[int, ...]) -> list[PlanNode]:
    """Node ``n<i>/0`` for each entry, with the numbers of its inputs."""
    level: list[int] = []
    for sources in inputs:
        level.append(max((level[source] + 1 for source in sources), default=0))
    return [
        PlanNode(f"n{number}", "0", level[number], NodeState.PENDING, tuple(NodeKey(f"n{one}", "0") for one in sources))
        for number, sources in enumerate(inputs)
    ]


def hold(nodes: list[PlanNode], picture: Picture) -> None:
    place = {box.key: box for box in picture.boxes}
    assert sorted(place) == sorted(node.key for node in nodes)
    assert len(picture.boxes) == len(nodes)
    rows: dict[float, list[float]] = {}
    for box in picture.boxes:
        assert 0 <= box.x <= picture.width - NODE_WIDTH
        assert 0 <= box.y <= picture.height - NODE_HEIGHT
        rows.setdefault(box.y, []).append(box.x)
    for row in rows.values():
        row.sort()
        assert all(right - left >= NODE_WIDTH for left, right in itertools.pairwise(row)), "boxes overlap"
    drawn = {(above, below) for above, below, _ in picture.edges}
    assert drawn == {(source, node.key) for node in nodes for source in node.key_inputs}
    assert all(place[above].y < place[below].y for above, below in drawn), "an edge goes upwards"


@given(st.lists(st.integers(0, 2**30), max_size=40))
@settings(max_examples=60)
def test_any_flow_is_drawn(seeds: list[int]) -> None:
    nodes = flow(*(tuple(one for one in range(number) if seed >> one & 1) for number, seed in enumerate(seeds)))
    hold(nodes, draw(nodes))


@pytest.mark.parametrize("count", [11, 200, 1000])
def test_large_flows(count: int) -> None:
    nodes = list(large_plan(count).nodes)
    hold(nodes, draw(nodes))


def test_a_diamond_is_even_and_nothing_crosses() -> None:
    picture = draw(flow((), (0,), (0,), (1, 2)))
    place = {box.key.step: box for box in picture.boxes}
    assert place["n0"].x == place["n3"].x == (place["n1"].x + place["n2"].x) / 2
    assert place["n1"].y == place["n2"].y


def test_a_long_edge_goes_around_the_nodes_that_it_passes() -> None:
    picture = draw(flow((), (0,), (1,), (0, 2)))
    place = {box.key.step: box for box in picture.boxes}
    (path,) = (path for above, below, path in picture.edges if (above.step, below.step) == ("n0", "n3"))
    numbers = [float(found) for found in re.findall(r"-?[0-9.]+", path)]
    bend = numbers[6]  # where the first curve ends
    assert not place["n1"].x < bend < place["n1"].x + NODE_WIDTH


def test_siblings_beyond_ten_stand_in_rows() -> None:
    picture = draw(flow((), *[(0,)] * 25))
    assert picture.width < 11 * (NODE_WIDTH + 20)
    assert len({box.y for box in picture.boxes}) == 4


def test_a_hostile_flow_is_drawn_soon() -> None:
    """A thousand in a row, each with edges from many before it."""
    nodes = flow(*(tuple(range(max(0, number - 40), number)) for number in range(400)))
    assert len(draw(nodes).edges) == sum(len(node.key_inputs) for node in nodes)


def test_what_is_no_flow_is_drawn_as_far_as_it_is_one() -> None:
    circle = [PlanNode(step, "0", 0, NodeState.PENDING, (NodeKey(other, "0"),)) for step, other in ("ab", "ba")]
    assert draw(circle).boxes == ()
    assert draw([]).height > 0


def test_nodes_of_a_step_are_in_the_order_of_their_numbers() -> None:
    nodes = [PlanNode("syn", str(number), 0, NodeState.PENDING, ()) for number in (0, 1, 10, 11, 2)]
    assert [node.index for node in in_order(nodes)] == ["0", "1", "2", "10", "11"]


def test_a_long_name_keeps_its_number() -> None:
    (box,) = draw([PlanNode("a" * 100, "123", 0, NodeState.PENDING, ())]).boxes
    assert len(box.name) == 16
    assert box.name.endswith("/123")
