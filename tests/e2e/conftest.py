"""A caller of the server that the session shares, and a scope that nobody else uses."""

import uuid
from collections.abc import Iterator

import pytest

from tests.conftest import Server
from tests.e2e.kit import Client


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    found = Client(server.address)
    yield found
    found.close()


@pytest.fixture
def scope() -> str:
    return f"test-{uuid.uuid4().hex}"
