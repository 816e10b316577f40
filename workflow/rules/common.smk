# Helper functions of the rules: the study, what a job reads and depends on, what it may use.
from snakemake.logging import logger

from diptych.config import loading
from diptych.config.jobs import Jobs
from diptych.config.layout import CODE_CACHE, RUN_ID, Layout
from diptych.runtime.errors import ending
from diptych.storage import clocks, fingerprint, ownership, syntax

syntax.use_cache(CODE_CACHE)
with ending(logger.error):
    loading.check_keys(workflow.configfiles)
    STUDY = loading.load(config)
    LAYOUT = Layout(STUDY)
    ownership.check(LAYOUT.results, RUN_ID)

JOBS = Jobs(STUDY)
CPU_ENV = str(WORKFLOW.parent / "envs" / "cpu.yaml")
GPU_ENV = str(WORKFLOW.parent / "envs" / "gpu.yaml")
PAIR = ("{pair}", "{site_a}", "{site_b}")
PAIR_NAME = "{pair}/{site_a}--{site_b}"
RUN = ("{crosscoder}", "{site}", "{seed}")
RUN_NAME = "{crosscoder}/{site}/seed-{seed}"


def one_of(names):
    """A wildcard constraint: exactly these names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def inputs(rule):
    """The input files of a rule, by name: to be unpacked."""
    return lambda wildcards: JOBS.job(rule, dict(wildcards.items())).inputs


def spec(rule):
    """The `spec` parameter of a rule: made from its wildcards alone, by the study and the code of its script."""

    def build(wildcards):
        job = JOBS.job(rule, dict(wildcards.items()))
        return fingerprint.spec(
            WORKFLOW / "scripts" / f"{rule}.py",
            {
                "job": dict(wildcards.items()),
                "reads": job.reads,
                "settings": job.settings,
            },
            files=job.files,
            modules=job.modules,
        )

    return build


def gpu(gib, hours, rule=None):
    """Resources of a GPU job, of `rule` if it runs models; memory and time grow with every attempt."""
    width = 1
    if rule:
        width = lambda wildcards: JOBS.job(rule, dict(wildcards.items())).gpus
    return dict(**cpu(gib, hours), gpu=width, gpus_per_model=width, device=STUDY.device)


def cpu(gib, hours=1):
    """Resources of a CPU job; memory and time grow with every attempt."""
    return dict(
        mem=lambda wildcards, attempt: f"{gib * attempt}GB",
        runtime=lambda wildcards, attempt: f"{hours * attempt}h",
    )


def crosscoder_of(wildcards):
    """The config of a crosscoder, for what its rule may use."""
    return STUDY.crosscoders[wildcards.crosscoder]


SITES = {site for group in STUDY.sites for site in STUDY.sites_of(group)}
TOKENIZERS = {STUDY.tokenizer(model) for model in STUDY.models}


wildcard_constraints:
    model=one_of(STUDY.models),
    corpus=one_of(STUDY.corpora),
    tokenizer=one_of(TOKENIZERS),
    tokenizer_a=one_of(TOKENIZERS),
    tokenizer_b=one_of(TOKENIZERS),
    group=one_of(STUDY.sites),
    shard=r"\d+",
    dictionary=one_of(STUDY.dictionaries),
    pair=one_of(STUDY.pairs),
    site_a=one_of(SITES),
    site_b=one_of(SITES),
    crosscoder=one_of(STUDY.crosscoders),
    template_diff=one_of(STUDY.template_diffs),
    seed=r"\d+",
