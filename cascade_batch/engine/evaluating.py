"""Networks in use rather than in training, whatever the caller has switched on."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")


def evaluated(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function without gradients and autocast.

    What it returns are ordinary tensors, which the caller may change in place and differentiate through, unlike those
    of `torch.inference_mode`. A tensor made under another's autocast would stay in the text encoder's memory.
    """

    @wraps(function)
    def call(*args: Given.args, **kwargs: Given.kwargs) -> Result:
        with torch.no_grad(), torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            return function(*args, **kwargs)

    return call
