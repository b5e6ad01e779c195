"""Settings that a repository keeps beside its weights: of its schedulers, its pipelines and its picture processor.

Only the published values are implemented. Everything a file sets is compared with them and anything else is refused by
name, because a setting that nobody reads would give other pictures than its author saw. `null` sets nothing, and keys
that begin with `_` say who wrote a file.
"""

import math
import reprlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from cascade_batch.errors import WeightsError
from cascade_batch.model.geometry import STAGE_C_COMPRESSION
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_model_url, split_name, split_url
from cascade_batch.weights.folders import COMBINED, SUBFOLDERS
from cascade_batch.weights.part import Part, picture_side, read_json

SCHEDULER = "scheduler/scheduler_config.json"
PIPELINE = "model_index.json"
PROCESSOR = "preprocessor_config.json"

Accepted = Mapping[str, tuple[Any, ...]]
"""Key -> the values that are implemented."""

SCHEDULER_SETTINGS: Accepted = {"_class_name": ("DDPMWuerstchenScheduler",), "s": (0.008,), "scaler": (1.0,)}
PIPELINE_SETTINGS: Accepted = {"resolution_multiple": (STAGE_C_COMPRESSION,), "latent_dim_scale": (10.67,)}
"""The second is Stage B's cells per cell of an embedding, 42.67 / 4; `geometry.latent_side` says why it is not used."""
PROCESSORS = ("CLIPImageProcessor", "CLIPImageProcessorFast", "CLIPImageProcessorPil", "CLIPFeatureExtractor")


def processor_settings(side: int) -> Accepted:
    """Of CLIP's picture processor before an encoder of pictures `side` pixels high and wide."""
    return {
        "image_processor_type": PROCESSORS,
        "feature_extractor_type": PROCESSORS,
        "processor_class": ("CLIPProcessor",),
        "size": ({"shortest_edge": side}, side),
        "crop_size": ({"height": side, "width": side}, side),
        "resample": (3,),  # Pillow's number for bicubic
        "rescale_factor": (1 / 255,),
        "image_mean": ([0.48145466, 0.4578275, 0.40821073],),
        "image_std": ([0.26862954, 0.26130258, 0.27577711],),
        **dict.fromkeys(
            ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb"), (True,)
        ),
        **dict.fromkeys(("do_pad", "default_to_square", "use_square_size"), (False,)),
        "data_format": ("channels_first",),
    }


def check_settings(parts: Mapping[str, Part]) -> None:
    """Compare every settings file that belongs to these parts. Raises WeightsError naming the file and the setting."""
    for uri, key in dict.fromkeys(_files_of_stages(parts)):
        _check(Storage(uri), key, PIPELINE_SETTINGS if key == PIPELINE else SCHEDULER_SETTINGS)
    if "image_encoder" in parts:
        _check_processor(parts["image_encoder"])


def _files_of_stages(parts: Mapping[str, Part]) -> Iterator[tuple[str, str]]:
    """(repository, settings file) of each stage."""
    for name in ("stage_c", "stage_b", "stage_a"):
        if name not in parts:
            continue
        repository, folder = repository_of(parts[name])
        prefix = "prior_" if folder == COMBINED.get(name) else ""
        yield repository, prefix + SCHEDULER
        yield repository, PIPELINE


def _check_processor(encoder: Part) -> None:
    """A repository has it in a folder of its own; CLIP's own repositories, beside the encoder."""
    repository, folder = repository_of(encoder)
    prefix = "prior_" if folder == COMBINED["image_encoder"] else ""
    accepted = processor_settings(picture_side(encoder))
    _check(Storage(repository), f"{prefix}feature_extractor/{PROCESSOR}", accepted)
    _check(Storage(encoder.uri), PROCESSOR, accepted)


def repository_of(part: Part) -> tuple[str, str]:
    """The folder that a part's repository begins at, and the part's own folder below it, "" for none."""
    root, folder = split_name(part.uri)
    names = (SUBFOLDERS[part.name], COMBINED.get(part.name, SUBFOLDERS[part.name]))
    is_repository = is_model_url(part.uri) and not split_url(root).path  # hf://owner is none
    if is_repository or not folder.startswith(names):  # such as prior_lite
        return part.uri, ""
    return root, folder


def _check(storage: Storage, key: str, accepted: Accepted) -> None:
    if not storage.exists(key):
        return
    # What the hub has is of one commit for as long as this process lives, and parts are located more than once.
    read = _read_once if is_model_url(storage.uri) else _read
    for name, value in read(storage.uri, key).items():
        if value is None or (name not in accepted and (name.startswith("_") or _is_component(key, value))):
            continue
        if not any(_same(value, one) for one in accepted.get(name, ())):
            raise WeightsError(
                f"the setting {name} is not implemented" + (" with this value" if name in accepted else ""),
                where=storage.url(key),
                got=f"{name} = {reprlib.repr(value)}",
                expected=" or ".join(repr(one) for one in accepted.get(name, ())) or "no such setting",
                next_step="pictures would differ from those of its author; use weights made for the published value",
            )


def _read(uri: str, key: str) -> dict[str, Any]:
    return read_json(Storage(uri), key)


_read_once = lru_cache(maxsize=64)(_read)


def _is_component(key: str, value: Any) -> bool:
    """An entry of a pipeline's index that names a part: [library, class]."""
    return key == PIPELINE and isinstance(value, list) and len(value) == 2


def _same(value: Any, ours: Any) -> bool:
    """Equal values of equal types; numbers as float32 has them."""
    if isinstance(ours, dict):
        return (
            isinstance(value, dict)
            and value.keys() == ours.keys()
            and all(_same(value[key], ours[key]) for key in ours)
        )
    if isinstance(ours, list):
        return isinstance(value, list) and len(value) == len(ours) and all(map(_same, value, ours))
    if isinstance(ours, bool) or isinstance(value, bool) or isinstance(ours, str):
        return type(value) is type(ours) and value == ours
    return isinstance(value, int | float) and math.isclose(value, ours, rel_tol=1e-6)
