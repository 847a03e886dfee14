"""What the documentation shows is valid: settings, catalogues, JSON and links."""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from index.catalogue import load_catalogue, parse_catalogue
from service.labelling.endpoints import read_endpoints
from service.settings import load_settings
from tests.docs.blocks import BLOCKS, ROOT, Block, pages

LINK = re.compile(r"\[[^\]]*\]\((?!https?://|mailto:)([^)#\s]*)(#[^)\s]*)?\)")


def kind(info: str) -> list[Block]:
    return [block for block in BLOCKS if block.info == info]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("WAYPOST_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("block", kind("toml waypost.toml"), ids=str)
def test_documented_settings_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "waypost.toml"
    path.write_text(block.text, encoding="utf-8")
    load_settings(path)


@pytest.mark.parametrize("block", kind("toml models.toml"), ids=str)
def test_documented_catalogues_are_sound(block: Block) -> None:
    parse_catalogue(block.text, str(block))


@pytest.mark.parametrize("block", kind("toml endpoints.toml"), ids=str)
def test_documented_endpoints_can_be_called(block: Block, tmp_path: Path) -> None:
    path, models = tmp_path / "endpoints.toml", ROOT / "reference_prompts" / "models.toml"
    path.write_text(block.text, encoding="utf-8")
    endpoints, judge = read_endpoints(path, load_catalogue(models), {"EXAMPLE_API_KEY": "a key"})
    assert endpoints
    assert judge is not None


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "toml"], ids=str)
def test_every_toml_block_says_which_file_it_is_of(block: Block) -> None:
    assert block.info in {"toml waypost.toml", "toml models.toml", "toml endpoints.toml"}
    tomllib.loads(block.text)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "json"], ids=str)
def test_documented_json_lines_are_json(block: Block) -> None:
    for line in block.text.splitlines():
        json.loads(line)


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target, anchor in LINK.findall(text):
        path = (page.parent / target) if target else page
        assert path.exists(), f"{page}: {target}"
        if anchor and path.suffix == ".md":
            assert anchor[1:] in anchors(path), f"{page}: {target}{anchor}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as they are made from Markdown."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
