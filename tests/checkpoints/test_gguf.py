"""Headers of GGUF files, against the writer of the package gguf."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedsim.checkpoints import read_header
from fedsim.errors import UserError


def write(file: Path, *, alignment: int | None = None) -> None:
    """A file with keys of several types and two tensors."""
    import gguf

    writer: Any = gguf.GGUFWriter(file, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "Ġb", "é"])
    writer.add_array("tokenizer.ggml.token_type", [1, 3, 4])
    writer.add_tensor("token_embd.weight", np.arange(12, dtype=np.float32).reshape(3, 4))
    writer.add_tensor("output_norm.weight", np.ones(5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A small file."""
    write(tmp_path / "a.gguf")
    return tmp_path / "a.gguf"


def test_keys_have_their_values(file: Path) -> None:
    """Numbers, switches, texts and lists of them."""
    values = read_header(file).values
    assert values["general.architecture"] == "llama"
    assert (values["llama.block_count"], values["llama.rope.freq_base"]) == (3, 10000.0)
    assert values["tokenizer.ggml.add_bos_token"] is True
    assert values["tokenizer.ggml.tokens"] == ["a", "Ġb", "é"]
    assert values["tokenizer.ggml.token_type"] == [1, 3, 4]


@pytest.mark.parametrize("alignment", [None, 8, 256])
def test_tensors_lie_where_it_says(tmp_path: Path, alignment: int | None) -> None:
    """With the rows first, whatever they are aligned to."""
    write(tmp_path / "a.gguf", alignment=alignment)
    found = read_header(tmp_path / "a.gguf").tensors
    assert [(name, entry.shape, entry.kind) for name, entry in found.items()] == [
        ("token_embd.weight", (3, 4), 0),
        ("output_norm.weight", (5,), 0),
    ]
    for entry, wanted in zip(found.values(), (np.arange(12), np.ones(5)), strict=True):
        stored = np.fromfile(tmp_path / "a.gguf", "<f4", entry.elements, offset=entry.offset)
        np.testing.assert_array_equal(stored, wanted)


def test_other_files_are_refused(tmp_path: Path, file: Path) -> None:
    """Not there, not GGUF, of an unknown version."""
    with pytest.raises(UserError, match=r"none\.gguf cannot be read \(No such file or directory\)"):
        read_header(tmp_path / "none.gguf")
    (tmp_path / "b.gguf").write_bytes(b"PK\3\4")
    with pytest.raises(UserError, match=r"b\.gguf is not a GGUF file; give one, or the folder of a model"):
        read_header(tmp_path / "b.gguf")
    file.write_bytes(b"GGUF" + struct.pack("<I", 9) + file.read_bytes()[8:])
    with pytest.raises(UserError, match=r"has version 9 of the GGUF format; versions 2 and 3 can be read"):
        read_header(file)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(data=st.data())
def test_a_damaged_header_is_an_error_for_users(data: st.DataObject, file: Path) -> None:
    """Cut off anywhere before the weights, or with any bytes changed: a sentence, or something that can be read."""
    content = bytearray(file.read_bytes())
    start = min(entry.offset for entry in read_header(file).tensors.values())
    damaged = file.with_name("damaged.gguf")
    damaged.write_bytes(content[: data.draw(st.integers(4, start))])
    with pytest.raises(UserError, match=r"is damaged, or not complete: its header cannot be read"):
        read_header(damaged)
    for at in data.draw(st.lists(st.integers(4, start - 1), min_size=1, max_size=4)):
        content[at] = data.draw(st.integers(0, 255))
    damaged.write_bytes(content)
    with suppress(UserError):
        read_header(damaged)
