"""A merged LoRA is the formula, several add up, tokens of its own work, and undoing gives back every bit."""

import copy
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from cascade_batch.engine.loading.lora_merging import merge
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.errors import WeightsError
from cascade_batch.model.config import TINY_STAGE_C
from cascade_batch.model.parts import Lora
from tests.engine.oracle import pair_c, text_parts

Q = "down_blocks.0.2.attention.to_q.weight"
TEXT = "text_model.encoder.layers.0.mlp.fc1.weight"


@pytest.fixture
def stage_c() -> StageC:
    return pair_c(TINY_STAGE_C)[1]


@pytest.fixture
def text() -> tuple[CLIPTokenizer, CLIPTextModelWithProjection]:
    tokenizer, tower = text_parts()
    return tokenizer, tower.requires_grad_(False)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def written(folder: Path, name: str, tensors: dict[str, torch.Tensor]) -> Path:
    path = folder / f"{name}.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return path


def bits(*networks: nn.Module) -> list[tuple[str, bytes]]:
    return [
        (name, tensor.numpy(force=True).tobytes())
        for net in networks
        for name, tensor in net.state_dict().items()
    ]


def community(folder: Path, weight: torch.Tensor, name: str = Q, seed: int = 0) -> tuple[Path, torch.Tensor]:
    """A rank 2 LoRA with alpha 6 for one weight, and the change it makes at weight 1."""
    down, up = random(2, weight.shape[1], seed=seed), random(weight.shape[0], 2, seed=seed + 1)
    target = "lora_prior_te_" if name.startswith("text_model") else "lora_prior_unet_"
    base = target + name.removesuffix(".weight").replace(".", "_")
    tensors = {
        f"{base}.lora_down.weight": down,
        f"{base}.lora_up.weight": up,
        f"{base}.alpha": torch.tensor(6.0),
    }
    return written(folder, f"{name}-{seed}", tensors), 3 * up @ down


def test_several_add_up_and_undoing_gives_back_every_bit(
    tmp_path: Path, stage_c: StageC, text: tuple
) -> None:
    tokenizer, tower = text
    before, weights = (
        bits(stage_c, tower),
        (stage_c.state_dict()[Q].clone(), tower.state_dict()[TEXT].clone()),
    )
    first, change = community(tmp_path, weights[0])
    second, other = community(tmp_path, weights[0], seed=7)
    third, of_text = community(tmp_path, weights[1], TEXT)
    merged = merge([Lora(first), Lora(second, -0.5), Lora(third, 0.25)], stage_c, tower, tokenizer)
    torch.testing.assert_close(stage_c.state_dict()[Q], weights[0] + change - 0.5 * other)
    torch.testing.assert_close(tower.state_dict()[TEXT], weights[1] + 0.25 * of_text)
    changed = [
        name for (name, now), (_, then) in zip(bits(stage_c, tower), before, strict=True) if now != then
    ]
    assert changed == [Q, TEXT]
    merged.undo()
    assert bits(stage_c, tower) == before


def test_the_official_trainers_projections(tmp_path: Path, stage_c: StageC, text: tuple) -> None:
    tokenizer, tower = text
    before = {name: tensor.clone() for name, tensor in stage_c.state_dict().items()}
    down, up = random(4, 40), random(120, 4, seed=1)
    path = written(tmp_path, "official", {"weights.1.lora_down": down, "weights.1.lora_up": up})
    merge([Lora(path)], stage_c, tower, tokenizer)
    joined = torch.cat([before[Q.replace("to_q", f"to_{letter}")] for letter in "qkv"]) + 0.25 * up @ down
    now = torch.cat([stage_c.state_dict()[Q.replace("to_q", f"to_{letter}")] for letter in "qkv"])
    torch.testing.assert_close(now, joined)


def test_a_bfloat16_network_keeps_its_dtype_and_gets_its_bits_back(
    tmp_path: Path, stage_c: StageC, text: tuple
) -> None:
    tokenizer, tower = text
    small = copy.deepcopy(stage_c).bfloat16()
    before = small.state_dict()[Q].clone()
    path, change = community(tmp_path, before.float())
    merged = merge([Lora(path)], small, tower, tokenizer)
    assert torch.equal(small.state_dict()[Q], (before.float() + change).bfloat16())
    merged.undo()
    assert torch.equal(small.state_dict()[Q], before)


def test_tokens_of_its_own(tmp_path: Path, stage_c: StageC, text: tuple) -> None:
    tokenizer, tower = text
    known = len(tokenizer)
    before = bits(tower)
    row, old = random(32), random(32, seed=3)
    tensors = {
        "embeddings.embeddings": torch.stack([row, old]),
        "embeddings.indices": torch.tensor([known, 5]),
    }
    path = written(tmp_path, "tokens", tensors)
    with pytest.raises(WeightsError, match="this LoRA's tokens do not fit"):
        merge([Lora(path)], stage_c, tower, tokenizer)
    assert bits(tower) == before
    with pytest.raises(
        WeightsError, match="the rows behind the text encoder's"
    ):  # a word that has a row already
        merge([Lora(path, 1.0, {"cat</w>": "dog"})], stage_c, tower, tokenizer)
    assert len(tower.text_model.embeddings.token_embedding.weight) == known, "a refusal changes nothing"
    merged = merge([Lora(path, 1.0, {"[fernando]": "cat"})], stage_c, tower, tokenizer)
    table = tower.text_model.embeddings.token_embedding.weight
    start = tokenizer("cat", add_special_tokens=False)["input_ids"]
    torch.testing.assert_close(table[known], table[start].mean(0) + row)
    assert merged.tokenizer("a [fernando]")["input_ids"][2] == known
    assert known not in tokenizer("a [fernando]")["input_ids"], "the tokenizer that was given stays as it was"
    ids = merged.tokenizer("a [fernando]", padding="max_length", return_tensors="pt")
    assert tower(**ids).text_embeds.isfinite().all()
    merged.undo()
    assert bits(tower) == before


def test_one_that_does_not_fit_changes_nothing(tmp_path: Path, stage_c: StageC, text: tuple) -> None:
    tokenizer, tower = text
    good, _ = community(tmp_path, stage_c.state_dict()[Q])
    bad = written(tmp_path, "bad", {"weights.0.lora_down": random(4, 7), "weights.0.lora_up": random(40, 4)})
    before = bits(stage_c, tower)
    with pytest.raises(WeightsError, match=r"bad\.safetensors"):
        merge([Lora(good), Lora(bad)], stage_c, tower, tokenizer)
    assert bits(stage_c, tower) == before
