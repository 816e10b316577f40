"""Jobs of all rules, one method per rule and named after it: input files and settings of the stage.

    job = Jobs(study).fit_linear_map(pair="tuned", site_a="middle", site_b="middle")
    job.inputs      # {"shards_a": [...], "gates_a": ..., ...}: the rule's input files, by name
    job.reads       # {"a": "base", "b": "tuned", "corpus": "text", ...}: the same by alias, for the spec
    job.settings    # {"alphas": [...], ...}: keyword arguments of the stage

A job depends on the study and the wildcards alone, except for the listed contents of a user's directories.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diptych import methods
from diptych.candidates import detection
from diptych.config import cells
from diptych.config.job import Inputs, Job, Reads, dump, dump_only, files_at
from diptych.config.layout import page_templates
from diptych.config.leaderboard_jobs import LeaderboardJobs
from diptych.config.sections.dictionaries import TrainedDictionary
from diptych.crosscoder.published.files import files_of
from diptych.models import sites
from diptych.text import word_lists


@dataclass(frozen=True)
class Jobs(LeaderboardJobs):
    """Jobs of a study; those that make models and text are `SourceJobs`, the leaderboard's `LeaderboardJobs`."""

    def job(self, rule: str, wildcards: Mapping[str, str]) -> Job:
        """The job of a rule with these wildcards."""
        job: Job = getattr(self, rule)(**wildcards)
        return job

    # --- rows and dictionaries ------------------------------------------------------------------------------

    def dump_activations(self, corpus: str, model: str, group: str, shard: str) -> Job:
        """Store one shard of a model's activations at the sites of a group."""
        study = self.study
        inputs: Inputs = {"model": self.layout.model(model), "tokens": self.layout.tokens_of(corpus, model)}
        settings = {
            "sites": list(study.sites_of(group)),
            "first": study.means.positions if study.has_first_rows(group) else None,
            "shard": int(shard),
            "shards": len(study.shards),
            "dtype": study.models[model].dtype,
            **dump(study.activations, exclude=("outlier_norm", "shards")),
        }
        reads = {"corpus": corpus, "model": model, "tokenizer": study.tokenizer(model)}
        return Job(inputs, reads, settings, gpus=study.gpus(model))

    def gate_activations(self, corpus: str, model: str, group: str) -> Job:
        """Mark the rows of a model that count."""
        inputs: Inputs = {
            "shards": [self.layout.activations(corpus, model, group, shard) for shard in self.study.shards],
            "tokens": self.layout.tokens_of(corpus, model),
        }
        settings = {"outlier_norm": self.study.activations.outlier_norm}
        return Job(inputs, {"corpus": corpus, "model": model}, settings)

    def train_dictionary(self, dictionary: str) -> Job:
        """Train a dictionary."""
        section = self.study.dictionaries[dictionary]
        assert isinstance(section, TrainedDictionary)
        reads = {"models": list(section.models), "corpus": section.corpus, "site": section.site}
        inputs = self._rows_of(section.models, section.corpus, section.site)
        settings = dump(section, exclude=("kind", "model", "seeds", "checkpoint_every", *reads))
        return Job(inputs, reads, {**settings, "seed": section.seeds[0]})

    def fetch_dictionary(self, dictionary: str) -> Job:
        """Fetch a dictionary."""
        section = self.study.dictionaries[dictionary]
        model = section.models[0]
        hub_id = getattr(self.study.models[self.study.lineage(model)[-1]], "id", None)
        settings = {
            "model_name": getattr(section, "trained_on", None) or hub_id,
            "source": dump(section, exclude=("model", "site", "trained_on")),
        }
        files = [file for file in files_at(getattr(section, "path", None)) if file.is_file()]
        inputs: Inputs = {"files": files, "model": self.layout.model(model)}
        return Job(inputs, {"model": model, "site": section.site}, settings)

    def encode_features(self, corpus: str, model: str, dictionary: str, shard: str) -> Job:
        """Encode one shard of a model's rows with a dictionary."""
        section = self.study.dictionaries[dictionary]
        inputs: Inputs = {
            **self._rows(corpus, model, section.site),
            "shards": self.layout.activations(corpus, model, self.study.group(section.site), shard),
            "dictionary": self.layout.dictionary(dictionary),
        }
        reads = {"corpus": corpus, "model": model, "site": section.site, "shard": shard}
        return Job(inputs, reads, {"own": model in section.models})

    def _rows(self, corpus: str, model: str, site: str, suffix: str = "") -> Inputs:
        """A model's rows at a site with their gates and tokens, each name with a suffix."""
        return {
            f"shards{suffix}": self.layout.shards_of(corpus, model, site),
            f"gates{suffix}": self.layout.gates_of(corpus, model, site),
            f"tokens{suffix}": self.layout.tokens_of(corpus, model),
        }

    # --- pairs ----------------------------------------------------------------------------------------------

    def compare_outputs(self, pair: str) -> Job:
        """Compare the next tokens that the models of a pair predict."""
        study, section, layout = self.study, self.study.pairs[pair], self.layout
        inputs: Inputs = {"alignment": layout.alignment_of(section.corpus, section.a, section.b) or []}
        reads: Reads = dump_only(section, ("a", "b", "corpus"))
        for side, model in (("a", section.a), ("b", section.b)):
            inputs[f"model_{side}"] = layout.model(model)
            inputs[f"tokens_{side}"] = layout.tokens_of(section.corpus, model)
            reads[f"dtype_{side}"] = study.models[model].dtype
        if (prompts := study.prompts(pair)) is not None:
            reads["prompts"] = prompts
            inputs["prompts"] = layout.tokens_of(prompts, section.a)
        return Job(inputs, reads, dump(study.outputs), gpus=study.gpus(section.a, section.b))

    def compare_weights(self, pair: str) -> Job:
        """Compare the weights of a pair's models."""
        section = self.study.pairs[pair]
        inputs: Inputs = {"model_a": self.layout.model(section.a), "model_b": self.layout.model(section.b)}
        return Job(inputs, dump_only(section, ("a", "b")), dump(self.study.weights))

    def compare_means(self, pair: str, site_a: str, site_b: str) -> Job:
        """Compare the means of a pair's activations at a site."""
        study, section, layout = self.study, self.study.pairs[pair], self.layout
        inputs: Inputs = {
            **self._rows(section.corpus, section.a, site_a, "_a"),
            **self._rows(section.corpus, section.b, site_b, "_b"),
            "alignment": layout.alignment_of(section.corpus, section.a, section.b) or [],
        }
        if sites.can_be_steered(site_a):
            inputs |= {"model_a": layout.model(section.a), "model_b": layout.model(section.b)}
        tuned_on = study.tuned_on(section.b)
        if tuned_on and tuned_on != section.corpus:
            inputs["own_tokens"] = layout.tokens_of(tuned_on, section.b)
        reads = {**dump_only(section, ("a", "b", "corpus", "rows")), "site": site_a, "tuned_on": tuned_on}
        return Job(inputs, reads, dump(study.means))

    def fit_linear_map(self, pair: str, site_a: str, site_b: str) -> Job:
        """Fit the maps between the activation spaces of a pair."""
        section = self.study.pairs[pair]
        inputs: Inputs = {
            **self._rows(section.corpus, section.a, site_a, "_a"),
            **self._rows(section.corpus, section.b, site_b, "_b"),
            "alignment": self.layout.alignment_of(section.corpus, section.a, section.b) or [],
        }
        return Job(inputs, self._pair_reads(pair, site_a, site_b), dump(self.study.linear_map))

    def correlate_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """Correlate a pair's features."""
        inputs = self._features(pair, site_a, site_b)
        return Job(inputs, self._cell_reads(pair, site_a, site_b), dump(self.study.correlation, exclude=("memory",)))

    def pair_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """Pair the features of A with those of B."""
        section, layout = self.study.pairs[pair], self.layout
        inputs: Inputs = {
            **self._features(pair, site_a, site_b),
            **self._dictionaries(pair, site_a, site_b),
            "tokens_b": layout.tokens_of(section.corpus, section.b),
            "correlation": layout.correlation(pair, site_a, site_b),
            "linear_map": layout.linear_map(self.study.first_run(pair), site_a, site_b),
        }
        if site_a == site_b:
            dictionary_a, dictionary_b = self.study.dictionaries_at(pair, site_a, site_b)
            inputs["features_a_on_b"] = layout.features_of(section.corpus, section.b, dictionary_a)
            inputs["features_b_on_a"] = layout.features_of(section.corpus, section.a, dictionary_b)
        return Job(inputs, self._cell_reads(pair, site_a, site_b), dump(self.study.pairing_of(pair)))

    def compare_spaces(self, pair: str, site_a: str, site_b: str) -> Job:
        """Score the similarity of a pair's feature spaces."""
        section, layout = self.study.pairs[pair], self.layout
        inputs: Inputs = {
            **self._features(pair, site_a, site_b),
            **self._dictionaries(pair, site_a, site_b),
            "correlation": layout.correlation(pair, site_a, site_b),
            "pairing": layout.pairing(pair, site_a, site_b),
            "linear_map": layout.linear_map(pair, site_a, site_b),
        }
        reads = self._cell_reads(pair, site_a, site_b)
        if self.study.similarity.neurons:
            for side, model, site in (("a", section.a, site_a), ("b", section.b, site_b)):
                neuron_site = reads[f"neurons_{side}"] = sites.neurons_of(site)
                assert neuron_site is not None
                rows = self._rows(section.corpus, model, neuron_site)
                inputs[f"model_{side}"] = layout.model(model)
                inputs[f"tokens_{side}"] = rows.pop("tokens")
                inputs |= {f"neuron_{name}_{side}": files for name, files in rows.items()}
        settings = dump(self.study.similarity, exclude=("map", "map_neighbours", "map_points", "neurons"))
        word_list_files = tuple(word_lists.path_of(name) for name in self.study.similarity.word_lists)
        return Job(inputs, reads, settings, files=word_list_files)

    def reproduce_lan2024(self, pair: str, site_a: str, site_b: str) -> Job:
        """Run the comparison of feature spaces of Lan et al. (2024)."""
        section = self.study.pairs[pair]
        inputs: Inputs = {
            "model_a": self.layout.model(section.a),
            "model_b": self.layout.model(section.b),
            **self._dictionaries(pair, site_a, site_b),
            "tokens": self.layout.tokens_of(section.corpus, section.a),
        }
        settings = dump_only(self.study.similarity, ("repairings", "rsa_rows", "seed"))
        gpus = self.study.gpus(section.a, section.b)
        return Job(inputs, self._cell_reads(pair, site_a, site_b), settings, gpus=gpus)

    def steer_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """Steer both models of a pair along its candidates."""
        study, section, layout = self.study, self.study.pairs[pair], self.layout
        cell = (pair, site_a, site_b)
        runs = cells.steered_runs(layout, *cell)
        inputs: Inputs = {"linear_map": layout.linear_map(*cell), "means": layout.means(*cell)}
        inputs |= {"runs": self._inputs_of(runs)["files"], **cells.shards_of_repeats(layout, *cell)}
        for side, model, site in (("a", section.a, site_a), ("b", section.b, site_b)):
            inputs[f"model_{side}"] = layout.model(model)
            inputs[f"gates_{side}"] = layout.gates_of(section.corpus, model, site)
            inputs[f"tokens_{side}"] = layout.tokens_of(section.corpus, model)
        if study.has_features(pair, site_a, site_b):
            features = self._features(pair, site_a, site_b)
            inputs |= {name: features[name] for name in ("features_a", "features_b")}
            inputs |= self._dictionaries(pair, site_a, site_b)
            inputs["pairing"] = layout.pairing(pair, site_a, site_b)
        dtypes = {"dtype_a": study.models[section.a].dtype, "dtype_b": study.models[section.b].dtype}
        reads = {**self._cell_reads(pair, site_a, site_b), **dtypes, "runs": runs}
        settings = dump(study.steering, exclude=("pairs", "features"))
        for side, site in (("a", site_a), ("b", site_b)):
            name = study.dictionary(pair, side, site)
            settings[f"features_{side}"] = list(study.steering.features.get(name, ())) if name else []
        modules = methods.modules("candidates", methods.steered())
        return Job(inputs, reads, settings, modules=modules, gpus=study.gpus(section.a, section.b))

    def _features(self, pair: str, site_a: str, site_b: str) -> Inputs:
        """Each model's features in its dictionary, the alignment of the models' tokens, and A's tokens."""
        section, layout = self.study.pairs[pair], self.layout
        dictionary_a, dictionary_b = self.study.dictionaries_at(pair, site_a, site_b)
        return {
            "features_a": layout.features_of(section.corpus, section.a, dictionary_a),
            "features_b": layout.features_of(section.corpus, section.b, dictionary_b),
            "alignment": layout.alignment_of(section.corpus, section.a, section.b) or [],
            "tokens_a": layout.tokens_of(section.corpus, section.a),
        }

    def _dictionaries(self, pair: str, site_a: str, site_b: str) -> Inputs:
        paths = [self.layout.dictionary(alias) for alias in self.study.dictionaries_at(pair, site_a, site_b)]
        return {"dictionary_a": paths[0], "dictionary_b": paths[1]}

    def _pair_reads(self, pair: str, site_a: str, site_b: str) -> Reads:
        section = self.study.pairs[pair]
        return {**dump_only(section, ("a", "b", "corpus", "rows")), "site_a": site_a, "site_b": site_b}

    def _cell_reads(self, pair: str, site_a: str, site_b: str) -> Reads:
        return {
            **self._pair_reads(pair, site_a, site_b),
            "dictionary_a": self.study.dictionary(pair, "a", site_a),
            "dictionary_b": self.study.dictionary(pair, "b", site_b),
        }

    # --- crosscoders and template tokens --------------------------------------------------------------------

    def train_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """Train one run of a crosscoder, on stored activations or on those of models that run meanwhile."""
        section, reads = self.study.crosscoders[crosscoder], self._crosscoder_reads(crosscoder)
        inputs = self._crosscoder_rows(crosscoder, site)
        if section.stream:
            reads["stream"] = {
                "corpus": section.stream,
                "dtypes": [self.study.models[model].dtype for model in section.models],
                **dump(self.study.activations, exclude=("outlier_norm", "shards")),
            }
            inputs = {
                "gates": inputs["gates"],
                "tokens": inputs["tokens"],
                "models": [self.layout.model(model) for model in section.models],
                "stream_tokens": [self.layout.tokens_of(section.stream, model) for model in section.models],
                "stream_alignment": self.layout.alignment_of(section.stream, *section.models[:2]) or [],
            }
        read_keys = ("models", "corpus", "site", "rows", "stream", "seeds", "splice_tokens")
        run_keys = ("checkpoint_every", "processes", "model_gpus", "track")
        other_keys = (*run_keys, "ceiling", "sweep", "weights", "scales", "calibrate")
        settings = {"seed": int(seed), **dump(section, exclude=(*read_keys, *other_keys))}
        return Job(inputs, reads, settings, gpus=self.study.gpus(*section.models) if section.stream else 1)

    def import_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """Import the published weights of a crosscoder."""
        section = self.study.crosscoders[crosscoder]
        inputs = self._crosscoder_rows(crosscoder, site) if section.calibrate else {}
        on_disk = isinstance(section.weights, str)
        inputs["weights"] = files_of(section.weights) if isinstance(section.weights, str) else []
        names = [getattr(self.study.models[model], "id", None) for model in section.models]
        hub = None if on_disk else dump_only(section, ("weights",))["weights"]
        settings = {**dump_only(section, ("scales", "calibrate")), "models": names, "hub": hub}
        return Job(inputs, self._crosscoder_reads(crosscoder), settings)

    def evaluate_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """Evaluate a crosscoder on held-out rows, and its models' loss with its reconstructions spliced in."""
        section = self.study.crosscoders[crosscoder]
        inputs = self._crosscoder_rows(crosscoder, site) | {"weights": self.layout.weights(crosscoder, site, seed)}
        if section.splice_tokens:
            inputs["models"] = [self.layout.model(model) for model in section.models]
        settings = {"splice_tokens": section.splice_tokens}
        gpus = self.study.gpus(*section.models) if section.splice_tokens else 1
        return Job(inputs, self._crosscoder_reads(crosscoder), settings, gpus=gpus)

    def describe_latents(self, crosscoder: str, site: str, seed: str) -> Job:
        """Describe the latents of a crosscoder."""
        inputs = self._crosscoder_rows(crosscoder, site) | {"weights": self.layout.weights(crosscoder, site, seed)}
        return Job(inputs, self._crosscoder_reads(crosscoder), dump(self.study.latents))

    def compare_seeds(self, crosscoder: str, site: str) -> Job:
        """Compare the runs of a crosscoder from different seeds."""
        seeds = list(self.study.crosscoders[crosscoder].seeds)
        inputs: Inputs = {"weights": [self.layout.weights(crosscoder, site, seed) for seed in seeds]}
        reads = self._crosscoder_reads(crosscoder)
        return Job(inputs, reads, {"seeds": seeds, "exclusive": self.study.latents.exclusive})

    def export_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """Export a crosscoder."""
        inputs: Inputs = {"weights": self.layout.weights(crosscoder, site, seed)}
        return Job(inputs, self._crosscoder_reads(crosscoder))

    def exports(self) -> Job:
        """Export every run of every crosscoder that is trained here."""
        trained = {alias: section for alias, section in self.study.crosscoders.items() if not section.weights}
        runs = [(alias, section.site, seed) for alias, section in trained.items() for seed in section.seeds]
        return Job({"exports": [self.layout.export(*run)[0] for run in runs]})

    def _crosscoder_rows(self, crosscoder: str, site: str) -> Inputs:
        """Rows of all models of a crosscoder."""
        section = self.study.crosscoders[crosscoder]
        rows = self._rows_of(section.models, section.corpus, site)
        return {**rows, "alignment": self.layout.alignment_of(section.corpus, *section.models[:2]) or []}

    def _rows_of(self, models: Sequence[str], corpus: str, site: str) -> Inputs:
        """Rows of several models at a site with their gates and tokens, model by model."""
        return {
            "shards": [shard for model in models for shard in self.layout.shards_of(corpus, model, site)],
            "gates": [self.layout.gates_of(corpus, model, site) for model in models],
            "tokens": [self.layout.tokens_of(corpus, model) for model in models],
        }

    def _crosscoder_reads(self, crosscoder: str) -> Reads:
        section = self.study.crosscoders[crosscoder]
        return {"corpus": section.corpus, **dump_only(section, ("models", "site", "rows"))}

    def diff_template_tokens(self, template_diff: str) -> Job:
        """Compare the features of one dictionary in both models of a pair at template tokens."""
        section = self.study.template_diffs[template_diff]
        pair, corpus, dictionary = self.study.pairs[section.pair], section.corpus, section.dictionary
        site = self.study.dictionaries[dictionary].site
        inputs: Inputs = {"dictionary": self.layout.dictionary(dictionary)}
        for side, model in (("a", pair.a), ("b", pair.b)):
            inputs[f"features_{side}"] = self.layout.features_of(corpus, model, dictionary)
            inputs |= self._rows(corpus, model, site, f"_{side}")
        inputs["tokens"] = inputs.pop("tokens_a")
        del inputs["tokens_b"]
        reads = {"a": pair.a, "b": pair.b, "corpus": corpus, "dictionary": dictionary, "site": site}
        settings = dump(section, exclude=("pair", "corpus", "dictionary", "first"))
        return Job(inputs, reads, {"model": section.pair, "sae": dictionary, **settings})

    def draw_template_diff(self, template_diff: str) -> Job:
        """Draw the figures of a template diff."""
        return Job({"diff": self.layout.template_diff(template_diff)}, files=page_templates())

    # --- over all pairs -------------------------------------------------------------------------------------

    def collect_similarity(self) -> Job:
        """Collect the similarity scores of all cells."""
        scored_cells = cells.compared_spaces(self.layout, ("similarity",))
        return Job(self._inputs_of(scored_cells), {"cells": scored_cells})

    def map_spaces(self) -> Job:
        """Compute the UMAP maps of all cells."""
        section = self.study.similarity
        mapped_cells = cells.mapped_spaces(self.layout)
        settings = {"neighbours": section.map_neighbours, "points": section.map_points, "seed": section.seed}
        return Job(self._inputs_of(mapped_cells), {"cells": mapped_cells}, settings)

    def collect_relations(self) -> Job:
        """Collect what the models of each relation share, depth by depth."""
        related = cells.related_pairs(self.layout)
        return Job(self._inputs_of(related), {"relations": related})

    def collect_findings(self) -> Job:
        """Test the candidates of all comparisons and collect the findings."""
        compared = cells.comparisons(self.layout)
        modules = methods.modules("candidates", methods.proposing())
        settings = dump(self.study.findings)
        return Job(self._inputs_of(compared), {"pairs": compared}, settings, files=(detection.PATH,), modules=modules)

    def build_report(self) -> Job:
        """Build the page."""
        reads = {**cells.report_inputs(self.layout), "findings": self.layout.relative(self.layout.findings())}
        settings = {"title": self.study.title, **dump(self.study.report), **dump_only(self.study, ("published",))}
        modules = methods.modules("section", methods.METHODS)
        return Job(self._inputs_of(reads), reads, settings, files=page_templates(), modules=modules)

    def _inputs_of(self, description: Any) -> Inputs:
        return {"files": sorted({self.layout.results / name for name in cells.files_in(description)})}
