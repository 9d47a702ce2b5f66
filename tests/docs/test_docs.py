"""Every command and example of README and docs runs."""

import commands
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("page", commands.PAGES, ids=lambda page: page.name)
def test_page_runs(page):
    assert commands.run_page(page) == []


def test_a_failing_command_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\nfalse\n```\n\n```python\nassert 1 == 2\n```\n")
    assert len(commands.run_page(page)) == 2
