"""Files in a second place: hard link, reflink or copy."""

import errno
import fcntl
import os

import pytest

from diptych.storage import links


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"weights" * 1000)
    path.chmod(0o640)
    return path


def refuse(*args, **kwargs):
    raise OSError(errno.EXDEV, "another file system")


def test_a_hard_link_is_the_file_itself(source, tmp_path):
    assert links.link(source, tmp_path / "target") == "hard link"
    assert source.samefile(tmp_path / "target")


def test_of_a_symbolic_link_the_file_is_linked(source, tmp_path):
    (tmp_path / "blob").symlink_to(source)
    assert links.link(tmp_path / "blob", tmp_path / "target") == "hard link"
    assert not (tmp_path / "target").is_symlink()
    assert source.samefile(tmp_path / "target")


def test_blocks_are_shared_where_a_link_is_refused(source, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "ioctl", lambda file, request, other: asked.append((file.name, request, other)))
    assert links.link(source, tmp_path / "target") == "reflink"
    assert [(str(name), request) for name, request, _ in asked] == [(str(tmp_path / "target"), 0x40049409)]


def test_a_copy_is_the_last_resort(source, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert links.link(source, tmp_path / "target") == "copy"
    assert (tmp_path / "target").read_bytes() == source.read_bytes()
    assert not source.samefile(tmp_path / "target")


def test_a_source_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        links.link(tmp_path / "none", tmp_path / "target")
