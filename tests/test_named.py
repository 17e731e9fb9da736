"""Parts by dotted name: where they are looked for, and what is said where they are not found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from foveal import named
from foveal.named import find, is_dotted, search_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is searched for the time of a test."""
    before = set(sys.modules)
    monkeypatch.setattr(named, "_folders", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    search_in(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_names() -> None:
    assert [is_dotted(name) for name in ("a:b", "unet", None, 3)] == [True, False, False, False]
    assert find("collections:OrderedDict", "a part").__name__ == "OrderedDict"
    for name in ("a b:c", "a:b:c", ":c", "a:", "1a:b"):
        with pytest.raises(ValueError, match=r"a part of your own must be named package\.module:Name; got"):
            find(name, "a part")


def test_a_module_or_a_package_in_a_folder(folder: Path) -> None:
    (folder / "mine_a.py").write_text("x = 1")
    (folder / "mine_b").mkdir()
    (folder / "mine_b" / "__init__.py").write_text("")
    (folder / "mine_b" / "inner.py").write_text("from mine_a import x as y")
    search_in(folder)
    assert (find("mine_a:x", "a part"), find("mine_b.inner:y", "a part")) == (1, 1)
    assert sys.path.count(str(folder)) == 1
    with pytest.raises(
        ValueError, match=rf"there is no module mine_c in {folder} and what is installed; the nearest: mine_"
    ):
        find("mine_c:x", "a part")
    with pytest.raises(ValueError, match=r"there is no module mine_b\.iner in"):
        find("mine_b.iner:y", "a part")
    with pytest.raises(
        ValueError, match=r"mine_a \(.*mine_a\.py\) has no y; the nearest: x|nothing in it has such a name"
    ):
        find("mine_a:y", "a part")


def test_two_files_of_one_name(folder: Path) -> None:
    for place in (folder, folder / "other"):
        place.mkdir(exist_ok=True)
        (place / "mine_d.py").write_text("x = 1")
    assert find("mine_d:x", "a part") == 1
    search_in(folder / "other")
    with pytest.raises(ValueError, match="have one name, and a process holds one module of it; rename one"):
        find("mine_d:x", "a part")
    (folder / "json.py").write_text("")
    with pytest.raises(ValueError, match=r"json\.py is not imported, because .*json/__init__\.py has the same name"):
        find("json:loads", "a part")


def test_modules_that_fail(folder: Path) -> None:
    (folder / "mine_e.py").write_text("1 / 0")
    with pytest.raises(ValueError, match="mine_e fails when it is imported: ZeroDivisionError"):
        find("mine_e:x", "a part")
    (folder / "mine_f.py").write_text("import not_there_at_all")
    with pytest.raises(ValueError, match="mine_f needs the module not_there_at_all, which is not there; install it"):
        find("mine_f:x", "a part")
