"""Whether a model's files are those that were hashed before, told without reading them."""

import hashlib
import json

from cascade_batch.storage import ObjectInfo, Storage
from cascade_batch.weights.model import Model
from cascade_batch.weights.part import Part


def fingerprint(model: Model) -> str | None:
    """A hash of place, size and ETag, or time of the last change, of every file of the model and its LoRAs.

    None where a store tells neither ETag nor time: then only the files themselves can tell.
    """
    parts = [*model.parts.values(), *model.loras]
    found = [_of_part(part) for part in parts]
    if any(fields is None for fields in found):
        return None
    weights = [(lora.weight, lora.alpha, lora.tokens) for lora in model.spec.loras]
    return hashlib.sha256(json.dumps([found, weights], sort_keys=True).encode()).hexdigest()


def _of_part(part: Part) -> list | None:
    storage = Storage(part.uri)
    infos = [storage.info(name) for name in (*part.files, *part.extras)]
    if any(info is None or _version(info) is None for info in infos):
        return None
    return [part.name, part.uri, *([info.key, info.size, _version(info)] for info in infos if info)]


def _version(info: ObjectInfo) -> str | float | None:
    return info.etag or info.modified
