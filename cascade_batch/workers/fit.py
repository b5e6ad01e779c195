"""What only a node of the workers can tell, before anything is spent: its device, and whether a model's parts are whole
and made for each other."""

from collections.abc import Mapping

from cascade_batch.weights import Model
from cascade_batch.weights.local import digests, local_files, local_loras


def weight_digests(model: Model, known: Mapping[str, str] | None = None) -> dict[str, str]:
    """sha256 of every part, fetching what is not on this node yet; `known` is what the run's `weights.json` says.

    Weights that the run knows were checked before it wrote them down, and are not checked again. All others are, before
    the long work of hashing them: WeightsError for parts that are damaged or not made for each other, and for LoRAs
    whose numbers would spoil every picture.
    """
    if known and (found := digests(model)).items() <= known.items():
        return found
    check_fit(model)
    return digests(model)


def device_kind_of(name: str) -> str:
    """What manifests call the device of this name, here: see `WorkerSettings.device`."""
    from cascade_batch.engine.devices import device_kind, named_device  # torch: not for the driver

    return device_kind(named_device(name))


def check_fit(model: Model) -> None:
    """Build every network without weights and compare it with its files' headers; read the LoRAs' numbers.

    Raises WeightsError.
    """
    from cascade_batch.engine.loading.lora_merging import check_numbers  # torch: not for the driver
    from cascade_batch.engine.loading.matching import check_parts

    check_parts({name: local_files(part) for name, part in model.parts.items()})
    check_numbers(local_loras(model))
