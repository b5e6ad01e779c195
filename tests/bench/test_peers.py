"""What the benchmark times is the same work on both sides: equal inputs give equal results."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from jobs.bench.__main__ import main
from jobs.bench.chain import Chain
from jobs.bench.loops import decoder_run, prior_run
from jobs.bench.peers import Peers, Station, configuration

SIDE = 256


@pytest.fixture(scope="module")
def peers() -> Peers:
    return Peers(configuration("mini"), SIDE, "cpu", torch.float32)


def tensor(result: Any) -> torch.Tensor:
    result = getattr(result, "sample", result)
    return torch.cat(result) if isinstance(result, list) else result


def stations(peers: Peers) -> list[Station]:
    return [*peers.steps(2), prior_run(peers, 2), decoder_run(peers, 2)]


@pytest.mark.parametrize("index", range(5))
@torch.inference_mode()
def test_both_do_the_same_work(peers: Peers, index: int) -> None:
    station = stations(peers)[index]
    ours, theirs = (tensor(station.runs[who]()) for who in ("ours", "diffusers"))
    if "decoder run" in station.name:  # theirs clamps to what a picture can hold
        ours = ours.clamp(0, 1)
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() / theirs.abs().max() < 2e-5
    assert station.flops > 0


@torch.inference_mode()
def test_both_chains_draw_the_same_pictures() -> None:
    chain = Chain(SIDE, "cpu")
    ours, theirs = chain.run(2).runs["ours"]().pixels, chain.run(2).runs["diffusers"]()
    pictures = np.stack([np.asarray(picture) for picture in theirs])
    assert ours.shape == (2, SIDE, SIDE, 3)
    assert np.abs(ours.astype(int) - pictures.astype(int)).max() <= 1


def test_the_command_prints_and_writes_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.parquet"
    flags = ["--config", "mini", "--batch", "1", "--dtype", "float32", "--turns", "1", "--side", str(SIDE)]
    assert main([*flags, "--out", str(out)]) == 0
    rows = pq.read_table(out).to_pylist()
    assert [row["what"].split(",")[0] for row in rows] == [
        "Stage C step", "Stage B step", "Stage A decode", "prior run", "decoder run", "whole chain",
    ]  # fmt: skip
    assert all(row["ratio to diffusers"] > 0 and row["of_product"] > 0 for row in rows)
    assert capsys.readouterr().out.count("| mini | 1 |") == 6
