"""Where each part of a model is, in folders or single files."""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from cascade_batch.errors import WeightsError
from cascade_batch.model.parts import OPTIONAL, PARTS
from cascade_batch.settings import ModelSpec
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import is_url
from cascade_batch.weights.folders import COMBINED, SUBFOLDERS, folder_part, is_part
from cascade_batch.weights.hub_ids import hub_url
from cascade_batch.weights.part import EMBEDDED, Part
from cascade_batch.weights.published_settings import check_settings
from cascade_batch.weights.single_files import SUFFIX, find_in_folder, part_in_file
from cascade_batch.weights.variants import has_variant


def locate(
    model: ModelSpec, optional: Collection[str] = (), known: Mapping[str, Part] = MappingProxyType({})
) -> dict[str, Part]:
    """Find every part, and the named ones of `OPTIONAL`; those `known` already are not looked for.

    Lists folders, reads shard indexes and the headers of single files, never weights.

    A part's key (`model.stage_c` ...) may be the part's folder, a repository (path, URL or hub id) or embedded model
    that has it in its usual subfolder, a safetensors file that holds it, or the bare name of another subfolder or
    file of `model.name`, such as `prior_lite`. Raises WeightsError naming the folder, what is there, and the key to
    set, a variant that no part has, or a setting beside the weights that is not implemented; StorageError where a
    store or the hub refuses.
    """
    names = (*PARTS, *(name for name in OPTIONAL if name in optional))
    parts = locate_some(model, names, known)
    for name in names:
        if name not in parts:
            raise missing_part(model, name)
    return {name: parts[name] for name in names}


def locate_some(
    model: ModelSpec, names: Collection[str], known: Mapping[str, Part] = MappingProxyType({})
) -> dict[str, Part]:
    """Those of the named parts that the model has, and those `known` already.

    Raises as `locate` does, but for a part that is in no place.
    """
    root = model_root(model.name)
    wanted = [name for name in names if name not in known]
    found = {name: find(name, _override(model, name), root, model.variant) for name in wanted}
    new = {name: part for name, part in found.items() if part is not None}
    parts = {**known, **new}
    check_variant(parts, model.variant)
    check_settings(new)
    return parts


def _override(model: ModelSpec, name: str) -> str:
    return hub_url((getattr(model, name) or "").rstrip("/"))


def check_variant(parts: Mapping[str, Part], variant: str | None) -> None:
    """Raise WeightsError for a variant that none of the parts has: a mistyped one would go unseen."""
    weights = {file: part.uri for part in parts.values() for file in part.files}
    if variant and weights and not any(has_variant(file, variant) for file in weights):
        raise WeightsError(
            f"no part of the model has the variant {variant}",
            where=", ".join(dict.fromkeys(weights.values())),
            got=", ".join(sorted(weights)),
            next_step="leave model.variant out to take what is there",
        )


def find(name: str, override: str | None, root: str, variant: str | None) -> Part | None:
    """One part of the model at `root`, None if it has none. Raises WeightsError for one that cannot be used."""
    for place in _places(name, override, root):
        part = _at(name, place, variant, is_asked_for=bool(override))
        if part is not None:
            return part
    return None if override else find_in_folder(name, root, variant)


def _at(name: str, place: str, variant: str | None, is_asked_for: bool) -> Part | None:
    """The part at a place, None if it is not there."""
    if place.endswith(SUFFIX):
        return part_in_file(name, place, is_asked_for)
    storage = Storage(place)
    return folder_part(name, storage, variant) if is_part(storage, name) else None


def model_root(name: str) -> str:
    """The folder, file or URL that a model's name stands for. Raises WeightsError if there is none.

    Touches no network, except for a bare hub id.
    """
    if _is_embedded(name):
        return str(EMBEDDED / name)
    name = hub_url(name)
    path = Path(name).expanduser()
    if is_url(name) or path.is_dir() or (name.endswith(SUFFIX) and path.is_file()):
        return name
    embedded = sorted(path.name for path in EMBEDDED.glob("*/")) if EMBEDDED.is_dir() else []
    raise WeightsError(
        "no such model",
        where="model.name",
        got=name,
        expected=f"an embedded model ({', '.join(embedded)}), a folder, a safetensors file, "
        "owner/name on the hub, or a URL",
    )


def _is_embedded(name: str) -> bool:
    return bool(name) and "/" not in name and (EMBEDDED / name).is_dir()


def _places(name: str, override: str | None, root: str) -> list[str]:
    """Where a part may be, in the order of trying."""
    root = root.rstrip("/")
    if not override:
        return [root] if root.endswith(SUFFIX) else [f"{root}/{folder}" for folder in _folders(name)]
    given = override.rstrip("/")
    if _is_embedded(given):
        given = str(EMBEDDED / given)
    relative = [] if "/" in given or root.endswith(SUFFIX) else [f"{root}/{given}"]
    below = [] if given.endswith(SUFFIX) else [f"{given}/{folder}" for folder in _folders(name)]
    return [*relative, given, *below]


def _folders(name: str) -> list[str]:
    """Where a repository has a part: in its usual folder, or in that of a combined pipeline."""
    return [SUBFOLDERS[name], *([COMBINED[name]] if name in COMBINED else [])]


def missing_part(model: ModelSpec, name: str) -> WeightsError:
    """Where the part was looked for, what is there, and how to name another place."""
    override, root = _override(model, name), model_root(model.name)
    tried = _places(name, override, root)
    root = override if override and "/" in override else root
    is_file = root.endswith(SUFFIX)
    there = [] if is_file else sorted({info.key.split("/")[0] for info in Storage(root).list()})
    single = "" if name == "tokenizer" else ", or a safetensors file that holds it"
    return WeightsError(
        f"the model has no {name}",
        where=" or ".join(tried),
        got="it is not in this file" if is_file else ", ".join(there[:20]) or "nothing there",
        expected=f"a folder {SUBFOLDERS[name]}/ in the diffusers layout{single}",
        next_step=f"set model.{name} to the folder, file, URL or repository that has it",
    )
