"""A flowgraph as a layered picture: where its nodes stand and how its edges run. Pure.

After Sugiyama: layers by longest path, edges over several layers through a bend in each of them, order within a layer
by the barycentre of the neighbours, then places near those of the neighbours.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ..model import NodeKey, PlanNode

NODE_WIDTH, NODE_HEIGHT = 132, 46
_GAP, _ROW_GAP, _MARGIN = 16, 44, 12
_BEND_WIDTH = 10
_WIDEST, _WIDEST_FAN = 64, 10  # nodes beside each other
_SWEEPS = 6
_PULLS = 10
_LONGEST_NAME = 16
_MOST_BENDS = 10_000  # in a flow that is made to be bad, further edges run straight

Cell = tuple[str, str] | int  # a node's step and index, or a bend
Inputs = Mapping[tuple[str, str], Sequence[tuple[str, str]]]


class Box(msgspec.Struct, frozen=True):
    """A node: its upper left corner."""

    key: NodeKey
    x: float
    y: float
    name: str  # shortened to fit


class Picture(msgspec.Struct, frozen=True):
    """Sizes are pixels; ``edges`` are paths of SVG with the nodes that they join."""

    width: int
    height: int
    boxes: tuple[Box, ...]
    edges: tuple[tuple[NodeKey, NodeKey, str], ...]


def in_order(nodes: Sequence[PlanNode]) -> list[PlanNode]:
    """Nodes as they run, those of one step by their number."""
    first: dict[str, int] = {}
    for node in nodes:
        first.setdefault(node.step, len(first))
    return sorted(nodes, key=lambda node: (node.level, first[node.step], len(node.index), node.index))


def draw(nodes: Sequence[PlanNode]) -> Picture:
    nodes = in_order(nodes)
    inputs: dict[tuple[str, str], list[tuple[str, str]]] = {(node.step, node.index): [] for node in nodes}
    for node in nodes:
        inputs[node.step, node.index] = [
            (key.step, key.index) for key in dict.fromkeys(node.key_inputs) if (key.step, key.index) in inputs
        ]
    rows, chains = _with_bends(_layers(inputs), inputs)
    links = [pair for chain in chains for pair in itertools.pairwise(chain)]
    rows = _ordered(rows, links)
    centres = _placed(rows, links)
    left = min((centres[cell] - _width(cell) / 2 for row in rows for cell in row), default=0.0)
    right = max((centres[cell] + _width(cell) / 2 for row in rows for cell in row), default=0.0)
    shift = _MARGIN - left
    tops = {cell: _MARGIN + number * (NODE_HEIGHT + _ROW_GAP) for number, row in enumerate(rows) for cell in row}
    boxes = tuple(
        Box(NodeKey(*cell), round(centres[cell] + shift - NODE_WIDTH / 2, 1), tops[cell], _short("/".join(cell)))
        for row in rows
        for cell in row
        if not isinstance(cell, int)
    )
    edges = tuple(
        (NodeKey(*_node(chain[0])), NodeKey(*_node(chain[-1])),
         _path([(centres[cell] + shift, tops[cell]) for cell in chain]))
        for chain in chains
    )  # fmt: skip
    height = 2 * _MARGIN + len(rows) * (NODE_HEIGHT + _ROW_GAP) - (_ROW_GAP if rows else 0)
    return Picture(round(right - left) + 2 * _MARGIN, height, boxes, edges)


def _layers(inputs: Inputs) -> list[list[Cell]]:
    """Each node one below the lowest of its inputs. A circle, which no flow has, is cut where it is met."""
    level: dict[tuple[str, str], int] = {}
    waiting = {key: len(sources) for key, sources in inputs.items()}
    users: defaultdict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for key, sources in inputs.items():
        for source in sources:
            users[source].append(key)
    ready = [key for key, count in waiting.items() if not count]
    for key in ready:
        level[key] = max((level[source] + 1 for source in inputs[key]), default=0)
        for user in users[key]:
            waiting[user] -= 1
            if not waiting[user]:
                ready.append(user)
    layers: list[list[Cell]] = [[] for _ in range(max(level.values(), default=-1) + 1)]
    for key in inputs:
        if key in level:
            layers[level[key]].append(key)
    return layers


def _with_bends(layers: list[list[Cell]], inputs: Inputs) -> tuple[list[list[Cell]], list[list[Cell]]]:
    """Rows, and each edge as the chain of its cells from above: it bends in the rows of the layers that it passes.

    A layer that is too wide has several rows of nearly the same length. Edges to and from these run behind the rows
    between, so this is done early only for nodes that have the same neighbours, where no edge can be mistaken.
    """
    users: defaultdict[Cell, set[Cell]] = defaultdict(set)
    for key, sources in inputs.items():
        for source in sources:
            users[source].add(key)
    rows: list[list[Cell]] = []
    span: dict[Cell, tuple[int, int]] = {}  # of a cell's layer: its first row, and the first one behind it
    for layer in layers:
        alike = len({(frozenset(inputs[_node(cell)]), frozenset(users[cell])) for cell in layer}) == 1
        size = -(-len(layer) // -(-len(layer) // (_WIDEST_FAN if alike else _WIDEST)))
        parts = [layer[start : start + size] for start in range(0, len(layer), size)]
        span.update(dict.fromkeys(layer, (len(rows), len(rows) + len(parts))))
        rows += parts
    chains: list[list[Cell]] = []
    bends = 0
    for key, sources in inputs.items():
        for source in sources:
            if key not in span or source not in span:
                continue
            chain: list[Cell] = [source]
            for number in range(span[source][1], span[key][0]) if bends < _MOST_BENDS else ():
                rows[number].append(bends)
                chain.append(bends)
                bends += 1
            chains.append([*chain, key])
    return rows, chains


def _ordered(rows: list[list[Cell]], links: Iterable[tuple[Cell, Cell]]) -> list[list[Cell]]:
    """Down and up again, each row by the mean place of its neighbours in the row before; the best is kept."""
    above: defaultdict[Cell, list[Cell]] = defaultdict(list)
    below: defaultdict[Cell, list[Cell]] = defaultdict(list)
    for upper, lower in links:
        above[lower].append(upper)
        below[upper].append(lower)
    best, fewest = rows, _crossings(rows, below)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        down = sweep % 2 == 0
        neighbours = above if down else below
        place: dict[Cell, float] = {}
        moved: list[list[Cell]] = []
        for row in rows if down else reversed(rows):
            now = {cell: float(number) for number, cell in enumerate(row)}
            weight = {
                cell: _mean([place[other] for other in neighbours[cell] if other in place], now[cell]) for cell in row
            }
            moved.append(sorted(row, key=lambda cell: weight[cell]))
            place.update({cell: float(number) for number, cell in enumerate(moved[-1])})
        rows = moved if down else moved[::-1]
        if (count := _crossings(rows, below)) < fewest:
            best, fewest = rows, count
    return best


def _crossings(rows: list[list[Cell]], below: Mapping[Cell, list[Cell]]) -> int:
    """How often edges cross, counted between each two rows with a tree of sums."""
    total = 0
    for upper, lower in itertools.pairwise(rows):
        place = {cell: number for number, cell in enumerate(lower)}
        ends = [
            end for cell in upper for end in sorted(place[other] for other in below.get(cell, ()) if other in place)
        ]
        sums = [0] * (len(lower) + 1)
        for seen, end in enumerate(ends):
            left, at = 0, end + 1
            while at:
                left += sums[at]
                at &= at - 1
            total += seen - left
            at = end + 1
            while at < len(sums):
                sums[at] += 1
                at += at & -at
    return total


def _placed(rows: list[list[Cell]], links: Iterable[tuple[Cell, Cell]]) -> dict[Cell, float]:
    """The centre of each cell: near those of its neighbours, in the order of its row, and never over another."""
    near: defaultdict[Cell, list[Cell]] = defaultdict(list)
    for upper, lower in links:
        near[lower].append(upper)
        near[upper].append(lower)
    centres: dict[Cell, float] = {}
    for row in rows:
        widths = [_width(cell) for cell in row]
        at = -(sum(widths) + _GAP * (len(row) - 1)) / 2
        for cell, width in zip(row, widths, strict=True):
            centres[cell] = at + width / 2
            at += width + _GAP
    for pull in range(_PULLS):
        for row in rows if pull % 2 == 0 else reversed(rows):
            wanted = [_mean([centres[other] for other in near[cell]], centres[cell]) for cell in row]
            centres.update(zip(row, _apart(row, wanted), strict=True))
    return centres


def _apart(row: Sequence[Cell], wanted: Sequence[float]) -> list[float]:
    """The places nearest to those that are wanted where nothing overlaps: blocks that touch move as one."""
    offsets, at = [], 0.0
    for number, cell in enumerate(row):
        at += (_width(row[number - 1]) + _width(cell)) / 2 + _GAP if number else 0.0
        offsets.append(at)
    blocks: list[tuple[float, int]] = []  # the mean of what its cells want of the block's origin, and their number
    for want, offset in zip(wanted, offsets, strict=True):
        mean, count = want - offset, 1
        while blocks and blocks[-1][0] >= mean:
            other, others = blocks.pop()
            mean, count = (mean * count + other * others) / (count + others), count + others
        blocks.append((mean, count))
    origins = [mean for mean, count in blocks for _ in range(count)]
    return [origin + offset for origin, offset in zip(origins, offsets, strict=True)]


def _path(points: Sequence[tuple[float, float]]) -> str:
    """From the foot of the first box to the head of the last, straight through the rows between."""
    (x, y), last = points[0], len(points) - 1
    path = f"M{x:.1f} {y + NODE_HEIGHT:.1f}"
    at = y + NODE_HEIGHT
    for number, (x, y) in enumerate(points[1:], 1):
        middle = (at + y) / 2
        path += f"C{points[number - 1][0]:.1f} {middle:.1f} {x:.1f} {middle:.1f} {x:.1f} {y:.1f}"
        at = y
        if number < last:
            at += NODE_HEIGHT
            path += f"V{at:.1f}"
    return path


def _node(cell: Cell) -> tuple[str, str]:
    assert not isinstance(cell, int)
    return cell


def _width(cell: Cell) -> float:
    return _BEND_WIDTH if isinstance(cell, int) else NODE_WIDTH


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise


def _short(name: str) -> str:
    """Its beginning and its end: the index tells nodes of one step apart."""
    return name if len(name) <= _LONGEST_NAME else f"{name[:9]}…{name[-6:]}"
