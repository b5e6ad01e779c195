"""Which device a process renders on, and the switches of it that change bits."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from cascade_batch.errors import SpecError
from cascade_batch.model.numerics import SWITCHES

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""What glibc's malloc.h calls them."""
KEPT, AHEAD = 2**31 - 1, 2**28


def keep_freed_memory() -> None:
    """Have this process keep freed blocks for the next step, where glibc would give them back and fetch them again.

    On a CPU a network step frees and allocates the same tens of megabytes over and over, and most of their cost is the
    kernel clearing pages: `jobs/BENCHMARKS.md`. Changes no bits. Does nothing without glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    for name, value in ((M_MMAP_THRESHOLD, KEPT), (M_TRIM_THRESHOLD, KEPT), (M_TOP_PAD, AHEAD)):
        mallopt(name, value)


def pick_device() -> str:
    """The accelerator if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def named_device(device: str | int | torch.device) -> str:
    """A device by one name however it was given: "cpu", "cuda", "cuda:1"; "auto" is `pick_device`'s.

    Raises SpecError for one that is not there.
    """
    name = device.strip().lower() if isinstance(device, str) else device
    if name == "auto":
        return pick_device()
    try:
        found = torch.device(name)
        torch.empty(1, device=found).tolist()  # "meta" holds no values
    except (RuntimeError, TypeError, AssertionError) as error:  # a torch built without CUDA asserts
        raise SpecError(
            "no such device here",
            where="device",
            got=f"{device!r}: {str(error).splitlines()[0]}",
            expected='"auto", "cpu", or an accelerator of this machine such as "cuda:1"',
        ) from None
    return "cpu" if found.type == "cpu" else str(found)


def device_kind(device: str) -> str:
    """What bits depend on: "cpu", or the accelerator's name, such as "NVIDIA H100 80GB HBM3"."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had no room for what was asked of it. On a CPU torch raises a plain RuntimeError."""
    is_full = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_full or (type(error) is RuntimeError and "DefaultCPUAllocator: can't allocate" in str(error))


def is_device_error(error: Exception) -> bool:
    """Whether the process cannot be trusted any more. Libraries of the device raise plain RuntimeErrors."""
    if type(error) is RuntimeError:
        return any(name in str(error) for name in ("CUDA", "CUBLAS", "CUDNN", "cuDNN", "HIP"))
    return isinstance(error, torch.AcceleratorError | MemoryError | torch.OutOfMemoryError)


@contextmanager
def limited_memory(share: float) -> Iterator[None]:
    """Leave this process a share of the accelerator's free memory, and in the end give back what it kept of it.

    What it holds already stays its own. Does nothing without an accelerator.
    """
    if not torch.cuda.is_initialized():
        yield
        return
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + share * free) / total)
    try:
        yield
    finally:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(1.0)


def fix_numerics(threads: int) -> dict[str, object]:
    """Pin every switch of this process that changes bits, and return them to be stored with the run.

    Call it before the first kernel runs: cuBLAS reads its workspace setting when it starts.
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = str(SWITCHES["cublas_workspace"])
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    torch.backends.cuda.enable_cudnn_sdp(
        False
    )  # flash, else memory-efficient: chosen by shape and dtype only
    return {"threads": threads, **SWITCHES}
