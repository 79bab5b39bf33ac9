"""Text in windows of tokens."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.data import TokenOptions, describe, load
from fedsim.data.text import tokens_of, windows
from fedsim.errors import UserError


class Halves:
    """A tokenizer of two tokens: letters of the first and of the second half of the alphabet."""

    vocab_size = 2

    def encode(self, text: str) -> list[int]:
        return [int(letter > "m") for letter in text]


class Liar(Halves):
    """A tokenizer whose tokens exceed its vocabulary."""

    vocab_size = 1


TEXT = "abcdefghijklmnopqrstuvwxyz" * 4  # 104 characters


def test_windows_do_not_overlap() -> None:
    """Labels are the next tokens; the rest at the end is dropped."""
    split = windows(np.arange(11), 4)
    assert split.inputs.tolist() == [[0, 1, 2, 3], [5, 6, 7, 8]]
    assert split.labels.tolist() == [[1, 2, 3, 4], [6, 7, 8, 9]]


@pytest.mark.parametrize(("tokenizer", "classes"), [("bytes", 256), ("chars", 26), (f"{__name__}:Halves", 2)])
def test_one_file(tmp_path: Path, tokenizer: str, classes: int) -> None:
    """The last tenth of a single file is for testing; every tokenizer is described as it loads."""
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    options = TokenOptions(length=4, tokenizer=tokenizer)
    data = load("text", path=file, tokens=options)
    assert data.info == describe("text", path=file, tokens=options)
    assert (data.info.train, data.info.test, data.info.shape, data.info.classes) == (93 // 5, 11 // 5, (4,), classes)
    assert data.train.inputs.dtype == data.train.labels.dtype == np.int64
    assert data.train.inputs.flags.c_contiguous
    assert not data.train.labels.flags.writeable
    assert data.mean is None
    np.testing.assert_array_equal(data.train.inputs[:, 1:], data.train.labels[:, :-1])


def test_files_in_a_folder(tmp_path: Path) -> None:
    """NAME-train is for training; without it NAME-valid is, and NAME-test for testing."""
    (tmp_path / "a-valid.txt").write_text("v" * 100)
    (tmp_path / "a-test.txt").write_text("t" * 60)
    options = TokenOptions(length=9)
    assert load("a", path=tmp_path, tokens=options, samples=3).train.inputs.tolist() == [[ord("v")] * 9] * 3
    assert load("a", path=tmp_path, tokens=options).test.inputs[0, 0] == ord("t")
    (tmp_path / "a-train.txt").write_text("r" * 100)
    assert load("a", path=tmp_path, tokens=options).train.inputs[0, 0] == ord("r")
    (tmp_path / "b.txt").write_text("b" * 200)
    assert describe("b", path=tmp_path, tokens=options).train == 18


def test_characters_of_both_parts_are_the_vocabulary(tmp_path: Path) -> None:
    """A character that only the test part has is still a class."""
    (tmp_path / "a-train.txt").write_text("abab" * 10, encoding="utf-8")
    (tmp_path / "a-test.txt").write_text("aébé" * 10, encoding="utf-8")
    data = load("a", path=tmp_path, tokens=TokenOptions(length=3, tokenizer="chars"))
    assert data.info.classes == 3
    assert data.test.inputs[0].tolist() == [0, 2, 1]


def test_options_are_checked() -> None:
    """Lengths are positive and tokenizers exist."""
    with pytest.raises(UserError, match=r"tokens.length: 0; a sample needs at least 1"):
        TokenOptions(length=0)
    with pytest.raises(UserError, match="unknown tokenizer 'byte'; did you mean bytes"):
        TokenOptions(tokenizer="byte")


def test_texts_that_do_not_fit(tmp_path: Path) -> None:
    """Too short, not UTF-8, absent, and a corpus of the catalogue that is another text."""
    short = tmp_path / "short.txt"
    short.write_text("abc")
    with pytest.raises(UserError, match=r"short.txt: 2 tokens make no window of 65"):
        load("text", path=short)
    odd = tmp_path / "odd.txt"
    odd.write_bytes(b"\xff" * 1000)
    with pytest.raises(UserError, match=r"is not UTF-8 .*; convert it, or choose `tokenizer: bytes`"):
        load("text", path=odd, tokens=TokenOptions(tokenizer="chars"))
    with pytest.raises(UserError, match=r"text wikitext2 is not in .*; put wikitext2-valid.txt and wikitext2-test.txt"):
        load("wikitext2", path=tmp_path)
    (tmp_path / "tinyshakespeare.txt").write_text("a" * 2000)
    with pytest.raises(UserError, match=r"27 and 3 windows of 256 tokens, but tinyshakespeare has 15,443 and 1,716"):
        load("tinyshakespeare", path=tmp_path)


def test_own_tokenizers_are_checked(tmp_path: Path) -> None:
    """Tokens outside the vocabulary, and things that are no tokenizer, are refused."""
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    with pytest.raises(UserError, match="tokens must be a list of numbers from 0 to vocab_size - 1 = 0"):
        load("text", path=file, tokens=TokenOptions(tokenizer=f"{__name__}:Liar"))
    with pytest.raises(UserError, match="makes a dict; it needs `vocab_size` and `encode"):
        load("text", path=file, tokens=TokenOptions(tokenizer="builtins:dict"))


@pytest.mark.data
@pytest.mark.parametrize("tokenizer", ["bytes", "chars"])
@pytest.mark.parametrize("name", ["wikitext2", "tinyshakespeare"])
def test_catalogue_agrees_with_the_files(real_data: Path, name: str, tokenizer: str) -> None:
    """What the catalogue says of the real texts is what they are."""
    options = TokenOptions(tokenizer=tokenizer)
    data = load(name, path=real_data, tokens=options)
    assert data.info == describe(name, tokens=options)
    assert int(data.train.inputs.max()) < data.info.classes


@pytest.mark.parametrize(("tokenizer", "size"), [("bytes", 256), ("chars", 26), (f"{__name__}:Halves", 2)])
def test_the_tokens_of_one_text_are_all_of_it(tokenizer: str, size: int, tmp_path: Path) -> None:
    """In order, with the size of their vocabulary; no part is kept for testing."""
    file = tmp_path / "a.txt"
    file.write_text(TEXT)
    found, vocabulary = tokens_of(file, tokenizer)
    assert (len(found), vocabulary) == (104, size)
    assert found[:26].tolist() == {"bytes": [*TEXT[:26].encode()], "chars": [*range(26)]}.get(
        tokenizer, [0] * 13 + [1] * 13
    )
    with pytest.raises(UserError, match="does not exist"):
        tokens_of(tmp_path / "b.txt", tokenizer)
