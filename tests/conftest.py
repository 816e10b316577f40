"""Tests marked `gpu`, which compare a stage on a GPU with the same on the CPU, are skipped where there is none."""

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no GPU")
