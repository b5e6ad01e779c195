"""A reader written from `docs/format.md` alone: standard library and pyarrow, nothing of the package.

Where one of these tests fails, either the page or the format has changed, and the other must follow.
"""

import hashlib
import json
import math
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ENTRY = [sys.executable, "-c", "from cascade_batch.cli import entry; entry()"]
FLAGS = [
    "--model=tiny",
    "--width=256",
    "--height=256",
    "--seed=5",
    "--runner=local",
    "--set=render.prior_steps=2",
    "--set=render.decoder_steps=2",
    "--set=shards.prompts=3",
    "--set=pools.c.threads=1",
    "--set=pools.ba.threads=1",
]
RUNS = {
    "plain": [],
    "other": ["--set=sampler.preset=original", "--set=sampler.c.shift=3", "--set=text.weighting=true"],
}
PROMPTS = {
    "id": ["one/1", "../é ☃", None, "", "_" * 50 + "x" * 200],
    "prompt": ["a red circle", "a (blue:1.2) square é 😀", None, "", "a green star"],
    "seed": [None, 2**63 - 1, None, 7, None],
    "num_images": [2, 2, 1, 1, 4],
    "prior_guidance_scale": [None, 1.0, None, 2.5, None],
    "sca": [None, None, None, 0.5, None],
    "score": pa.array([0.5, None, float("nan"), -0.0, 1e300], pa.float32()),
    "tags": [["a", None], [], None, ["b"], ["c"]],
    "pair": [{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}, {"x": 3, "y": None}, None],
    "when": pa.array([0, 1, None, 3, 4], pa.timestamp("ms", tz="UTC")),
    "flag": [True, None, False, True, True],
}


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two sizes of ids, a failed row, a split prompt and several types of carried columns."""
    folder = tmp_path_factory.mktemp("format")
    ids = ["three" if name is None else name for name in PROMPTS["id"]]
    pq.write_table(pa.table(PROMPTS | {"id": ids}), folder / "prompts.parquet")
    command = [*ENTRY, "render", str(folder / "prompts.parquet"), "--out", str(folder / "run")]
    flags = [*FLAGS, *RUNS[request.param], "--set=shards.images=3"]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / "run"


def record(run: Path, key: str) -> dict[str, Any]:
    return json.loads((run / key).read_text())


def rows_of(run: Path, folder: str) -> list[dict[str, Any]]:
    return [
        row for path in sorted((run / folder).glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def canonical(value: Any) -> bytes:
    """Canonical JSON, from its rules and not from a library's defaults."""
    if isinstance(value, dict):
        inside = b", ".join(canonical(key) + b": " + canonical(value[key]) for key in sorted(value))
        return b"{" + inside + b"}"
    if isinstance(value, list):
        return b"[" + b", ".join(map(canonical, value)) + b"]"
    if isinstance(value, str):
        return b'"' + b"".join(_escaped(character) for character in value) + b'"'
    if value is None or isinstance(value, bool):
        return {None: b"null", True: b"true", False: b"false"}[value]
    return repr(value).encode()


def _escaped(character: str) -> bytes:
    if character in '"\\':
        return b"\\" + character.encode()
    if " " <= character <= "~":
        return character.encode()
    pairs = struct.iter_unpack(">H", character.encode("utf-16-be"))
    return b"".join(f"\\u{pair:04x}".encode() for (pair,) in pairs)


def test_the_objects_are_those_of_the_page(run: Path) -> None:
    shards = [f"{shard:08d}" for shard in pq.read_table(run / "plan.parquet")["shard"].to_pylist()]
    expected = {
        "run.json",
        "plan.parquet",
        "weights.json",
        "numerics/cpu.json",
        "driver.json",
        "outcome.json",
    }
    expected |= {f"{folder}/shard-{n}.parquet" for n in shards for folder in ("embeddings", "manifest")}
    expected |= {"table/part-00000.parquet"}
    expected |= {row["image_uri"] for row in rows_of(run, "manifest") if row["status"] == "ok"}
    found = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    assert found == expected
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    for key in ("run.json", "plan.parquet", "weights.json", "driver.json", "outcome.json"):
        assert f"`{key}`" in page


def test_every_column_stands_on_the_page(run: Path) -> None:
    page = (Path(__file__).parents[2] / "docs/format.md").read_text()
    carried = set(PROMPTS) - {"id"}
    for key in ("plan.parquet", "manifest/shard-00000000.parquet", "embeddings/shard-00000000.parquet"):
        for name in set(pq.read_schema(run / key).names) - carried:
            assert f"`{name}`" in page, name


def test_the_plan_covers_every_image_once(run: Path) -> None:
    plan, planned = pq.read_table(run / "plan.parquet").to_pylist(), record(run, "run.json")["plan"]
    manifest = rows_of(run, "manifest")
    assert [row["shard"] for row in plan] == list(range(planned["shards"]))
    assert sum(row["images"] for row in plan) == planned["images"] == len(manifest) == 10
    for shard in plan:
        here = [row for row in manifest if row["shard"] == shard["shard"]]
        assert len(here) == shard["images"]
        assert here[0]["image_index"] == shard["first_image"]
        assert len({row["prompt_id"] for row in here}) == shard["rows"]
    assert [row["first_image"] for row in plan][-2:] == [0, 3]
    assert rows_of(run, "table")[0].keys() == manifest[0].keys()


def test_ids_and_seeds_are_functions_of_the_table(run: Path) -> None:
    run_seed = record(run, "run.json")["spec"]["seed"]
    seeds = dict(zip(["one/1", "../é ☃", "three", "", PROMPTS["id"][4]], PROMPTS["seed"], strict=True))
    for row in rows_of(run, "manifest"):
        name, index = row["prompt_id"], row["image_index"]
        prefix = re.sub(r"[^A-Za-z0-9_-]+", "_", name[:160]).strip("_-")[:40]
        digest = sha256(name.encode())[:24]
        assert row["image_id"] == "-".join([*([prefix] if prefix else []), digest, str(index)])
        seed = seeds[name]
        if seed is None:
            seed = int.from_bytes(hashlib.sha256(f"{run_seed}:{name}".encode()).digest()[:8], "big") >> 1
        assert row["seed"] == (seed + index) % 2**63


SAMPLERS = {
    "diffusers": {
        "method": "ddpm",
        "shift": 1.0,
        "guidance_rescale": 0.0,
        "guidance_end": None,
        "guidance_from": 1.0,
        "guidance_to": 0.0,
        "result": "latents",
        "ratio_of_signal": False,
    }
}
_CHANGED = {"guidance_rescale": 0.7, "result": "clean", "ratio_of_signal": True}
PRESETS = {
    "diffusers": {"c": SAMPLERS["diffusers"], "ba": SAMPLERS["diffusers"], "stage_a_scale": None},
    "original": {
        "c": SAMPLERS["diffusers"] | _CHANGED | {"shift": 2.0},
        "ba": SAMPLERS["diffusers"] | _CHANGED,
        "stage_a_scale": 0.43,
    },
}
PUBLISHED_TEXT = {"long_prompts": "truncate", "weighting": False}


def sampler_of(spec: dict[str, Any], stage: str) -> dict[str, Any]:
    changed = {name: value for name, value in spec["sampler"][stage].items() if value is not None}
    return PRESETS[spec["sampler"]["preset"]][stage] | changed


def key_c(row: dict[str, Any], spec: dict[str, Any], weights: dict[str, str]) -> str:
    conditions = json.loads(row["conditions"] or "{}")
    conditions = {
        n: v for n, v in conditions.items() if n not in ("sources", "decoder_latents", "decoder_timesteps")
    }
    fields = {
        name: row[name] for name in ("prompt", "negative_prompt", "seed", "height", "width", "numerics")
    }
    scale = row["prior_guidance_scale"]
    fields |= {"stage": "c", "steps": row["prior_steps"], "guidance_scale": scale if scale > 1 else None}
    fields |= {"sampler": sampler_of(spec, "c"), "dtype": row["stage_c_dtype"]}
    fields |= {"weights": {part: weights[part] for part in ("stage_c", "text_encoder", "tokenizer")}}
    fields |= {"conditions": conditions} if conditions else {}
    fields |= {"text": spec["text"]} if spec["text"] != PUBLISHED_TEXT else {}
    return sha256(canonical(fields))


def key_ba(row: dict[str, Any], spec: dict[str, Any], weights: dict[str, str]) -> str:
    fields = {name: row[name] for name in ("stage_c_key", "seed", "height", "width", "numerics")}
    scale, own = row["decoder_guidance_scale"], spec["sampler"]["stage_a_scale"]
    fields |= {"stage": "ba", "steps": row["decoder_steps"], "guidance_scale": scale if scale > 1 else None}
    fields |= {"sampler": sampler_of(spec, "ba"), "dtype": row["stage_ba_dtype"]}
    fields |= {"stage_a_scale": PRESETS[spec["sampler"]["preset"]]["stage_a_scale"] if own is None else own}
    fields |= {"weights": {part: weights[part] for part in ("stage_b", "stage_a")}}
    return sha256(canonical(fields))


def test_stage_keys_hash_what_the_page_says(run: Path) -> None:
    spec, weights = record(run, "run.json")["spec"], record(run, "weights.json")
    keys = set()
    for row in rows_of(run, "manifest"):
        if row["error_code"] == "null_prompt":
            assert row["stage_c_key"] is row["stage_ba_key"] is None
            continue
        assert row["stage_c_key"] == key_c(row, spec, weights)
        assert row["stage_ba_key"] == key_ba(row, spec, weights)
        keys |= {row["stage_c_key"], row["stage_ba_key"]}
    assert len(keys) == 18


def test_embeddings_are_where_and_what_the_manifest_says(run: Path) -> None:
    height, width = record(run, "run.json")["embedding_size"]
    for row in rows_of(run, "manifest"):
        stored = pq.read_table(run / row["embedding_uri"]).slice(row["embedding_row"], 1).to_pylist()[0]
        assert stored["image_id"] == row["image_id"]
        assert (stored["height"], stored["width"]) == (height, width) == (math.ceil(256 / 42.67),) * 2
        values = stored["embedding"]
        assert len(values) == 16 * height * width
        if stored["status"] == "failed":
            assert all(math.isnan(value) for value in values)
            assert stored["embedding_sha256"] is None
        else:
            assert sha256(struct.pack(f"<{len(values)}f", *values)) == stored["embedding_sha256"]
        for name in (
            "embedding_sha256",
            "stage_c_key",
            "prompt_tokens",
            "prompt_truncated",
            "prompts_sha256",
        ):
            assert stored[name] == row[name]


def test_sources_lead_to_the_embeddings_that_were_copied(run: Path, request: pytest.FixtureRequest) -> None:
    out, page = run.parent / "decoded", (Path(__file__).parents[2] / "docs/format.md").read_text()
    flags = [*FLAGS, *RUNS[request.node.callspec.params["run"]], "--set=render.decoder_guidance_scale=2"]
    command = [*ENTRY, "render", str(run.parent / "prompts.parquet"), "--out", str(out), *flags]
    command.append(f"--embeddings-from={run}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    sources, embeddings = pq.read_table(out / "sources.parquet").to_pylist(), rows_of(out, "embeddings")
    assert len(sources) == len(embeddings) == 10
    for source, copy in zip(sources, embeddings, strict=True):
        assert all(f"`{name}`" in page for name in source)
        assert (copy["image_id"], copy["stage_c_key"]) == (source["image_id"], source["stage_c_key"])
        assert copy["attempts"] == copy["seconds"] == 0
        if source["embedding_uri"] is None:
            assert copy["error_code"] == "null_prompt"
            continue
        there = pq.read_table(source["embedding_uri"]).slice(source["embedding_row"], 1).to_pylist()[0]
        assert source["embedding_sha256"] == there["embedding_sha256"] == copy["embedding_sha256"]
        changed = {"attempts", "seconds", "writer_token", "prompts_sha256"}
        assert {name for name in there if there[name] != copy[name]} <= changed


def test_pictures_are_where_and_what_the_manifest_says(run: Path) -> None:
    for row in rows_of(run, "manifest"):
        if row["status"] == "failed":
            assert row["error_code"] == "null_prompt"
            assert row["image_uri"] is row["pixel_sha256"] is None
            continue
        data = (run / row["image_uri"]).read_bytes()
        assert (len(data), sha256(data)) == (row["image_bytes"], row["image_sha256"])
        assert sha256(pixels_of(data, row["height"], row["width"])) == row["pixel_sha256"]


def pixels_of(png: bytes, height: int, width: int) -> bytes:
    """Raw RGB of a PNG of three chunks whose lines all have filter 3."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">I4sIIBBBBB", png[8:29]) == (13, b"IHDR", width, height, 8, 2, 0, 0, 0)
    size, name = struct.unpack(">I4s", png[33:41])
    assert name == b"IDAT"
    assert png[41 + size + 4 :][4:8] == b"IEND"
    packed, stride = zlib.decompress(png[41 : 41 + size]), 3 * width
    lines, above = [], bytes(stride)
    for start in range(0, len(packed), stride + 1):
        assert packed[start] == 3
        line = bytearray(packed[start + 1 : start + 1 + stride])
        for at in range(stride):
            left = line[at - 3] if at >= 3 else 0
            line[at] = (line[at] + ((left + above[at]) >> 1)) & 255
        lines.append(bytes(line))
        above = lines[-1]
    return b"".join(lines)


OURS = {
    "prompt_id": pa.string(),
    "prompt": pa.string(),
    "negative_prompt": pa.string(),
    "seed": pa.int64(),
    "num_images": pa.int64(),
    "width": pa.int64(),
    "height": pa.int64(),
    "prior_steps": pa.int64(),
    "prior_guidance_scale": pa.float64(),
    "decoder_steps": pa.int64(),
    "decoder_guidance_scale": pa.float64(),
    "sca": pa.float64(),
}


def test_prompts_sha256_hashes_the_rows_values(run: Path) -> None:
    table = pq.read_table(run.parent / "prompts.parquet")
    named = table.rename_columns(["prompt_id" if name == "id" else name for name in table.column_names])
    stored = {row["shard"]: row["prompts_sha256"] for row in rows_of(run, "manifest")}
    for shard in pq.read_table(run / "plan.parquet").to_pylist():
        rows = named.slice(shard["first_row"], shard["rows"])
        hashed = b""
        for name in [*OURS, *(name for name in rows.column_names if name not in OURS)]:
            kind = OURS[name] if name in OURS else rows.schema.field(name).type
            values = rows[name].to_pylist() if name in rows.column_names else [None] * rows.num_rows
            hashed += item(name.encode()) + array(values, kind)
        assert sha256(hashed) == stored[shard["shard"]]


def item(data: bytes) -> bytes:
    return struct.pack("<Q", len(data)) + data


def numbers(values: Iterable[int]) -> bytes:
    return item(b"".join(struct.pack("<q", value) for value in values))


def array(values: list, kind: pa.DataType) -> bytes:
    """The hashed bytes of one column, for the kinds that this test's table has."""
    present = [value for value in values if value is not None]
    valid = "".join("0" if value is None else "1" for value in values)
    padded = valid + "0" * (-len(valid) % 8)
    bits = bytes(int(padded[start : start + 8], 2) for start in range(0, len(padded), 8))
    name, content = _content(present, kind)
    return item(name.encode()) + numbers([len(values), len(values) - len(present)]) + item(bits) + content


def _content(present: list, kind: pa.DataType) -> tuple[str, bytes]:
    """The kind's name, and the values that are there."""
    if pa.types.is_list(kind):
        joined = [value for entry in present for value in entry]
        return "list", numbers(map(len, present)) + array(joined, kind.value_type)
    if pa.types.is_struct(kind):
        columns = ((field, [entry[field.name] for entry in present]) for field in kind)
        return "struct", b"".join(item(field.name.encode()) + array(c, field.type) for field, c in columns)
    if pa.types.is_string(kind):
        texts = [value.encode() for value in present]
        return "text", numbers(map(len, texts)) + item(b"".join(texts))
    if pa.types.is_floating(kind):
        nan = bytes.fromhex("7ff8000000000000")[::-1]
        return "float", item(b"".join(nan if v != v else struct.pack("<d", v) for v in present))
    if pa.types.is_timestamp(kind):
        return "timestamp ms UTC", numbers(pa.array(present, kind).cast(pa.int64()).to_pylist())
    return ("bool" if pa.types.is_boolean(kind) else "int"), numbers(map(int, present))


def test_the_digest_of_the_table(run: Path) -> None:
    table = record(run, "run.json")["table"]
    ((path, size, rows, footer_sha256, etag, planned),) = table["files"]
    data = (run.parent / path).read_bytes()
    length = int.from_bytes(data[-8:-4], "little")
    assert (size, rows, data[-4:]) == (len(data), 5, b"PAR1")
    assert footer_sha256 == sha256(data[-length - 8 :])
    assert set(planned.split()) == {"id", "seed", "num_images", "prior_guidance_scale"}
    assert table["digest"] == sha256(canonical([[path, size, footer_sha256, etag]]))
