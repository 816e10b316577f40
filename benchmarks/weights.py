"""MB/s of comparing the weights of two models, against reading both files once in the same run.

    OMP_NUM_THREADS=1 python benchmarks/weights.py                   # 30 blocks of SmolLM2-135M's shapes
    OMP_NUM_THREADS=1 python benchmarks/weights.py --blocks 4        # a quick look

B is A with every weight moved, or A itself. The norms alone, and the singular values of all matrices, are timed apart;
what the files weigh is what is read, both together.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from diptych.models.stored_tensors import StoredTensors
from diptych.weights.comparison import Comparison


def write(directory: Path, blocks: int, dtype: torch.dtype, shift: float) -> Path:
    directory.mkdir()
    LlamaConfig(hidden_size=576, num_hidden_layers=blocks).save_pretrained(directory)
    shapes = {
        "self_attn.q_proj": (576, 576), "self_attn.k_proj": (192, 576), "self_attn.v_proj": (192, 576),
        "self_attn.o_proj": (576, 576), "mlp.gate_proj": (1536, 576), "mlp.up_proj": (1536, 576),
        "mlp.down_proj": (576, 1536),
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    named = {f"model.layers.{i}.{name}.weight": shape for i in range(blocks) for name, shape in shapes.items()}
    tensors = {}
    for name, shape in {"model.embed_tokens.weight": (49152, 576), **named}.items():
        weight, change = (torch.randn(shape, generator=generator) for _ in range(2))
        tensors[name] = (weight + shift * change).to(dtype)
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    return directory


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    start, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - processor


def read(a: Path, b: Path) -> None:
    """Both files into memory, one after the other."""
    for directory in (a, b):
        (directory / "model.safetensors").read_bytes()


def compare(a: Path, b: Path, max_side: int) -> None:
    list(Comparison(StoredTensors(a), StoredTensors(b)).changes(max_side))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            a = write(Path(place) / f"a-{name}", arguments.blocks, dtype, 0.0)
            b = write(Path(place) / f"b-{name}", arguments.blocks, dtype, 0.05)
            megabytes = sum((x / "model.safetensors").stat().st_size for x in (a, b)) / 1e6
            works = {
                "read": lambda a=a, b=b: read(a, b),
                "equal": lambda a=a: compare(a, a, 0),
                "norms": lambda a=a, b=b: compare(a, b, 0),
            }
            times = {work: [seconds(works[work])[1] for _ in range(arguments.rounds)] for work in works}
            rate = {work: megabytes / statistics.median(of_work) for work, of_work in times.items()}
            full = seconds(lambda a=a, b=b: compare(a, b, 8192))[1]
            result = {
                "dtype": name,
                "megabytes": round(megabytes),
                "megabytes_per_processor_second": {work: round(value) for work, value in rate.items()},
                "norms_over_read": round(rate["norms"] / rate["read"], 2),
                "equal_over_read": round(rate["equal"] / rate["read"], 2),
                "singular_values_processor_seconds": round(full - statistics.median(times["norms"]), 2),
            }
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
