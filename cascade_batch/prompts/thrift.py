"""Thrift's compact encoding, in which Parquet footers are written, as far as reading some of their fields needs.

Arrow's own reader of column metadata is no choice: what it throws over a footer that it dislikes, an encrypted or
damaged one, passes through Python uncaught and ends the process (pyarrow 26, `RowGroupMetaData.column`).
"""

from collections.abc import Mapping
from typing import Any

TRUE, FALSE, BYTE, I16, I32, I64, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = range(1, 13)
DEEPEST = 64
"""Nesting beyond this is damage."""

Wanted = Mapping[int, Any]
"""Field id -> None for its value, or the `Wanted` of the struct, or list of structs, that it holds."""


class CompactReader:
    """Reads one struct from the start of some bytes. Raises ValueError where they are no such thing."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, wanted: Wanted | None, depth: int = 0) -> dict[int, Any]:
        """The wanted fields that are there; the others are passed over, all of them if none is wanted."""
        if depth > DEEPEST:
            raise ValueError("structs nested too deep")
        found, field = {}, 0
        while head := self._byte():
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            kept = wanted is not None and field in wanted
            inner = wanted[field] if wanted is not None and kept else None
            value = self._value(head & 15, inner, depth + 1)
            if kept:
                found[field] = value
        return found

    def _value(self, kind: int, wanted: Wanted | None, depth: int) -> Any:
        if kind in (TRUE, FALSE):
            return kind == TRUE
        if kind == BYTE:
            return self._byte()
        if kind in (I16, I32, I64):
            return self._zigzag()
        if kind == DOUBLE:
            return self._bytes(8)
        if kind == BINARY:
            return self._bytes(self._varint())
        if kind in (LIST, SET):
            return self._list(wanted, depth)
        if kind == STRUCT:
            return self.struct(wanted, depth)
        if kind == MAP:
            return self._map(depth)
        raise ValueError(f"no such kind of value: {kind}")

    def _list(self, wanted: Wanted | None, depth: int) -> list[Any]:
        head = self._byte()
        size, kind = head >> 4, head & 15
        size = self._varint() if size == 15 else size
        self._check_left(size)
        return [self._element(kind, wanted, depth + 1) for _ in range(size)]

    def _map(self, depth: int) -> None:
        size = self._varint()
        self._check_left(size)
        kinds = self._byte() if size else 0
        for _ in range(size):
            self._element(kinds >> 4, None, depth + 1)
            self._element(kinds & 15, None, depth + 1)

    def _element(self, kind: int, wanted: Wanted | None, depth: int) -> Any:
        # only a field's own kind tells its truth; elsewhere a truth is a byte
        return self._byte() if kind in (TRUE, FALSE) else self._value(kind, wanted, depth)

    def _zigzag(self) -> int:
        number = self._varint()
        return (number >> 1) ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 127) << shift
            if byte < 128:
                return number
        raise ValueError("a number of more than 64 bits")

    def _byte(self) -> int:
        self._check_left(1)
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        self._check_left(size)
        self._at += size
        return self._data[self._at - size : self._at]

    def _check_left(self, size: int) -> None:
        """Every value takes a byte at least, so that no count can ask for more than there is."""
        if size > len(self._data) - self._at:
            raise ValueError("the bytes end too soon")
