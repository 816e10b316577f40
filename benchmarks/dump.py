"""Tokens per second of dumping one site at half depth, against five peers in the same run; and of reading it back.

    python benchmarks/dump.py MODEL_DIR TOKENS.h5 [--tokens 2048] [--repeats 3] [--dtype bfloat16] [--device cpu]

Peers: the dump with each batch written before the next forward pass; with batches of any padding; the bare transformers
forward pass truncated at the same block (target: dump / bare >= 0.95), TransformerLens' own run stopped there, and its
`run_with_cache` of every hook of the whole model (target: dump / everything >= 4).
Reading: `StoredSide` in blocks of the valid rows (all but the first of a sequence) against the raw file read in order
(target >= 0.8), and shuffled blocks against single rows in random order. Rounds are interleaved, so that a busy machine
slows all alike; each ratio is the median over the rounds of the ratio to the reference in the same round.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.activations import dump as activations
from diptych.activations import shard_sequences
from diptych.activations.sides import StoredSide
from diptych.models import batches as batching
from diptych.models import hooks
from diptych.storage import artifacts


class InBetween(AbstractContextManager[Any]):
    """Writes each block before the next forward pass, in place of `Behind`."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self.function = function

    def __call__(self, item: Any) -> None:
        self.function(item)

    def wait(self) -> None:
        """Nothing waits."""

    def __exit__(self, *error: object) -> None:
        return None


def measure(
    rounds: dict[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each function in each of the interleaved rounds after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in rounds}
    for repeat in range(repeats + 1):
        for name, run in rounds.items():
            start = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                seconds[name].append(clock() - start)
    return seconds


def truncated(directory: Path, dtype: str, device: torch.device) -> torch.nn.Module:
    """The bare transformers model without the blocks after the middle one."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=hooks.TORCH[dtype]).to(device).eval().base_model
    blocks = hooks.find_blocks(model, model.config.num_hidden_layers)
    del blocks[len(blocks) // 2 + 1 :]
    return model


def forward_rounds(
    options: argparse.Namespace, directory: Path, device: torch.device
) -> dict[str, Callable[[], object]]:
    shard = shard_sequences.ShardSequences.of_shard(options.tokens_path, 0, 1)
    count = max(1, int(np.searchsorted(shard.start, options.tokens, side="right")) - 1)
    start = shard.start[: count + 1]
    sample = shard_sequences.spread_sequences(start, int(start[-1]) // 10)  # the share of a run of 40,960 tokens
    order = np.concatenate([sample, np.setdiff1d(np.arange(count), sample)])
    sequences = shard_sequences.ShardSequences(shard.token[: start[-1]], start, 0, order, len(sample))
    batches = []
    n_done = 0
    while n_done < count:
        batch = sequences.batch(n_done, options.batch_tokens)
        batches.append(torch.from_numpy(sequences.padded(batch)).to(device))
        n_done += len(batch)
    options.n_tokens = sequences.n_rows
    loader = hooks.Loader(options.model, ["middle"], str(device))
    model = loader.load(options.dtype)
    bare = truncated(options.model, options.dtype, device)

    def dump(padding: float = batching.LARGEST_PADDING, behind: Any = activations.Behind) -> None:
        widths = hooks.widths(model, device)
        writer = activations._shard_writer(directory / "rows.h5", {}, loader, widths, sequences, "bfloat16")
        writer.open(options.batch_tokens)
        with (
            mock.patch.object(batching, "LARGEST_PADDING", padding),
            mock.patch.object(activations, "Behind", behind),
        ):
            options.positions[padding] = positions(sequences, writer.progress)
            activations._run(model, loader, sequences, writer, "bfloat16", device)
        writer.finish({"hooks": loader.hooks, "first_row": 0}, sample_row=sequences.sample_rows())

    @torch.inference_mode()
    def bare_forward() -> None:
        for ids in batches:
            bare(input_ids=ids, use_cache=False)

    rounds: dict[str, Callable[[], object]] = {
        "dump": dump,
        "dump, written in between": lambda: dump(behind=InBetween),
        "dump, any padding": lambda: dump(padding=1.0),
        "bare forward, truncated": bare_forward,
    }
    if not options.skip_bridge:
        rounds.update(bridge_rounds(options, batches, device, loader.hooks["middle"]))
    return rounds


def positions(sequences: shard_sequences.ShardSequences, progress: Any) -> int:
    """Positions of all batches, padding included."""
    lengths = sequences.lengths()
    return sum(int(lengths[batch].max()) * len(batch) for batch, _ in activations._batches(sequences, progress))


def bridge_rounds(
    options: argparse.Namespace, batches: list[torch.Tensor], device: torch.device, hook: str
) -> dict[str, Callable[[], object]]:
    from transformer_lens.model_bridge import TransformerBridge

    bridge = TransformerBridge.boot_transformers(
        str(options.model), device=str(device), dtype=hooks.TORCH[options.dtype]
    )
    stop = int(hook.split(".")[1]) + 1

    @torch.inference_mode()
    def stopped() -> None:
        for ids in batches:
            bridge.run_with_cache(ids, names_filter=[hook], stop_at_layer=stop)

    @torch.inference_mode()
    def everything() -> None:
        for ids in batches:
            bridge.run_with_cache(ids)

    return {"TransformerLens, stopped": stopped, "TransformerLens, everything": everything}


def read_rounds(path: Path, n: int) -> dict[str, Callable[[], object]]:
    valid = np.flatnonzero(np.arange(n) % 128)
    shuffled = np.random.default_rng(0).permutation(len(valid) // 4096 + 1)

    def side() -> StoredSide:
        return StoredSide([path], "middle")

    def raw() -> None:
        with artifacts.read(path, "activations") as file:
            for start in range(0, n, 4096):
                artifacts.from_bfloat16(file["sites/middle/values"][start : start + 4096])

    def blocks(order: np.ndarray) -> None:
        reader = side()
        for block in order:
            reader.take(valid[block * 4096 : (block + 1) * 4096])

    def random_rows() -> None:
        reader = side()
        for row in np.random.default_rng(0).integers(n, size=n // 16):
            reader.take(np.array([row]))

    ordered = np.arange(len(shuffled))
    return {
        "raw, in order": raw,
        "reader, in order": lambda: blocks(ordered),
        "reader, shuffled blocks": lambda: blocks(shuffled),
        "reader, random rows (1/16 of them)": random_rows,
    }


def print_rates(seconds: dict[str, list[float]], n: int, unit: str, reference: str) -> None:
    for name, values in seconds.items():
        ratio = np.median(np.array(values) / np.array(seconds[reference]))
        print(f"{name:36s} {n / np.median(values):14,.0f} {unit}/s   {reference} is {ratio:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("tokens_path", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=sorted(hooks.TORCH), default="bfloat16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--skip-bridge", action="store_true", help="skip the two slow peers")
    parser.add_argument("--processor-time", action="store_true", help="of the process, on a busy machine")
    parser.add_argument("--read-rows", type=int, default=100_000)
    options = parser.parse_args(namespace=argparse.Namespace(positions={}))
    clock = time.process_time if options.processor_time else time.perf_counter
    with tempfile.TemporaryDirectory() as directory:
        rounds = forward_rounds(options, Path(directory), torch.device(options.device))
        print_rates(measure(rounds, options.repeats, clock), options.n_tokens, "tokens", "dump")
        bounded, any_padding = options.positions[batching.LARGEST_PADDING], options.positions[1.0]
        print(f"positions of {options.n_tokens:,} tokens: {bounded:,}; with any padding {any_padding:,}")
        path = Path(directory) / "read.h5"
        with artifacts.create(path, "activations", {}) as writer:
            values = writer.rows("sites/middle/values", (options.read_rows, 576), np.uint16)
            values.attrs["dtype"] = "bfloat16"
            values[:] = np.random.default_rng(0).integers(0, 2**14, size=(options.read_rows, 576), dtype=np.uint16)
            writer.json("first_row", 0)
        read = measure(read_rounds(path, options.read_rows), options.repeats)
        read["reader, random rows (1/16 of them)"] = [16 * t for t in read["reader, random rows (1/16 of them)"]]
        for reference in ("raw, in order", "reader, shuffled blocks"):
            print_rates(read, options.read_rows, "rows", reference)


if __name__ == "__main__":
    main()
