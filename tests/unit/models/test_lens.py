"""The logit lens needs no block of a model: its final norm and unembedding are read with one."""

import numpy as np
import pytest

from diptych.models import lens, pretrained
from tiny_models import make_model


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "neox", "gemma2", "gemma3", "mamba"])
def test_a_model_of_one_block_has_the_lens_of_the_whole(architecture, tmp_path):
    directory = make_model(tmp_path / architecture, architecture)
    whole, short = pretrained.load(directory), pretrained.load(directory, n_blocks=1)
    rows = np.random.default_rng(0).normal(size=(3, 32)).astype(np.float32)
    np.testing.assert_array_equal(lens.lens(whole, rows, 7.0), lens.lens(short, rows, 7.0))
    assert sum(p.numel() for p in short.parameters()) < sum(p.numel() for p in whole.parameters())
