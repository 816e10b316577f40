"""The toy method's part of the page."""

from diptych.page import method_sections
from diptych.page.blocks import Prose, Section
from diptych.page.method_sections import Cell, Chapters, PageData
from diptych.storage import artifacts


class Sections(method_sections.Sections):
    """The toy method's paragraph on each cell."""

    def of_cell(self, cell: Cell, page: PageData) -> Chapters:
        """The number of documents on which the means were compared."""
        with artifacts.read(cell["files"]["toy"], "toy") as file:
            text = f"The toy method saw {len(file['held_out'])} documents."
        return {"where": Section(f"{cell['id']}-toy", "Toy means", [Prose(text)], lead="Where the toy's means differ.")}


SECTIONS = Sections()
