import numpy as np
import pytest
from scipy import sparse

import small_study
from diptych.dictionaries import codes, encoding
from diptych.runtime.errors import ArtifactError
from diptych.text import contexts


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("evidence") / "tokens.h5"
    small_study.write_tokens(path, np.repeat(np.arange(10), 30))
    return contexts.Text(path)


def test_context_stays_inside_its_sequence(text):
    context = text.context(31, 1.5, window=5)
    assert [token.text for token in context.tokens] == text.words(np.arange(30, 37))
    assert context.focus == 1
    assert (context.position, context.document, context.source) == (1, "speech-1801", "modern")


def test_shade_weights_follow_the_values_and_their_scale(text):
    shade = contexts.Shade(np.array([3, 5, 8]), np.array([1.0, -4.0, 9.0]), scale=4.0)
    weights = [token.weight for token in text.context(5, -4.0, shade, window=3).tokens]
    assert weights == [0.0, 0.25, 0.0, -1.0, 0.0, 0.0, 1.0]  # rows 2..8; 9 is cut off at 1


def test_shade_without_rows_or_scale_is_blank(text):
    assert (contexts.Shade(np.array([], dtype=int), np.array([]), 1.0).at(np.arange(4)) == 0).all()
    assert (contexts.Shade(np.array([1]), np.array([2.0]), 0.0).at(np.arange(4)) == 0).all()


def test_contexts_skip_padding_and_overlaps(text):
    rows = [40, 42, -1, 100, 29, 30]
    found = text.contexts(rows, np.arange(6.0), count=5)
    assert [context.row for context in found] == [40, 100, 29]  # 42 and 30 lie in 40's window, 29 in another sequence
    assert [context.value for context in found] == [0.0, 3.0, 4.0]


def test_plain_marks_the_token_and_is_one_line(text):
    words = contexts.Context(
        0, "d", "s", 0, 0.0, (contexts.Token("a\n", 0.0), contexts.Token(" b", 0.0), contexts.Token("\tc", 0.0)), 1
    )
    assert words.plain() == "a «b» c"


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Two shards of 60 rows with codes of 3 latents; token rows 0, 2, 4, ..."""
    place = tmp_path_factory.mktemp("codes")
    rng = np.random.default_rng(0)
    dense = np.maximum(rng.normal(size=(120, 3)) - 0.5, 0).astype(np.float32)
    paths = []
    for shard in range(2):
        mine = slice(60 * shard, 60 * shard + 60)
        rows = np.arange(120)[mine] * 2
        zeros = np.zeros(60, dtype=np.int64)
        encoding.write(
            codes.Features(sparse.csr_array(dense[mine]), rows, zeros, zeros, zeros), place / f"{shard}.h5", {}
        )
        paths.append(place / f"{shard}.h5")
    return paths, dense


def test_codes_are_those_of_the_matrix(shards):
    paths, dense = shards
    codes = contexts.Codes(paths)
    window = np.arange(110, 131)  # spans both shards; odd token rows hold no code
    expected = np.where(window % 2 == 0, dense[window // 2, 1], 0.0)
    assert np.allclose(codes.values(1, window), expected)
    assert np.allclose(codes.maximum, dense.max(axis=0))
    assert np.allclose(codes.density, (dense > 0).mean(axis=0))


def test_top_merges_the_shards(shards):
    paths, dense = shards
    rows, values = contexts.Codes(paths).top(2)
    order = np.argsort(-dense[:, 2])[:5]
    assert rows[:5].tolist() == (2 * order).tolist()
    assert np.allclose(values[:5], dense[order, 2])
    both = contexts.Codes(paths).tops(np.array([0, 2]))
    assert [array.tolist() for array in both[1]] == [rows.tolist(), values.tolist()]


def test_latent_shade_is_relative_to_the_maximum(shards):
    paths, dense = shards
    weights = contexts.Codes(paths).shade(0).at(np.arange(0, 40))
    assert np.allclose(weights[::2], dense[:20, 0] / dense[:, 0].max())
    assert (weights[1::2] == 0).all()


def test_a_file_of_another_kind_is_refused(shards):
    with pytest.raises(ArtifactError, match="expected"):
        contexts.Text(shards[0][0])
