"""One thread per test process: the networks are tiny, and threads would only get in each other's way."""

from collections.abc import Iterator

import pytest
import torch

from tests.engine.oracle import quiet


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    quiet()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
