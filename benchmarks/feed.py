"""Rows per second of the training feed, against the way it replaced and one memory copy of the same bytes.

    python benchmarks/feed.py [--rows 65536] [--width 2304] [--batch 4096] [--threads 1] [--device cuda:0] [--step 20]

Two models' activations are written to a temporary directory as bfloat16 and trained on in batches, each row once an
epoch, in buffers of half of them. "Old" is the peer: a float32 buffer, read, converted and normalised when it is
needed, from which each step copies a batch. Timed in interleaved rounds, of which the medians are printed:

filling       rows read from the files into the buffer
gathering     a batch collected from the buffer as stored: what a host does for a GPU that cannot hold the buffer
batch         a normalised batch on the device, from a full buffer
feed          batches asked for without a pause, fillings included
waiting       share of the time that steps of `--step` milliseconds, in which the host has nothing to do, wait for rows

    python benchmarks/feed.py --streams [--threads 1] [--device cuda:0]

compares a streamed run, whose forward passes overlap training, with the same run in alternation, and their weights.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.activations import buffer, dump, shuffling, streaming
from diptych.activations.rows import Rows
from diptych.activations.sides import StoredSide
from diptych.crosscoder.training import feed, stage
from diptych.crosscoder.training.feed import READ_ROWS, Feed
from diptych.crosscoder.training.stage import Training
from diptych.models import batches, hooks
from diptych.models.hooks import DType
from diptych.sparse_coding import architecture
from diptych.sparse_coding.architecture import Crosscoder
from diptych.storage import artifacts

SEQUENCE = 128
"""Tokens of a sequence, the first of which does not count."""


class OldFeed:
    """The peer: a float32 buffer, filled with normalised rows by the thread that trains."""

    def __init__(self, fed: Feed) -> None:
        self.fed = fed
        crosscoder = fed.crosscoder.cpu()
        self.mean, self.scale, self.arch = crosscoder.mean, crosscoder.coordinate_scale, crosscoder.architecture

    def load(self, part: np.ndarray) -> np.ndarray:
        values = np.empty((len(part), sum(self.arch.widths)), dtype=np.float32)
        for start in range(0, len(part), READ_ROWS):
            chunk = part[start : start + READ_ROWS]
            x_BD = architecture.crosscoder_input(self.fed.rows.take(chunk).x, self.arch)
            values[start : start + READ_ROWS] = ((x_BD - self.mean) * self.scale).numpy()
        return values

    def batches(self, device: str) -> Iterator[Tensor]:
        for fill in fills(self.fed):
            values = self.load(fill.rows)
            for start in fill.starts:
                yield torch.from_numpy(values[fill.order[start : start + self.fed.settings.batch]]).to(device)


def fills(fed: Feed) -> Iterator[shuffling.Fill]:
    parts = shuffling.blocks(fed.rows.position, fed.index, READ_ROWS)
    settings = fed.settings
    return shuffling.fills(parts, buffer_rows=settings.buffer_rows, batch=settings.batch, seed=settings.seed)


def stored_rows(directory: Path, n: int, width: int) -> Rows:
    """Two models' random rows, in files of the format of a dump."""
    rng, sides = np.random.default_rng(0), []
    for model in "ab":
        values = np.concatenate(
            [
                artifacts.to_bfloat16(rng.standard_normal((min(8192, n - start), width), dtype=np.float32))
                for start in range(0, n, 8192)
            ]
        )
        with artifacts.create(directory / f"{model}.h5", "activations", {}) as out:
            out.array("sites/middle/values", values, dtype="bfloat16")
            out.array("sites/middle/norm", np.ones(n, dtype=np.float32))
            out._file.attrs["first_row"] = 0
        sides.append(StoredSide([directory / f"{model}.h5"], "middle"))
    row = np.flatnonzero(np.arange(n) % SEQUENCE)
    zeros = np.zeros(len(row), dtype=np.int64)
    return Rows(tuple(sides), np.stack([row, row]), row // SEQUENCE, zeros + 1, zeros, row % SEQUENCE)


def wait_for(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def timed(action: Callable[[], object], device: str) -> tuple[float, float]:
    """Seconds, and processor seconds of all threads, that an action takes."""
    wait_for(device)
    start, start_cpu = time.perf_counter(), time.process_time()
    action()
    wait_for(device)
    return time.perf_counter() - start, time.process_time() - start_cpu


def consume(batches: Iterator[Tensor], pause: float = 0.0) -> float:
    """Take all batches; with steps of `pause` seconds, the share of the time after the first that is spent waiting."""
    next(batches)
    start = time.perf_counter()
    slept = 0.0
    for _ in batches:
        time.sleep(pause)
        slept += pause
    return 1 - slept / (time.perf_counter() - start)


def copy(parts: Sequence[Tensor], out: Sequence[Tensor]) -> None:
    for part, target in zip(parts, out, strict=True):
        target.copy_(part)


def gather(parts: Sequence[Tensor], picked: Tensor, out: Sequence[Tensor]) -> None:
    for part, target in zip(parts, out, strict=True):
        torch.index_select(part, 0, picked, out=target)


def fill_buffer(data: Rows, index: np.ndarray, places: buffer.RowBuffer) -> None:
    for start in range(0, len(index), READ_ROWS):
        places.write(data, index[start : start + READ_ROWS], start)


def actions_of(fed: Feed, old: OldFeed, device: str, n_batches: int) -> dict[str, tuple[int, Callable[[], object]]]:
    """What is timed, by name, and the rows that each processes."""
    data, batch, fill = fed.rows, fed.settings.batch, next(fills(fed))
    n, values = len(fill.rows), old.load(fill.rows)
    places, other = (buffer.allocate(data, n, torch.device("cpu")) for _ in range(2))
    fill_buffer(data, fill.rows, places)
    picked = torch.from_numpy(fill.order[:batch])
    on_device = feed.Batch(fill.rows, tuple(part.to(device) for part in places.parts), picked.to(device))
    z_BD, scale_D = torch.empty((batch, sum(data.widths)), device=device), fed.crosscoder.coordinate_scale
    first, gathered = ([part[:batch].clone() for part in places.parts] for _ in range(2))
    read = n_batches * batch
    return {
        "filling, old": (n, lambda: old.load(fill.rows)),
        "filling": (n, lambda: fill_buffer(data, fill.rows, places)),
        "filling, memory copy": (n, lambda: copy(places.parts, other.parts)),
        "gathering, old": (batch, lambda: values[picked.numpy()]),
        "gathering": (batch, lambda: gather(places.parts, picked, gathered)),
        "gathering, memory copy": (batch, lambda: copy(first, gathered)),
        "batch, old": (batch, lambda: torch.from_numpy(values[picked.numpy()]).to(device)),
        "batch": (batch, lambda: feed.normalise(fed.crosscoder, scale_D, on_device, out=z_BD)),
        "feed, old": (read, lambda: consume(islice(old.batches(device), n_batches))),
        "feed": (read, lambda: consume(fed.batches(0, n_batches))),
    }


def compare(options: argparse.Namespace, directory: Path) -> None:
    """Print rows per second of every part, and how many times as fast as its peers it is."""
    data = stored_rows(directory, options.rows, options.width)
    settings = Training(
        n_latents=8, k=1, batch=options.batch, buffer_rows=options.rows // 2, calibration_share=0.0, steps=1000
    )
    fed = Feed(data, Crosscoder(settings.architecture(data.widths)), settings)
    feed.set_normalisation(fed.crosscoder, data, fed.index[:8192])
    old = OldFeed(fed)
    fed.crosscoder.to(options.device)
    epoch = islice(fills(fed), 2)
    n_batches = sum(len(fill.starts) for fill in epoch)
    actions = actions_of(fed, old, options.device, n_batches)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in actions}
    for repeat in range(options.repeats + 1):
        for name, (_, action) in actions.items():
            measured = timed(action, options.device)
            if repeat:  # the first round warms up
                seconds[name].append(measured)
    print(f"{options.rows:,} rows of 2 x {options.width}, batches of {options.batch}, {options.threads} threads")
    for name, (n, _) in actions.items():
        wall, processor = (statistics.median(column) * options.batch / n for column in zip(*seconds[name], strict=True))
        print(f"{name:24s} {options.batch / wall:12,.0f} rows/s; a batch takes {1e3 * wall:7.1f} ms, "
              f"{1e3 * processor:7.1f} ms of processor time")  # fmt: skip
    for name in actions:
        peers = [peer for peer in actions if peer.startswith(f"{name}, ")]
        for peer in peers:
            pairs = zip(seconds[peer], seconds[name], strict=True)
            wall, processor = (
                statistics.median(ratios) for ratios in zip(*(np.divide(*p) for p in pairs), strict=True)
            )
            print(f"{name} is {wall:.2f} times as fast as {peer} ({processor:.2f} in processor time)")
    for name, fed_batches in (
        ("old", islice(old.batches(options.device), n_batches)),
        ("ours", fed.batches(0, n_batches)),
    ):
        share = consume(fed_batches, options.step / 1e3)
        print(f"waiting, {name}: {share:.1%} of the time with steps of {options.step} ms")


def random_models(directory: Path) -> list[Path]:
    """Two random models of width 256 and 4,000 tokens, written to a directory."""
    from transformers import LlamaConfig, LlamaForCausalLM

    for seed in range(2):
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=4000, hidden_size=256, intermediate_size=704, num_hidden_layers=16, num_attention_heads=4,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(directory / str(seed))
    return [directory / str(seed) for seed in range(2)]


def streamed_rows(
    models: Sequence[Path], device: str, *, n_sequences: int = 200, vocabulary: int = 4000, dtype: DType = "float32"
) -> Rows:
    """Rows of models at half depth on random tokens, computed when they are read."""
    sequences = dump.ShardSequences(
        np.random.default_rng(0).integers(0, vocabulary, n_sequences * SEQUENCE).astype(np.int32),
        np.arange(0, n_sequences * SEQUENCE + 1, SEQUENCE), 0, np.arange(n_sequences),
    )  # fmt: skip
    sides = []
    for directory in models:
        loader = hooks.Loader(directory, ["middle"], device)
        sides.append(
            streaming.StreamedSide(
                loader.load(dtype), "middle", sequences, torch.device(device), loader.width,
                batches.tokens_per_pass(loader.width), "bfloat16", np.inf, np.zeros(sequences.n_rows, dtype=np.bool_),
            )
        )  # fmt: skip
    row = np.flatnonzero(np.arange(sequences.n_rows) % SEQUENCE)
    zeros = np.zeros(len(row), dtype=np.int64)
    return Rows(tuple(sides), np.stack([row, row]), row // SEQUENCE, zeros + 1, zeros, row % SEQUENCE)


def throughput(run: stage.Run, settings: Training) -> tuple[float, float]:
    """Seconds of a run after its first batch came, and the share of them in which it waited for the others."""
    seconds = run.seconds - run.waits[0]
    return seconds, sum(run.waits[1:]) / seconds


def compare_streams(options: argparse.Namespace, directory: Path) -> None:
    """Print seconds and waiting share of a streamed run with and without overlap."""
    data = streamed_rows(random_models(directory), options.device)
    settings = Training(n_latents=4096, k=32, steps=20, batch=512, buffer_rows=2048, calibration_share=0.0)
    feed.CALIBRATION_ROWS = 2048  # means and scales are not what is timed
    overlapping = feed.ahead
    kinds = {"alternating": lambda items, depth=1: items, "overlapping": overlapping}
    runs: dict[str, list[stage.Run]] = {name: [] for name in kinds}
    for _ in range(options.repeats):
        for name, ahead in kinds.items():
            feed.ahead = ahead  # type: ignore[assignment]
            for side in data.sides:
                side._validity[:] = streaming.UNKNOWN  # type: ignore[attr-defined]
            runs[name].append(stage.optimise(data, settings, device=options.device)[1])
    for name, several in runs.items():
        wall, waiting = map(statistics.median, zip(*(throughput(run, settings) for run in several), strict=True))
        print(f"{name:12s} {settings.steps * settings.batch / wall:9,.0f} rows/s, {waiting:.0%} of the time waiting")
    pairs = zip(runs["alternating"], runs["overlapping"], strict=True)
    ratio = statistics.median(one.seconds / other.seconds for one, other in pairs)
    first, second = (runs[name][0].crosscoder.state_dict() for name in runs)
    equal = all(torch.equal(first[name], second[name]) for name in first)
    print(f"overlapping is {ratio:.2f} times as fast; weights are {'equal' if equal else 'NOT equal'} to the bit")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=65_536)
    parser.add_argument("--width", type=int, default=2304)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--step", type=float, default=20.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--streams", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as place:
        (compare_streams if arguments.streams else compare)(arguments, Path(place))
