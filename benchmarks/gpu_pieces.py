"""What `gpu.py` measures, each piece in a process of its own, at the sizes that `gpu_sizes.py` lists.

    measured("linear map, width 4,096", tiny=False, device="cuda:0", place=Path("/tmp"))

The measured functions are those of the other scripts here; a piece makes its data, and runs them within the clock.
"""

import importlib.util
import resource
import statistics
import tempfile
import threading
import time
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import correlation
import crosscoder
import dump
import feed
import linear_map
import matching
import numpy as np
import torch
import torch._dynamo  # what optimisers and models import late is imported once, before processes are forked
from gpu_sizes import PIECES
from transformers import AutoModelForCausalLM, Gemma2Config

from diptych.activations import buffer
from diptych.activations import rows as rows_of
from diptych.correlation import stage as correlation_stage
from diptych.crosscoder.training import stage as training_stage
from diptych.crosscoder.training.stage import Training
from diptych.dictionaries import encoding
from diptych.dictionaries.sae import Dictionary
from diptych.matching.dense_scores import DenseScores
from diptych.storage import artifacts


@dataclass(frozen=True)
class Figures:
    """What a piece found.

    Attributes:
        rows: that were processed: tokens, or latents of one dictionary.
        seconds: that they took.
        waiting: share of these seconds in which the work waited for its rows, None if it has no rows to wait for.
        of_matrix_limit: time that the encoder's product alone would take at the limit, as a share of these seconds.
    """

    rows: int
    seconds: float
    waiting: float | None = None
    of_matrix_limit: float | None = None


class Clock:
    """Peak memory, and the share of time with no kernel on the GPU, of what runs within it.

    That share comes from the driver's counter, read ten times a second; None where nvidia-ml-py is not installed.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.on_gpu = device.startswith("cuda")
        self.busy: list[int] = []
        self._left = threading.Event()

    def __enter__(self) -> "Clock":
        feed.wait_for(self.device)
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats(self.device)
        if self.on_gpu and importlib.util.find_spec("pynvml"):
            threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        feed.wait_for(self.device)
        self._left.set()

    def _sample(self) -> None:
        while not self._left.wait(0.1):
            self.busy.append(torch.cuda.utilization(self.device))

    def figures(self) -> dict[str, float | None]:
        """GiB of either memory, and the GPU's idle share."""
        return {
            "gpu_gib": torch.cuda.max_memory_allocated(self.device) / 2**30 if self.on_gpu else None,
            "host_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            "gpu_idle": 1 - statistics.mean(self.busy) / 100 if self.busy else None,
        }


def matrix_limit(dtype: torch.dtype, size: int, device: str) -> float:
    """Operations per second of square matrix products: the best of five rounds of four."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))

    def products() -> None:
        for _ in range(4):
            left @ right

    return 4 * 2 * size**3 / min(feed.timed(products, device)[0] for _ in range(5))


def crosscoder_steps(
    clock: Clock, place: Path, device: str, *, width: int, matrix: int, n_steps: int, **settings: Any
) -> Figures:
    """BatchTopK steps, optimiser included, on batches that lie on the device."""
    training = Training(steps=10_000, **settings)
    limit = matrix_limit(getattr(torch, training.compute), matrix, device)
    steps = crosscoder.Steps(training, width, device)
    batches = list(islice(crosscoder.batches(training.batch, width, device), 4))
    for z_BD in batches:
        steps.take(z_BD)

    def take_all() -> None:
        for number in range(n_steps):
            steps.take(batches[number % len(batches)])

    with clock:
        seconds, _ = feed.timed(take_all, device)
    operations = 2 * training.batch * 2 * width * training.n_latents
    return Figures(n_steps * training.batch, seconds, of_matrix_limit=n_steps * operations / limit / seconds)


def _train(clock: Clock, data: rows_of.Rows, device: str, settings: Mapping[str, Any]) -> Figures:
    training = Training(calibration_share=0.0, **settings)
    feed.feed.CALIBRATION_ROWS = 2 * training.batch  # means and scales are not what is timed
    with clock:
        run = training_stage.optimise(data, training, device=device)[1]
    seconds, waiting = feed.throughput(run, training)
    return Figures(training.steps * training.batch, seconds, waiting)


def stored_training(
    clock: Clock, place: Path, device: str, *, rows: int, width: int, on_device: bool, **settings: Any
) -> Figures:
    """Training on stored rows of two models, from a buffer on the device or gathered from the host's memory."""
    if not on_device:
        buffer.fits = lambda rows, n, device: False
    return _train(clock, feed.stored_rows(_directory(place), rows, width), device, settings)


def streamed_training(
    clock: Clock, place: Path, device: str, *, model: Mapping[str, int], n_sequences: int, **settings: Any
) -> Figures:
    """Training on the rows of two models that run beside it."""
    data = feed.streamed_rows(
        [random_gemma(place, model, device)] * 2, device, n_sequences=n_sequences, vocabulary=model["vocab_size"],
        dtype="bfloat16",
    )  # fmt: skip
    return _train(clock, data, device, settings)


def dumping(
    clock: Clock, place: Path, device: str, *, model: Mapping[str, int], tokens: int, batch_tokens: int
) -> Figures:
    """One site at half depth to disk; what it takes beyond the bare forward passes is waiting."""
    directory = _directory(place)
    start = np.arange(0, tokens + 1, feed.SEQUENCE)
    with artifacts.create(directory / "tokens.h5", "tokens", {}) as out:
        out.array("token", np.random.default_rng(0).integers(0, model["vocab_size"], start[-1]).astype(np.int32))
        out.array("sequences/start", start)
    options = Namespace(
        model=random_gemma(place, model, device), tokens_path=directory / "tokens.h5", tokens=tokens,
        batch_tokens=batch_tokens, dtype="bfloat16", skip_bridge=True, positions={},
    )  # fmt: skip
    rounds = dump.forward_rounds(options, directory, torch.device(device))
    with clock:
        seconds = dump.measure({name: rounds[name] for name in ("dump", "bare forward, truncated")}, repeats=2)
    bare, ours = seconds["bare forward, truncated"], seconds["dump"]
    waiting = 1 - statistics.median(of_bare / of_ours for of_bare, of_ours in zip(bare, ours, strict=True))
    return Figures(options.n_tokens, statistics.median(ours), waiting)


def encode(clock: Clock, place: Path, device: str, *, rows: int, width: int, latents: int, l0: int) -> Figures:
    """Random rows through a random jumprelu dictionary."""
    W_enc = torch.nn.functional.normalize(torch.randn(width, latents, device=device), dim=0)
    threshold = statistics.NormalDist().inv_cdf(1 - l0 / latents)
    zeros, none = np.zeros(width, np.float32), np.zeros(latents, np.float32)
    dictionary = Dictionary(
        "jumprelu", W_enc.cpu().numpy(), none, W_enc.T.contiguous().cpu().numpy(), zeros, zeros, 0,
        np.full(latents, threshold, np.float32), {},
    )  # fmt: skip
    x = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
    data = rows_of.in_memory([x], np.arange(rows) // feed.SEQUENCE)
    dictionary.decode(dictionary.encode(torch.from_numpy(x[:8]).to(device)))  # moves the weights to the device
    with clock:
        seconds, _ = feed.timed(partial(encoding.encode_rows, data, dictionary, device=device), device)
    return Figures(rows, seconds)


def correlate(clock: Clock, place: Path, device: str, *, tokens: int, latents: int, l0: int) -> Figures:
    """The whole stage on the processor's cores; it has no part on a GPU."""
    a, b = (correlation.synthetic(tokens, latents, l0, seed) for seed in (1, 2))
    threads = torch.get_num_threads()
    work = partial(correlation_stage.correlate_features, a, b, min_active=1, min_documents=1, threads=threads)
    with clock:
        seconds, _ = feed.timed(work, "cpu")
    return Figures(tokens, seconds)


def map_linearly(clock: Clock, place: Path, device: str, *, rows: int, width: int) -> Figures:
    """The whole stage, both directions of the ladder."""
    pair = linear_map.pair_of_width(rows, width)
    with clock:
        seconds = linear_map.fit(pair, device, _directory(place))["wall_s"]
    return Figures(rows, seconds)


def match(clock: Clock, place: Path, device: str, *, latents: int, width: int, memory: int) -> Figures:
    """Scan, solution and proof of the best matching of two dictionaries."""
    x, y = matching.dictionaries(latents, width, 1.0, 0.2, device)
    with clock:
        scan, solution, _ = matching.match(DenseScores(x, y, memory=memory), 0.2, time.perf_counter)
    return Figures(latents, scan + solution)


def random_gemma(place: Path, sizes: Mapping[str, int], device: str) -> Path:
    """Directory of a random Gemma-2 model in bfloat16, written by the first piece that needs it."""
    directory = place / "gemma"
    if not directory.exists():
        unfinished = _directory(place)
        torch.manual_seed(0)
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(Gemma2Config(**sizes), dtype=torch.bfloat16)
        model.save_pretrained(unfinished)
        unfinished.rename(directory)
    return directory


def _directory(place: Path) -> Path:
    return Path(tempfile.mkdtemp(dir=place))


def measured(name: str, *, tiny: bool, device: str, place: Path) -> dict[str, Any]:
    """Figures of a piece, as they are written down."""
    piece, clock = PIECES[name], Clock(device)
    figures = globals()[piece.function](clock, place, device, **(piece.tiny if tiny else piece.full))
    return asdict(figures) | {"rows_per_second": figures.rows / figures.seconds} | clock.figures()
