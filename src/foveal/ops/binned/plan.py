"""How the sums over the bins of a map are formed: shared tables of shifted sums first, then what each bin adds up."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from torch import Tensor

# taps up to which no table pays, up to which four do, and up to which eight do (2 beyond), of images and of volumes;
# benchmarks/fit_rules.py measures them, and those in force were found on AVX-512 (CONTRIBUTING.md)
LIMITS = {2: (121, 361, 2500), 3: (343, 729, 3375)}
_Term = tuple[int, int, int]  # table (the first are the map's planes), and the tap, down and right, at which it is read
_Key = tuple[int, int, int, int]  # tables a and b, and how far down and right of a they add b


class Plan:
    """The arrays that the kernels read, all int32.

    ``plane`` [planes]: how deep the planes of the map lie that the window reads, in pixels from its front; an image has one.
    They are the first tables. ``table`` [tables, 4]: table planes + t is table a plus table b shifted down and right.
    ``term`` [terms, 3]: table, down and right from the window's corner, those of column r being
    ``term[first[r] : first[r + 1]]``. ``span`` [planes + tables, 2]: the first and the last row of each table that the first
    output row needs.
    """

    def __init__(self, bins: np.ndarray, columns: int, dilation: Sequence[int], tables: int) -> None:
        if bins.size and not -1 <= bins.min() <= bins.max() < columns:
            raise ValueError(
                f"bins must lie in -1 .. {columns - 1} (weight has {columns} columns); got {bins.min()} .. {bins.max()}"
            )
        volume = bins.reshape(-1, *bins.shape[-2:])
        depths = np.flatnonzero((volume >= 0).any((1, 2))).tolist() or [0]
        groups = [
            {(depths.index(z), int(y), int(x)) for z, y, x in np.argwhere(volume == column)}
            for column in range(columns)
        ]
        keys = share(groups, tables, len(depths))
        self.plane = np.array(depths, dtype=np.int32) * np.int32(dilation[0] if bins.ndim == 3 else 1)
        spread = np.array([1, *dilation[-2:]], dtype=np.int32)
        terms = [term for group in groups for term in sorted(group)]
        self.term = np.ascontiguousarray(np.array(terms, dtype=np.int32).reshape(-1, 3) * spread)
        self.first = np.cumsum([0, *map(len, groups)], dtype=np.int32)
        table = np.array(keys, dtype=np.int32).reshape(-1, 4)
        table[:, 2:] *= spread[1:]
        self.table = np.ascontiguousarray(table)
        self.span = _span(self.table, self.term, len(depths))
        self.window = tuple(space * (side - 1) for space, side in zip(dilation, bins.shape, strict=True))
        self.columns = columns
        self.bins = np.ascontiguousarray(bins)


def _span(table: np.ndarray, term: np.ndarray, planes: int) -> np.ndarray:
    """Rows of each table that are read: by terms, and by later tables at the rows that are read of these."""
    rows: list[list[int]] = [term[term[:, 0] == t, 1].tolist() for t in range(planes + len(table))]
    for t in range(len(rows) - 1, planes - 1, -1):
        first, second, down, _ = table[t - planes].tolist()
        if rows[t]:
            ends = [min(rows[t]), max(rows[t])]
            rows[t] = ends
            rows[first] += ends
            rows[second] += [row + down for row in ends]
    return np.array([(min(r), max(r)) if r else (0, -1) for r in rows], dtype=np.int32)


def share(groups: list[set[_Term]], most: int, planes: int = 1) -> list[_Key]:
    """Replace the pair of terms that most groups have at one displacement by a term of a new table, up to ``most`` times;
    tables are numbered from ``planes`` on.

    Sums are only regrouped: nothing is subtracted, so nothing cancels. The groups are changed in place.
    """
    keys: list[_Key] = []
    while len(keys) < most:
        counts: Counter[_Key] = Counter()
        for group in groups:
            terms = np.array(sorted(group)).reshape(-1, 3)
            i, j = np.triu_indices(len(terms), 1)
            pairs = np.stack([terms[i, 0], terms[j, 0], *(terms[j, 1:] - terms[i, 1:]).T], 1)
            for key, count in zip(*np.unique(pairs, axis=0, return_counts=True), strict=True):
                counts[tuple(key.tolist())] += int(count)
        # pairs may overlap, so the most frequent few are counted in earnest; a tie goes to the shortest way
        gains = [
            (sum(len(_pairs(g, key)) for g in groups), -abs(key[2]) - abs(key[3]), key)
            for key, _ in counts.most_common(6)
        ]
        if not gains or max(gains)[0] < 4:  # a table costs an addition for each pixel of its tile
            break
        key = max(gains)[2]
        for group in groups:
            for a, b in _pairs(group, key):
                group -= {a, b}
                group.add((planes + len(keys), a[1], a[2]))
        keys.append(key)
    return keys


def _pairs(group: set[_Term], key: _Key) -> list[tuple[_Term, _Term]]:
    """The pairs of a group at one displacement, none used twice."""
    first, second, down, right = key
    used: set[_Term] = set()
    found = []
    for a in sorted(group):
        b = (second, a[1] + down, a[2] + right)
        if a[0] == first and a not in used and b in group and b not in used:
            used |= {a, b}
            found.append((a, b))
    return found


@lru_cache(maxsize=256)
def _plan(
    content: bytes, sides: tuple[int, ...], columns: int, dilation: tuple[int, ...], reflected: bool, tables: int
) -> Plan:
    bins = np.frombuffer(content, dtype=np.int64).reshape(sides)
    return Plan(np.flip(bins) if reflected else bins, columns, dilation, tables)


def plan(
    bins: Tensor,
    columns: int,
    dilation: Sequence[int],
    *,
    reflected: bool = False,
    strided: bool = False,
    tables: int | None = None,
) -> Plan:
    """The plan of a map [kh, kw] or [kd, kh, kw] on the CPU, made once for its content, with at most so many tables.

    By default as many as pay on a CPU: for windows of more than 11 x 11 taps whose every pixel is read
    4 at 17 x 17 and 8 at 31 x 31, and no more; beyond 50 x 50 taps eight take seconds to find. In volumes, whose planes are
    read anew for each slice, 4 at 9 x 9 x 9 (6 % of the time) and 8 at 11 x 11 x 11 (17 %). A strided convolution skips most
    sums of one.
    """
    taps = bins.numel()
    if tables is None:
        tables = 0 if strided else tables_for(taps, LIMITS[bins.ndim])
    content = bins.contiguous().numpy().tobytes()
    return _plan(content, tuple(bins.shape), columns, tuple(dilation), reflected, tables)


def tables_for(taps: int, limits: Sequence[int]) -> int:
    """How many tables pay for a window of so many taps."""
    small, middle, large = limits
    return 0 if taps <= small else 4 if taps <= middle else 8 if taps <= large else 2
