"""Prompt files that cannot be read, or not wholly: one clear error by name, never the end of the process."""

import io
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.errors import PromptTableError
from cascade_batch.prompts import read_rows
from cascade_batch.prompts.chunks import row_groups
from cascade_batch.prompts.thrift import CompactReader
from tests.prompts.encrypting import write_encrypted
from tests.prompts.writing import opened, planned, write

TABLE = pa.table({"prompt": ["a", "b"], "id": ["x", "y"], "note": ["n", None], "seed": [1, 2]})


PLANS = """
import sys
from cascade_batch.cli import main
for uri in sys.argv[1:]:
    print(main(["plan", uri, "--model=tiny"]), flush=True)
"""


def test_encrypted_files_are_refused_by_name(tmp_path: Path) -> None:
    """In a process of its own, which Arrow's reader of column metadata would end."""
    told = {}
    for column in TABLE.column_names:
        for plaintext in (True, False):
            path = tmp_path / f"{column}-{plaintext}" / "secret.parquet"
            path.parent.mkdir()
            write_encrypted(path, TABLE, column, plaintext)
            told[str(path)] = f"encrypted columns: {column}" if plaintext else "an encrypted footer"
    write(path.parent, "open.parquet", TABLE)
    command = [sys.executable, "-c", PLANS, *told, str(path.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2"] * 9
    errors = done.stderr.split("error: ")[1:]
    for error, (uri, got) in zip(errors, [*told.items(), [*told.items()][-1]], strict=True):
        assert error.startswith("a prompt file is encrypted")
        assert f"where: {uri}" in error
        assert f"got: {got}\n" in error


def flipped(path: Path, at: int, bits: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bits
    path.write_bytes(data)


def test_a_page_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    """Without compression nothing but the checksum tells."""
    path = Path(write(tmp_path, "t.parquet", TABLE, compression="none", write_page_checksum=True))
    table = opened(path)
    note = pq.read_metadata(path).row_group(0).column(2)
    flipped(path, path.read_bytes().index(b"n", note.dictionary_page_offset + 10))
    with pytest.raises(PromptTableError, match=r"t\.parquet"):
        read_rows(table, 0, 0, 2)


@pytest.mark.parametrize("codec", ["snappy", "gzip", "brotli", "lz4", "zstd"])
def test_broken_blocks_of_every_codec_are_one_clear_error(tmp_path: Path, codec: str) -> None:
    texts = [f"prompt {i} of many" for i in range(500)]
    path = Path(write(tmp_path, "t.parquet", {"prompt": texts, "seed": list(range(500))}, compression=codec))
    whole, table = path.read_bytes(), opened(path)
    prompt = pq.read_metadata(path).row_group(0).column(0)
    for at in range(30, prompt.total_compressed_size - 40, prompt.total_compressed_size // 7):
        path.write_bytes(whole[: 4 + at] + b"\xff" * 30 + whole[4 + at + 30 :])
        with pytest.raises(PromptTableError, match=r"t\.parquet"):
            read_rows(table, 0, 0, 500)


def test_a_planned_column_of_broken_pages_is_refused_by_plan(tmp_path: Path) -> None:
    path = Path(write(tmp_path, "t.parquet", TABLE))
    seed = pq.read_metadata(path).row_group(0).column(3)
    data = bytearray(path.read_bytes())
    data[seed.data_page_offset : seed.data_page_offset + 20] = b"\xff" * 20
    path.write_bytes(data)
    with pytest.raises(PromptTableError, match=r"t\.parquet"):
        planned(opened(path))


def patched_footer(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_a_codec_that_nobody_reads_is_refused_by_plan(tmp_path: Path) -> None:
    path = Path(write(tmp_path, "t.parquet", {"prompt": ["a"]}, compression="zstd", write_statistics=False))
    # path_in_schema ["prompt"], then codec: field 4, an i32 of zigzag 2 x 6 for zstd
    patched_footer(path, b"\x06prompt\x15\x0c", b"\x06prompt\x15\x06")
    with pytest.raises(PromptTableError, match="lzo"):
        opened(path)
    patched_footer(path, b"\x06prompt\x15\x06", b"\x06prompt\x15\x7e")
    with pytest.raises(PromptTableError, match="number 63"):
        opened(path)


def test_a_summary_of_other_files_is_no_table(tmp_path: Path) -> None:
    collected: list[pq.FileMetaData] = []
    pq.write_to_dataset(pa.table({"prompt": ["a"]}), tmp_path / "in", metadata_collector=collected)
    for metadata in collected:
        metadata.set_file_path("part-0.parquet")
    summary = tmp_path / "summary.parquet"
    pq.write_metadata(pa.schema([("prompt", pa.string())]), summary, metadata_collector=collected)
    with pytest.raises(PromptTableError, match="a summary of other Parquet files"):
        opened(summary)


def test_counts_that_contradict_are_damage(tmp_path: Path) -> None:
    path = Path(write(tmp_path, "t.parquet", {"prompt": ["a"] * 5}, row_group_size=5))
    footer = path.read_bytes()
    at = footer.rindex(b"\x16\x0a")  # an i64 of zigzag 2 x 5: the row group's rows
    for rows in (b"\x16\x0c", b"\x16\x09"):
        path.write_bytes(footer[:at] + rows + footer[at + 2 :])
        with pytest.raises(PromptTableError, match=r"t\.parquet"):
            opened(path)


def test_our_reader_of_footers_sees_what_arrow_sees(tmp_path: Path) -> None:
    columns = {f"c{i}": pa.array([[i], None, []], pa.list_(pa.int64())) for i in range(40)}
    path = write(
        tmp_path, "t.parquet", {"prompt": ["a", None, "c"], **columns}, row_group_size=2, compression="gzip"
    )
    footer = Path(path).read_bytes()
    footer = footer[-int.from_bytes(footer[-8:-4], "little") - 8 :]
    ours, theirs = row_groups(footer, 41, path), pq.read_metadata(path)
    assert len(ours) == theirs.num_row_groups == 2
    for number, group in enumerate(ours):
        wanted = theirs.row_group(number)
        assert group.rows == wanted.num_rows
        for index, chunk in enumerate(group.chunks):
            column = wanted.column(index)
            assert (chunk.path, chunk.values) == (column.path_in_schema, column.num_values)
            assert chunk.nulls == column.statistics.null_count
            assert chunk.codec == 2


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x19\xfc\xff\xff\xff\x7f",
        b"\x1c" * 1000,
        b"\x1b\xff\xff\xff\xff\x0f\x88",
        b"\x16" + b"\xff" * 20,
        b"\x1d\x00",
        b"\x18\xff\xff\xff\xff\x0f",
    ],
    ids=[
        "nothing",
        "a bomb of a list",
        "too deep",
        "a bomb of a map",
        "a long number",
        "no kind",
        "a long text",
    ],
)
def test_bombs_of_thrift_end_soon(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        CompactReader(data).struct({1: None})


def test_columns_of_one_name_are_refused_clearly(tmp_path: Path) -> None:
    sink = io.BytesIO()
    twice = pa.Table.from_arrays([pa.array(["p"]), pa.array([1]), pa.array([2])], names=["prompt", "x", "x"])
    pq.write_table(twice, sink)
    (tmp_path / "t.parquet").write_bytes(sink.getvalue())
    for mapping in ({}, {"source_x": "x"}, {"seed": "x"}, {"x": "prompt"}):
        with pytest.raises(PromptTableError, match="two columns are called 'x'"):
            opened(tmp_path, **mapping)
