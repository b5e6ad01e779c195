"""Runs on CPUs of other kinds than this one: oneDNN is told to use AVX2 only, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.patience import PATIENCE_S
from tests.run.runs import QUICK, manifest_of, render, write_prompts

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""As on Zen 1 to 3 and on Xeons before Cooper Lake: oneDNN then refuses to multiply bfloat16."""

ASKED = "import torch; print(torch.ops.mkldnn._is_mkldnn_bf16_supported())"


def render_elsewhere(prompts: Path, out: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("cascade-batch")), "render", str(prompts), "--out", out]
    return subprocess.run(
        [*command, "--runner=local", *QUICK, *flags],
        env=os.environ | AVX2,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


def test_a_bfloat16_run_goes_on_where_onednn_has_no_bfloat16(tmp_path: Path) -> None:
    prompts, out = write_prompts(tmp_path, 4), tmp_path / "run"
    assert render(prompts, str(out), "--dtype=bfloat16") == 0
    for done in (*out.glob("*/shard-00000001.parquet"), *out.glob("images/shard-00000001/*")):
        done.unlink()
    told = subprocess.run(
        [sys.executable, "-c", ASKED], env=os.environ | AVX2, capture_output=True, timeout=PATIENCE_S
    )
    assert told.stdout.strip() == b"False", "a process that is to stand in for such a CPU"
    finished = render_elsewhere(prompts, str(out), "--dtype=bfloat16")
    assert finished.returncode == 0, finished.stderr
    assert manifest_of(str(out))["status"].to_pylist() == ["ok"] * 4
