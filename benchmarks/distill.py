"""Seconds and peak memory of a Jacobian step of a distillation, relative to a KL step.

    python benchmarks/distill.py [--sequences 4] [--tokens 64] [--micro-batch 4] [--repeats 5] [--device cuda:0]

Teacher: random weights in the shape of SmolLM2-135M (time and memory do not depend on the values); student: every third
of its blocks; float32. A step is everything from the token ids to the updated weights. All losses take turns in one
process, so that a busy machine slows all alike; each ratio is the median over the rounds of the ratio to KL in the same
round. Memory is measured in a process for each: what a run of two steps holds at most, less the loaded models.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.derive.distill import Distillation, Distiller
from diptych.derive.losses import Loss
from diptych.models.batches import Sequences

LOSSES = {
    "KL": Loss(kl=1.0),
    "Jacobian, token probe": Loss(jacobian=1.0),
    "Jacobian, unit vector": Loss(jacobian=1.0, probe="unit_vector"),
    "KL + Jacobian": Loss(kl=1.0, jacobian=1.0),
    "KL + Jacobian, 4 probes": Loss(kl=1.0, jacobian=1.0, probes=4),
}


def random_sequences(count: int, length: int, vocabulary: int) -> Sequences:
    numbers = np.arange(count)
    token = np.random.default_rng(0).integers(vocabulary, size=count * length)
    return Sequences(
        path="random", token=token, start=np.arange(count + 1) * length, counts=np.ones(len(token), bool),
        document=numbers, source=numbers * 0, fold=numbers, text_hash=numbers.astype(np.uint64), sources=("random",),
    )  # fmt: skip


def distiller(loss: Loss, options: argparse.Namespace) -> Distiller:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152, hidden_size=576, intermediate_size=1536, num_hidden_layers=options.layers,
        num_attention_heads=9, num_key_value_heads=3, tie_word_embeddings=True, rope_theta=100_000.0,
    )  # fmt: skip
    settings = Distillation(
        loss=loss, layers="every 3", steps=1, batch_sequences=options.sequences, micro_batch=options.micro_batch
    )
    teacher = LlamaForCausalLM(config).to(options.device).eval()
    return Distiller(teacher, settings, options.device)


def step(trained: Distiller, sequences: Sequences) -> float:
    """Seconds of one step."""
    start = time.perf_counter()
    trained.run(sequences)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak(options: argparse.Namespace) -> int:
    if options.device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory(name: str, options: argparse.Namespace, result: Any) -> None:
    """Put the peak memory of two steps, in bytes, less that of the loaded models, in a process of its own."""
    torch.set_num_threads(options.threads)
    trained = distiller(LOSSES[name], options)
    loaded = peak(options)
    for _ in range(2):
        step(trained, random_sequences(options.sequences, options.tokens, 49_152))
    result.put(peak(options) - loaded)


def peaks(options: argparse.Namespace) -> dict[str, int]:
    context = multiprocessing.get_context("spawn")
    found = {}
    for name in LOSSES:
        result = context.Queue()
        process = context.Process(target=memory, args=(name, options, result))
        process.start()
        found[name] = result.get()
        process.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--sequences", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    held = peaks(options)
    trained = {name: distiller(loss, options) for name, loss in LOSSES.items()}
    sequences = random_sequences(options.sequences, options.tokens, 49_152)
    rounds = [{name: step(of, sequences) for name, of in trained.items()} for _ in range(options.repeats + 1)][1:]
    print(f"{options.sequences} sequences of {options.tokens} tokens, micro-batches of {options.micro_batch}")
    for name in LOSSES:
        seconds = statistics.median(times[name] for times in rounds)
        ratio = statistics.median(times[name] / times["KL"] for times in rounds)
        print(
            f"{name:26s} {seconds:6.2f} s ({ratio:.2f} x KL)   {held[name] / 2**30:5.2f} GiB "
            f"({held[name] / held['KL']:.2f} x KL)"
        )


if __name__ == "__main__":
    main()
