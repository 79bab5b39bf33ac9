"""Generated code: it runs with every version that the package asks for. `.ci/run` compares it with protos/."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from fedsim.wire import protocol_pb2

REPOSITORY = Path(__file__).resolve().parents[2]
WIRE = REPOSITORY / "fedsim" / "wire"


def lowest(package: str) -> tuple[int, ...]:
    """The oldest version of a dependency that is allowed."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (version,) = (
        found.group(1)
        for line in project["dependencies"]
        if (found := re.match(rf"{package}>=([\d.]+)", line)) is not None
    )
    return tuple(map(int, version.split(".")))


def test_it_runs_with_the_oldest_versions_allowed() -> None:
    """Each file looks for the version that it was generated for, or a later one."""
    code = (WIRE / "protocol_pb2.py").read_text(encoding="utf-8")
    found = re.search(r"Domain\.PUBLIC,\s+(\d+),\s+(\d+),\s+(\d+),", code)
    assert found is not None
    assert tuple(map(int, found.groups())) <= (*lowest("protobuf"), 0)
    code = (WIRE / "protocol_pb2_grpc.py").read_text(encoding="utf-8")
    found = re.search(r"GRPC_GENERATED_VERSION = '([\d.]+)'", code)
    assert found is not None
    assert tuple(map(int, found.group(1).split("."))) <= lowest("grpcio")


def test_a_header_needs_no_more_than_its_fields() -> None:
    """Field numbers up to 15 take one byte, and what is there is what costs."""
    assert max(field.number for field in protocol_pb2.Header.DESCRIPTOR.fields) <= 15
    assert protocol_pb2.Header().SerializeToString() == b""
    assert len(protocol_pb2.Header(kind=1, sender=-1, checksum=0).SerializeToString()) == 2 + 2 + 5


def test_what_is_concatenated_is_merged() -> None:
    """So a header and its definitions, which are counted apart, are one message."""
    header = protocol_pb2.Header(kind=3, payloads=[1, 2])
    news = protocol_pb2.Header(definitions=[protocol_pb2.Structure(number=4)])
    both = protocol_pb2.Header.FromString(header.SerializeToString() + news.SerializeToString())
    assert (both.kind, list(both.payloads), both.definitions[0].number) == (3, [1, 2], 4)
