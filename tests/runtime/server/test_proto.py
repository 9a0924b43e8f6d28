from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tritonclient.grpc import model_config_pb2, service_pb2

from lineside_runtime.server import proto


def described(field: Any) -> tuple[Any, ...]:
    kind = field.message_type or field.enum_type
    choice = field.containing_oneof
    return field.number, field.type, field.is_repeated, kind and kind.full_name, choice and choice.name


def messages() -> dict[str, Any]:
    methods = proto.methods()
    return {kind.name: kind for method in methods for kind in (method.input_type, method.output_type)}


def theirs(name: str) -> Any:
    found = {**model_config_pb2.DESCRIPTOR.message_types_by_name, **service_pb2.DESCRIPTOR.message_types_by_name}
    return found[name]


def compare(ours: Any, other: Any) -> int:
    known = {field.name: field for field in other.fields}
    count = 0
    for field in ours.fields:
        assert described(field) == described(known[field.name]), f"{ours.full_name}.{field.name}"
        count += 1
        if field.message_type and field.message_type is not ours:
            count += compare(field.message_type, known[field.name].message_type)
        if field.enum_type:
            numbers = {value.name: value.number for value in known[field.name].enum_type.values}
            assert all(numbers[value.name] == value.number for value in field.enum_type.values)
    return count


def test_names_numbers_and_types_are_those_of_tritonclient() -> None:
    assert sum(compare(kind, theirs(name)) for name, kind in messages().items()) > 80


def test_the_methods_are_those_of_tritonclient() -> None:
    known = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for method in proto.methods():
        other = known[method.name]
        assert method.input_type.full_name == other.input_type.full_name
        assert method.output_type.full_name == other.output_type.full_name


def test_it_lives_beside_tritonclient_in_one_process() -> None:
    ours = proto.message("ModelReadyRequest")(name="a", version="1")
    other = service_pb2.ModelReadyRequest.FromString(ours.SerializeToString())
    assert (other.name, other.version) == ("a", "1")
    assert type(ours) is not type(other)


def test_the_descriptor_is_compiled_from_the_file_beside_it(tmp_path: Path) -> None:
    folder = proto.DESCRIPTOR.parent
    made = tmp_path / "made.binpb"
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", folder, f"--descriptor_set_out={made}"]
    subprocess.run([*map(str, command), "open_inference.proto"], check=True)
    assert made.read_bytes() == proto.DESCRIPTOR.read_bytes(), "run: make proto"


def test_an_unknown_message_is_an_error() -> None:
    with pytest.raises(KeyError):
        proto.message("Nothing")
