"""What a compiled program sends between devices, read from its text."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "f32": 4,
    "s32": 4,
    "u32": 4,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
}
_BYTES |= {"s8": 1, "u8": 1, "pred": 1}
_LINE = re.compile(rf"^\s*(?:ROOT )?%?\S+ = (.+?) ({'|'.join(KINDS)})(?:-start)?\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_NAMED = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}")


class Exchange(NamedTuple):
    """One collective of a program.

    kind: of KINDS.  shapes: (type, dimensions) of its results on one device.  group: devices that exchange.
    """

    kind: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    group: int

    @property
    def result_bytes(self) -> int:
        return sum(_BYTES.get(kind, 4) * math.prod(shape) for kind, shape in self.shapes)

    @property
    def moved_bytes(self) -> float:
        """What each device sends in a ring: of n devices an all-reduce sends 2 (n - 1) / n of its array, an all-gather
        (n - 1) / n of its result, a reduce-scatter n - 1 times its result."""
        share = (self.group - 1) / self.group
        if self.kind == "collective-permute":
            return float(self.result_bytes)
        factor = {"all-reduce": 2 * share, "reduce-scatter": self.group * share}
        return factor.get(self.kind, share) * self.result_bytes


def exchanges(program: str, devices: int) -> list[Exchange]:
    """Every collective in the text of a compiled program (`compiled.as_text()`), those of loops once.

    Args:
      devices: of the mesh; the group of a collective that names none.
    """
    found = []
    for line in program.splitlines():
        if match := _LINE.match(line):
            result, kind, rest = match.groups()
            shapes = [
                (dtype, tuple(int(size) for size in sizes.split(",") if size))
                for dtype, sizes in _ARRAY.findall(result)
            ]
            if "-start(" in line:  # its result holds the operands too
                shapes = shapes[len(shapes) // 2 :]
            found.append(Exchange(kind, tuple(shapes), _group(rest, devices)))
    return found


def sent_by_kind(found: Sequence[Exchange]) -> dict[str, tuple[float, int]]:
    """Kind -> (bytes that each device sends by it, how many of them there are); only of those between devices."""
    sent = {}
    for kind in KINDS:
        of_kind = [one for one in found if one.kind == kind and one.group > 1]
        if of_kind:
            sent[kind] = (sum(one.moved_bytes for one in of_kind), len(of_kind))
    return sent


def array_shapes(program: str) -> set[tuple[int, ...]]:
    """Dimensions of every array in the text of a compiled program."""
    return {
        tuple(int(size) for size in sizes.split(",") if size)
        for dtype, sizes in _ARRAY.findall(program)
        if dtype in _BYTES
    }


def _group(rest: str, devices: int) -> int:
    if match := _LISTED.search(rest):
        return len(match.group(1).split(","))
    if match := _COUNTED.search(rest):
        return int(match.group(1))
    if match := _NAMED.search(rest):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match.group(1)))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", match.group(2)))
    return devices
