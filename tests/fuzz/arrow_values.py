"""Random Arrow tables that may be prompt tables: our columns in many types, and carried ones in almost any."""

import datetime
import decimal
import random
from typing import Any

import pyarrow as pa

TEXTS = ["", "a", "Größe", "日本", "a" * 300, "x\ty", "\u200b", "🙂", "null"]
FLAT: list[pa.DataType] = [
    pa.null(), pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(),
    pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(), pa.large_string(), pa.string_view(),
    pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(3), pa.date32(), pa.date64(), pa.time32("s"),
    pa.time32("ms"), pa.time64("us"), pa.time64("ns"), pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"),
    pa.timestamp("ns"), pa.timestamp("us", "UTC"), pa.timestamp("ns", "Europe/Paris"), pa.duration("s"),
    pa.duration("ns"), pa.decimal32(5, 2), pa.decimal64(12, 3), pa.decimal128(20, 4), pa.decimal256(50, 6),
    pa.uuid(), pa.json_(), pa.month_day_nano_interval(),
]  # fmt: skip


def random_table(draw: random.Random) -> pa.Table:
    """Up to 20 rows; often with a usable prompt column, sometimes with none."""
    rows = draw.choice([0, 1, 2, 5, 20])
    columns: dict[str, pa.Array] = {}
    if draw.random() < 0.95:
        columns["prompt"] = _array(
            draw, draw.choice([pa.string()] * 6 + [pa.large_string(), pa.null()]), rows
        )
    for name, kinds in _OURS.items():
        if draw.random() < 0.25:
            columns[name] = _array(draw, draw.choice(kinds), rows, name)
    for number in range(draw.randrange(4)):
        columns[draw.choice(["note", "x.y", "Größe", "", "a b"]) + str(number)] = _array(
            draw, _kind(draw, 0), rows
        )
    return pa.table(columns)


_OURS: dict[str, list[pa.DataType]] = {
    "id": [pa.string(), pa.int64(), pa.uint16(), pa.string(), pa.large_string()],
    "negative_prompt": [pa.string(), pa.large_string(), pa.null()],
    "seed": [pa.int64(), pa.uint64(), pa.int8()],
    "num_images": [pa.int64(), pa.int8()],
    "width": [pa.int64(), pa.uint16()],
    "prior_guidance_scale": [pa.float64(), pa.float16(), pa.int8()],
    "image_embeds": [
        pa.list_(pa.float32()),
        pa.list_(pa.list_(pa.float64())),
        pa.fixed_shape_tensor(pa.float32(), [2]),
    ],
    "init_image": [pa.binary(), pa.string(), pa.struct([("bytes", pa.binary()), ("path", pa.string())])],
}


def _kind(draw: random.Random, depth: int) -> pa.DataType:
    if depth == 3 or draw.random() < 0.6:
        return draw.choice(FLAT)
    inner = _kind(draw, depth + 1)
    make = draw.choice(["list", "large", "fixed", "view", "struct", "map", "dictionary", "tensor"])
    if make == "struct":
        return pa.struct([("a", inner), ("b", _kind(draw, depth + 1))])
    if make == "map":
        return pa.map_(draw.choice([pa.string(), pa.int32()]), inner)
    if make == "dictionary":
        return pa.dictionary(
            draw.choice([pa.int8(), pa.int32()]), draw.choice([pa.string(), pa.int64(), pa.binary()])
        )
    if make == "tensor":
        return pa.fixed_shape_tensor(draw.choice([pa.float32(), pa.int16()]), [1, 2])
    lists = {"list": pa.list_, "large": pa.large_list, "view": pa.list_view}
    return pa.list_(inner, 2) if make == "fixed" else lists[make](inner)


def _array(draw: random.Random, kind: pa.DataType, rows: int, name: str = "") -> pa.Array:
    nulls = draw.choice([0, 0, 0.3, 1])
    values = [
        None if name != "id" and draw.random() < nulls else _value(draw, kind, name, row)
        for row in range(rows)
    ]
    if isinstance(kind, pa.FixedShapeTensorType):
        return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))
    return pa.array(values, kind)


_NAMED: dict[str, list[Any]] = {
    "num_images": [1, 2, 3],
    "width": [256, 512, 1024],
    "seed": [0, 1, 7],
    "prior_guidance_scale": [0, 1, 4],
}


def _value(draw: random.Random, kind: pa.DataType, name: str = "", row: int = 0) -> Any:
    """A Python value of the type."""
    t = pa.types
    if name == "id":
        return row if t.is_integer(kind) else f"id {row}"
    if name in _NAMED:
        return draw.choice(_NAMED[name])
    if isinstance(kind, pa.FixedShapeTensorType):
        return [1, 2][: 1 if kind.shape == [1] else 2]
    if isinstance(kind, pa.UuidType):
        return draw.randbytes(16)
    if isinstance(kind, pa.JsonType):
        return '{"a": 1}'
    if t.is_dictionary(kind):
        return _value(draw, kind.value_type)
    if t.is_struct(kind):
        return {field.name: _value(draw, field.type) if draw.random() < 0.8 else None for field in kind}
    if t.is_map(kind):
        keys = ["k", "l"] if t.is_string(kind.key_type) else [1, 2]
        return [(key, _value(draw, kind.item_type)) for key in keys[: draw.randrange(3)]]
    if t.is_nested(kind):
        size = 2 if t.is_fixed_size_list(kind) else draw.randrange(4)
        return [_value(draw, kind.value_type) for _ in range(size)]
    return _flat(draw, kind)


def _flat(draw: random.Random, kind: pa.DataType) -> Any:
    t = pa.types
    if t.is_null(kind):
        return None
    if t.is_boolean(kind):
        return draw.random() < 0.5
    if t.is_integer(kind):
        low = 0 if t.is_unsigned_integer(kind) else -(2 ** (kind.bit_width - 1))
        return draw.choice([0, 1, low, low + 2**kind.bit_width - 1])
    if t.is_floating(kind):
        return draw.choice([0.0, -0.0, 1.5, float("nan"), float("inf")])
    if t.is_decimal(kind):
        return decimal.Decimal(draw.randrange(-99, 99)) / 100
    if t.is_interval(kind):
        return pa.MonthDayNano([1, 2, 3])
    if t.is_time(kind):
        return datetime.time(draw.randrange(24), draw.randrange(60))
    if t.is_duration(kind):
        return datetime.timedelta(seconds=draw.randrange(-5, 10**6))
    if t.is_date(kind):
        return datetime.date(draw.randrange(1900, 2100), 2, 3)
    if t.is_timestamp(kind):
        return datetime.datetime(
            draw.randrange(1900, 2100), 2, 3, 4, 5, tzinfo=datetime.UTC if kind.tz else None
        )
    if t.is_fixed_size_binary(kind):
        return draw.randbytes(kind.byte_width)
    if "binary" in str(kind):
        return draw.choice([b"", b"\0\xff", draw.randbytes(40)])
    return draw.choice(TEXTS)
