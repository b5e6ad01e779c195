"""Where a model's five parts are, and a local copy of them.

Weights come in the diffusers layout, one folder per part with its `config.json`, or as single files of the original
release or the community, on a local disk or any fsspec URL. Only safetensors are read. The two published repositories
hold different parts, so each part may come from a place of its own. Remote parts are downloaded once per node.
"""

from cascade_batch.model.parts import OPTIONAL, PARTS
from cascade_batch.weights.fetching import digest, fetch
from cascade_batch.weights.folders import SUBFOLDERS
from cascade_batch.weights.locating import find, locate, locate_some, missing_part, model_root
from cascade_batch.weights.loras import locate_loras, lora_files, loras_digest
from cascade_batch.weights.model import Model
from cascade_batch.weights.part import EMBEDDED, Part, picture_side, read_config

__all__ = [
    "EMBEDDED",
    "OPTIONAL",
    "PARTS",
    "SUBFOLDERS",
    "Model",
    "Part",
    "digest",
    "fetch",
    "find",
    "locate",
    "locate_loras",
    "locate_some",
    "lora_files",
    "loras_digest",
    "missing_part",
    "model_root",
    "picture_side",
    "read_config",
]
