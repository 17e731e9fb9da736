"""Integrity: files that are missing, truncated or altered, and what is said of them."""

import hashlib

import pytest

from foveal.data.integrity import PUBLISHED, Expected, check_files

CONTENT = b"some data"
WHOLE = Expected(9, hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest())
CURES = {"missing": "fetch it", "damaged": "remove it"}


def test_files_as_they_must_be(tmp_path):
    (tmp_path / "a").write_bytes(CONTENT)
    for expected in (WHOLE, Expected(9), Expected(md5=WHOLE.md5), Expected()):
        check_files(tmp_path, {"a": expected}, **CURES)
    check_files(tmp_path, {}, **CURES)


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        check_files(tmp_path, {"a": WHOLE}, **CURES)
    expected = f"9 bytes with MD5 {WHOLE.md5} with SHA-256 {WHOLE.sha256}"
    assert str(caught.value) == f"{tmp_path / 'a'} is not there, expected {expected}; fetch it"
    (tmp_path / "a").write_bytes(CONTENT)
    with pytest.raises(FileNotFoundError) as caught:
        check_files(tmp_path, {"a": WHOLE, "b": Expected(), "c": WHOLE}, **CURES)
    assert str(caught.value) == f"{tmp_path / 'b'} is not there (2 of 3 files are missing); fetch it"


@pytest.mark.parametrize("content", [CONTENT[:-1], b"some dota", b""])
def test_truncated_and_altered_files(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged") as caught:
        check_files(tmp_path, {"a": Expected(9, sha256=WHOLE.sha256)}, **CURES)
    found = f"{len(content)} bytes with SHA-256 {hashlib.sha256(content).hexdigest()}"
    expected = f"9 bytes with SHA-256 {WHOLE.sha256}"
    assert str(caught.value) == f"{tmp_path / 'a'} is damaged: it is {found}, expected {expected}; remove it"


def test_mnist_s_sizes_follow_from_its_format():
    sizes = {name: expected.bytes for name, expected in PUBLISHED.items()}
    assert len(sizes) >= 20
    for name in ("MNIST", "FashionMNIST"):
        for part, n in (("train", 60_000), ("t10k", 10_000)):
            assert sizes[f"{name}/raw/{part}-images-idx3-ubyte"] == 16 + 28 * 28 * n
            assert sizes[f"{name}/raw/{part}-labels-idx1-ubyte"] == 8 + n
