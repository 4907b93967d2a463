"""A link in the documentation leads somewhere."""

import re

import pytest
from tests.docs.test_pages import PAGES, ROOT

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\]\(([^)#:]*)#([^)]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@pytest.mark.parametrize("page", [*PAGES, "README.md"], ids=str)
def test_every_link_of_the_page_leads_somewhere(page):
    """Relative links name files or folders of the repository."""
    path = ROOT / page
    links = LINK.findall(path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def anchors(path):
    """The headings of a page as links name them."""
    words = [re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(path.read_text())]
    return {each.strip().replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", [*PAGES, "README.md"], ids=str)
def test_every_link_into_a_page_leads_to_a_heading(page):
    """What follows # is the heading of a section."""
    path = ROOT / page
    links = ANCHOR.findall(path.read_text())
    targets = [(path.parent / to if to else path, name) for to, name in links]
    assert [name for target, name in targets if name not in anchors(target)] == []


def test_every_page_is_linked_from_the_index():
    """A page that nobody links to is not found; decisions have a list of their own."""
    docs = ROOT / "docs"
    found = set(LINK.findall((docs / "index.md").read_text())) | {"index.md"}
    found |= {
        f"decisions/{link}" for link in LINK.findall((docs / "decisions/README.md").read_text())
    }
    assert sorted({str(page.relative_to("docs")) for page in PAGES} - found) == []


def test_the_map_names_files_that_are_there_and_every_folder():
    """architecture.md: the files it leads to exist, and no folder of the package is left out."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    package = ROOT / "src" / "tidemark"
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    assert sorted(name for name in named if not any(package.rglob(name))) == []
    folders = {path.name for path in package.iterdir() if (path / "__init__.py").exists()}
    assert sorted(name for name in folders if f"| `{name}` |" not in text) == []
