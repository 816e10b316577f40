"""A copy of the tree in which the test study has run once; every test works on its own copy of that."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from trees import Tree, copy_tree


@pytest.fixture(scope="session")
def fresh(tmp_path_factory) -> Path:
    """An untouched copy of the tree; not to be changed."""
    return copy_tree(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """A copy of the tree with a finished test study, shared by all processes of pytest-xdist; not to be changed."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root
    path, is_done = root / "finished" / "tree", root / "finished" / "done"
    with (root / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_done.exists():
            shutil.rmtree(path.parent, ignore_errors=True)
            Tree(copy_tree(path)).snakemake()
            is_done.touch()
    return path


@pytest.fixture
def done(finished, tmp_path) -> Tree:
    """A finished test study that the test may change."""
    shutil.copytree(finished, tmp_path / "tree", symlinks=True)
    return Tree(tmp_path / "tree")


@pytest.fixture
def blank(fresh, tmp_path) -> Tree:
    """A tree in which nothing has run, which the test may change."""
    shutil.copytree(fresh, tmp_path / "tree")
    return Tree(tmp_path / "tree")
