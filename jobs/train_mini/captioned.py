"""The text side of training: captions as token ids, and the tower's states with gradients."""

from random import Random

import torch
from torch import Tensor
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from jobs.train_mini.captions import caption
from jobs.train_mini.tokenizer import LENGTH
from jobs.train_mini.world import Scene

UNCONDITIONAL = 0.1
"""Share of captions replaced by "", which is what guidance subtracts."""


def captions_of(scenes: list[Scene], rng: Random) -> list[str]:
    return ["" if rng.random() < UNCONDITIONAL else caption(scene, rng) for scene in scenes]


def text_states(
    tower: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str]
) -> tuple[Tensor, Tensor]:
    """Token states (texts, 32, channels) and pooled states (texts, channels), as rendering makes them."""
    device = tower.device
    padded = tokenizer(
        texts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).to(device)
    output = tower(padded["input_ids"], attention_mask=padded["attention_mask"], output_hidden_states=True)
    return output.hidden_states[-1], output.text_embeds


def seeded(seed: int) -> Random:
    torch.manual_seed(seed)
    return Random(seed)
