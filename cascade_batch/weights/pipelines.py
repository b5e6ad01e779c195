"""What turns a folder of parts into a repository that diffusers' pipelines open: index, schedulers, processor.

One folder serves all three pipelines. The combined one looks for Stage C's parts behind `prior_`; these are links to
the folders that the prior's own pipeline looks for. Settings are the published ones, the only ones that `settings`
lets pass.
"""

import json
from collections.abc import Collection
from pathlib import Path

from cascade_batch.weights.folders import SUBFOLDERS
from cascade_batch.weights.published_settings import (
    PIPELINE,
    PIPELINE_SETTINGS,
    PROCESSOR,
    SCHEDULER,
    SCHEDULER_SETTINGS,
    processor_settings,
)

LIBRARIES = {
    "prior": ("diffusers", "StableCascadeUNet"),
    "decoder": ("diffusers", "StableCascadeUNet"),
    # "wuerstchen" in published indexes, a name that diffusers no longer finds since it moved the class
    "vqgan": ("diffusers.pipelines.deprecated.wuerstchen.modeling_paella_vq_model", "PaellaVQModel"),
    "scheduler": ("diffusers", "DDPMWuerstchenScheduler"),
    "text_encoder": ("transformers", "CLIPTextModelWithProjection"),
    "tokenizer": ("transformers", "CLIPTokenizerFast"),
    "image_encoder": ("transformers", "CLIPVisionModelWithProjection"),
    "feature_extractor": ("transformers", "CLIPImageProcessor"),
}
"""Folder -> where diffusers finds the class of what is in it."""
PRIOR = ("prior", "text_encoder", "tokenizer", "scheduler", "image_encoder", "feature_extractor")
DECODER = ("decoder", "vqgan", "text_encoder", "tokenizer", "scheduler")
OPTIONAL = ("image_encoder", "feature_extractor")


def write_pipeline(root: Path, parts: Collection[str], image_size: int) -> str | None:
    """Write what diffusers needs beside these parts; the pipeline that it then opens by itself, None if it opens none.

    `image_size` is the side of the pictures that the image encoder takes.
    """
    there = {SUBFOLDERS[part] for part in parts} & LIBRARIES.keys()
    write_settings(root, parts, image_size)
    there |= {"scheduler", *(["feature_extractor"] if "image_encoder" in there else [])}
    has_prior, has_decoder = ({*names} - {*OPTIONAL} <= there for names in (PRIOR, DECODER))
    if not (has_prior or has_decoder):
        return None
    index: dict[str, object] = {}
    if has_prior:
        index |= {name: _entry(name, there) for name in PRIOR}
        index["resolution_multiple"] = PIPELINE_SETTINGS["resolution_multiple"][0]
    if has_decoder:
        index |= {name: _entry(name, there) for name in DECODER}
        index["latent_dim_scale"] = PIPELINE_SETTINGS["latent_dim_scale"][0]
    if has_prior and has_decoder:
        index |= {f"prior_{name}": _entry(name, there) for name in PRIOR}
        for name in {*PRIOR} & there:
            (root / f"prior_{name}").symlink_to(name)
    kind = "Combined" if has_prior and has_decoder else "Prior" if has_prior else "Decoder"
    pipeline = f"StableCascade{kind}Pipeline"
    _write(root / PIPELINE, {"_class_name": pipeline, **dict(sorted(index.items()))})
    return pipeline


def write_settings(root: Path, parts: Collection[str], image_size: int) -> None:
    """The settings of the stages' scheduler, and of the processor of an image encoder."""
    if "stage_c" in parts or "stage_b" in parts:
        _write(root / SCHEDULER, {key: values[0] for key, values in SCHEDULER_SETTINGS.items()})
    if "image_encoder" in parts:
        wanted = processor_settings(image_size)
        left_out = (
            "feature_extractor_type",
            "processor_class",
            "data_format",
            "do_pad",
            "default_to_square",
            "use_square_size",
        )
        content = {key: values[0] for key, values in wanted.items() if key not in left_out}
        _write(root / "feature_extractor" / PROCESSOR, content)


def _entry(name: str, there: Collection[str]) -> list[str | None]:
    return list(LIBRARIES[name]) if name in there else [None, None]


def _write(path: Path, content: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
