"""A study at the widths of the literature, on this machine, beside its plan.

    python benchmarks/full_width.py            # two cores, 24 GB of memory, 45 GB of disk

Makes what a hub would bring, with random weights: a model shaped as Gemma-2-2B in bfloat16 (5.2 GB) and its edit, one
of width 4,096, and a dictionary of 131,072 features for either width (2.4 and 4.3 GB); prints the plan of
`full_width.yaml` and of the features at width 4,096; runs both; and prints for every rule what it took beside what was
planned: disk, and the largest memory of a job. Arguments go to Snakemake. Ends with 1 if the disk is off by more than
10 %, or the memory of a rule that takes a GB by more than 25 %.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "workflow"))

from diptych.config.layout import Layout
from diptych.planning import machines, text, write
from diptych.planning import plan as plans
from diptych.planning.plan import Plan
from diptych.planning.quantity import quantity
from diptych.report import costs

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "benchmarks" / "full_width.yaml"
SOURCES = ROOT / "results" / "full-width-sources"
GEMMA_2_2B = {
    "vocab_size": 256_000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256,
}  # fmt: skip
WIDE = {
    "vocab_size": 1024, "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 2,
    "num_attention_heads": 32, "num_key_value_heads": 8,
}  # fmt: skip
EDITED = "model.layers.11.mlp.down_proj.weight"
FEATURES, ACTIVE = 131_072, 64
DISK, MEMORY = 0.1, 0.25
"""Largest errors of the plan, as shares."""
LEAST_MEMORY = 1e9
"""Bytes of a job below which what modules take is most of it."""


def make_model(directory: Path, architecture: str, sizes: Mapping[str, int], dtype: str) -> None:
    """A model with random weights of spread width^-1/2 and the tokenizer of `kind: random`."""
    import torch
    from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

    from diptych.models import tiny

    directory.mkdir(parents=True)
    tiny.write(directory, architecture=architecture, layers=1, width=32, heads=4, vocabulary=400, seed=0)
    (directory / "model.safetensors").unlink()
    kind = {"gemma2": Gemma2Config, "llama": LlamaConfig}[architecture]
    config = kind(**sizes, initializer_range=sizes["hidden_size"] ** -0.5, bos_token_id=0, eos_token_id=0)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(directory)


def make_edit(model: Path, directory: Path) -> None:
    """A copy of a model that reads another direction in the MLP of one block before the compared site."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, directory)
    torch.manual_seed(1)
    for file in directory.glob("*.safetensors"):
        weights = load_file(file)
        if EDITED in weights:
            matrix = weights[EDITED]
            write, read = torch.randn(matrix.shape[0], 1), torch.randn(1, matrix.shape[1])
            weights[EDITED] = matrix + (0.1 * write @ read * matrix.std()).to(matrix.dtype)
            save_file(weights, file, metadata={"format": "pt"})


def make_dictionary(directory: Path, width: int, site: str) -> None:
    """A top-k dictionary of random unit decoder rows, which are its encoder's columns too."""
    import torch
    from safetensors.torch import save_file

    directory.mkdir(parents=True)
    torch.manual_seed(0)
    decoder = torch.nn.functional.normalize(torch.randn(FEATURES, width), dim=1)
    weights = {
        "W_enc": decoder.T.contiguous(), "b_enc": torch.zeros(FEATURES), "W_dec": decoder, "b_dec": torch.zeros(width),
    }  # fmt: skip
    save_file(weights, directory / "sae_weights.safetensors")
    config = {
        "architecture": "topk", "d_in": width, "d_sae": FEATURES, "k": ACTIVE, "dtype": "float32",
        "apply_b_dec_to_input": True, "normalize_activations": "none",
        "metadata": {"hook_name": site, "sae_lens_version": "6.0.0"},
    }  # fmt: skip
    (directory / "cfg.json").write_text(json.dumps(config))


def size(paths: Any) -> float:
    return float(sum(path.stat().st_size for path in paths if path.is_file()))


def make_sources() -> None:
    """The models and dictionaries that `full_width.yaml` names."""
    unfinished = SOURCES.with_name(SOURCES.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    make_model(unfinished / "gemma", "gemma2", GEMMA_2_2B, "bfloat16")
    make_edit(unfinished / "gemma", unfinished / "edited")
    make_model(unfinished / "wide", "llama", WIDE, "float32")
    for sizes, layer in ((GEMMA_2_2B, 12), (WIDE, 0)):
        width = sizes["hidden_size"]
        make_dictionary(unfinished / f"dictionary-{width}", width, f"blocks.{layer}.hook_resid_post")
    unfinished.rename(SOURCES)


def compare(plan: Plan, results: Path) -> list[str]:
    """Print what every rule took beside what was planned; the names of what is off."""
    kept = (path for path in results.rglob("*") if path.relative_to(results).parts[0] not in ("logs", "benchmarks"))
    taken = size(kept)
    wrong = [] if abs(plan.disk / taken - 1) <= DISK else ["disk"]
    print(f"\ndisk: planned {quantity(plan.disk, 'B')}, taken {quantity(taken, 'B')}")
    print(f"{'rule':24}{'jobs':>5}{'minutes':>9}{'memory':>11}{'planned':>11}{'ratio':>7}")
    stages = {stage.rule: stage for stage in plan.stages}
    for cost in costs.read(results / "benchmarks"):
        stage, memory = stages[cost.rule], 2**20 * cost.peak_memory_mb
        planned = stage.host_memory.size + stage.pages
        columns = (
            f"{cost.rule:24}{cost.jobs:>5}{cost.s / 60:>9.1f}{quantity(memory, 'B'):>11}{quantity(planned, 'B'):>11}"
        )
        print(f"{columns}{planned / memory:>7.2f}")
        if memory >= LEAST_MEMORY and abs(planned / memory - 1) > MEMORY:
            wrong.append(f"memory of {cost.rule}")
    return wrong


def main() -> int:
    os.chdir(ROOT)
    if not SOURCES.is_dir():
        make_sources()
    study = write.read([str(CONFIG)])
    layout = Layout(study)
    at_4096 = layout.features("text", "wide", "wide_sae", 0)
    plan = plans.make(study, machines.named("cpu"), [at_4096])
    print(text.render(plan), flush=True)
    command = ["snakemake", "--configfile", str(CONFIG), "--cores", "all", *sys.argv[1:]]
    subprocess.run([*command, "--", "all", str(at_4096)], check=True)
    wrong = compare(plan, layout.results)
    if wrong:
        print("the plan is off: " + ", ".join(wrong))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
