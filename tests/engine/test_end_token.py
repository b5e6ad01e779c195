"""The pooled state is that of the tokenizer's end token, whatever a config says or a file lets guess."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from cascade_batch.engine.loading.checkpoints import load_text_encoder
from cascade_batch.engine.loading.lora_merging import merge
from cascade_batch.engine.networks.text import TextEncoder, build_text_tower
from cascade_batch.model.config import TINY_STAGE_C
from cascade_batch.model.layouts import infer_config
from cascade_batch.model.parts import Lora
from tests.engine.oracle import model_parts, pair_c, text_parts

PROMPTS = ["a red dog", "the old house", ""]
ROWS = "text_model.embeddings.token_embedding.weight"


def theirs(tower: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, prompts: list[str]) -> Tensor:
    """What transformers pools, one text at a time, if its config states the end token."""
    tower.text_model.eos_token_id = tokenizer.eos_token_id
    padded = [
        tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt") for prompt in prompts
    ]
    return torch.cat([tower(**tokens).text_embeds for tokens in padded])


@torch.inference_mode()
def test_the_usual_encoder_pools_as_transformers_does_to_the_bit() -> None:
    tokenizer, tower = text_parts()
    seen = TextEncoder(tower, tokenizer).encode(PROMPTS)
    assert torch.equal(seen.pooled, theirs(tower, tokenizer, PROMPTS))


@pytest.mark.parametrize("with_config", [False, True])
@torch.inference_mode()
def test_added_tokens_do_not_move_the_end(tmp_path: Path, with_config: bool) -> None:
    tokenizer, _ = text_parts()
    config = {**(model_parts()["text_encoder"].config or {}), "hidden_size": 64, "num_attention_heads": 1}
    tower = build_text_tower(config).eval()
    tensors = dict(tower.state_dict())
    tensors[ROWS] = torch.cat([tensors[ROWS], torch.ones(3, 64)])
    save_file(tensors, tmp_path / "text_encoder.safetensors")
    old = {**config, "vocab_size": len(tensors[ROWS]), "eos_token_id": 2} if with_config else None
    loaded = load_text_encoder(old, [tmp_path / "text_encoder.safetensors"], "float32", "cpu")
    seen = TextEncoder(loaded, tokenizer).encode(PROMPTS)
    assert len({tuple(row.tolist()) for row in seen.pooled}) == len(PROMPTS)
    assert torch.equal(seen.pooled, theirs(tower, tokenizer, PROMPTS))


@torch.inference_mode()
def test_a_loras_token_does_not_become_the_end_of_an_old_config(tmp_path: Path) -> None:
    part = model_parts()["text_encoder"]
    tower = load_text_encoder({**(part.config or {}), "eos_token_id": 2}, part.files, "float32", "cpu")
    tokenizer, _ = text_parts()
    rows, width = tower.get_parameter(ROWS).shape
    path = tmp_path / "token.safetensors"
    save_file(
        {"embeddings.embeddings": torch.ones(1, width), "embeddings.indices": torch.tensor([rows])}, path
    )
    merged = merge([Lora(path, tokens={"[fernando]": "cat"})], pair_c(TINY_STAGE_C)[1], tower, tokenizer)
    prompts = ["[fernando] in the sea", "[fernando] and the old house"]
    seen = TextEncoder(tower, merged.tokenizer).encode(prompts)
    assert not torch.equal(seen.pooled[0], seen.pooled[1])
    assert torch.equal(seen.pooled, theirs(tower, merged.tokenizer, prompts))


def test_a_published_encoder_with_added_tokens_is_told_by_its_rows() -> None:
    layer = "text_model.encoder.layers.0.mlp.fc1.weight"
    shapes = {
        ROWS: (49410, 1280),
        "text_model.embeddings.position_embedding.weight": (77, 1280),
        "text_projection.weight": (1280, 1280),
        layer: (5120, 1280),
    }
    found = infer_config("text_encoder", shapes, {}, "file")
    assert (found["vocab_size"], found["bos_token_id"], found["eos_token_id"]) == (49410, 49406, 49407)
