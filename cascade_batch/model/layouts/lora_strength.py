"""How strong a LoRA's changes are, where no `.alpha` beside them tells: adapter configs and headers. No torch here.

    adapter_config.json                beside PEFT's files
    lora_adapter_metadata, ...         the same settings as JSON in a file's header, of each network behind its name
                                       (`prior.lora_alpha`), as diffusers writes them
    lora_alpha, r, ss_network_alpha    single settings in a header; what a tensor `.alpha` says goes first

A change is then multiplied by alpha / r, with rank-stabilised LoRA (`use_rslora`) by alpha / sqrt(r). PEFT never puts
alpha among the tensors, and LyCORIS always: files of theirs without any are refused. The community's LoRAs and those of
diffusers without one are alpha = r by their own readers' rule.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts.lora_layouts import Change

Settings = Mapping[str, Any]

Number = TypeVar("Number", int, float)
Pattern = Sequence[tuple[re.Pattern[str], Number]]
"""What modules are called -> what they have instead of the rest's."""

JSON_NOTES = ("lora_adapter_metadata", "adapter_config", "peft_config", "lora_config")
"""Notes of a header that hold an adapter config as JSON."""
SINGLE_NOTES = {
    "lora_alpha": "lora_alpha", "alpha": "lora_alpha", "network_alpha": "lora_alpha", "ss_network_alpha": "lora_alpha",
    "r": "r", "rank": "r", "lora_r": "r", "lora_rank": "r", "network_dim": "r", "ss_network_dim": "r",
    "use_rslora": "use_rslora", "alpha_pattern": "alpha_pattern", "rank_pattern": "rank_pattern",
}  # fmt: skip
"""Notes of a header that hold one setting -> its name in an adapter config."""
COMPONENTS = {
    "": None,
    "prior": "stage_c",
    "unet": "stage_c",
    "transformer": "stage_c",
    "text_encoder": "text_encoder",
}
"""What stands before a setting in diffusers' metadata -> whose changes it is about; None: all."""
HONOURED = (
    "r", "lora_alpha", "alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "bias",
    "modules_to_save", "peft_type", "init_lora_weights", "init_weights",
)  # fmt: skip
OF_TRAINING = (
    "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern", "fan_in_fan_out", "lora_dropout",
    "rank_dropout", "rank_dropout_scale", "module_dropout", "decompose_both", "decompose_factor",
    "use_effective_conv2d", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "runtime_config",
    "megatron_config", "megatron_core", "qalora_group_size", "ensure_weight_tying",
)  # fmt: skip
"""Settings that say how or of which modules an adapter was trained: its tensors show it. `fan_in_fan_out` is one for
transposed layers, which these networks have none of; PEFT, too, drops it for others."""
TYPES = ("LORA", "LOHA", "LOKR")
PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "lycoris")
"""Of `init_lora_weights`: those that leave the base weights as they were."""


@dataclass(frozen=True)
class _Told:
    """What one place says of the strength of changes."""

    where: str
    target: str | None
    """Whose changes; None: of all networks."""
    alpha: float
    rank: int | None
    alphas: "Pattern[float]"
    ranks: "Pattern[int]"
    is_rank_stabilised: bool
    gives_way: bool
    """To a tensor `.alpha`, which may differ from it: trainers note the one they began with."""

    def scale(self, change: Change) -> float:
        """Raises WeightsError where it names another rank than the tensors have."""
        rank = _matching(self.ranks, change.module) or self.rank or change.rank
        if rank is None or change.rank not in (None, rank):
            raise WeightsError(
                "a LoRA's settings are not those of its tensors",
                where=self.where,
                got=f"rank {rank} for {change.module}",
                expected=change.rank,
                next_step=STATE_IT,
            )
        own = _matching(self.alphas, change.module)
        alpha = self.alpha if own is None else own
        return alpha / (math.sqrt(rank) if self.is_rank_stabilised else rank)


STATE_IT = (
    "put its own adapter_config.json beside it, or state the alpha that it was trained with: --lora PATH,alpha=16 "
    "(model.loras[].alpha)"
)


def strengths(
    changes: Sequence[Change],
    notes: Mapping[str, str],
    config: Settings | None,
    stated: float | None,
    where: str,
) -> list[float | None]:
    """What each change is multiplied by; None where a tensor `.alpha` or the format tells (`Change.scale`).

    Args:
        notes: of the file's header.
        config: what `adapter_config.json` beside the file holds.
        stated: the alpha that the user states, of changes that bring none of their own.

    Raises:
        WeightsError: settings that cannot be honoured, places that contradict each other, a file of PEFT's spelling
            without any alpha, and a stated one where the file tells.
    """
    told = list(_places(changes, notes, config, where))
    if stated is not None and not any(_lacks_alpha(change, told) for change in changes):
        raise WeightsError(
            "this LoRA tells its alpha itself",
            where=where,
            got=f"alpha {stated}",
            next_step="leave alpha out, and use the weight to make it weaker or stronger",
        )
    return [_strength(change, told, stated, where) for change in changes]


def _lacks_alpha(change: Change, told: Sequence[_Told]) -> bool:
    is_told = any(_tells(place, change) for place in told if not place.gives_way)
    return _may_have(change) and change.alpha is None and not is_told


def _strength(change: Change, told: Sequence[_Told], stated: float | None, where: str) -> float | None:
    if not _may_have(change):
        return None
    firm = {place.scale(change) for place in told if _tells(place, change) and not place.gives_way}
    if len(firm) > 1:
        raise WeightsError(
            "a LoRA's strength is told twice, and not the same",
            where=where,
            got=f"{sorted(firm)} for {change.module}",
            next_step="remove the settings that are not this file's",
        )
    if firm or change.alpha is not None:
        return next(iter(firm), None)
    if stated is not None and change.rank:
        return stated / change.rank
    loose = next((place for place in told if _tells(place, change)), None)
    if loose is not None:
        return loose.scale(change)
    is_always_told = change.is_from_peft or change.kind in ("loha", "lokr")
    if is_always_told or any(place.target is not None for place in told):
        raise WeightsError(
            "nothing tells how strong this LoRA is",
            where=where,
            got=f"{change.module} without alpha",
            expected="lora_alpha in adapter_config.json or in the file's header",
            next_step=STATE_IT,
        )
    return None


def _may_have(change: Change) -> bool:
    """Whether there is an alpha to a change; a plain difference and the official trainer's have none."""
    return not change.is_official and (change.rank is not None or change.kind == "lokr")


def _tells(place: _Told, change: Change) -> bool:
    return _may_have(change) and place.target in (None, change.target)


def _places(
    changes: Sequence[Change], notes: Mapping[str, str], config: Settings | None, where: str
) -> Iterator[_Told]:
    for note in JSON_NOTES:
        if note in notes:
            place = f"{note} in the header of {where}"
            for component, settings in _components(_object(notes[note], place), place).items():
                yield from _told(settings, changes, place, COMPONENTS[component])
    if config is not None:
        yield from _told(config, changes, f"adapter_config.json beside {where}", None)
    single = {name: _read(notes[note]) for note, name in reversed(SINGLE_NOTES.items()) if note in notes}
    yield from _told(single, changes, f"the header of {where}", None, gives_way=True)


def _components(content: Settings, where: str) -> dict[str, dict[str, Any]]:
    """Network's name in diffusers' metadata -> its settings."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        component, _, setting = key.rpartition(".")
        if component not in COMPONENTS:
            raise _refused(where, key, value)
        found.setdefault(component, {})[setting] = value
    return found


def _told(
    settings: Settings,
    changes: Sequence[Change],
    where: str,
    target: str | None,
    *,
    gives_way: bool = False,
) -> Iterator[_Told]:
    _check_settings(settings, changes, where, target)
    alpha = settings.get("lora_alpha", settings.get("alpha"))
    if alpha is None:
        return
    rank = settings.get("r")
    yield _Told(
        where,
        target,
        alpha=_number("lora_alpha", alpha, where),
        rank=None if rank is None else _rank("r", rank, where),
        alphas=[
            (key, _number(key.pattern, n, where)) for key, n in _pattern(settings, "alpha_pattern", where)
        ],
        ranks=[(key, _rank(key.pattern, n, where)) for key, n in _pattern(settings, "rank_pattern", where)],
        is_rank_stabilised=bool(settings.get("use_rslora")),
        gives_way=gives_way,
    )


def _check_settings(settings: Settings, changes: Sequence[Change], where: str, target: str | None) -> None:
    for key, value in settings.items():
        if value and key not in (*HONOURED, *OF_TRAINING):
            raise _refused(where, key, value)
    kind = settings.get("peft_type")
    if kind not in (None, *TYPES):
        raise _refused(where, "peft_type", kind)
    if settings.get("init_lora_weights") not in PLAIN_STARTS:
        raise _refused(where, "init_lora_weights", settings["init_lora_weights"])
    ours = [change for change in changes if target in (None, change.target)]
    has_magnitudes = any("magnitude" in change.keys for change in ours)
    if settings.get("use_dora", has_magnitudes) != has_magnitudes:
        word = "a" if has_magnitudes else "no"
        raise _refused(where, "use_dora", f"{settings['use_dora']}, with {word} magnitude among the tensors")


def _refused(where: str, key: str, value: object) -> WeightsError:
    return WeightsError(
        "a setting of this LoRA is not supported",
        where=where,
        got=f"{key} = {value!r:.200}",
        expected="LoRA, DoRA, rsLoRA, LoHa or LoKr on top of unchanged weights",
        next_step="make it a plain LoRA with its trainer's tools, or merge it with PEFT and take the merged model",
    )


def _matching(patterns: Pattern[Number], module: str) -> Number | None:
    """The value of the first pattern that fits a module's name, as PEFT reads them."""
    return next((value for key, value in patterns if key.match(module)), None)


def _pattern(settings: Settings, name: str, where: str) -> Iterator[tuple[re.Pattern[str], Any]]:
    patterns = settings.get(name) or {}
    if not isinstance(patterns, dict):
        raise _unreadable(name, patterns, where)
    for key, value in patterns.items():
        try:
            yield re.compile(rf"(.*\.)?({key})$"), value
        except re.error:
            raise _unreadable(name, key, where) from None


def _number(name: str, value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _unreadable(name, value, where)
    return float(value)


def _rank(name: str, value: object, where: str) -> int:
    number = _number(name, value, where)
    if number < 1 or not number.is_integer():
        raise _unreadable(name, value, where)
    return int(number)


def _unreadable(name: str, value: object, where: str) -> WeightsError:
    return WeightsError(
        "a LoRA's settings cannot be read", where=where, got=f"{name} = {value!r:.200}", next_step=STATE_IT
    )


def _object(text: str, where: str) -> Settings:
    content = _read(text)
    if not isinstance(content, dict):
        raise _unreadable("JSON", text, where)
    return content


def _read(text: str) -> Any:
    """A note's value: JSON, or Python's words for it; what is neither, such as "Dynamic", tells nothing."""
    words = {"True": True, "False": False, "None": None}
    try:
        return words[text] if text in words else json.loads(text)
    except (ValueError, RecursionError):
        return None
