"""Paths of all files of a study. No other module, rule or script spells a path below the results directory.

    layout = Layout(study)
    layout.linear_map("tuned", "middle", "middle")          # results/pairs/tuned/middle--middle/linear_map.h5
    layout.linear_map("{pair}", "{site_a}", "{site_b}")     # the same with a rule's wildcards: its output
    layout.shards_of("text", "base", "middle")              # the activation shards that hold a site

Functions take aliases of the config (or wildcards that stand for them); those that end in `_of` look up in the study
the tokenizer, site group or number of shards that belongs to an alias.
"""

from dataclasses import dataclass
from pathlib import Path

from diptych.config.study import Study
from diptych.report import addresses

PAGE_TEMPLATES = Path(__file__).parents[2] / "report"
"""Directory of the page's template, style and script."""
CODE_CACHE = Path(".snakemake") / "diptych" / "code.json"
"""Code hashes from one run of Snakemake to the next."""
RUN_ID = Path(".snakemake") / "diptych" / "id"
"""The id of a working directory's record of runs."""
IMAGES = ("png", "svg")
"""Formats of the images."""


def page_templates() -> tuple[Path, ...]:
    """The files in `PAGE_TEMPLATES` that a page is made of; captions of Snakemake's report lie beside them."""
    return tuple(sorted(path for path in PAGE_TEMPLATES.iterdir() if path.suffix != ".rst"))


@dataclass(frozen=True)
class Layout:
    """Paths of one study's files."""

    study: Study

    @property
    def results(self) -> Path:
        """The directory that everything is written to."""
        return Path(self.study.results)

    def relative(self, path: Path) -> str:
        """A path relative to the results directory, as text: independent of where that directory is."""
        return str(path.relative_to(self.results))

    def wheels(self) -> Path:
        """Directory of the wheels that models and text are extracted from."""
        return self.results / "wheels"

    # --- models, text, dictionaries -------------------------------------------------------------------------

    def model(self, model: str) -> Path:
        """Manifest of a model's directory."""
        return self.results / "models" / model / "manifest.json"

    def adapter(self, model: str) -> Path:
        """Manifest of the directory of the adapter that a model of kind `adapter` is made with."""
        return self.results / "adapters" / model / "manifest.json"

    def truth(self, model: str) -> Path:
        """The planted direction of a model of kind `plant`."""
        return self.results / "models" / model / "truth.h5"

    def corpus(self, corpus: str) -> Path:
        """Manifest of a corpus' directory."""
        return self.results / "corpora" / corpus / "manifest.json"

    def dictionary(self, dictionary: str) -> Path:
        """Manifest of a dictionary's directory."""
        return self.results / "dictionaries" / dictionary / "manifest.json"

    def tokens(self, corpus: str, tokenizer: str) -> Path:
        """A corpus in a tokenizer's tokens."""
        return self.results / "tokens" / corpus / f"{tokenizer}.h5"

    def tokens_of(self, corpus: str, model: str) -> Path:
        """A corpus in the tokens that a model reads."""
        return self.tokens(corpus, self.study.tokenizer(model))

    def alignment(self, corpus: str, tokenizer_a: str, tokenizer_b: str) -> Path:
        """Alignment of two tokenizers' tokens of a corpus, by where they end."""
        return self.results / "alignments" / corpus / f"{tokenizer_a}--{tokenizer_b}.h5"

    def alignment_of(self, corpus: str, a: str, b: str) -> Path | None:
        """The alignment of two models' tokens; None where they share a tokenizer."""
        tokenizers = self.study.tokenizer(a), self.study.tokenizer(b)
        return None if tokenizers[0] == tokenizers[1] else self.alignment(corpus, *tokenizers)

    # --- rows -----------------------------------------------------------------------------------------------

    def activations(self, corpus: str, model: str, group: str, shard: int | str) -> Path:
        """One shard of a model's rows at the sites of a group."""
        return self.results / "activations" / corpus / model / group / f"{shard}.h5"

    def gates(self, corpus: str, model: str, group: str) -> Path:
        """Masks of the rows of a model that count, at the sites of a group."""
        return self.results / "activations" / corpus / model / group / "gates.h5"

    def shards_of(self, corpus: str, model: str, site: str) -> list[Path]:
        """All shards of a model's rows that hold a site."""
        group = self.study.group(site)
        return [self.activations(corpus, model, group, shard) for shard in self.study.shards]

    def gates_of(self, corpus: str, model: str, site: str) -> Path:
        """The gates that hold a site."""
        return self.gates(corpus, model, self.study.group(site))

    def features(self, corpus: str, model: str, dictionary: str, shard: int | str) -> Path:
        """One shard of a model's rows in a dictionary's features."""
        return self.results / "features" / corpus / model / dictionary / f"{shard}.h5"

    def features_of(self, corpus: str, model: str, dictionary: str) -> list[Path]:
        """All shards of a model's rows in a dictionary's features."""
        return [self.features(corpus, model, dictionary, shard) for shard in self.study.shards]

    # --- comparisons ----------------------------------------------------------------------------------------

    def _cell(self, pair: str, site_a: str, site_b: str, name: str) -> Path:
        return self.results / "pairs" / pair / f"{site_a}--{site_b}" / name

    def outputs(self, pair: str) -> Path:
        """What the models of a pair say differently."""
        return self.results / "pairs" / pair / "outputs.h5"

    def outputs_table(self, pair: str) -> Path:
        """The tokens that one model of a pair says more often as a table."""
        return self.results / "pairs" / pair / "outputs.tsv"

    def weight_changes(self, pair: str) -> Path:
        """What changed between the weights of a pair's models."""
        return self.results / "pairs" / pair / "weights.h5"

    def weight_changes_table(self, pair: str) -> Path:
        """The change of every tensor as a table."""
        return self.results / "pairs" / pair / "weights.tsv"

    def means(self, pair: str, site_a: str, site_b: str) -> Path:
        """The mean differences of a pair."""
        return self._cell(pair, site_a, site_b, "means.h5")

    def linear_map(self, pair: str, site_a: str, site_b: str) -> Path:
        """The maps between the two models of a pair."""
        return self._cell(pair, site_a, site_b, "linear_map.h5")

    def ladder(self, pair: str, site_a: str, site_b: str) -> Path:
        """The ladder of maps as a table."""
        return self._cell(pair, site_a, site_b, "ladder.tsv")

    def correlation(self, pair: str, site_a: str, site_b: str) -> Path:
        """The correlations of a pair's features."""
        return self._cell(pair, site_a, site_b, "correlation.h5")

    def pairing(self, pair: str, site_a: str, site_b: str) -> Path:
        """The matches of a pair's features."""
        return self._cell(pair, site_a, site_b, "pairing.h5")

    def matches(self, pair: str, site_a: str, site_b: str) -> Path:
        """The matched features as a table."""
        return self._cell(pair, site_a, site_b, "matches.tsv")

    def unmatched(self, pair: str, site_a: str, site_b: str) -> Path:
        """The unmatched features as a table."""
        return self._cell(pair, site_a, site_b, "unmatched.tsv")

    def similarity(self, pair: str, site_a: str, site_b: str) -> Path:
        """Similarity scores of a pair's feature spaces."""
        return self._cell(pair, site_a, site_b, "similarity.h5")

    def lan2024(self, pair: str, site_a: str, site_b: str) -> Path:
        """The comparison of Lan et al. (2024), reproduced on a pair's features."""
        return self._cell(pair, site_a, site_b, "lan2024.h5")

    def steering(self, pair: str, site_a: str, site_b: str) -> Path:
        """Continuations and effects of the steered models of a pair."""
        return self._cell(pair, site_a, site_b, "steering.h5")

    def steering_table(self, pair: str, site_a: str, site_b: str) -> Path:
        """The effects of steering as a table."""
        return self._cell(pair, site_a, site_b, "steering.tsv")

    def crosscoder(self, crosscoder: str, site: str, seed: int | str, name: str) -> Path:
        """A file of one run of a crosscoder."""
        return self.results / "crosscoders" / crosscoder / site / f"seed-{seed}" / name

    def weights(self, crosscoder: str, site: str, seed: int | str) -> Path:
        """The weights of one run of a crosscoder."""
        return self.crosscoder(crosscoder, site, seed, "weights.h5")

    def evaluation(self, crosscoder: str, site: str, seed: int | str) -> Path:
        """Evaluation of one run of a crosscoder on held-out rows."""
        return self.crosscoder(crosscoder, site, seed, "evaluation.h5")

    def latents(self, crosscoder: str, site: str, seed: int | str) -> Path:
        """Descriptions of the latents of one run of a crosscoder."""
        return self.crosscoder(crosscoder, site, seed, "latents.h5")

    def export(self, crosscoder: str, site: str, seed: int | str) -> list[Path]:
        """Exported files of one run of a crosscoder, the manifest first."""
        names = ("manifest.json", "model.safetensors", "config.json")
        return [self.crosscoder(crosscoder, site, seed, f"export/{name}") for name in names]

    def seeds(self, crosscoder: str, site: str) -> Path:
        """Recovery of a crosscoder's latents across its training seeds."""
        return self.results / "crosscoders" / crosscoder / site / "seeds.h5"

    def _template_diff(self, template_diff: str, name: str) -> Path:
        return self.results / "template_diffs" / template_diff / name

    def template_diff(self, template_diff: str) -> Path:
        """The statistics of a template diff."""
        return self._template_diff(template_diff, "template_diff.h5")

    def template_gains(self, template_diff: str) -> Path:
        """The ranked gains and losses of a template diff as text."""
        return self._template_diff(template_diff, "gains.csv")

    def template_targets(self, template_diff: str) -> Path:
        """The features of a template diff's target prompts as text."""
        return self._template_diff(template_diff, "targets.csv")

    def template_figures(self, template_diff: str) -> Path:
        """The interactive figures of a template diff."""
        return self._template_diff(template_diff, "figures.html")

    def template_scatter(self, template_diff: str) -> list[Path]:
        """The scatter plot of a template diff as images."""
        return [self._template_diff(template_diff, f"scatter.{suffix}") for suffix in IMAGES]

    def template_volcano(self, template_diff: str) -> list[Path]:
        """The volcano plot of a template diff as images."""
        return [self._template_diff(template_diff, f"volcano.{suffix}") for suffix in IMAGES]

    def pictures(self) -> list[Path]:
        """The figures and images of all template diffs."""
        figures = (self.template_figures, self.template_scatter, self.template_volcano)
        files = [figure(alias) for alias in self.study.reported_diffs for figure in figures]
        return [path for paths in files for path in (paths if isinstance(paths, list) else [paths])]

    # --- over all pairs -------------------------------------------------------------------------------------

    def findings(self) -> Path:
        """The findings of the study, with controls and conclusions."""
        return self.results / "findings.h5"

    def findings_table(self) -> Path:
        """The findings as text."""
        return self.results / "findings.tsv"

    def known_edits(self) -> Path:
        """What every method finds where the difference is known, as text."""
        return self.results / "known_edits.tsv"

    def similarity_scores(self) -> Path:
        """Similarity scores of all pairs and sites, with q."""
        return self.results / "similarity.h5"

    def similarity_table(self) -> Path:
        """The similarity scores of all pairs as text."""
        return self.results / "similarity.tsv"

    def relations(self) -> Path:
        """What the models of each relation share at every depth, and how students of different losses differ."""
        return self.results / "relations.h5"

    def relations_table(self) -> Path:
        """The relations by depth as text."""
        return self.results / "relations.csv"

    def feature_maps(self) -> Path:
        """UMAP coordinates of the paired features of all pairs."""
        return self.results / "maps.h5"

    def leaderboard_scores(self, method: str, case: str) -> Path:
        """Scores of one method on one case of the leaderboard."""
        return self.results / "leaderboard" / "scores" / method / f"{case}.h5"

    def leaderboard_cost(self, method: str, case: str) -> Path:
        """Seconds and memory that a method took on a case."""
        return self.results / "benchmarks" / "score_method" / method / f"{case}.cost.json"

    def leaderboard(self) -> Path:
        """The scores of all methods over all seeds."""
        return self.results / "leaderboard" / "leaderboard.h5"

    def leaderboard_table(self) -> Path:
        """The leaderboard as text, with seconds and memory."""
        return self.results / "leaderboard" / "leaderboard.tsv"

    def leaderboard_page(self) -> Path:
        """The leaderboard's page."""
        return self.results / "leaderboard" / "index.html"

    def report(self) -> Path:
        """The index of the report."""
        return self.results / "report" / addresses.INDEX

    def report_pages(self) -> list[Path]:
        """What lies beside the index: a page for each pair, and the plotting library."""
        pairs = sorted({*self.study.whole_pairs, *self.study.compared_pairs})
        names = [*map(addresses.page_of, pairs), addresses.PLOTLY]
        return [self.report().parent / name for name in names]

    def report_file(self) -> Path:
        """All pages of the report in one file."""
        return self.results / "report.html"

    def costs(self) -> Path:
        """The page of what every stage took."""
        return self.results / "benchmarks" / addresses.INDEX

    def log(self, rule: str, stem: str) -> Path:
        """The log of a job."""
        return self.results / "logs" / rule / f"{stem}.log"

    def benchmark(self, rule: str, stem: str) -> Path:
        """Snakemake's benchmark of a job: seconds and memory; beside it lies the process's own `runtime.accounting`."""
        return self.results / "benchmarks" / rule / f"{stem}.jsonl"

    def throughput(self, crosscoder: str, site: str, seed: int | str) -> Path:
        """Rows per second and peak memory of one training run of a crosscoder."""
        return self.results / "benchmarks" / "train_crosscoder" / crosscoder / site / f"seed-{seed}.throughput.json"
