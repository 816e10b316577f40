"""Which tests need a GPU, which ones a process of pytest-xdist gets together, and that the longest begin first.

Tests marked `gpu` compare a stage on a GPU with the same on the CPU. A file's tests stay together, so that its fixtures
are made once; so do all that need the finished test study.
"""

import pytest

FIRST = ("tests/cluster/test_slurm.py", "finished")
"""Groups that take minutes: one that begins last keeps one process waiting for the other."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Name every test's group before pytest-xdist reads it, the longest first; the order within a group stays."""
    group = {item: "finished" if "finished" in getattr(item, "fixturenames", ()) else _file(item) for item in items}
    for item, name in group.items():
        item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: _rank(group[item]))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a GPU where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")


def _file(item: pytest.Item) -> str:
    return item.nodeid.split("::")[0]


def _rank(group: str) -> tuple[int, str]:
    if group in FIRST:
        return FIRST.index(group), group
    return len(FIRST) + (not group.startswith("tests/workflow")), group
