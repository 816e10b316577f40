"""Studies that the tests of planning read."""

import yaml

from diptych.config import loading
from diptych.config.study import Study
from trees import ROOT

TEXT = {"kind": "local", "paths": ["none/*.txt"]}


def shipped(name: str, results: str) -> Study:
    """A study of `config/`, with another results directory: nothing of it is fetched there."""
    return loading.load({**yaml.safe_load((ROOT / "config" / name).read_text()), "results": results})


def small(**sections) -> Study:
    """Two models of two blocks of width 32, a text of 1,000 sequences of 64 tokens, and their comparison."""
    model = {"kind": "random", "layers": 2, "width": 32, "heads": 4, "vocabulary": 400, "dtype": "float32"}
    config = {
        "results": "none",
        "models": {"base": model, "other": {**model, "seed": 1, "tokenizer": "base"}},
        "corpora": {"text": {"tokens": 64_000, "sequence_length": 64, "sources": {"all": TEXT}}},
        "sites": {"main": ["last"]},
        "pairs": {"two": {"a": "base", "b": "other", "corpus": "text", "sites": ["last"]}},
        **sections,
    }
    return loading.load(config)
