"""Pairs of tiny models whose next-token probabilities differ in a known way, and a text that both read."""

from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from diptych.models.batches import Sequences
from diptych.outputs.reading import Reading
from diptych.outputs.streaming import Moved, Predictions
from diptych.text import tokens
from diptych.text.corpora import stage
from tiny_models import make_model, make_texts

RAISED = 300
"""The token whose logit `raise_logit` raises."""


def make_text(place: Path, model: Path, *, documents: int = 24, sequence_length: int = 32) -> Path:
    """A token file of random texts of two sources, in the model's tokens."""
    sources = {}
    for name in ("old", "new"):
        make_texts(place / "texts", name, documents // 2, repeats=2)
        sources[name] = {"kind": "local", "paths": [str(place / "texts" / f"{name}-*.txt")]}
    stage.fetch(place / "corpus", spec={}, sources=sources)
    path = place / "tokens.h5"
    tokens.prepare(place / "corpus", model, path, spec={}, tokens=None, sequence_length=sequence_length)
    return path


def make_prompts(place: Path, model: Path, *, number: int = 20) -> Path:
    """A token file of the texts as messages of a user, in ChatML with the generation prompt."""
    prompts = {"rule": "document", "number": number, "seed": 0}
    source = {"kind": "local", "paths": [str(place / "texts" / "*.txt")], "prompts": prompts}
    stage.fetch(place / "questions", spec={}, sources={"asked": source})
    path = place / "prompts.h5"
    tokens.prepare(place / "questions", model, path, spec={}, tokens=None, sequence_length=96, template="chatml")
    return path


def raise_logit(parent: Path, directory: Path, *, by: float, token: int = RAISED, noise: float = 0.0) -> Path:
    """A copy of a model with noise in its weights that gives a token a logit higher by `by` on average over the text.

    The text is that beside the parent (`make_text`).
    """
    make_model(directory)
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += noise * parameter.std() * torch.randn_like(parameter) if parameter.ndim > 1 else 0.0
        ids = torch.from_numpy(Sequences.read(parent.parent / "tokens.h5").token)
        mean = model.base_model(input_ids=ids[: len(ids) // 32 * 32].reshape(-1, 32))[0].mean((0, 1))
        model.lm_head.weight[token] += by * mean / (mean @ mean)
    model.save_pretrained(directory)
    return directory


def make_predictions(
    place: Path, p_a: np.ndarray, p_b: np.ndarray, reading: Reading, *, moved: int = 50
) -> Predictions:
    """What `streaming.compare` gives for the probabilities [n, V] of both models, in float64."""
    change = p_b - p_a
    documents, unit = np.unique(reading.document, return_inverse=True)
    mass = np.zeros((len(documents), 2, p_a.shape[1]))
    for side, p in enumerate((p_a, p_b)):
        np.add.at(mass[:, side], unit, p)
    path = place / "masses.f32"
    mass.astype(np.float32).tofile(path)
    order = np.argsort(-change, axis=1, kind="stable")[:, :moved]
    lowest = np.argsort(change, axis=1, kind="stable")[:, :moved]
    delta = np.log(p_b) - np.log(p_a)
    m = (p_a + p_b) / 2
    zeros = np.zeros(len(p_a), dtype=np.float32)
    return Predictions(
        reading=reading,
        kl_ab=-(p_a * delta).sum(1),
        kl_ba=(p_b * delta).sum(1),
        js=(p_a * np.log(p_a / m) + p_b * np.log(p_b / m)).sum(1) / 2,
        agrees=p_a.argmax(1) == p_b.argmax(1),
        nll_a=zeros,
        nll_b=zeros,
        raised=_moved(change, order),
        lowered=_moved(-change, lowest),
        mined=np.bincount(np.argsort(-delta, axis=1)[:, :moved].ravel(), minlength=p_a.shape[1]),
        totals=mass.sum(0),
        documents=documents,
        n_positions=np.bincount(unit),
        mass_path=path,
    )


def _moved(change: np.ndarray, order: np.ndarray) -> Moved:
    values = np.take_along_axis(change, order, axis=1)
    return Moved(np.where(values > 0, order, -1).astype(np.int32), np.maximum(values, 0.0).astype(np.float32))
