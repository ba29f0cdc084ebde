"""Places for the boxes and lines of a network, in time nearly linear in their number.

Boxes stand in ranks from top to bottom, each below all that it takes from (K. Sugiyama et al., "Methods for Visual
Understanding of Hierarchical System Structures", 1981). A line bends at each rank that it passes. One that would pass
many ranks runs in a lane beside the picture instead, which also bounds the work.
"""

import heapq
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

BOX_HEIGHT = 46.0
RANK_GAP = 50.0
_BOX_GAP = 28.0
_BEND_WIDTH = 14.0
_LEAST_WEIGHT = 1e-6  # of a cell beside one on a longer path
_MARGIN = 24.0
_LANE_GAP = 12.0
_MOST_RANKS = 10  # that a line passes within the picture
_SWEEPS = 8

Line = tuple[int, int, int]
"""(source, target, tensor): indices of boxes, and of what the line carries."""
Point = tuple[float, float]


@dataclass
class Layout:
    """Centres of the boxes, and the points of each line. lanes: which of the lines run beside the picture."""

    width: float = 0.0
    height: float = 0.0
    centres: list[Point] = field(default_factory=list)
    lines: list[list[Point]] = field(default_factory=list)
    lanes: list[bool] = field(default_factory=list)


def layered(widths: Sequence[float], lines: Sequence[Line]) -> Layout:
    """The layout of boxes with these widths. Boxes are in an order in which most lines go forward."""
    depths, heights, ranks = _ranks(len(widths), [line[:2] for line in lines if line[0] < line[1]])
    lanes = [not 0 < ranks[target] - ranks[source] <= _MOST_RANKS for source, target, _ in lines]
    grid = _Grid(widths, depths, heights, ranks)
    bends = [[] if lane else grid.bend(*line[:2]) for line, lane in zip(lines, lanes, strict=True)]
    grid.arrange()
    return _drawn(grid, lines, lanes, bends)


def _ranks(count: int, forward: Sequence[tuple[int, ...]]) -> tuple[list[int], list[int], list[int]]:
    """Of each box the depth, which is the longest path to it; the height, the longest path from it; and the rank.

    The rank is just above what takes from it, so that weights stand beside their uses.
    """
    above: list[set[int]] = [set() for _ in range(count)]
    below: list[set[int]] = [set() for _ in range(count)]
    for source, target in forward:
        above[target].add(source)
        below[source].add(target)
    depths = [0] * count
    for box in range(count):
        depths[box] = max((depths[source] + 1 for source in above[box]), default=0)
    heights, ranks = [0] * count, list(depths)
    for box in reversed(range(count)):
        if below[box]:
            heights[box] = max(heights[target] for target in below[box]) + 1
            ranks[box] = min(ranks[target] for target in below[box]) - 1
    return depths, heights, ranks


class _Grid:
    """Cells, which are boxes and the bends of lines, in ranks; cells with neighbours above and below.

    A cell keeps in line with the neighbour above at the greatest depth, and with that below at the greatest height: so
    the longest path is straight, and what is short stands beside it.
    """

    def __init__(
        self, widths: Sequence[float], depths: Sequence[int], heights: Sequence[int], ranks: Sequence[int]
    ) -> None:
        self.widths = list(widths)
        self.depths = list(depths)
        self.heights = list(heights)
        self.ranks = list(ranks)
        self.above: list[list[int]] = [[] for _ in widths]
        self.below: list[list[int]] = [[] for _ in widths]
        self.x: list[float] = []

    def bend(self, source: int, target: int) -> list[int]:
        """Joins two boxes by a cell in each rank between them, and returns those cells."""
        cells = [self._cell(source, target, rank) for rank in range(self.ranks[source] + 1, self.ranks[target])]
        for upper, lower in zip([source, *cells], [*cells, target], strict=True):
            self.below[upper].append(lower)
            self.above[lower].append(upper)
        return cells

    def _cell(self, source: int, target: int, rank: int) -> int:
        self.widths.append(_BEND_WIDTH)
        self.depths.append(self.depths[source])
        self.heights.append(self.heights[target])
        self.ranks.append(rank)
        self.above.append([])
        self.below.append([])
        return len(self.widths) - 1

    def arrange(self) -> None:
        """Orders each rank and sets the x of every cell, in sweeps down and up."""
        rows: list[list[int]] = [[] for _ in range(max(self.ranks, default=-1) + 1)]
        for cell, rank in enumerate(self.ranks):
            rows[rank].append(cell)
        self.x = [0.0] * len(self.ranks)
        for row in rows:
            self._place(row, [0.0] * len(row))
        for sweep in range(_SWEEPS):
            down = sweep % 2 == 0
            neighbours, extents = (self.above, self.depths) if down else (self.below, self.heights)
            for row in rows if down else reversed(rows):
                row.sort(key=lambda cell: self._centre_of(neighbours[cell], cell))
                self._place(row, [self._wish(neighbours[cell], extents, cell) for cell in row])

    def _wish(self, neighbours: Sequence[int], extents: Sequence[int], cell: int) -> float:
        """The place of the neighbour with the longest path; where there is none, the cell's own."""
        longest = max((extents[each] for each in neighbours), default=0)
        return self._centre_of([each for each in neighbours if extents[each] == longest], cell)

    def _centre_of(self, neighbours: Sequence[int], cell: int) -> float:
        """The median place of the neighbours; where there are none, the cell's own."""
        if not neighbours:
            return self.x[cell]
        places = sorted(self.x[each] for each in neighbours)
        return (places[(len(places) - 1) // 2] + places[len(places) // 2]) / 2

    def _place(self, row: Sequence[int], wishes: Sequence[float]) -> None:
        """Sets x as near to the wishes as order and gaps allow, in least squares; a cell on a longer path moves less.

        Less the space that the cells before it need, a cell's place may not decrease: an isotonic regression, by
        pooling adjacent violators.
        """
        needed, offsets = 0.0, []
        for index, cell in enumerate(row):
            needed += (self.widths[row[index - 1]] + self.widths[cell]) / 2 + _BOX_GAP if index else 0.0
            offsets.append(needed)
        pools: list[tuple[float, float, int]] = []  # mean, weight, number of cells
        paths = [self.depths[cell] + self.heights[cell] for cell in row]
        longest = max(paths, default=0)
        for path, wish, offset in zip(paths, wishes, offsets, strict=True):
            mean, weight, count = wish - offset, max(10.0 ** (path - longest), _LEAST_WEIGHT), 1
            while pools and pools[-1][0] >= mean:
                other, other_weight, other_count = pools.pop()
                mean = (mean * weight + other * other_weight) / (weight + other_weight)
                weight, count = weight + other_weight, count + other_count
            pools.append((mean, weight, count))
        places = [mean for mean, _, count in pools for _ in range(count)]
        for cell, place, offset in zip(row, places, offsets, strict=True):
            self.x[cell] = place + offset


def _drawn(grid: _Grid, lines: Sequence[Line], lanes: Sequence[bool], bends: Sequence[Sequence[int]]) -> Layout:
    """The picture with its corner at (0, 0)."""
    left = min((x - width / 2 for x, width in zip(grid.x, grid.widths, strict=True)), default=0.0) - _MARGIN
    right = max((x + width / 2 for x, width in zip(grid.x, grid.widths, strict=True)), default=0.0) - left + _MARGIN
    places = [(x - left, _middle(rank)) for x, rank in zip(grid.x, grid.ranks, strict=True)]
    points = [
        [places[source], *(place for cell in cells for place in _through(places[cell])), places[target]]
        for (source, target, _), cells in zip(lines, bends, strict=True)
    ]
    _spread(points, lines, grid.widths)
    beside = [index for index, lane in enumerate(lanes) if lane]
    tracks = _tracks([(lines[index][2], points[index][0][1], points[index][-1][1]) for index in beside])
    for index in beside:
        points[index] = _aside(points[index], right + tracks[lines[index][2]] * _LANE_GAP)
    width = right + _LANE_GAP * (max(tracks.values(), default=-1) + 1) + _MARGIN
    height = _middle(max(grid.ranks, default=0)) + BOX_HEIGHT / 2 + _MARGIN
    return Layout(width, height, places[: len(places) - sum(map(len, bends))], points, list(lanes))


def _middle(rank: int) -> float:
    return _MARGIN + BOX_HEIGHT / 2 + rank * (BOX_HEIGHT + RANK_GAP)


def _through(place: Point) -> tuple[Point, Point]:
    """A line passes a rank from its upper to its lower edge."""
    return (place[0], place[1] - BOX_HEIGHT / 2), (place[0], place[1] + BOX_HEIGHT / 2)


def _spread(points: list[list[Point]], lines: Sequence[Line], widths: Sequence[float]) -> None:
    """Moves the ends of lines from the boxes' centres to ports: one for each tensor below, for each line above."""
    leaving: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    arriving: dict[int, list[int]] = defaultdict(list)
    for index, (source, target, tensor) in enumerate(lines):
        leaving[source][tensor].append(index)
        arriving[target].append(index)
    for box, groups in leaving.items():
        for place, group in enumerate(groups.values()):
            for index in group:
                x, y = points[index][0]
                points[index][0] = (_port(x, widths[box], place, len(groups)), y + BOX_HEIGHT / 2)
    for box, group in arriving.items():
        for place, index in enumerate(sorted(group, key=lambda index: points[index][-2][0])):
            x, y = points[index][-1]
            points[index][-1] = (_port(x, widths[box], place, len(group)), y - BOX_HEIGHT / 2)


def _port(centre: float, width: float, place: int, count: int) -> float:
    return centre + width * ((place + 0.5) / count - 0.5)


def _tracks(spans: Sequence[tuple[int, float, float]]) -> dict[int, int]:
    """A lane for each tensor, such that those whose spans overlap have different ones."""
    ends: dict[int, tuple[float, float]] = {}
    for tensor, first, last in spans:
        low, high = ends.get(tensor, (first, first))
        ends[tensor] = min(low, first, last), max(high, first, last)
    busy: list[tuple[float, int]] = []
    free: list[int] = []
    lanes: dict[int, int] = {}
    for tensor, (low, high) in sorted(ends.items(), key=lambda each: each[1]):
        while busy and busy[0][0] < low:
            heapq.heappush(free, heapq.heappop(busy)[1])
        lanes[tensor] = heapq.heappop(free) if free else len(busy)
        heapq.heappush(busy, (high, lanes[tensor]))
    return lanes


def _aside(points: Sequence[Point], lane: float) -> list[Point]:
    """A line by way of a lane; it crosses the picture between ranks."""
    (x0, y0), (x1, y1) = points[0], points[-1]
    leave, enter = y0 + RANK_GAP * 0.4, y1 - RANK_GAP * 0.2
    return [(x0, y0), (x0, leave), (lane, leave), (lane, enter), (x1, enter), (x1, y1)]
