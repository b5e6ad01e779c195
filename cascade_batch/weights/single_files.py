"""Parts in single safetensors files, as the original release and the community have them, told by their keys."""

from collections.abc import Callable, Mapping

from cascade_batch.errors import WeightsError
from cascade_batch.model.layouts import Header, check_unscaled, recognise
from cascade_batch.storage import Storage
from cascade_batch.storage.urls import split_name
from cascade_batch.weights.part import CONFIG, SUMS, Part, file_header
from cascade_batch.weights.variants import LOW_PRECISION, has_variant, note_fallback

SUFFIX = ".safetensors"
DIFFUSERS_STEMS = ("diffusion_pytorch_model.", "model.")


def part_in_file(name: str, uri: str, is_asked_for: bool) -> Part | None:
    """The part in the file at `uri`; None if the file is not there, or holds others.

    Raises WeightsError for a file that cannot be read, and, if it was asked for by name, for one without the part.
    """
    folder, file = split_name(uri)
    storage = Storage(folder)
    if name == "tokenizer" or not storage.exists(file):
        return None
    header = file_header(storage, file)
    held = _parts_in(header, uri)
    if name in held:
        return _part(name, storage, file, header)
    if is_asked_for:
        raise WeightsError(
            f"no {name} in this file", where=uri, got=", ".join(held) or "keys of no known part"
        )
    return None


def find_in_folder(name: str, uri: str, variant: str | None) -> Part | None:
    """The part in one of the single files of a folder, None if there is none.

    Of several, those of the variant are taken, as in `stage_c_bf16.safetensors`, else those of none; the full network
    goes before the lite one, as folders do; and a text encoder is read from the file of its Stage C. Raises
    WeightsError if that leaves more than one.
    """
    if name == "tokenizer" or uri.endswith(SUFFIX):
        return None
    storage = Storage(uri)
    files = [info.key for info in storage.list() if info.key.endswith(SUFFIX) and "/" not in info.key]
    headers = {file: file_header(storage, file) for file in files}
    held = {file: _parts_in(header, storage.url(file)) for file, header in headers.items()}
    fitting = _fitting(name, {file: parts for file, parts in held.items() if name in parts}, variant)
    if len(fitting) > 1:
        raise WeightsError(
            f"more than one file holds {name}",
            where=uri,
            got=", ".join(fitting),
            next_step=f"choose one: --set model.{name}={fitting[0]}",
        )
    if variant and fitting and not has_variant(fitting[0], variant):
        note_fallback(storage.uri, variant, fitting[0])
    return _part(name, storage, fitting[0], headers[fitting[0]]) if fitting else None


def _fitting(name: str, holding: Mapping[str, list[str]], variant: str | None) -> list[str]:
    """The files that no rule of `find_in_folder` puts behind others."""
    preferences: list[Callable[[str], bool]] = [
        lambda file: variant is not None and has_variant(file, variant),
        lambda file: not any(has_variant(file, low) for low in LOW_PRECISION),
        lambda file: not has_variant(file, "lite"),
        lambda file: name == "text_encoder" and "stage_c" in holding[file],
    ]
    fitting = list(holding)
    for prefers in preferences:
        fitting = [file for file in fitting if prefers(file)] or fitting
    return fitting


def _part(name: str, storage: Storage, file: str, header: Header) -> Part:
    """A file under the name that diffusers gives it belongs to the `config.json` beside it.

    Raises WeightsError for quantized weights.
    """
    check_unscaled(header.entries, storage.url(file))
    config = (CONFIG,) if file.startswith(DIFFUSERS_STEMS) else ()
    extras = tuple(extra for extra in (*config, SUMS) if storage.exists(extra))
    return Part(name, storage.uri, (file,), extras)


def _parts_in(header: Header, where: str) -> list[str]:
    """Names of the parts in a file. Raises WeightsError for one that is there twice."""
    return [found.part for found in recognise(header.shapes, where)]
