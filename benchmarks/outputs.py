"""Tokens per second of comparing two models' outputs against two bare forward passes with logits, and peak memory.

    python benchmarks/outputs.py MODEL_A MODEL_B TOKENS.h5 [--tokens 1024] [--repeats 3]

The peer computes both models' logits of the same batches and forgets them (target: comparison / peer >= 0.85, in
processor seconds, which other jobs of the machine do not count towards; rounds are interleaved, the ratio is their
median). Memory is what the comparison adds to the heads, at the given number of tokens and at four times as many, over
three float32 arrays of a block of positions x V, of which two are alive at once (target: flat, and at most 1).
"""

import argparse
import ctypes
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.models import pretrained
from diptych.models.batches import Sequences, tokens_per_pass
from diptych.outputs import reading, states, streaming
from diptych.outputs.states import Head, Side

BATCH = 1024
"""Tokens of one of the peer's forward passes, so that its logits fit the memory."""


class Pair:
    """Two models, whole and as heads of their own."""

    def __init__(self, directories: list[Path]) -> None:
        self.whole = [pretrained.load(directory) for directory in directories]
        self.heads = [Head(pretrained.load(directory)) for directory in directories]
        self.widths = [pretrained.describe(directory)["width"] for directory in directories]
        self.vocabulary = [pretrained.describe(directory)["vocabulary"] for directory in directories]

    def sides(self, text: reading.Reading, directory: Path) -> tuple[Side, Side]:
        """States of both models on disk, from their forward passes."""
        sides = []
        for number, (model, head) in enumerate(zip(self.whole, self.heads, strict=True)):
            path = directory / f"{number}.f32"
            states._write_states(model, text, path, tokens_per_pass(self.widths[number]))
            sides.append(Side(head, path, self.widths[number], self.vocabulary[number]))
        return sides[0], sides[1]

    @torch.inference_mode()
    def bare(self, text: reading.Reading) -> None:
        """Both models' logits of all that is read."""
        for model in self.whole:
            step = max(1, BATCH // int(text.length.max()))
            for start in range(0, len(text.which), step):
                ids = text.sequences.batch(text.which[start : start + step]).ids[:, : int(text.length.max())]
                model(input_ids=torch.from_numpy(ids), use_cache=False)


def seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def added_bytes(run: Callable[[], object]) -> int:
    """Largest anonymous resident memory of a run, looked at each millisecond, over what there was before it.

    Pages of the models' files are left out: they are touched anew wherever the kernel took them back.
    """
    ctypes.CDLL(None).malloc_trim(0)  # what earlier rounds left in the allocator would hide some of it
    before = _anonymous_bytes()
    seen, done = [before], threading.Event()

    def look() -> None:
        while not done.wait(0.001):
            seen.append(_anonymous_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    run()
    done.set()
    looking.join()
    return max(seen) - before


def _anonymous_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs=2, type=Path)
    parser.add_argument("tokens_path", type=Path)
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pair = Pair(options.models)
    text = reading.spread(Sequences.read(options.tokens_path), options.tokens)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        ratios = []
        for repeat in range(options.repeats + 1):
            ours = seconds(lambda: streaming.compare(pair.sides(text, directory), text, directory))
            peer = seconds(lambda: pair.bare(text))
            if repeat:
                ratios.append(peer / ours)
                print(f"comparison {text.length.sum() / ours:.0f} tokens/s, peer {text.length.sum() / peer:.0f}")
        print(f"comparison / two bare forward passes: {np.median(ratios):.2f}")
        block = 3 * 4 * streaming.block_of(min(pair.vocabulary)) * min(pair.vocabulary)
        for tokens in (options.tokens, 4 * options.tokens):
            longer = reading.spread(Sequences.read(options.tokens_path), tokens)
            for number, width in enumerate(pair.widths):
                np.zeros((len(longer), width), dtype=np.float32).tofile(directory / f"{number}.f32")
            sides = [
                Side(head, directory / f"{number}.f32", pair.widths[number], pair.vocabulary[number])
                for number, head in enumerate(pair.heads)
            ]
            added = added_bytes(
                lambda sides=sides, text=longer: streaming.compare((sides[0], sides[1]), text, directory)
            )
            print(f"{tokens} tokens: {added / 2**20:.0f} MiB added, {added / block:.2f} of three blocks")


if __name__ == "__main__":
    main()
