"""LoRA: low-rank changes merged into weights once, and undone to the bit.

A merged weight costs a rendering nothing. What was there before is kept in main memory, so that undoing gives back the
very bits, which subtracting would not.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from cascade_batch.engine.loading.lora_changes import added
from cascade_batch.engine.loading.stored import file_header, shapes_of
from cascade_batch.engine.networks.stage_c import StageC
from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import first_keys
from cascade_batch.model.layouts.lora_layouts import EMBEDDINGS, INDICES, Change, changes_of
from cascade_batch.model.layouts.lora_strength import strengths
from cascade_batch.model.layouts.shapes import Shapes
from cascade_batch.model.parts import Lora

if TYPE_CHECKING:  # seconds of a start, which pool BA has no use for
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer


@dataclass
class MergedLoras:
    """What merging replaced, to be put back."""

    tokenizer: "CLIPTokenizer"
    """Knows the LoRAs' tokens; the one it was made from does not."""
    tower: "CLIPTextModelWithProjection"
    saved: dict[nn.Parameter, Tensor] = field(default_factory=dict)
    token_table: nn.Parameter | None = None
    """As it was before new tokens made it longer."""

    @torch.no_grad()
    def undo(self) -> None:
        """Give every weight its old bits back."""
        if self.token_table is not None:
            self.tower.text_model.embeddings.token_embedding.weight = self.token_table
            self.token_table = None
        for weight, before in self.saved.items():
            weight.copy_(before)
        self.saved.clear()

    def change(self, weight: nn.Parameter, delta: Tensor) -> None:
        """Add in float32; the first change of a weight keeps what it was."""
        self.saved.setdefault(weight, weight.detach().cpu().clone())
        weight.copy_(weight.float() + delta.to(weight.device))


@torch.no_grad()
def merge(
    loras: Sequence[Lora], stage_c: StageC, tower: "CLIPTextModelWithProjection", tokenizer: "CLIPTokenizer"
) -> MergedLoras:
    """Merge LoRAs into Stage C and the text tower, one after the other.

    Raises WeightsError for a file that is damaged or does not fit; then nothing has changed.
    """
    networks: dict[str, nn.Module] = {"stage_c": stage_c, "text_encoder": tower}
    shapes = {name: shapes_of(network) for name, network in networks.items()}
    parsed = [_parsed(lora, shapes) for lora in loras]
    merged = MergedLoras(copy.deepcopy(tokenizer), tower)
    try:
        for lora, changes in zip(loras, parsed, strict=True):
            tensors = load_file(lora.path)
            for change, told in changes:
                _merge(change, told, tensors, lora, networks[change.target], merged)
            if EMBEDDINGS in tensors:
                _change_tokens(lora, tensors, merged)
    except WeightsError:
        merged.undo()
        raise
    return merged


def check_numbers(loras: Sequence[Lora]) -> None:
    """Raise WeightsError for a LoRA whose tensors hold NaN or infinity, which would blacken every picture."""
    for lora in loras:
        bad = [key for key, tensor in load_file(lora.path).items() if not tensor.float().isfinite().all()]
        if bad:
            raise WeightsError(
                "a LoRA's numbers are not finite",
                where=str(lora.path),
                got=first_keys(bad),
                next_step="fetch the file again, or take an earlier state of its training",
            )


def _parsed(lora: Lora, networks: Mapping[str, Shapes]) -> list[tuple[Change, float | None]]:
    """Every change of a LoRA, and its scale where no tensor tells it."""
    header, where = file_header(lora.path), str(lora.path)
    changes = changes_of(header.shapes, networks, where)
    told = strengths(changes, header.notes, lora.config, lora.alpha, where)
    return list(zip(changes, told, strict=True))


def _merge(
    change: Change,
    told: float | None,
    tensors: Mapping[str, Tensor],
    lora: Lora,
    network: nn.Module,
    merged: MergedLoras,
) -> None:
    parts = {role: tensors[key].float() for role, key in change.keys.items()}
    scale = _scale(change, told, parts, lora)
    parameters = [network.get_parameter(name) for name in change.weights]
    base = torch.cat([parameter.float().cpu() for parameter in parameters])
    delta = added(change, parts, base, scale, lora.weight)
    for parameter, rows in zip(parameters, delta.split([len(p) for p in parameters]), strict=True):
        merged.change(parameter, rows)


def _scale(change: Change, told: float | None, parts: Mapping[str, Tensor], lora: Lora) -> float:
    """Raises WeightsError where a tensor and an adapter's settings contradict each other."""
    alpha = parts["alpha"].item() if "alpha" in parts else None
    own = change.scale(alpha)
    if told is not None and alpha is not None and not math.isclose(own, told, rel_tol=1e-2):
        raise WeightsError(
            "a LoRA's strength is told twice, and not the same",
            where=str(lora.path),
            got=f"{own:.6g} by {change.alpha}, {told:.6g} by its settings",
            next_step="remove the settings that are not this file's",
        )
    return own if told is None else told


def _change_tokens(lora: Lora, tensors: Mapping[str, Tensor], merged: MergedLoras) -> None:
    """Add to rows of the token table; rows beyond it are new tokens, which start from known words' rows."""
    indices, deltas = tensors[INDICES].flatten().tolist(), tensors[EMBEDDINGS].float()
    table = merged.tower.text_model.embeddings.token_embedding
    rows = cast(nn.Parameter, table.weight)
    known, width = rows.shape
    new = sorted({index for index in indices if index >= known})
    if new != list(range(known, known + len(lora.tokens))) or deltas.shape != (len(indices), width):
        raise WeightsError(
            "this LoRA's tokens do not fit",
            where=str(lora.path),
            got=f"rows {indices} of {list(deltas.shape[1:])}, and {len(lora.tokens)} names",
            expected=f"rows of [{width}], and a name for each from {known} on, in their order",
            next_step='name each new token and a word to start from, as in training: {"[fernando]": "dog"}',
        )
    starts = [_row_of(word, rows, merged.tokenizer) for word in lora.tokens.values()]
    if starts:
        merged.token_table = rows if merged.token_table is None else merged.token_table
        rows = table.weight = nn.Parameter(torch.cat([rows, *starts]), requires_grad=False)
        merged.tokenizer.add_tokens(list(lora.tokens))
        _check_ids(lora, new, merged.tokenizer)
    change = torch.zeros_like(rows, dtype=torch.float32)
    for index, delta in zip(indices, deltas, strict=True):
        change[index] += lora.weight * delta
    merged.change(rows, change)


def _check_ids(lora: Lora, rows: list[int], tokenizer: "CLIPTokenizer") -> None:
    """A token's id is its row's number, unless the encoder has rows that its tokenizer has no words for."""
    ids = tokenizer.convert_tokens_to_ids(list(lora.tokens))
    if ids != rows:
        raise WeightsError(
            "this LoRA's tokens do not fit",
            where=str(lora.path),
            got=f"{', '.join(lora.tokens)} as tokens {ids} of the tokenizer",
            expected=f"{rows}, the rows behind the text encoder's",
            next_step="name tokens that the tokenizer does not know, and give it the encoder's own tokenizer",
        )


def _row_of(word: str, table: Tensor, tokenizer: "CLIPTokenizer") -> Tensor:
    """The mean of the rows of a word's tokens, (1, channels)."""
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    return table[ids].float().mean(0, keepdim=True).to(table.dtype)
