"""Which tests need a GPU, and that files which take minutes come first.

Tests marked `gpu` compare a stage on a GPU with the same on the CPU. Two processes of pytest-xdist take the files in
order: one that takes minutes and begins last would keep one process waiting for the other.
"""

import pytest

FIRST = ("tests/cluster", "tests/workflow")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of long folders to the front; the order within a folder stays."""
    items.sort(key=lambda item: [not item.nodeid.startswith(folder) for folder in FIRST])


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")
