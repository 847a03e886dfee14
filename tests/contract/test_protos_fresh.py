"""The contract as it is committed: generated from its .proto files, commented throughout, and not broken."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from tests.contract.generate import IMAGE, PACKAGE, PROTOS, generate, run

REMEDY = "run `make protos`"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("protos")
    generate(output)
    return output / PACKAGE


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[FileDescriptorProto]:
    """Waypost's own files, with their comments."""
    output = tmp_path_factory.mktemp("image") / "contract.binpb"
    run("buf", "build", "protos", "-o", str(output))
    found = FileDescriptorSet.FromString(output.read_bytes()).file
    return [file for file in found if file.package == "waypost.v1"]


def generated(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if "_pb2" in path.name}


def test_every_generated_file_is_committed_and_none_is_left_over(fresh: Path) -> None:
    assert generated(fresh) == generated(PROTOS / PACKAGE), REMEDY


def test_every_committed_file_is_what_the_protos_generate(fresh: Path) -> None:
    stale = [
        name
        for name in sorted(generated(fresh))
        if (fresh / name).read_bytes() != (PROTOS / PACKAGE / name).read_bytes()
    ]
    assert not stale, REMEDY


def test_generating_twice_gives_the_same_bytes(fresh: Path, tmp_path: Path) -> None:
    generate(tmp_path)
    for name in generated(fresh):
        assert (tmp_path / PACKAGE / name).read_bytes() == (fresh / name).read_bytes()


def test_every_service_rpc_message_field_and_enum_has_a_comment(files: list[FileDescriptorProto]) -> None:
    assert files
    silent = [name for file in files for name, comment in comments(file) if not comment.strip()]
    assert not silent, "say in the .proto what these are"


def test_buf_finds_nothing_to_mend() -> None:
    done = run("buf", "lint", "protos", check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_protos_break_nothing_that_the_contract_image_promises() -> None:
    done = run("buf", "breaking", "protos", "--against", str(IMAGE), check=False)
    assert done.returncode == 0, f"callers would break:\n{done.stdout}{done.stderr}"


def test_the_contract_image_knows_all_that_the_protos_promise() -> None:
    done = run("buf", "breaking", str(IMAGE), "--against", "protos", check=False)
    assert done.returncode == 0, f"something was added: {REMEDY}\n{done.stdout}{done.stderr}"


def comments(file: FileDescriptorProto) -> Iterator[tuple[str, str]]:
    """Yield the name and the comment of all that callers see in a file."""
    places = {tuple(place.path): place for place in file.source_code_info.location}

    def said(*path: int) -> str:
        place = places[path]
        return place.leading_comments or place.trailing_comments

    def of(message: DescriptorProto, name: str, *path: int) -> Iterator[tuple[str, str]]:
        yield name, said(*path)
        for i, field in enumerate(message.field):
            yield f"{name}.{field.name}", said(*path, 2, i)
        for i, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from of(nested, f"{name}.{nested.name}", *path, 3, i)

    for i, message in enumerate(file.message_type):
        yield from of(message, message.name, 4, i)
    for i, enum in enumerate(file.enum_type):
        yield enum.name, said(5, i)
    for i, service in enumerate(file.service):
        yield service.name, said(6, i)
        for j, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", said(6, i, 2, j)
