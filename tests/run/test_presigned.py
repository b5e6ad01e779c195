"""A table that is handed over as a presigned URL: rendered, resumed under another signature, noted without any."""

import io
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from cascade_batch.cli import main
from cascade_batch.errors import PictureError
from cascade_batch.workers.context import RunRef
from cascade_batch.workers.row_conditions import RowReader
from tests.run.runs import manifest_of, render, write_prompts
from tests.storage.web import ANOTHER, SIGNATURE, WebServer, web_server

SECRETS = ("5ec7e7a1", "5ec7e7b2", "AKIAEXAMPLE")


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    with web_server() as server:
        server.files["/share/prompts.parquet"] = write_prompts(tmp_path, 6).read_bytes()
        server.signatures, server.etags = {SIGNATURE}, False
        yield server


def stored(out: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file())


def test_a_run_of_a_presigned_table_goes_on_under_another_signature(
    web: WebServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, url = tmp_path / "run", f"{web.address}/share/prompts.parquet"
    assert main(["plan", f"{url}?{SIGNATURE}", "--model=tiny"]) == 0
    assert render(f"{url}?{SIGNATURE}", str(out), "--set=log.level=debug") == 0
    (out / "manifest/shard-00000001.parquet").unlink()
    web.signatures = {ANOTHER}
    assert render(f"{url}?{ANOTHER}", str(out)) == 0
    assert main(["verify", str(out)]) == 0
    assert manifest_of(str(out))["status"].to_pylist() == ["ok"] * 6
    assert render(f"{url}?{SIGNATURE}", str(out)) == 2, "an old signature opens nothing"
    printed = capfd.readouterr()
    for secret in SECRETS:
        assert secret.encode() not in stored(out)
        assert secret not in printed.out + printed.err
    assert {method for method, _ in web.requests} == {"GET"}


def test_a_changed_table_behind_an_equal_url_is_told(web: WebServer, tmp_path: Path) -> None:
    out, url = tmp_path / "run", f"{web.address}/share/prompts.parquet?{SIGNATURE}"
    assert render(url, str(out), "--limit=0") == 0
    web.files["/share/prompts.parquet"] = write_prompts(tmp_path, 7).read_bytes()
    assert render(url, str(out), "--limit=0") == 2


def test_a_table_found_damaged_in_the_midst_of_a_run(
    web: WebServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """What planning never reads is broken: the shards of that row group wait, all others are rendered."""
    path, out = write_prompts(tmp_path, 6), tmp_path / "run"
    pq.write_table(pq.read_table(path), path, row_group_size=2, write_page_checksum=True)
    whole = path.read_bytes()
    column = pq.read_metadata(path).row_group(1).column(2)
    damaged = bytearray(whole)
    damaged[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    web.files["/share/prompts.parquet"] = bytes(damaged)
    url = f"{web.address}/share/prompts.parquet?{SIGNATURE}"
    assert render(url, str(out)) == 1
    printed = capfd.readouterr()
    assert f"where: {web.address}/share/prompts.parquet" in printed.out
    assert "its data does not match its footer" in printed.out
    assert f"render '{web.address}/share/prompts.parquet?...' --out" in printed.out
    assert not [secret for secret in SECRETS if secret in printed.out + printed.err]
    assert set(manifest_of(str(out))["shard"].to_pylist()) == {0, 2}
    web.files["/share/prompts.parquet"] = whole
    assert render(url, str(out)) == 0
    assert manifest_of(str(out))["status"].to_pylist() == ["ok"] * 6


def test_workers_are_told_the_query_in_memory_alone() -> None:
    ref = pickle.loads(pickle.dumps(RunRef("/run", True, "{}", "https://host/share", SIGNATURE)))
    assert ref.table_query == SIGNATURE
    assert "5ec7e7a1" not in repr(ref)


def test_a_picture_by_a_presigned_url_is_told_without_the_query(web: WebServer) -> None:
    png = io.BytesIO()
    Image.new("RGB", (64, 64), "red").save(png, "PNG")
    web.files["/share/red.png"] = png.getvalue()
    row = {"init_image": f"{web.address}/share/red.png?{SIGNATURE}", "width": 256, "height": 256}
    found = RowReader("/nowhere", None).read(row)
    assert (found.arrays["init_image"] == (255, 0, 0)).all()
    assert json.loads(found.described())["sources"] == {"init_image": [f"{web.address}/share/red.png"]}
    with pytest.raises(PictureError, match="access denied") as failure:
        RowReader("/nowhere", None).read(row | {"init_image": row["init_image"] + "0"})
    assert "5ec7e7a1" not in str(failure.value)
