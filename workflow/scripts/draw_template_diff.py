"""Rule draw_template_diff: figures of a template diff, as a page of their own and as images."""

from diptych.runtime import logs
from diptych.template_diff.pictures import images, page

logs.start(snakemake.log[0], __file__)
outputs = snakemake.output
page.build(snakemake.input[0], outputs.page, name=snakemake.wildcards.template_diff)
images.draw(snakemake.input[0], scatter=outputs.scatter, volcano=outputs.volcano)
