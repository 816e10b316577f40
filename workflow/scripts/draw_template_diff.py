"""Rule draw_template_diff: the pictures of a template diff, as a page of their own and as files."""

from diptych import logs
from diptych.report import template_images, template_page

logs.start(snakemake.log[0], __file__)
made = snakemake.output
template_page.build(snakemake.input[0], made.page, name=snakemake.wildcards.template_diff)
template_images.draw(snakemake.input[0], scatter=made.scatter, volcano=made.volcano)
