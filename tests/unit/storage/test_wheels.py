"""Wheels as data: pinned, cached, and unable to write outside their directory."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from diptych.runtime.errors import DiptychError
from diptych.storage import wheels


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "index" / "some_texts-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("some_texts/b.txt", "second")
        archive.writestr("some_texts/a.txt", "first")
        archive.writestr("some_texts/__init__.py", "raise SystemExit")
        archive.writestr("some_texts-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: some-texts\nVersion: 1.0\n")
        archive.writestr(
            "some_texts-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    return path


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def offline_index(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return wheel


def test_fetch_takes_the_pinned_file_once(offline_index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    fetched = wheels.fetch("some-texts", "1.0", sha256(offline_index), cache)
    assert fetched.parent == cache
    assert fetched.read_bytes() == offline_index.read_bytes()
    pinned = sha256(offline_index)
    offline_index.unlink()
    assert wheels.fetch("some-texts", "1.0", pinned, cache) == fetched


def test_fetch_refuses_another_hash_in_one_line(offline_index: Path, tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="another sha256") as caught:
        wheels.fetch("some-texts", "1.0", "0" * 64, tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_fetch_refuses_a_cached_file_that_was_changed(offline_index: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    pinned = sha256(offline_index)
    fetched = wheels.fetch("some-texts", "1.0", pinned, cache)
    fetched.write_bytes(b"changed")
    assert sha256(wheels.fetch("some-texts", "1.0", pinned, cache)) == pinned


def test_extract_takes_matching_members_in_order(wheel: Path, tmp_path: Path) -> None:
    files = wheels.extract(wheel, ["*/b.txt", "some_texts/*.txt"], tmp_path / "out")
    assert [file.relative_to(tmp_path / "out").as_posix() for file in files] == ["some_texts/a.txt", "some_texts/b.txt"]
    assert files[0].read_text() == "first"


def test_a_pattern_without_a_match_is_an_error(wheel: Path) -> None:
    with pytest.raises(DiptychError, match=r"no file matches '\*\.gguf'"):
        wheels.members(wheel, ["*.txt", "*.gguf"])


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:/evil.txt"])
def test_members_cannot_leave_the_directory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.txt", "good")
        archive.writestr(name, "evil")
    with pytest.raises(DiptychError, match="outside"):
        wheels.extract(path, "*.txt", tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("*.txt"))


def test_what_is_no_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken-1.0-py3-none-any.whl"
    path.write_bytes(b"no zip")
    with pytest.raises(DiptychError, match="not a wheel"):
        wheels.members(path, "*")
