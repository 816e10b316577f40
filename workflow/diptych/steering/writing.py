"""Generation of texts by a steered model, trial by trial.

    model = Loaded(Side("results/models/base", "gates.h5", "middle", "float32"), "cpu")
    written = write(model, plan.runs["A"], settings)
    written.texts[0]          # the first trial is unsteered

A trial is one direction at one strength c: c times the model's median residual norm is added along the direction.
Every trial generates the same number of texts from the same prompts with the same random numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from diptych.models import pretrained
from diptych.models.placement import Devices
from diptych.models.sites import resolve_site
from diptych.runtime import logs
from diptych.runtime.errors import DiptychError
from diptych.steering.directions import Run
from diptych.steering.intervention import Edit, Measured, measure, sample
from diptych.storage import artifacts
from diptych.text import templates
from diptych.text.tokenizer import Tokenizer

BoolArray = npt.NDArray[np.bool_]
DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

UNSTEERED = "unsteered"


class Side(NamedTuple):
    """One model of the pair: its directory, its gates, the site, and the precision of its forward pass."""

    directory: str | Path
    gates: str | Path
    site: str
    dtype: pretrained.Dtype


class Trial(NamedTuple):
    """A direction at a strength."""

    run: Run
    strength: float


@dataclass(frozen=True)
class Settings:
    """Settings of generation; every field is a config key of `steering`."""

    strengths: Sequence[float]
    prompts: Sequence[str]
    chat: bool
    positions: str
    samples: int
    length: int
    batch: int
    seed: int


@dataclass(frozen=True)
class Written:
    """The texts that one model generated; T trials, the first unsteered, P prompts, S samples, L tokens.

    Attributes:
        trials: the T trials.
        tokens: int64 [T, P, S, L].
        counted: bool, same shape: True up to the first end-of-text token, included.
        measured: KL and surprisal, same shape.
        shifts: float64 [T, V], change of the first token's log-probabilities, mean over prompts.
        words: text of each generated token id.
        texts: T x P x S decoded texts, in that order.
    """

    trials: list[Trial]
    tokens: IntArray
    counted: BoolArray
    measured: Measured
    shifts: DoubleArray
    words: Mapping[int, str]
    texts: list[str]


class Loaded:
    """A loaded model with its tokenizer, its site's hook and its median residual norm."""

    def __init__(self, side: Side, device: Devices) -> None:
        self.directory = side.directory
        self.model = pretrained.load(side.directory, dtype=side.dtype, device=device)
        self.tokenizer = Tokenizer(side.directory)
        self.hook = resolve_site(side.site, pretrained.describe(side.directory)["n_layers"])
        self.context = pretrained.describe(side.directory)["context"]
        with artifacts.read(side.gates, "gates") as file:
            self.median = float(artifacts.read_json(file, "gates")[side.site]["median_norm"])

    def ends(self) -> frozenset[int]:
        """Token ids that end a text."""
        eos = self.model.generation_config.eos_token_id
        return frozenset() if eos is None else frozenset([eos] if isinstance(eos, int) else eos)


def write(model: Loaded, runs: Sequence[Run], settings: Settings) -> Written:
    """Generate texts with one model: unsteered, then with every run at every strength; no trials without runs."""
    width = len(runs[0].direction) if runs else 1
    unsteered = Run("unsteered", -1, UNSTEERED, np.zeros(width, dtype=np.float32))
    trials = [Trial(unsteered, 0.0), *(Trial(run, c) for run in runs for c in settings.strengths)]
    if not runs:
        trials = []
    vectors = np.array([model.median * c * run.direction for run, c in trials], dtype=np.float32)
    shape = (len(trials), len(settings.prompts), settings.samples, settings.length)
    tokens = np.zeros(shape, dtype=np.int64)
    kl, surprise = np.zeros(shape), np.zeros(shape)
    starts = np.zeros((len(trials), int(model.model.config.get_text_config().vocab_size)))
    prompts = [_prompt(model, text, settings) for text in settings.prompts]
    batches = [(p, rows) for p in range(len(prompts)) for rows in _batches(len(trials) * settings.samples, settings)]
    for p, rows in logs.progress(batches, "steer", unit="batch"):
        uniform = np.random.default_rng([settings.seed, p]).random((settings.samples, settings.length))
        trial, draw = np.divmod(rows, settings.samples)
        first, last = _range(model, prompts[p], settings)
        edit = Edit(torch.from_numpy(vectors[trial]), first, last)
        sampled = sample(model.model, prompts[p], uniform[draw], settings.length, model.hook, edit)
        measured = measure(model.model, prompts[p], sampled)
        tokens[trial, p, draw], kl[trial, p, draw], surprise[trial, p, draw] = (
            sampled.tokens,
            measured.kl,
            measured.surprise,
        )
        starts[trial[draw == 0]] += sampled.log_p[draw == 0, 0].double().cpu().numpy() / len(prompts)
    ids = np.unique(tokens)
    counted = _counted(tokens, model.ends())
    return Written(
        trials=trials,
        tokens=tokens,
        counted=counted,
        measured=Measured(kl, surprise),
        shifts=starts - starts[:1],
        words=dict(zip(ids.tolist(), model.tokenizer.texts(ids.tolist()), strict=True)),
        texts=[
            model.tokenizer.decode(row[keep].tolist())
            for row, keep in zip(tokens.reshape(-1, shape[-1]), counted.reshape(-1, shape[-1]), strict=True)
        ],
    )


def _batches(n: int, settings: Settings) -> list[IntArray]:
    return [np.arange(start, min(start + settings.batch, n)) for start in range(0, n, settings.batch)]


def _prompt(model: Loaded, text: str, settings: Settings) -> IntArray:
    """Token ids of a prompt, as plain text or (`chat`) as the user's turn of a conversation."""
    tokenizer = model.tokenizer
    if settings.chat and not tokenizer.has_template:
        raise DiptychError(f"steering.chat: the tokenizer of {model.directory} has no chat template; set it to false")
    if settings.chat:
        text = tokenizer.render(tokenizer.template, [{"role": "user", "content": text}], True)
    ids = np.array([*tokenizer.prefix, *tokenizer.encode([text])[0].token.tolist()], dtype=np.int64)
    if not len(ids):
        raise DiptychError(f"steering.prompts: {text!r} has no token in the tokenizer of {model.directory}")
    if len(ids) + settings.length > model.context:
        raise DiptychError(
            f"steering.length: a prompt of {len(ids)} tokens and {settings.length} more exceed the context of "
            f"{model.context} tokens of {model.directory}; lower it"
        )
    return ids


def _range(model: Loaded, prompt: IntArray, settings: Settings) -> tuple[int, int | None]:
    """First and last position that is steered (None: no last one); a position predicts the token after it."""
    end = len(prompt) - 1
    if settings.positions == "generated":
        return end, None
    if settings.positions == "last":
        return end, end
    named = templates.positions(model.tokenizer.template) if settings.chat else {}
    if settings.positions not in named:
        raise DiptychError(
            f"steering.positions: {settings.positions!r} is none of {', '.join(['generated', 'last', *named])}"
            + ("" if settings.chat else "; positions of the chat template need chat: true")
        )
    at = end + named[settings.positions].offset
    return at, at


def _counted(tokens: IntArray, ends: frozenset[int]) -> BoolArray:
    """Mask of tokens [..., L] up to the first that ends the text, included."""
    is_end = np.isin(tokens, list(ends))
    counted: BoolArray = np.cumsum(is_end, axis=-1) - is_end == 0
    return counted
