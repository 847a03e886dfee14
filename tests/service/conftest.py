"""A small index, and a service on it, for the tests that need no other: a file with one of its own hides these."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.kit import Service, build, running


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    build(folder)
    return folder


@pytest.fixture
async def service(root: Path) -> AsyncIterator[Service]:
    async with running(root) as service:
        yield service
