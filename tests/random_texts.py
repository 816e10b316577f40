"""Texts of random words and their tokens artifacts."""

import itertools
import zlib

import numpy as np
from transformers import AutoTokenizer

from diptych.storage import artifacts

WORDS = ["river", "stone", "winter", "market", "letter", "Congress", "a", "the", "of", "and", "state", "moon"]


def random_texts(n, seed, words=WORDS):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(words, 16)) for _ in range(n)]


def write_tokens(path, model_dir, documents, n_sources=2, length=48):
    """Write a tokens artifact of texts with one sequence per document, in the layout of `text.tokens.prepare`."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    token, span, start = [], [], [0]
    for text in documents:
        encoding = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        token += encoding["input_ids"][:length]
        span += encoding["offset_mapping"][:length]
        start.append(len(token))
    document = np.arange(len(documents))
    vocabulary = np.unique(token)
    position = np.concatenate([np.arange(b - a) for a, b in itertools.pairwise(start)])
    with artifacts.create(path, "tokens", {}) as out:
        out.array("token", np.array(token, dtype=np.int32))
        out.array("char_span", np.array(span, dtype=np.int32))
        out.array("counts", position > 0)
        out.array("sequences/start", np.array(start, dtype=np.int64))
        out.array("sequences/document", document.astype(np.int32))
        out.array("documents/source", (document % n_sources).astype(np.int32))
        out.array("documents/fold", (document % 5).astype(np.int32))
        out.array("documents/text_hash", np.array([zlib.crc32(text.encode()) for text in documents], dtype=np.uint64))
        out.array("vocabulary/id", vocabulary)
        out.strings("vocabulary/text", [tokenizer.decode([i]) for i in vocabulary])
        out.json("sources", [f"source{i}" for i in range(n_sources)])
    return path
