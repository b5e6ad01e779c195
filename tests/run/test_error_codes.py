"""The codes of failed rows are a closed set: for a row of another one nothing of its shard is written."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from cascade_batch.errors import IntegrityError
from cascade_batch.pipeline.runners import local
from cascade_batch.run import paths
from cascade_batch.run.schemas import ERROR_CODES, check_error_codes
from cascade_batch.storage import Storage
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.shards import ShardData
from tests.run.runs import render, write_prompts


def test_every_code_of_the_set_and_none_at_all_pass() -> None:
    check_error_codes([None, *ERROR_CODES])
    with pytest.raises(IntegrityError, match="a code that readers do not know\n  got: null_promt\n"):
        check_error_codes([None, "null_prompt", "null_promt"])


@pytest.mark.parametrize(
    ("step", "table", "unwritten"),
    [
        ("commit_embeddings", "embeddings", (paths.EMBEDDINGS, paths.IMAGES, paths.MANIFEST)),
        ("commit_images", "pixels", (paths.IMAGES, paths.MANIFEST)),
    ],
)
def test_an_unknown_code_leaves_its_shard_undone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    step: str,
    table: str,
    unwritten: tuple[str, ...],
) -> None:
    commit = getattr(local, step)

    def with_a_slip(data: ShardData, ref: RunRef) -> ShardData:
        return commit(replace(data, **{table: misspelt(getattr(data, table))}), ref)

    monkeypatch.setattr(local, step, with_a_slip)
    prompts, out = write_prompts(tmp_path, 2, prompt=["a red circle", None]), str(tmp_path / "run")
    assert render(prompts, out) == 1
    assert "a code that readers do not know" in capsys.readouterr().out
    assert [info.key for name in unwritten for info in Storage(out).list(name)] == []


def misspelt(rows: pa.Table) -> pa.Table:
    codes = ["null_promt" if code else None for code in rows["error_code"].to_pylist()]
    return rows.set_column(
        rows.schema.get_field_index("error_code"), "error_code", pa.array(codes, pa.string())
    )
