"""What every rule reads, and with which settings its stage is called: one method a rule, named after it.

    job = Jobs(study).fit_linear_map(pair="tuned", site_a="middle", site_b="middle")
    job.inputs      # {"shards_a": [...], "gates_a": ..., ...}: the rule's input files, by name
    job.reads       # {"a": "base", "b": "tuned", "corpus": "text", ...}: the same by alias, for the spec
    job.settings    # {"alphas": [...], ...}: keyword arguments of the stage

Everything follows from the study and the job's wildcards alone, but for the files of the user's own directories.
"""

import glob
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diptych import methods
from diptych.config import cells
from diptych.config.job import Inputs, Job, Reads, files_at, model_files_at
from diptych.config.layout import Layout, page_templates
from diptych.config.sections.dictionaries import TrainedDictionary
from diptych.config.sections.models import ADAPTER_SOURCE
from diptych.config.sections.strict import Strict
from diptych.config.study import Study
from diptych.models import sites
from diptych.text import word_lists


@dataclass(frozen=True)
class Jobs:
    """The jobs of a study."""

    study: Study

    @property
    def layout(self) -> Layout:
        """Where the study's files are."""
        return Layout(self.study)

    def job(self, rule: str, wildcards: Mapping[str, str]) -> Job:
        """The job of a rule with these wildcards."""
        job: Job = getattr(self, rule)(**wildcards)
        return job

    # --- models and text ------------------------------------------------------------------------------------

    def fetch_model(self, model: str) -> Job:
        """A model that comes from outside."""
        source = _dump(self.study.models[model], leave=("dtype", "tokenizer"))
        return Job({"files": model_files_at(source.get("path"))}, settings={"source": source})

    def fetch_adapter(self, model: str) -> Job:
        """An adapter that comes from outside."""
        source = _dump_only(self.study.models[model], ADAPTER_SOURCE)
        return Job({"files": model_files_at(source.get("path"))}, settings={"source": source})

    def derive_model(self, model: str) -> Job:
        """A model made from another one."""
        derived = self.study.models[model]
        reads = {key: getattr(derived, key) for key in ("parent", "corpus", "evaluate_on") if hasattr(derived, key)}
        inputs: Inputs = {"parent": self.layout.model(reads["parent"])}
        names = {"corpus": "tokens", "evaluate_on": "evaluation_tokens"}
        inputs |= {names[key]: self.layout.tokens_of(reads[key], reads["parent"]) for key in names if key in reads}
        if derived.kind == "adapter":
            inputs["adapter"] = self.layout.adapter(model)
        settings = _dump(derived, leave=("kind", "dtype", "tokenizer", "checkpoint_every", *ADAPTER_SOURCE, *reads))
        return Job(inputs, {"kind": derived.kind, **reads}, settings)

    def fetch_corpus(self, corpus: str) -> Job:
        """Text that comes from outside, and the corpora that it is mixed from."""
        sources = self.study.corpora[corpus].sources
        patterns = [pattern for source in sources.values() if source.kind == "local" for pattern in source.paths]
        files = sorted({Path(file) for pattern in patterns for file in glob.glob(pattern, recursive=True)})  # noqa: PTH207
        mixed = [self.layout.corpus(source.corpus) for source in sources.values() if source.kind == "corpus"]
        settings = {"sources": {name: _dump(source, leave=("share",)) for name, source in sources.items()}}
        return Job({"files": [*files, *mixed]}, settings=settings)

    def prepare_tokens(self, corpus: str, tokenizer: str) -> Job:
        """A corpus in a tokenizer's tokens."""
        section = self.study.corpora[corpus]
        shares = {name: source.share for name, source in section.sources.items()}
        inputs: Inputs = {"corpus": self.layout.corpus(corpus), "tokenizer": self.layout.model(tokenizer)}
        reads = {"corpus": corpus, "tokenizer": tokenizer}
        return Job(inputs, reads, {"shares": shares, **_dump(section, leave=("sources",))})

    def align_tokens(self, corpus: str, tokenizer_a: str, tokenizer_b: str) -> Job:
        """Two tokenizers' tokens of a corpus."""
        inputs: Inputs = {"a": self.layout.tokens(corpus, tokenizer_a), "b": self.layout.tokens(corpus, tokenizer_b)}
        reads = {"corpus": corpus, "a": tokenizer_a, "b": tokenizer_b}
        return Job(inputs, reads, {"min_coverage": self.study.alignment.min_coverage})

    # --- rows and dictionaries ------------------------------------------------------------------------------

    def dump_activations(self, corpus: str, model: str, group: str, shard: str) -> Job:
        """One shard of a model's rows at the sites of a group."""
        study = self.study
        inputs: Inputs = {"model": self.layout.model(model), "tokens": self.layout.tokens_of(corpus, model)}
        settings = {
            "sites": list(study.sites[group]),
            "shard": int(shard),
            "shards": len(study.shards),
            "dtype": study.models[model].dtype,
            **_dump(study.activations, leave=("outlier_norm", "shards")),
        }
        return Job(inputs, {"corpus": corpus, "model": model, "tokenizer": study.tokenizer(model)}, settings)

    def gate_activations(self, corpus: str, model: str, group: str) -> Job:
        """Which of a model's rows count."""
        inputs: Inputs = {
            "shards": [self.layout.activations(corpus, model, group, shard) for shard in self.study.shards],
            "tokens": self.layout.tokens_of(corpus, model),
        }
        settings = {"outlier_norm": self.study.activations.outlier_norm}
        return Job(inputs, {"corpus": corpus, "model": model}, settings)

    def train_dictionary(self, dictionary: str) -> Job:
        """A dictionary that is trained here."""
        section = self.study.dictionaries[dictionary]
        assert isinstance(section, TrainedDictionary)
        reads = {"model": section.model, "corpus": section.corpus, "site": section.site}
        inputs = self._rows(section.corpus, section.model, section.site)
        return Job(inputs, reads, _dump(section, leave=("kind", "checkpoint_every", *reads)))

    def fetch_dictionary(self, dictionary: str) -> Job:
        """A dictionary that comes from outside."""
        section = self.study.dictionaries[dictionary]
        hub_id = getattr(self.study.models[self.study.lineage(section.model)[-1]], "id", None)
        settings = {
            "model_name": getattr(section, "trained_on", None) or hub_id,
            "source": _dump(section, leave=("model", "site", "trained_on")),
        }
        files = [file for file in files_at(getattr(section, "path", None)) if file.is_file()]
        inputs: Inputs = {"files": files, "model": self.layout.model(section.model)}
        return Job(inputs, {"model": section.model, "site": section.site}, settings)

    def encode_features(self, corpus: str, model: str, dictionary: str, shard: str) -> Job:
        """One shard of a model's rows in a dictionary's features."""
        section = self.study.dictionaries[dictionary]
        inputs: Inputs = {
            **self._rows(corpus, model, section.site),
            "shards": self.layout.activations(corpus, model, self.study.group(section.site), shard),
            "dictionary": self.layout.dictionary(dictionary),
        }
        reads = {"corpus": corpus, "model": model, "site": section.site, "shard": shard}
        return Job(inputs, reads, {"own": model == section.model})

    def _rows(self, corpus: str, model: str, site: str, end: str = "") -> Inputs:
        """A model's rows at a site, with the gates and the tokens that go with them; names end in `end`."""
        return {
            f"shards{end}": self.layout.shards_of(corpus, model, site),
            f"gates{end}": self.layout.gates_of(corpus, model, site),
            f"tokens{end}": self.layout.tokens_of(corpus, model),
        }

    # --- pairs ----------------------------------------------------------------------------------------------

    def fit_linear_map(self, pair: str, site_a: str, site_b: str) -> Job:
        """The maps between the two models of a pair."""
        section = self.study.pairs[pair]
        inputs: Inputs = {
            **self._rows(section.corpus, section.a, site_a, "_a"),
            **self._rows(section.corpus, section.b, site_b, "_b"),
            "alignment": self.layout.alignment_of(section.corpus, section.a, section.b) or [],
        }
        return Job(inputs, self._pair_reads(pair, site_a, site_b), _dump(self.study.linear_map))

    def correlate_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """The correlations of a pair's features."""
        inputs = self._own_features(pair, site_a, site_b)
        return Job(inputs, self._cell_reads(pair, site_a, site_b), _dump(self.study.correlation, leave=("memory",)))

    def pair_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """The matches of a pair's features."""
        section, layout = self.study.pairs[pair], self.layout
        inputs: Inputs = {
            **self._own_features(pair, site_a, site_b),
            **self._dictionaries(pair, site_a, site_b),
            "tokens_b": layout.tokens_of(section.corpus, section.b),
            "correlation": layout.correlation(pair, site_a, site_b),
            "linear_map": layout.linear_map(pair, site_a, site_b),
        }
        if site_a == site_b:
            own_a, own_b = self.study.dictionaries_at(pair, site_a, site_b)
            inputs["features_a_on_b"] = layout.features_of(section.corpus, section.b, own_a)
            inputs["features_b_on_a"] = layout.features_of(section.corpus, section.a, own_b)
        return Job(inputs, self._cell_reads(pair, site_a, site_b), _dump(self.study.pairing))

    def compare_spaces(self, pair: str, site_a: str, site_b: str) -> Job:
        """How alike the spaces of a pair's features are."""
        section, layout = self.study.pairs[pair], self.layout
        inputs: Inputs = {
            **self._own_features(pair, site_a, site_b),
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
        settings = _dump(self.study.similarity, leave=("map", "map_neighbours", "map_points", "neurons"))
        lists = tuple(word_lists.path_of(name) for name in self.study.similarity.word_lists)
        return Job(inputs, reads, settings, files=lists)

    def reproduce_lan2024(self, pair: str, site_a: str, site_b: str) -> Job:
        """A published comparison of a pair's features."""
        section = self.study.pairs[pair]
        inputs: Inputs = {
            "model_a": self.layout.model(section.a),
            "model_b": self.layout.model(section.b),
            **self._dictionaries(pair, site_a, site_b),
            "tokens": self.layout.tokens_of(section.corpus, section.a),
        }
        settings = _dump_only(self.study.similarity, ("repairings", "rsa_rows", "seed"))
        return Job(inputs, self._cell_reads(pair, site_a, site_b), settings)

    def steer_features(self, pair: str, site_a: str, site_b: str) -> Job:
        """What the models of a pair write when they are steered along what was found between them."""
        study, section, layout = self.study, self.study.pairs[pair], self.layout
        inputs: Inputs = {"linear_map": layout.linear_map(pair, site_a, site_b)}
        for side, model, site in (("a", section.a, site_a), ("b", section.b, site_b)):
            inputs[f"model_{side}"] = layout.model(model)
            inputs[f"gates_{side}"] = layout.gates_of(section.corpus, model, site)
            inputs[f"tokens_{side}"] = layout.tokens_of(section.corpus, model)
        if study.has_features(pair, site_a, site_b):
            features = self._own_features(pair, site_a, site_b)
            inputs |= {name: features[name] for name in ("features_a", "features_b")}
            inputs |= self._dictionaries(pair, site_a, site_b)
            inputs["pairing"] = layout.pairing(pair, site_a, site_b)
        dtypes = {"dtype_a": study.models[section.a].dtype, "dtype_b": study.models[section.b].dtype}
        reads = {**self._cell_reads(pair, site_a, site_b), **dtypes}
        modules = methods.modules("candidates", methods.steered())
        return Job(inputs, reads, _dump(study.steering, leave=("pairs",)), modules=modules)

    def _own_features(self, pair: str, site_a: str, site_b: str) -> Inputs:
        """The features of each model in its own dictionary."""
        section, layout = self.study.pairs[pair], self.layout
        own_a, own_b = self.study.dictionaries_at(pair, site_a, site_b)
        return {
            "features_a": layout.features_of(section.corpus, section.a, own_a),
            "features_b": layout.features_of(section.corpus, section.b, own_b),
            "alignment": layout.alignment_of(section.corpus, section.a, section.b) or [],
            "tokens_a": layout.tokens_of(section.corpus, section.a),
        }

    def _dictionaries(self, pair: str, site_a: str, site_b: str) -> Inputs:
        own_a, own_b = self.study.dictionaries_at(pair, site_a, site_b)
        return {"dictionary_a": self.layout.dictionary(own_a), "dictionary_b": self.layout.dictionary(own_b)}

    def _pair_reads(self, pair: str, site_a: str, site_b: str) -> Reads:
        read = _dump_only(self.study.pairs[pair], ("a", "b", "corpus", "rows"))
        return {**read, "site_a": site_a, "site_b": site_b}

    def _cell_reads(self, pair: str, site_a: str, site_b: str) -> Reads:
        return {
            **self._pair_reads(pair, site_a, site_b),
            "dictionary_a": self.study.dictionary(pair, "a", site_a),
            "dictionary_b": self.study.dictionary(pair, "b", site_b),
        }

    # --- crosscoders and template tokens --------------------------------------------------------------------

    def train_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """One run of a crosscoder, on stored rows or on rows that its models make while it trains."""
        section, reads = self.study.crosscoders[crosscoder], self._crosscoder_reads(crosscoder)
        inputs = self._crosscoder_rows(crosscoder, site)
        if section.stream:
            reads["stream"] = {
                "corpus": section.stream,
                "dtypes": [self.study.models[model].dtype for model in section.models],
                **_dump(self.study.activations, leave=("outlier_norm", "shards")),
            }
            inputs = {
                "gates": inputs["gates"],
                "tokens": inputs["tokens"],
                "models": [self.layout.model(model) for model in section.models],
                "stream_tokens": [self.layout.tokens_of(section.stream, model) for model in section.models],
                "stream_alignment": self.layout.alignment_of(section.stream, *section.models[:2]) or [],
            }
        read = ("models", "corpus", "site", "rows", "stream", "seeds", "splice_tokens")
        how = ("checkpoint_every", "processes", "track", "ceiling", "sweep", "weights", "scales")
        return Job(inputs, reads, {"seed": int(seed), **_dump(section, leave=(*read, *how))})

    def import_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """A crosscoder whose weights come from elsewhere."""
        section = self.study.crosscoders[crosscoder]
        settings = {"scales": list(section.scales)}
        weights: Path | list[Path] = Path(section.weights) if section.weights else []
        return Job({"weights": weights}, self._crosscoder_reads(crosscoder), settings)

    def evaluate_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """A crosscoder on held-out rows, and its models with its reconstructions in place."""
        section = self.study.crosscoders[crosscoder]
        inputs = self._crosscoder_rows(crosscoder, site)
        if section.splice_tokens:
            inputs["models"] = [self.layout.model(model) for model in section.models]
        inputs["weights"] = self.layout.weights(crosscoder, site, seed)
        return Job(inputs, self._crosscoder_reads(crosscoder), {"splice_tokens": section.splice_tokens})

    def describe_latents(self, crosscoder: str, site: str, seed: str) -> Job:
        """The latents of a crosscoder."""
        inputs = self._crosscoder_rows(crosscoder, site)
        inputs["weights"] = self.layout.weights(crosscoder, site, seed)
        return Job(inputs, self._crosscoder_reads(crosscoder), _dump(self.study.latents))

    def compare_seeds(self, crosscoder: str, site: str) -> Job:
        """The runs of a crosscoder that differ in their seed."""
        seeds = list(self.study.crosscoders[crosscoder].seeds)
        inputs: Inputs = {"weights": [self.layout.weights(crosscoder, site, seed) for seed in seeds]}
        settings = {"seeds": seeds, "exclusive": self.study.latents.exclusive}
        return Job(inputs, self._crosscoder_reads(crosscoder), settings)

    def export_crosscoder(self, crosscoder: str, site: str, seed: str) -> Job:
        """A crosscoder for use outside Diptych."""
        inputs: Inputs = {"weights": self.layout.weights(crosscoder, site, seed)}
        return Job(inputs, self._crosscoder_reads(crosscoder))

    def exports(self) -> Job:
        """The exports of all runs of all crosscoders that are trained here."""
        trained = {alias: section for alias, section in self.study.crosscoders.items() if not section.weights}
        runs = [(alias, section.site, seed) for alias, section in trained.items() for seed in section.seeds]
        return Job({"exports": [self.layout.export(*run)[0] for run in runs]})

    def _crosscoder_rows(self, crosscoder: str, site: str) -> Inputs:
        """The rows of all models of a crosscoder."""
        section, layout = self.study.crosscoders[crosscoder], self.layout
        corpus, models = section.corpus, section.models
        return {
            "shards": [shard for model in models for shard in layout.shards_of(corpus, model, site)],
            "gates": [layout.gates_of(corpus, model, site) for model in models],
            "tokens": [layout.tokens_of(corpus, model) for model in models],
            "alignment": layout.alignment_of(corpus, *models[:2]) or [],
        }

    def _crosscoder_reads(self, crosscoder: str) -> Reads:
        section = self.study.crosscoders[crosscoder]
        return {"corpus": section.corpus, **_dump_only(section, ("models", "site", "rows"))}

    def diff_template_tokens(self, template_diff: str) -> Job:
        """One dictionary on both models of a pair at template tokens."""
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
        settings = _dump(section, leave=("pair", "corpus", "dictionary"))
        return Job(inputs, reads, {"model": section.pair, "sae": dictionary, **settings})

    def draw_template_diff(self, template_diff: str) -> Job:
        """The pictures of a template diff."""
        return Job({"diff": self.layout.template_diff(template_diff)}, files=page_templates())

    # --- over all pairs -------------------------------------------------------------------------------------

    def collect_similarity(self) -> Job:
        """The scores of all pairs."""
        scored = cells.compared_spaces(self.layout, ("similarity",))
        return Job(self._inputs_of(scored), {"cells": scored})

    def map_spaces(self) -> Job:
        """The maps of all pairs."""
        section = self.study.similarity
        mapped = cells.mapped_spaces(self.layout)
        settings = {"neighbours": section.map_neighbours, "points": section.map_points, "seed": section.seed}
        return Job(self._inputs_of(mapped), {"cells": mapped}, settings)

    def collect_findings(self) -> Job:
        """The differences that stand."""
        pairs = cells.all_cells(self.layout)
        modules = methods.modules("candidates", methods.proposing())
        return Job(self._inputs_of(pairs), {"pairs": pairs}, _dump(self.study.findings), modules=modules)

    def build_report(self) -> Job:
        """The page."""
        reads = {**cells.report_inputs(self.layout), "findings": self.layout.below(self.layout.findings())}
        settings = {"title": self.study.title, **_dump(self.study.report)}
        modules = methods.modules("section", methods.METHODS)
        return Job(self._inputs_of(reads), reads, settings, files=page_templates(), modules=modules)

    def _inputs_of(self, description: Any) -> Inputs:
        return {"files": sorted({self.layout.results / name for name in cells.files_in(description)})}


def _dump(values: Strict, leave: Iterable[str] = ()) -> dict[str, Any]:
    return values.model_dump(mode="json", exclude=set(leave))


def _dump_only(values: Strict, keep: Iterable[str]) -> dict[str, Any]:
    return values.model_dump(mode="json", include=set(keep))
