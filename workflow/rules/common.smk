# Helper functions of the rules: the study, where files are, what a job depends on, what it may use.
import sys

from snakemake.logging import logger

from diptych.config.study import Study
from diptych.models import sites
from diptych.runtime.errors import DiptychError
from diptych.storage import fingerprint
from diptych.text import word_lists as wordlists

try:
    STUDY = Study.load(config)
except DiptychError as error:
    logger.error(str(error))
    sys.exit(1)

RESULTS = Path(STUDY.results)
SCRIPTS = WORKFLOW / "scripts"
CPU_ENV = str(WORKFLOW.parent / "envs" / "cpu.yaml")
GPU_ENV = str(WORKFLOW.parent / "envs" / "gpu.yaml")


def one_of(names):
    """A wildcard constraint: exactly these names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def spec(rule, reads=None, files=()):
    """The `spec` parameter of a rule: made from its wildcards alone, by the study and the code of its script.

    `reads` and `files` are for the rules that read all there is: names of inputs, and files beside code and inputs.
    """

    def build(wildcards):
        job = dict(wildcards.items())
        stage = getattr(STUDY, rule)(**job)
        stage["reads"] |= reads or {}
        return fingerprint.spec(SCRIPTS / f"{rule}.py", {"job": job, **stage}, files)

    return build


def gpu(gib, hours):
    """Resources of a GPU job; memory and time grow with every attempt."""
    return dict(
        gpu=1,
        mem=lambda wildcards, attempt: f"{gib * attempt}GB",
        runtime=lambda wildcards, attempt: f"{hours * attempt}h",
    )


def cpu(gib, hours=1):
    """Resources of a CPU job; memory and time grow with every attempt."""
    return dict(
        mem=lambda wildcards, attempt: f"{gib * attempt}GB",
        runtime=lambda wildcards, attempt: f"{hours * attempt}h",
    )


def log_of(rule, stem):
    """Where a job's log goes."""
    return RESULTS / "logs" / rule / f"{stem}.log"


def benchmark_of(rule, stem):
    """Where a job's seconds and memory go."""
    return RESULTS / "benchmarks" / rule / f"{stem}.jsonl"


wildcard_constraints:
    model=one_of(STUDY.models),
    corpus=one_of(STUDY.corpora),
    tokenizer=one_of({STUDY.tokenizer(model) for model in STUDY.models}),
    tokenizer_a=one_of({STUDY.tokenizer(model) for model in STUDY.models}),
    tokenizer_b=one_of({STUDY.tokenizer(model) for model in STUDY.models}),
    group=one_of(STUDY.sites),
    shard=r"\d+",
    dictionary=one_of(STUDY.dictionaries),
    pair=one_of(STUDY.pairs),
    site_a=one_of({site for sites in STUDY.sites.values() for site in sites}),
    site_b=one_of({site for sites in STUDY.sites.values() for site in sites}),
    crosscoder=one_of(STUDY.crosscoders),
    template_diff=one_of(STUDY.template_diffs),
    seed=r"\d+",
