"""All jobs of a study before any has run: from the page back through what every job reads.

for job in graph.jobs(study):
    job.rule, job.wildcards        # "dump_activations", {"corpus": "text", "model": "base", ...}

Snakemake finds the same jobs from the rules; a test holds the two lists equal.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from diptych.config.jobs import Jobs
from diptych.config.layout import Layout
from diptych.config.study import Study

OUTPUTS: Mapping[str, Callable[..., Path]] = {
    "fetch_model": Layout.model,
    "derive_model": Layout.model,
    "fetch_adapter": Layout.adapter,
    "fetch_corpus": Layout.corpus,
    "prepare_tokens": Layout.tokens,
    "align_tokens": Layout.alignment,
    "dump_activations": Layout.activations,
    "gate_activations": Layout.gates,
    "fetch_dictionary": Layout.dictionary,
    "train_dictionary": Layout.dictionary,
    "encode_features": Layout.features,
    "compare_outputs": Layout.outputs,
    "compare_weights": Layout.weight_changes,
    "compare_means": Layout.means,
    "fit_linear_map": Layout.linear_map,
    "correlate_features": Layout.correlation,
    "pair_features": Layout.pairing,
    "compare_spaces": Layout.similarity,
    "reproduce_lan2024": Layout.lan2024,
    "steer_features": Layout.steering,
    "train_crosscoder": Layout.weights,
    "import_crosscoder": Layout.weights,
    "evaluate_crosscoder": Layout.evaluation,
    "describe_latents": Layout.latents,
    "compare_seeds": Layout.seeds,
    "diff_template_tokens": Layout.template_diff,
    "draw_template_diff": Layout.template_figures,
    "collect_similarity": Layout.similarity_scores,
    "map_spaces": Layout.feature_maps,
    "collect_relations": Layout.relations,
    "collect_findings": Layout.findings,
    "build_report": Layout.report,
    "score_method": Layout.leaderboard_scores,
    "collect_leaderboard": Layout.leaderboard,
}
"""The output of every rule that others read, in the order of a study's stages."""


class PlannedJob(NamedTuple):
    """A rule and the wildcards of one of its jobs."""

    rule: str
    wildcards: Mapping[str, str]


@dataclass(frozen=True)
class _Finder:
    """Finds the job that makes a file."""

    study: Study

    @cached_property
    def patterns(self) -> dict[str, re.Pattern[str]]:
        """The path of each rule's output as a pattern."""
        layout = Layout(self.study)
        return {rule: _pattern(output(layout, *_placeholders(rule))) for rule, output in OUTPUTS.items()}

    def job(self, path: Path) -> PlannedJob | None:
        """The job that makes a file; None for a file of the user's."""
        for rule, pattern in self.patterns.items():
            match = pattern.fullmatch(str(path))
            if match and self._applies(rule, match.groupdict()):
                return PlannedJob(rule, match.groupdict())
        return None

    def _applies(self, rule: str, names: Mapping[str, Any]) -> bool:
        """Of two rules with one output, whether this one makes it: as the rules' wildcard constraints say."""
        study = self.study
        match rule:
            case "fetch_model" | "derive_model":
                return study.is_derived(names["model"]) == (rule == "derive_model")
            case "fetch_dictionary" | "train_dictionary":
                return (study.dictionaries[names["dictionary"]].kind == "trained") == (rule == "train_dictionary")
            case "import_crosscoder" | "train_crosscoder":
                return bool(study.crosscoders[names["crosscoder"]].weights) == (rule == "import_crosscoder")
        return True


def _placeholders(rule: str) -> list[str]:
    """A group for each wildcard of a rule, in the order of its function in `Jobs`."""
    return [f"{{{name}}}" for name in list(inspect.signature(getattr(Jobs, rule)).parameters)[1:]]


def _pattern(path: Path) -> re.Pattern[str]:
    """A pattern of a path with {wildcards}: digits for shard and seed, elsewhere no slash and no two hyphens."""
    numbered = re.sub(r"\\{(shard|seed)\\}", r"(?P<\1>\\d+)", re.escape(str(path)))
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>(?:(?!--)[^/])+)", numbered))


def jobs(study: Study, files: Sequence[Path] = ()) -> list[PlannedJob]:
    """The jobs of a study's page, findings and pictures, and of other files: what a job reads comes before it."""
    finder, all_jobs = _Finder(study), Jobs(study)
    ordered: dict[tuple[str, ...], PlannedJob] = {}

    def visit(job: PlannedJob) -> None:
        key = (job.rule, *job.wildcards.values())
        if key in ordered:
            return
        for path in _files(all_jobs.job(job.rule, job.wildcards).inputs):
            if (maker := finder.job(path)) is not None:
                visit(maker)
        ordered[key] = job

    targets = [PlannedJob("build_report", {}), PlannedJob("collect_findings", {})]
    targets += [PlannedJob("draw_template_diff", {"template_diff": alias}) for alias in study.reported_diffs]
    for target in [*targets, *filter(None, map(finder.job, files))]:
        visit(target)
    return list(ordered.values())


def _files(inputs: Mapping[str, Path | list[Path]]) -> Iterator[Path]:
    for files in inputs.values():
        yield from files if isinstance(files, list) else [files]
