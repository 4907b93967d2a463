"""A link in the documentation leads somewhere."""

import re

import pytest
from tests.docs.test_pages import PAGES, ROOT

LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("page", [*PAGES, "README.md"], ids=str)
def test_every_link_of_the_page_leads_somewhere(page):
    """Relative links name files or folders of the repository."""
    path = ROOT / page
    links = LINK.findall(path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
