"""What a compiled program does, read off its text: the instructions that ordinary gradients meet, and their sizes."""

import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute", "ragged-all-to-all")
TO_THE_HOST = ("infeed", "outfeed", "send", "recv")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?(\S+) = (.*?) ([a-z][\w-]*)\((.*)$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](?:\{([\d,]*)(?::(\S*?))?\})?")
_CALLED = re.compile(r"\b(?:calls|body|condition|to_apply)=%?([\w.-]+)")


class Array(NamedTuple):
    """One array of a result."""

    dtype: str
    shape: tuple[int, ...]
    minor_to_major: tuple[int, ...]
    tiling: str  # of the layout, "T(8,128)S(1)" for tiles of 8 x 128 in a memory on the chip

    @property
    def in_main_memory(self) -> bool:
        return "S(" not in self.tiling

    @property
    def num_bytes(self) -> int:
        """Bytes with the padding of the tiles."""
        bits = {"pred": 8, "bf16": 16}.get(self.dtype) or int(re.sub(r"\D", "", self.dtype)[:2])
        tile = re.match(r"T\(([\d,]+)\)", self.tiling)
        sizes = [self.shape[axis] for axis in self.minor_to_major] or list(self.shape)
        for place, length in enumerate(reversed(tile[1].split(",")) if tile else ()):
            if place < len(sizes):
                sizes[place] = -(-sizes[place] // int(length)) * int(length)
        product = bits // 8
        for size in sizes:
            product *= size
        return product


class Instruction(NamedTuple):
    """One line of the program."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]  # of the result
    operands: tuple[str, ...]
    in_loop: bool


def taken(text: str) -> Iterator[Instruction]:
    """Yield what is executed when gradients are ordinary: the entry, its loops and calls, and no branch.

    The branches of the library's programs rescue from under- and overflow or from a singular matrix. What happens
    inside a fusion is left out: it stays in registers.
    """
    computations = _computations(text)
    (entry,) = [name for name in computations if name.startswith("ENTRY")]
    waiting, seen = [(entry, False)], set()
    while waiting:
        name, in_loop = waiting.pop()
        for line in computations.get(name, ()):
            found = _INSTRUCTION.match(line)
            if not found:
                continue
            label, result, opcode, rest = found.groups()
            operands = tuple(re.findall(r"%([\w.-]+)", rest.split("), ")[0]))
            yield Instruction(label, opcode, _arrays(result), operands, in_loop)
            if opcode in ("while", "call", "async-start"):
                called = set(_CALLED.findall(rest)) - seen
                seen |= called
                waiting += [(other, in_loop or opcode == "while") for other in called]


def collectives(text: str) -> list[tuple[str, bool, set[tuple[int, ...]]]]:
    """Return every collective on that path as (opcode, whether it is in a loop, shapes of what is sent)."""
    return [
        (opcode, instruction.in_loop, {array.shape for array in instruction.arrays})
        for instruction in taken(text)
        if (opcode := instruction.opcode.removesuffix("-start")) in COLLECTIVES
    ]


def host_transfers(text: str) -> list[str]:
    """Return every callback, feed and copy to the memory of the host anywhere in the program."""
    return [line.strip() for line in text.splitlines() if (found := _INSTRUCTION.match(line)) and _leaves(found)]


def main_memory_bytes(text: str) -> int:
    """Return the bytes that the path moves between the main memory and the chip, loops counted once.

    Each instruction reads its operands and writes its result once; what lies in a memory on the chip is free, and
    so is a tuple, an alias or a parameter that nothing reads.
    """
    instructions = list(taken(text))
    results = {instruction.name: instruction.arrays for instruction in instructions}
    total = 0
    for instruction in instructions:
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        read = [array for name in dict.fromkeys(instruction.operands) for array in results.get(name, ())]
        written = instruction.arrays
        if instruction.opcode == "copy-start":
            written = written[:1]  # then come its source and a flag
        elif instruction.opcode == "slice-start":
            read = written = written[1:2]
            read = [array._replace(tiling="") for array in read]  # as much as the slice, from the main memory
        total += sum(array.num_bytes for array in (*read, *written) if array.in_main_memory)
    return total


_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "iota")


def _computations(text):
    computations, name = {}, None
    for line in text.splitlines():
        if line[:1] in ("%", "E") and line.rstrip().endswith("{"):
            name = "ENTRY" if line.startswith("ENTRY") else line[1:].split(" ")[0]
            computations[name] = []
        elif name is not None:
            computations[name].append(line)
    return computations


def _arrays(result):
    return tuple(
        Array(dtype, _integers(shape), _integers(order), tiling)
        for dtype, shape, order, tiling in _ARRAY.findall(result)
    )


def _integers(text):
    return tuple(int(number) for number in text.split(",") if number)


def _leaves(found):
    _, result, opcode, rest = found.groups()
    callback = opcode == "custom-call" and "callback" in rest.lower()
    to_host = opcode.startswith("copy") and "S(5)" in result
    return callback or to_host or opcode.removesuffix("-start").removesuffix("-done") in TO_THE_HOST
