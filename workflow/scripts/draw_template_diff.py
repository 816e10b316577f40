"""Rule draw_template_diff: the pictures of a template diff, as a page of their own and as files."""

from diptych.runtime import logs
from diptych.template_diff.pictures import images, page

logs.start(snakemake.log[0], __file__)
made = snakemake.output
page.build(snakemake.input[0], made.page, name=snakemake.wildcards.template_diff)
images.draw(snakemake.input[0], scatter=made.scatter, volcano=made.volcano)
