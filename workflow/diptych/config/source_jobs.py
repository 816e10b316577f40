"""Jobs of the rules that make a study's models and text: fetched, derived, tokenized, aligned."""

import glob
from dataclasses import dataclass
from pathlib import Path

from diptych.config.job import Inputs, Job, dump, dump_only, model_files_at
from diptych.config.layout import Layout
from diptych.config.sections.models import ADAPTER_SOURCE, READING
from diptych.config.study import Study


@dataclass(frozen=True)
class SourceJobs:
    """Jobs of a study that make its models and text."""

    study: Study

    @property
    def layout(self) -> Layout:
        """Paths of the study's files."""
        return Layout(self.study)

    def fetch_model(self, model: str) -> Job:
        """Fetch a model."""
        source = dump(self.study.models[model], exclude=READING)
        return Job({"files": model_files_at(source.get("path"))}, settings={"source": source})

    def fetch_adapter(self, model: str) -> Job:
        """Fetch an adapter."""
        source = dump_only(self.study.models[model], ADAPTER_SOURCE)
        return Job({"files": model_files_at(source.get("path"))}, settings={"source": source})

    def derive_model(self, model: str) -> Job:
        """Derive a model from another one."""
        section = self.study.models[model]
        reads = {key: getattr(section, key) for key in ("parent", "corpus", "evaluate_on") if hasattr(section, key)}
        inputs: Inputs = {"parent": self.layout.model(reads["parent"])}
        names = {"corpus": "tokens", "evaluate_on": "evaluation_tokens"}
        inputs |= {names[key]: self.layout.tokens_of(reads[key], reads["parent"]) for key in names if key in reads}
        if section.kind == "adapter":
            inputs["adapter"] = self.layout.adapter(model)
        settings = dump(section, exclude=("kind", "checkpoint_every", *READING, *ADAPTER_SOURCE, *reads))
        gpus = self.study.gpus(reads["parent"]) if section.kind == "plant" else 1
        return Job(inputs, {"kind": section.kind, **reads}, settings, gpus=gpus)

    def fetch_corpus(self, corpus: str) -> Job:
        """Fetch the text of a corpus, or mix it from other corpora."""
        sources = self.study.corpora[corpus].sources
        patterns = [pattern for source in sources.values() if source.kind == "local" for pattern in source.paths]
        files = sorted({Path(file) for pattern in patterns for file in glob.glob(pattern, recursive=True)})  # noqa: PTH207
        corpora = [self.layout.corpus(source.corpus) for source in sources.values() if source.kind == "corpus"]
        settings = {"sources": {name: dump(source, exclude=("share",)) for name, source in sources.items()}}
        return Job({"files": [*files, *corpora]}, settings=settings)

    def prepare_tokens(self, corpus: str, tokenizer: str) -> Job:
        """Tokenize a corpus."""
        section = self.study.corpora[corpus]
        shares = {name: source.share for name, source in section.sources.items()}
        inputs: Inputs = {"corpus": self.layout.corpus(corpus), "tokenizer": self.layout.model(tokenizer)}
        reads = {"corpus": corpus, "tokenizer": tokenizer}
        return Job(inputs, reads, {"shares": shares, **dump(section, exclude=("sources",))})

    def align_tokens(self, corpus: str, tokenizer_a: str, tokenizer_b: str) -> Job:
        """Align two tokenizers' tokens of a corpus."""
        inputs: Inputs = {"a": self.layout.tokens(corpus, tokenizer_a), "b": self.layout.tokens(corpus, tokenizer_b)}
        reads = {"corpus": corpus, "a": tokenizer_a, "b": tokenizer_b}
        return Job(inputs, reads, {"min_coverage": self.study.alignment.min_coverage})
