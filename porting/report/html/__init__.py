"""A comparison's JSON -> a page to look at: one file, no network, light and dark, on paper and on a phone.

markup.py            escaped HTML; shell.py: the document around a page, with style.css and script.js
page.py              the page of one comparison; index_page.py: the list of all
divergence.py ...    its sections, one a file: depth.py, local.py, heat.py, causes.py, tensors.py,
                     further.py (gradients, generation, search), foot.py
svg.py, stacks.py    what the pictures share
"""

from porting.report.html.index_page import Listed, render_index
from porting.report.html.page import render_page

__all__ = ["Listed", "render_index", "render_page"]
