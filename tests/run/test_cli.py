"""The command line as its users meet it: a frozen surface, clear errors, exit codes, a light start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cascade_batch.cli import main
from cascade_batch.cli.arguments import SPEC_FLAGS, build_parser
from cascade_batch.run import paths
from cascade_batch.run.schemas import ERROR_CODES, MANIFEST
from cascade_batch.storage import Storage
from tests.patience import PATIENCE_S
from tests.run.runs import QUICK, render, write_prompts


def flags_of(command: str) -> set[str]:
    parser = build_parser()._subparsers._group_actions[0].choices[command]  # type: ignore[union-attr]
    return {option for action in parser._actions for option in action.option_strings}


def test_the_surface_is_frozen() -> None:
    spec = {
        "-h", "--help", "--out", "--spec", "--set", "--model", "--variant", "--dtype", "--column", "--limit",
        "--seed", "--width", "--height", "--c-actors", "--c-gpus", "--ba-actors", "--ba-gpus",
        "--max-failed-rows", "--log-format", "--stage-c", "--stage-b", "--stage-a", "--text-encoder", "--tokenizer",
        "--lora", "--image-encoder", "--effnet-encoder", "--controlnet",
    }  # fmt: skip
    assert flags_of("render") == spec | {"--runner", "--embeddings-from", "--retry-failed", "--take-over"}
    reuse = {"--into", "--reuse", "--retry-failed", "--runner"}
    assert flags_of("plan") == spec | reuse | {"--rate", "--rate-from", "--calibrate", "--gpus"}
    assert flags_of("regenerate") == spec | reuse | {
        "--edition",
        "--keep-stale",
        "--allow-empty",
        "--if-busy",
    }
    assert flags_of("import") == {"-h", "--help", "--into", "--if-busy"}
    assert flags_of("status") == {"-h", "--help", "--rows"}
    assert flags_of("verify") == {"-h", "--help", "--reopen"}


def test_manifest_columns_and_error_codes_are_frozen() -> None:
    assert MANIFEST.names == [
        "image_id", "prompt_id", "image_index", "shard", "prompt", "negative_prompt", "seed", "width", "height",
        "prior_steps", "prior_guidance_scale", "decoder_steps", "decoder_guidance_scale", "conditions", "status",
        "error_code", "error_message", "prompt_tokens", "prompt_truncated", "attempts", "image_uri", "image_bytes",
        "image_sha256", "pixel_sha256", "embedding_uri", "embedding_row", "embedding_sha256", "stage_c_key",
        "stage_ba_key", "stage_c_seconds", "stage_ba_seconds", "stage_c_device", "stage_ba_device",
        "stage_c_worker", "stage_ba_worker", "stage_c_batch", "stage_ba_batch", "stage_c_threads",
        "stage_ba_threads", "stage_c_dtype", "stage_ba_dtype", "versions", "numerics", "encoder",
        "prompts_sha256", "writer_token", "created_at",
    ]  # fmt: skip
    assert set(ERROR_CODES) == {
        "null_prompt", "nan_output", "infinite_output", "single_colour", "out_of_memory", "worker_died",
        "bad_image", "bad_condition",
    }  # fmt: skip


def test_every_flag_names_a_key_of_the_spec() -> None:
    from cascade_batch.settings import Spec

    for key in SPEC_FLAGS.values():
        node = Spec()
        for name in key.split("."):
            node = getattr(node, name)


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.parametrize("command", ["plan", "status", "verify", "render"])
def test_commands_without_rendering_import_neither_torch_nor_ray(command: str, tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, 2), str(tmp_path / "run")
    assert render(prompts, out) == 0
    line = (
        [command, out] if command in ("status", "verify") else [command, str(prompts), "--out", out, *QUICK]
    )
    code = (
        "import sys; from cascade_batch.cli import main; "
        f"code = main({line!r}); heavy = {{'torch', 'ray', 'transformers'}} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "needles"),
    [
        (["--width=1001"], ["render.width", "1001", "use 1000"]),
        (["--set=rendr.width=1"], ["did you mean render?"]),
        (["--dtype=float16"], ["Stage C cannot run in float16"]),
        (["--model=/nowhere/at/all"], ["/nowhere/at/all"]),
        (["--column=prompt=captoin"], ["captoin"]),
        (["--column=prompt"], ["--column needs ours=theirs"]),
        (["--spec=/nowhere/spec.yaml"], ["cannot read the spec file", "/nowhere/spec.yaml"]),
    ],
)
def test_bad_input_is_exit_2_and_nothing_is_written(
    flags: list[str], needles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert render(write_prompts(tmp_path, 2), str(out), *flags) == 2
    error = capsys.readouterr().err
    for needle in needles:
        assert needle in error
    assert not (out / "run.json").exists()


def test_duplicate_ids_are_named_before_anything_is_spent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 3, id=["same", "other", "same"])
    assert render(prompts, str(tmp_path / "run")) == 2
    assert "same" in capsys.readouterr().err
    assert not (tmp_path / "run/run.json").exists()


def test_a_missing_bucket_is_one_clear_line_without_secrets(
    moto_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-value")
    assert render(write_prompts(tmp_path, 2), "s3://no-such-bucket-here/run") == 2
    error = capsys.readouterr().err
    assert "no-such-bucket-here" in error
    assert "very-secret-value" not in error
    assert "Traceback" not in error


def test_plan_prints_costs_and_hours_only_from_a_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, out = write_prompts(tmp_path, 6), str(tmp_path / "run")
    assert main(["plan", str(prompts), *QUICK]) == 0
    text = capsys.readouterr().out
    assert "images   6 in 3 shards" in text
    assert "padded   50.0% of pool C" in text
    assert "(batch 4 assumed for C and BA)" in text
    assert "raise shards.prompts" in text
    assert "hours    unknown" in text
    assert main(["plan", str(prompts), *QUICK, "--rate", "0.5"]) == 0
    assert "hours    0.00 at 0.50 images/s" in capsys.readouterr().out
    assert render(prompts, out) == 0
    capsys.readouterr()
    assert main(["plan", str(prompts), *QUICK, "--rate-from", out]) == 0
    assert "images/s" in capsys.readouterr().out


def test_gpus_are_split_only_by_a_measured_rate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompts = write_prompts(tmp_path, 6)
    assert main(["plan", str(prompts), *QUICK, "--gpus", "8", "--rate", "3"]) == 2
    assert "--rate-from RUN" in capsys.readouterr().err
    assert main(["plan", str(prompts), *QUICK, "--gpus", "0", "--calibrate"]) == 2
    assert "no GPUs to split" in capsys.readouterr().err


def test_a_spec_file_does_what_the_flags_do(tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, 2), tmp_path / "run"
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        f"prompts: {{uri: {prompts}}}\noutput: {{uri: {out}}}\nmodel: {{name: tiny}}\n"
        "render: {width: 256, height: 256, prior_steps: 2, decoder_steps: 2}\n"
        "shards: {prompts: 2}\npools: {c: {threads: 1}, ba: {threads: 1}}\n"
    )
    assert main(["render", "--spec", str(spec), "--runner", "local"]) == 0
    assert render(prompts, str(out)) == 0  # the same spec by flags: nothing is left to do
    assert json.loads((out / "outcome.json").read_text())["images_now"] == 0


def test_column_mapping_and_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "captions.parquet"
    pq.write_table(pa.table({"caption": ["a red circle"], "status": ["draft"]}), path)
    out = str(tmp_path / "run")
    assert render(path, out, "--column=prompt=caption") == 2
    assert "--column" in capsys.readouterr().err
    assert render(path, out, "--column=prompt=caption", "--column=source_status=status") == 0
    capsys.readouterr()
    assert main(["status", out, "--rows"]) == 0
    text = capsys.readouterr().out
    assert "images  1 of 1 done" in text
    assert "failed  none" in text
    assert "last    finished" in text


def test_status_counts_by_names_and_reads_rows_only_when_told(
    store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = write_prompts(tmp_path, 5, prompt=["red", None, "blue", "green", "black"])
    assert render(prompts, store) == 0
    storage = Storage(store)
    storage.delete(paths.manifest_key(2))
    capsys.readouterr()
    assert main(["status", store, "--rows"]) == 0
    assert "failed  null_prompt 1" in capsys.readouterr().out
    storage.put(paths.manifest_key(0), b"no manifest that could be read")
    assert main(["status", store]) == 0
    text = capsys.readouterr().out
    assert "images  4 of 5 done" in text
    assert "shards  2 of 3 done, 3 with embeddings" in text
    assert f"failed  not counted; cascade-batch status --rows {store}" in text
    assert main(["status", store, "--rows"]) == 1
    assert paths.manifest_key(0) in capsys.readouterr().err


def test_status_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "there is no run here" in capsys.readouterr().err


def test_credentials_are_nowhere_in_a_run_on_s3(
    moto_root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secrets = [os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")]
    assert render(write_prompts(tmp_path, 2), moto_root, "--set=log.level=debug") == 0
    assert main(["verify", moto_root]) == 0
    storage, printed = Storage(moto_root), capsys.readouterr()
    written = b"".join(storage.read(info.key) for info in storage.list())
    for secret in secrets:
        assert secret not in printed.out + printed.err
        assert secret.encode() not in written


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hush-hush@bucket/run",
        "https://hush-hush@host/p.parquet",
        "s3://bucket/p.parquet?X-Amz-Signature=hush-hush",
        "simplecache::s3://key:hush-hush@bucket/p.parquet",
    ],
)
@pytest.mark.parametrize("place", ["prompts", "out"])
def test_credentials_in_a_url_are_refused_unspoken(
    url: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = url if place == "prompts" else str(write_prompts(tmp_path, 2))
    out = url if place == "out" else str(tmp_path / "run")
    assert main(["render", prompts, "--out", out, "--model=tiny", "--runner=local"]) == 2
    error = capsys.readouterr().err
    assert "credentials" in error
    assert "hush-hush" not in error


def test_a_run_inside_its_prompt_folder_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_prompts(tmp_path, 2)
    assert render(tmp_path, str(tmp_path / "run")) == 2
    assert "inside the folder of the prompt table" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["render", "status", "verify"])
def test_a_foreign_run_json_is_named(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "run.json").write_text("{}")
    (out / "plan.parquet").write_text("")
    code = render(write_prompts(tmp_path, 2), str(out)) if command == "render" else main([command, str(out)])
    assert code == 2
    assert "format None" in capsys.readouterr().err


def test_a_deleted_table_is_made_again(tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, 2), tmp_path / "run"
    assert render(prompts, str(out)) == 0
    (out / "table/part-00000.parquet").unlink()
    assert render(prompts, str(out)) == 0
    assert pq.read_table(out / "table").num_rows == 2


def test_a_carried_column_may_have_any_name(tmp_path: Path) -> None:
    prompts = write_prompts(tmp_path, 2, row=["a", "b"], pixels=["c", "d"])
    assert render(prompts, str(tmp_path / "run")) == 0
    assert pq.read_table(tmp_path / "run/table").column("row").to_pylist() == ["a", "b"]


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_gets_no_traceback(unbuffered: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "from cascade_batch.cli import entry; entry()"
    told = subprocess.run(
        [sys.executable, "-c", code, "model", "inspect", "tiny"],
        stdout=writing,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        timeout=PATIENCE_S,
        check=False,
    )
    os.close(writing)
    assert (told.returncode, told.stderr) == (141, b"")
