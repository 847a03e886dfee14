"""What a runtime says of an index folder that turns bad while it serves."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from index.errors import GenerationError
from service import runtime
from service.errors import PreconditionFailed
from service.settings import load_settings


async def test_an_index_folder_that_cannot_be_listed_is_a_precondition_and_no_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: object) -> None:
        raise GenerationError("var/index: this folder cannot be read (Too many open files); make it readable")

    monkeypatch.setattr(runtime, "list_generations", refuse)
    serving = cast("Any", SimpleNamespace(settings=load_settings()))
    with pytest.raises(PreconditionFailed, match="Too many open files") as refused:
        await runtime.Runtime.generations(serving)
    assert refused.value.kind == "INDEX_FOLDER_UNREADABLE"
