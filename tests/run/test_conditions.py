"""Conditions of a row besides its text: a table that uses every column, and rows whose conditions cannot be used."""

import io
import json
import os
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cascade_batch.api import Cascade, ImagesOutput
from cascade_batch.cli import main
from cascade_batch.model.conditions import CONDITIONS
from cascade_batch.run import paths
from cascade_batch.storage import Storage
from tests.patience import wait_until
from tests.run.kills import PAUSING, Driver
from tests.run.runs import contents, differences, manifest_of, render
from tests.whole_model import write_model

ALONE = [
    "--set=shards.prompts=4",
    "--set=pools.c.batch=1",
    "--set=pools.ba.batch=1",
    "--set=pools.c.threads=1",
    "--set=pools.ba.threads=1",
    "--set=render.prior_steps=4",
    "--set=render.decoder_steps=2",
    "--width=256",
    "--height=256",
]
"""Batches of one on one thread, as a call in Python makes them."""
STEPS = {"prior_num_inference_steps": 4, "num_inference_steps": 2, "height": 256, "width": 256}
SIDE = 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("whole"))


def flags(model: Path) -> list[str]:
    parts = [
        f"--{part.replace('_', '-')}={model / f'{part}.safetensors'}"
        for part in ("effnet_encoder", "controlnet")
    ]
    return [f"--model={model}", f"--image-encoder={model / 'image_encoder'}", *parts, *ALONE]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A server of the files in `web/`."""
    (tmp_path / "web").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path / "web")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def picture(seed: int, size: tuple[int, int] = (200, 160)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def half_mask() -> Image.Image:
    mask = Image.new("L", (200, 160), 0)
    mask.paste(255, (100, 0, 200, 160))
    return mask


def randn(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape, dtype=np.float32)


def every_column(tmp_path: Path, web: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of a prompt table, and of each the arguments of the same call in Python."""
    local, remote = picture(1), picture(2)
    (tmp_path / "pictures").mkdir()
    local.save(tmp_path / "pictures" / "local.png")
    remote.save(tmp_path / "web" / "remote.png")
    states, pooled = randn(77, 32), randn(32)
    rows_and_calls: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({}, {}),
        ({"image": [{"bytes": png(local), "path": None}]}, {"images": [local]}),
        (
            {
                "image": [
                    {"bytes": None, "path": "pictures/local.png"},
                    {"bytes": png(remote), "path": "x.png"},
                ]
            },
            {"images": [local, remote]},
        ),
        ({"image_embeds": randn(2, 16)}, {"image_embeds": randn(2, 16)[None]}),
        (
            {"prompt_embeds": states, "prompt_embeds_pooled": pooled},
            {"prompt": None, "prompt_embeds": states[None], "prompt_embeds_pooled": pooled[None]},
        ),
        (
            {"negative_prompt_embeds": states, "negative_prompt_embeds_pooled": pooled},
            {"negative_prompt_embeds": states[None], "negative_prompt_embeds_pooled": pooled[None]},
        ),
        ({"init_image": f"{web}/remote.png"}, {"init_image": remote}),
        ({"init_image": f"{web}/remote.png", "strength": 0.5}, {"init_image": remote, "strength": 0.5}),
        (
            {"init_image": "pictures/local.png", "mask": png(half_mask())},
            {"init_image": local, "mask": half_mask()},
        ),
        (
            {"control_image": png(local), "control_strength": 0.4},
            {"control_image": local, "control_strength": 0.4},
        ),
        ({"sca": 0.3, "crp": 0.6}, {"sca": 0.3, "crp": 0.6}),
        (
            {"prior_timesteps": [1.0, 0.5, 0.2], "prior_latents": randn(16, SIDE, SIDE).ravel()},
            {"prior_timesteps": [1.0, 0.5, 0.2], "latents": randn(16, SIDE, SIDE)[None]},
        ),
        (
            {"decoder_timesteps": [0.9, 0.4], "decoder_latents": randn(4, 64, 64).ravel()},
            {"decoder_timesteps": [0.9, 0.4], "decoder_latents": randn(4, 64, 64)[None]},
        ),
        (
            {
                "num_images": 2,
                "negative_prompt": "blue",
                "prior_guidance_scale": 2.0,
                "image_embeds": randn(1, 16),
            },
            {
                "num_images_per_prompt": 2,
                "negative_prompt": "blue",
                "prior_guidance_scale": 2.0,
                "image_embeds": randn(1, 16)[None],
            },
        ),
        (
            {"decoder_guidance_scale": 1.5, "decoder_steps": 3},
            {"decoder_guidance_scale": 1.5, "num_inference_steps": 3},
        ),
    ]
    shared = [
        {"id": f"row {i}", "prompt": f"a red circle, number {i}", "seed": 100 * i}
        for i in range(len(rows_and_calls))
    ]
    rows = [ours | row for ours, (row, _) in zip(shared, rows_and_calls, strict=True)]
    calls = [
        {"prompt": ours["prompt"], "seed": ours["seed"], **STEPS, **call}
        for ours, (_, call) in zip(shared, rows_and_calls, strict=True)
    ]
    return rows, calls


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Arrays as nested or flat lists; the states as Arrow tensors."""
    plain = [
        {name: v.tolist() if isinstance(v, np.ndarray) else v for name, v in row.items()} for row in rows
    ]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: pa.array([row.get(name) for row in plain]) for name in names}
    if "prompt_embeds" in columns:
        kind = pa.fixed_shape_tensor(pa.float32(), [77, 32])
        flat = [None if (v := row.get("prompt_embeds")) is None else v.ravel().tolist() for row in rows]
        columns["prompt_embeds"] = pa.ExtensionArray.from_storage(kind, pa.array(flat, kind.storage_type))
    pq.write_table(pa.table(columns), path)
    return path


def test_every_column_killed_resumed_and_equal_to_calls_in_python(
    tmp_path: Path, web: str, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows, calls = every_column(tmp_path, web)
    assert set(CONDITIONS) <= {name for row in rows for name in row}
    prompts, whole, killed = (
        write_table(tmp_path / "all.parquet", rows),
        tmp_path / "whole",
        tmp_path / "killed",
    )
    assert render(prompts, str(whole), settings=flags(model)) == 0
    driver = Driver.start(prompts, str(killed), tmp_path / "log", *flags(model), program=PAUSING)
    wait_until(lambda: list(killed.glob(f"{paths.MANIFEST}/*.parquet")) or driver.process.poll() is not None)
    assert driver.kill(), (tmp_path / "log").read_text()
    assert len(list(killed.glob(f"{paths.MANIFEST}/*.parquet"))) < 4
    assert render(prompts, str(killed), settings=flags(model)) == 0
    assert differences(contents(str(killed)), contents(str(whole))) == []
    assert main(["verify", str(killed)]) == 0
    torch.set_num_threads(1)
    ours = Cascade.load(
        str(model),
        device="cpu",
        image_encoder=str(model / "image_encoder"),
        effnet_encoder=str(model / "effnet_encoder.safetensors"),
        controlnet=str(model / "controlnet.safetensors"),
    )
    stored = manifest_of(str(killed)).to_pylist()
    for row, call in zip(rows, calls, strict=True):
        pictures = called_alone(ours, call)
        made = [entry for entry in stored if entry["prompt_id"] == row["id"]]
        assert [entry["status"] for entry in made] == ["ok"] * len(pictures), made
        for entry, expected in zip(made, pictures, strict=True):
            assert np.array_equal(np.asarray(Image.open(killed / entry["image_uri"])), expected), row


def test_both_runners_give_equal_pictures(tmp_path: Path, web: str, model: Path) -> None:
    rows, _ = every_column(tmp_path, web)
    prompts = write_table(tmp_path / "all.parquet", rows)
    for runner in ("local", "ray"):
        assert render(prompts, str(tmp_path / runner), settings=flags(model), runner=runner) == 0
    assert differences(contents(str(tmp_path / "ray")), contents(str(tmp_path / "local"))) == []


def test_a_controlnet_for_another_stage_c_is_refused(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "a red circle", "control_image": png(picture(1))}]
    prompts, out = write_table(tmp_path / "prompts.parquet", rows), str(tmp_path / "run")
    control = f"--controlnet={model / 'controlnet.safetensors'}"
    assert render(prompts, out, control) == 2
    assert "a Stage C of at least 64 residual blocks" in capsys.readouterr().err


def called_alone(ours: Cascade, call: dict[str, Any]) -> list[np.ndarray]:
    """The pictures of a call, one at a time, because bits may depend on the batch's size."""
    call = dict(call)
    copies = call.pop("num_images_per_prompt", 1)
    pictures = []
    for image in range(copies):
        output = ours.render(**call | {"seed": call["seed"] + image})
        assert isinstance(output, ImagesOutput)
        pictures += [np.asarray(one) for one in output.images]
    return pictures


def test_what_conditions_an_image_is_in_the_manifest_and_its_keys(tmp_path: Path, model: Path) -> None:
    image = picture(1)
    image.save(tmp_path / "there.png")
    rows = [
        {"id": "plain"},
        {"id": "bytes", "init_image": {"bytes": png(image), "path": None}},
        {"id": "path", "init_image": {"bytes": None, "path": "there.png"}},
        {"id": "weaker", "init_image": {"bytes": png(image), "path": None}, "strength": 0.3},
        {"id": "decoder", "decoder_timesteps": [1.0, 0.3]},
    ]
    rows = [{"prompt": "a red circle", "seed": 1} | row for row in rows]
    prompts = write_table(tmp_path / "prompts.parquet", rows)
    assert render(prompts, str(tmp_path / "run"), settings=flags(model)) == 0
    plain, by_bytes, by_path, weaker, decoder = manifest_of(str(tmp_path / "run")).to_pylist()
    assert plain["conditions"] is None
    told = json.loads(by_path["conditions"])
    assert told.pop("sources") == {"init_image": ["there.png"]}
    assert told == json.loads(by_bytes["conditions"])
    assert told["strength"] == 0.8
    assert by_path["stage_c_key"] == by_bytes["stage_c_key"]  # where a picture lay does not count
    assert by_path["pixel_sha256"] == by_bytes["pixel_sha256"]
    assert len({row["stage_c_key"] for row in (plain, by_bytes, weaker)}) == 3
    assert decoder["stage_c_key"] == plain["stage_c_key"]
    assert decoder["stage_ba_key"] != plain["stage_ba_key"]
    assert json.loads(decoder["conditions"]) == {"decoder_timesteps": pytest.approx([1.0, 0.3])}


def as_structs(row: dict[str, Any]) -> dict[str, Any]:
    """With its pictures, encoded and named ones, in one type of column."""
    paths = {k: {"bytes": None, "path": v} for k, v in row.items() if isinstance(v, str)}
    return row | paths | {k: {"bytes": v, "path": None} for k, v in row.items() if isinstance(v, bytes)}


def bomb() -> bytes:
    """A picture that says it has 20,000 x 20,000 pixels."""
    return b"P6 20000 20000 255\n" + bytes(99)


def labels() -> Image.Image:
    return Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 3)


BROKEN: dict[str, tuple[dict[str, Any], str, str]] = {
    "no picture": ({"image": b"not a picture"}, "bad_image", "unknown format"),
    "half a picture": ({"image": png(picture(1))[:200]}, "bad_image", "image"),
    "missing": ({"init_image": "nowhere.png"}, "bad_image", "init_image"),
    "a folder": ({"init_image": "nowhere"}, "bad_image", "no such file"),
    "a pipe": ({"init_image": "pipe"}, "bad_image", "no such file"),
    "a large file": ({"init_image": "large.png"}, "bad_image", "too large"),
    "no URL": ({"init_image": "http://[bad/x.png"}, "bad_image", "init_image"),
    "unknown protocol": ({"init_image": "nowhere://x/y.png"}, "bad_image", "init_image"),
    "bomb": ({"mask": png(picture(1)), "init_image": bomb()}, "bad_image", "limits.picture_pixels"),
    "several labels": ({"init_image": "there.png", "mask": png(labels())}, "bad_image", "several things"),
    "credentials": ({"init_image": "https://me:secret@host/x.png"}, "bad_image", "credentials"),
    "strength": ({"init_image": "there.png", "strength": 3.0}, "bad_condition", "strength"),
    "mask alone": ({"mask": png(half_mask())}, "bad_condition", "a mask without a picture"),
    "no pooled states": ({"prompt_embeds": randn(77, 32)}, "bad_condition", "go together"),
    "other channels": (
        {"negative_prompt_embeds": randn(77, 16), "negative_prompt_embeds_pooled": randn(16)},
        "bad_condition",
        "do not fit the model",
    ),
    "decoder times": ({"decoder_timesteps": [2.0, 1.0]}, "bad_condition", "no time steps"),
    "times": ({"prior_timesteps": [0.2, 0.4]}, "bad_condition", "no time steps"),
    "latents": ({"prior_latents": randn(7)}, "bad_condition", "latents"),
    "other pictures": ({"image_embeds": randn(7)}, "bad_condition", "do not fit the model"),
    "narrow": ({"image": png(Image.new("RGB", (600, 2)))}, "bad_image", "too narrow"),
    "decoder": ({"decoder_latents": randn(7)}, "bad_condition", "latents"),
    "not finite": ({"image_embeds": np.array([np.nan] * 16)}, "bad_condition", "not finite"),
}


def test_a_broken_condition_fails_its_row_alone(tmp_path: Path, model: Path) -> None:
    picture(1).save(tmp_path / "there.png")
    (tmp_path / "nowhere").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large.png", "wb") as large:
        large.truncate(2**31)  # takes no room on the disk
    rows = [{"id": name, **as_structs(row)} for name, (row, _, _) in BROKEN.items()]
    rows = [entry for row in rows for entry in (row, {"id": f"beside {row['id']}"})]
    rows = [{"prompt": "a red circle", "seed": 1} | row for row in rows]
    prompts = write_table(tmp_path / "prompts.parquet", rows)
    assert render(prompts, str(tmp_path / "run"), settings=flags(model)) == 0
    for entry in manifest_of(str(tmp_path / "run")).to_pylist():
        if entry["prompt_id"] not in BROKEN:
            assert entry["status"] == "ok"
            continue
        _, code, named = BROKEN[entry["prompt_id"]]
        assert (entry["status"], entry["error_code"]) == ("failed", code), entry
        assert named in entry["error_message"]
        assert "secret" not in entry["error_message"]


def test_a_missing_picture_is_rendered_once_it_is_there(tmp_path: Path, model: Path) -> None:
    rows = [
        {"prompt": "a red circle", "seed": 1, "init_image": "late.png"},
        {"prompt": "a blue star", "seed": 2},
    ]
    prompts, out = write_table(tmp_path / "prompts.parquet", rows), str(tmp_path / "run")
    assert render(prompts, out, settings=flags(model)) == 0
    assert manifest_of(out)["status"].to_pylist() == ["failed", "ok"]
    picture(1).save(tmp_path / "late.png")
    assert render(prompts, out, "--retry-failed", settings=flags(model)) == 0
    late = manifest_of(out).to_pylist()[0]
    assert late["status"] == "ok"
    assert "init_image" in late["conditions"]


@pytest.mark.parametrize(
    ("column", "part"),
    [("image", "image_encoder"), ("init_image", "effnet_encoder"), ("control_image", "controlnet")],
)
def test_a_part_that_the_table_needs_is_asked_for_before_anything_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, part: str
) -> None:
    prompts = write_table(tmp_path / "prompts.parquet", [{"prompt": "a red circle", column: png(picture(1))}])
    assert render(prompts, str(tmp_path / "run")) == 2
    assert f"model.{part}" in capsys.readouterr().err
    assert not Storage(str(tmp_path / "run")).exists(paths.RUN)
    source = f"--column=source_{column}={column}"  # carried, it conditions nothing
    assert render(prompts, str(tmp_path / "run"), source) == 0
    assert manifest_of(str(tmp_path / "run"))[f"source_{column}"].to_pylist() == [png(picture(1))]
