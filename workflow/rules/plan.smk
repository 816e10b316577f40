# What a study will take, before it runs: `snakemake plan`, on the device that DEVICE names.


localrules:
    plan,


rule plan:
    log:
        LAYOUT.log("plan", "plan"),
    conda:
        CPU_ENV
    script:
        "../scripts/plan.py"
