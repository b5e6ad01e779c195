"""Parts in single safetensors files, as the original release and the community have them, told by their keys."""

from cascade_batch.errors import WeightsError
from cascade_batch.layouts import check_unscaled, recognise
from cascade_batch.storage import Storage
from cascade_batch.weights.parts import CONFIG, SUMS, Part, file_header

SUFFIX = ".safetensors"
DIFFUSERS_STEMS = ("diffusion_pytorch_model.", "model.")


def part_in_file(name: str, uri: str, is_asked_for: bool) -> Part | None:
    """The part in the file at `uri`; None if the file is not there, or holds others.

    Raises WeightsError for a file that cannot be read, and, if it was asked for by name, for one without the part.
    """
    folder, _, file = uri.rpartition("/")
    storage = Storage(folder or ".")
    if name == "tokenizer" or not storage.exists(file):
        return None
    held = parts_of(storage, file)
    if name in held:
        return _part(name, storage, file)
    if is_asked_for:
        raise WeightsError(
            f"no {name} in this file", where=uri, got=", ".join(held) or "keys of no known part"
        )
    return None


def find_in_folder(name: str, uri: str, variant: str | None) -> Part | None:
    """The part in one of the single files of a folder, None if there is none.

    With a variant only files that have it in their name are looked at, as in `stage_c_bf16.safetensors`, without one
    only those that do not. Raises WeightsError if more than one file holds the part.
    """
    if name == "tokenizer" or uri.endswith(SUFFIX):
        return None
    storage = Storage(uri)
    files = [info.key for info in storage.list() if info.key.endswith(SUFFIX) and "/" not in info.key]
    holding = [file for file in files if name in parts_of(storage, file)]
    fitting = [file for file in holding if _is_variant(file, variant)]
    if len(fitting) > 1:
        raise WeightsError(
            f"more than one file holds {name}",
            where=uri,
            got=", ".join(fitting),
            next_step=f"choose one: --set model.{name}={fitting[0]}",
        )
    return _part(name, storage, fitting[0]) if fitting else None


def _part(name: str, storage: Storage, file: str) -> Part:
    """A file under the name that diffusers gives it belongs to the `config.json` beside it.

    Raises WeightsError for quantized weights.
    """
    check_unscaled(file_header(storage, file).entries, storage.url(file))
    config = (CONFIG,) if file.startswith(DIFFUSERS_STEMS) else ()
    extras = tuple(extra for extra in (*config, SUMS) if storage.exists(extra))
    return Part(name, storage.uri, (file,), extras)


def parts_of(storage: Storage, file: str) -> list[str]:
    """Names of the parts in a file. Raises WeightsError if it is no safetensors file."""
    return [found.part for found in recognise(file_header(storage, file).shapes, storage.url(file))]


def _is_variant(file: str, variant: str | None) -> bool:
    words = file.removesuffix(SUFFIX).replace(".", "_").split("_")
    return variant in words if variant else not {"bf16", "fp16"} & set(words)
