"""Seconds and peak memory of a Jacobian step of a distillation, relative to a KL step.

    python benchmarks/distill.py [--sequences 2] [--tokens 64] [--micro-batch 2] [--steps 2] [--device cuda:0]

Teacher: random weights in the shape of SmolLM2-135M (time and memory do not depend on the values); student: every third
of its blocks; float32. A step is everything from the token ids to the updated weights, after one to warm up. Each loss
has a process of its own, as peak memory is a process's: what its steps hold at most, less the loaded models. On a CPU
the seconds are processor seconds, which a busy machine changes little.
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


def step(trained: Distiller, sequences: Sequences, device: str) -> float:
    """Seconds of one step."""
    clock = time.perf_counter if device.startswith("cuda") else time.process_time
    start = clock()
    trained.run(sequences)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return clock() - start


def peak(device: str) -> int:
    """The most memory that this process has held so far, in bytes."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(name: str, options: argparse.Namespace, result: Any) -> None:
    """Put the median seconds of a step, and what the steps hold in bytes at most, less the loaded models."""
    torch.set_num_threads(options.threads)
    trained = distiller(LOSSES[name], options)
    loaded = peak(options.device)
    sequences = random_sequences(options.sequences, options.tokens, 49_152)
    seconds = [step(trained, sequences, options.device) for _ in range(options.steps + 1)][1:]
    result.put((statistics.median(seconds), peak(options.device) - loaded))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print(f"{options.sequences} sequences of {options.tokens} tokens, micro-batches of {options.micro_batch}")
    context = multiprocessing.get_context("spawn")
    measured: dict[str, tuple[float, int]] = {}
    for name in LOSSES:
        result = context.Queue()
        process = context.Process(target=measure, args=(name, options, result))
        process.start()
        measured[name] = result.get()
        process.join()
        (seconds, held), (kl_seconds, kl_held) = measured[name], measured["KL"]
        print(
            f"{name:26s} {seconds:6.2f} s ({seconds / kl_seconds:.2f} x KL)   {held / 2**30:5.2f} GiB "
            f"({held / kl_held:.2f} x KL)",
            flush=True,
        )


if __name__ == "__main__":
    main()
