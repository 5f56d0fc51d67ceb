"""What several tests of kernels on a CPU share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nih.kernels import cpu_loader


@pytest.fixture(params=reversed(cpu_loader.PATHS))
def path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Compute with one instruction set."""
    if cpu_loader.PATHS.index(request.param) > cpu_loader.simd():
        pytest.skip(f"no processor with {request.param}")
    with cpu_loader.using(request.param):
        yield str(request.param)
