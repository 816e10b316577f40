"""Hooks of the site: formulas become MathML when it is built, and no page may load anything from another host.

`pymdownx.arithmatex` leaves LaTeX in elements of its own; browsers draw MathML without any script.
"""

import logging
import re
from html import unescape

from latex2mathml.converter import convert

INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAY = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
UNKNOWN = re.compile(r">(\\[A-Za-z]+)<")
log = logging.getLogger("mkdocs.hooks.mathml")


def on_page_content(html, page, **_):
    """The page with its formulas as MathML; a command that the converter does not know is a warning."""
    html = DISPLAY.sub(lambda found: convert(unescape(found[1]).strip(), display="block"), html)
    html = INLINE.sub(lambda found: convert(unescape(found[1]).strip()), html)
    for command in UNKNOWN.findall("".join(re.findall(r"<math.*?</math>", html, re.DOTALL))):
        log.warning("%s: %s is not known to latex2mathml", page.file.src_uri, command)
    if "arithmatex" in html:
        log.warning("%s: a formula was not converted", page.file.src_uri)
    return html


def on_post_page(output, page, **_):
    """The page, with a warning for whatever it would load from another host."""
    for element in LOADED.findall(output):
        if 'rel="canonical"' not in element:
            log.warning("%s loads from another host: %s", page.file.src_uri, element)
    return output
