"""Memory that a job takes before it holds data: Python, Snakemake's preamble, and the modules of its script.

baseline("dump_activations")        # 4.3e8 bytes

Measured as the peak resident memory (`process.json`) of the jobs of the test study, whose models have two blocks of
width 32, each in a process of its own with one thread (Linux, Python 3.11, torch 2.13 without CUDA): a job
there holds next to no data. `map_spaces`, which the test study leaves out, is that of the default study. The libraries
of CUDA add to the host's memory what is not in them.
"""

from collections.abc import Mapping

PLAIN = 1.85e8
"""Bytes of a job without torch."""
BASELINES: Mapping[str, float] = {
    "fetch_model": 4.15e8,
    "derive_model": 4.4e8,
    "fetch_dictionary": 2.5e8,
    "dump_activations": 4.3e8,
    "train_dictionary": 3.5e8,
    "encode_features": 2.8e8,
    "compare_outputs": 4.5e8,
    "compare_weights": 4.2e8,
    "compare_means": 4.2e8,
    "fit_linear_map": 2.8e8,
    "reproduce_lan2024": 4.5e8,
    "steer_features": 4.5e8,
    "train_crosscoder": 3.5e8,
    "evaluate_crosscoder": 4.3e8,
    "describe_latents": 3.05e8,
    "compare_seeds": 3.0e8,
    "diff_template_tokens": 3.3e8,
    "map_spaces": 4.4e8,
    "collect_findings": 2.3e8,
}
"""Bytes of the others."""


def baseline(rule: str) -> float:
    """Bytes of a job of a rule on next to no data."""
    return BASELINES.get(rule, PLAIN)
