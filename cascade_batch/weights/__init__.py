"""Where a model's parts are, what their files say, and a local copy of them, once per node.

Only safetensors are read; tensors are the engine's.
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
