"""The cost of every rule's job, by the name of the rule.

COSTS["train_crosscoder"](sizes, crosscoder="tuned", site="middle", seed="0").memory
"""

from collections.abc import Callable, Mapping

from diptych.planning.cost import Cost
from diptych.planning.stages import collected, crosscoders, leaderboard, pairs, rows, sources

_FUNCTIONS: tuple[Callable[..., Cost], ...] = (
    sources.fetch_model,
    sources.derive_model,
    sources.fetch_adapter,
    sources.fetch_corpus,
    sources.prepare_tokens,
    sources.align_tokens,
    rows.dump_activations,
    rows.gate_activations,
    rows.fetch_dictionary,
    rows.train_dictionary,
    rows.encode_features,
    pairs.compare_outputs,
    pairs.compare_weights,
    pairs.compare_means,
    pairs.fit_linear_map,
    pairs.correlate_features,
    pairs.pair_features,
    pairs.compare_spaces,
    pairs.reproduce_lan2024,
    pairs.steer_features,
    crosscoders.train_crosscoder,
    crosscoders.import_crosscoder,
    crosscoders.evaluate_crosscoder,
    crosscoders.describe_latents,
    crosscoders.compare_seeds,
    collected.diff_template_tokens,
    collected.draw_template_diff,
    collected.collect_similarity,
    collected.map_spaces,
    collected.collect_relations,
    collected.collect_findings,
    collected.build_report,
    leaderboard.score_method,
    leaderboard.collect_leaderboard,
)

COSTS: Mapping[str, Callable[..., Cost]] = {function.__name__: function for function in _FUNCTIONS}
"""Functions of a study's `Sizes` and a job's wildcards; in the order of the stages."""
