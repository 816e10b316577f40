"""SmolLM2 against Gemma-3-270M: two published tokenizers, and a published model's own hidden states.

Opt-in, because the models are large: `DIPTYCH_SMOLLM2` and `DIPTYCH_GEMMA` name their directories, as the study
config/studies/two_tokenizers.yaml fetches them (results/two_tokenizers/models/...). Without them `test_alignment`
tries the same on two tokenizers that are trained there.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from diptych.models import hooks
from diptych.storage import artifacts
from diptych.text import alignment, tokens
from diptych.text.corpora import stage
from diptych.text.corpora.corpus import Corpus, Document
from tiny_models import make_texts

PLACES = {"a": os.environ.get("DIPTYCH_SMOLLM2"), "b": os.environ.get("DIPTYCH_GEMMA")}
pytestmark = pytest.mark.skipif(not all(PLACES.values()), reason="DIPTYCH_SMOLLM2 and DIPTYCH_GEMMA are not set")
UNUSUAL = "Fiancée costs 1,234.50 €; naïve 漢字かな, emoji 👩‍👩‍👧‍👦 and\ttabs\n\nØ × 3 = … "


def test_rows_are_paired_where_both_have_read_the_same(tmp_path: Path) -> None:
    folder = make_texts(tmp_path / "texts", "old", 10)
    for number in range(5):
        (folder / f"odd-{number}.txt").write_text(f"Note {number}. " + UNUSUAL * 20, encoding="utf-8")
    sources = {name: {"kind": "local", "paths": [str(folder / f"{name}-*.txt")]} for name in ("old", "odd")}
    stage.fetch(tmp_path / "corpus", spec={}, sources=sources)
    for name, model in PLACES.items():
        tokens.prepare(
            tmp_path / "corpus", str(model), tmp_path / f"{name}.h5", spec={}, tokens=None, sequence_length=64
        )
    alignment.align(tmp_path / "a.h5", tmp_path / "b.h5", tmp_path / "out.h5", spec={}, min_coverage=0.3)
    with artifacts.read(tmp_path / "out.h5", "alignment") as out:
        row_a, row_b = out["row_a"][:], out["row_b"][:]
        shares = artifacts.read_json(out, "coverage")
    assert shares["old"]["coverage"] > 0.9
    assert shares["odd"]["coverage"] > 0.3
    texts = {document.id: document.text or "" for document in _documents(tmp_path / "corpus")}
    read = [_read_so_far(tmp_path / f"{name}.h5", row, texts) for name, row in (("a", row_a), ("b", row_b))]
    assert read[0] == read[1]


def _documents(directory: Path) -> list[Document]:
    corpus = Corpus(directory)
    return list(corpus.documents(range(len(corpus))))


def _read_so_far(path: Path, rows: np.ndarray, texts: dict[str, str]) -> list[tuple[str, str]]:
    """Document, and the last characters that a model has read at each row."""
    with artifacts.read(path, "tokens") as file:
        ids = artifacts.read_strings(file, "documents/id")
        document = file["sequences/document"][:][file["sequence"][:][rows]]
        end = file["char_span"][:, 1][rows]
    return [(ids[d], texts[ids[d]][max(0, e - 20) : e]) for d, e in zip(document, end, strict=True)]


@pytest.mark.parametrize("name", ["a", "b"])
def test_hooks_are_the_published_models_hidden_states(name: str) -> None:
    from transformers import AutoModelForCausalLM

    directory = str(PLACES[name])
    ids = torch.arange(100, 132)[None]
    sites = ["first", "middle", "blocks.3.hook_resid_pre"]
    found = hooks.Loader(directory, sites, "cpu").load("float32")(ids)
    own = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        hidden = own(ids, output_hidden_states=True).hidden_states
    middle = own.config.num_hidden_layers // 2
    for site, state in (("first", 1), ("middle", middle + 1), ("blocks.3.hook_resid_pre", 3)):
        torch.testing.assert_close(found[site], hidden[state], rtol=1e-5, atol=1e-5 * float(hidden[state].abs().max()))
