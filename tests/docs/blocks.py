"""The fenced code blocks of everything people read."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One block: `info` is what follows the opening fence, for example "toml waypost.toml"."""

    path: Path
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        """The first word of the info."""
        return self.info.partition(" ")[0]

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def pages() -> list[Path]:
    """Return every page of the documentation."""
    found = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")]
    return sorted(found + [path for path in ROOT.glob("*/README.md") if not path.parent.name.startswith(".")])


def _blocks(path: Path) -> Iterator[Block]:
    text = path.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        yield Block(path, line, match["info"].strip(), match["text"].rstrip("\n"))


BLOCKS = [block for page in pages() for block in _blocks(page)]
