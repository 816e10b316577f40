# The front door: the study, its rules, and what `snakemake` makes; another workflow may import it as a module.
import os
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.19")

WORKFLOW = Path(workflow.current_basedir.get_path_or_uri(secret_free=True), "workflow")
sys.path.insert(0, str(WORKFLOW))
# Scripts are processes of their own: this is how they find the library, here and on a compute node.
os.environ.update(PYTHONPATH=str(WORKFLOW))

if not workflow.configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/fetch.smk"
include: "workflow/rules/derive.smk"
include: "workflow/rules/tokens.smk"
include: "workflow/rules/activations.smk"
include: "workflow/rules/dictionaries.smk"
include: "workflow/rules/outputs.smk"
include: "workflow/rules/weights.smk"
include: "workflow/rules/pairs.smk"
include: "workflow/rules/steering.smk"
include: "workflow/rules/crosscoders.smk"
include: "workflow/rules/similarity.smk"
include: "workflow/rules/template_diffs.smk"
include: "workflow/rules/exchange.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/leaderboard.smk"
include: "workflow/rules/plan.smk"


onstart:
    with ending(logger.error):
        ownership.claim(LAYOUT.results, RUN_ID)
        clocks.date_now(LAYOUT.results)


onerror:
    logger.error(ownership.NOT_FINISHED.format(logs=LAYOUT.results / "logs"))


rule all:
    default_target: True
    input:
        LAYOUT.report(),
        LAYOUT.report_pages(),
        LAYOUT.findings_table(),
        LAYOUT.pictures(),
