"""What people read: the README and the pages in docs/, taken apart into blocks, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))
TEXTS = {name: (ROOT / name).read_text("utf-8") for name in DOCUMENTS}
EVERYTHING = "\n".join(TEXTS.values())

RUN = ("sh", "console")
"""The languages of blocks that a test runs."""

SHOWN = ("text",)
"""The language of blocks that no test runs: what is shown there is not for this program."""

_FENCE = re.compile(r" {0,3}(?:```|~~~)(.*)")
_MARKER = re.compile(r"<!-- test: (?P<kind>[a-z -]+)(?P<shows>(?:; shows: [^;]+?)*) -->")


@dataclass(frozen=True)
class Block:
    """A block between two fences, and how the document says that it is tested.

    Attributes:
        document: Where it is.
        section: The heading of the second level above it.
        language: What stands behind its first fence.
        kind: How it is tested; empty when the line above it does not say so.
        shows: What its output must contain, in this order.
        text: Its lines.
    """

    document: str
    section: str
    language: str
    kind: str
    shows: tuple[str, ...]
    text: str


@dataclass
class Page:
    """A document, read line by line."""

    name: str
    headings: list[tuple[int, str]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    prose: list[str] = field(default_factory=list)

    @property
    def anchors(self) -> list[str]:
        """The anchors that a link can lead to."""
        return [re.sub(r"[^\w -]", "", words.lower()).replace(" ", "-") for _, words in self.headings]


def read(name: str, text: str) -> Page:
    """Take a document apart."""
    page = Page(name)
    section, above = "", ""
    lines = iter(text.splitlines())
    for line in lines:
        if fence := _FENCE.fullmatch(line):
            marker = _MARKER.fullmatch(above)
            kind = marker["kind"] if marker else ""
            shows = tuple(re.findall(r"; shows: ([^;]+)", marker["shows"])) if marker else ()
            page.blocks.append(Block(name, section, fence[1].strip(), kind, shows, _until_the_end(lines)))
        elif heading := re.fullmatch(r"(#+) (.*)", line):
            page.headings.append((len(heading[1]), heading[2]))
            section = heading[2] if len(heading[1]) == 2 else section
        else:
            page.prose.append(line)
        above = line
    return page


def _until_the_end(lines: Iterator[str]) -> str:
    text = ""
    for line in lines:
        if _FENCE.fullmatch(line):
            return text
        text += line + "\n"
    raise ValueError("a block has no end")


PAGES = {name: read(name, text) for name, text in TEXTS.items()}
BLOCKS = [block for page in PAGES.values() for block in page.blocks]


@dataclass(frozen=True)
class Walk:
    """Blocks of one kind that follow each other in a section: who reads it runs them one after another."""

    blocks: tuple[Block, ...]

    @property
    def name(self) -> str:
        first = self.blocks[0]
        words = re.sub(r"[^a-z0-9]+", "-", first.section.lower()).strip("-")
        return f"{first.document}-{words}-{first.kind}"

    @property
    def text(self) -> str:
        """All of it, as one script; a line between the outputs of two blocks parts them."""
        return f"printf '\\n{PART}\\n'\n".join(block.text for block in self.blocks)


PART = "=== the next block ==="


def walks(*kinds: str) -> list[Walk]:
    """What the documents have to run, of these kinds."""
    grouped = groupby(BLOCKS, lambda block: (block.document, block.section, block.kind))
    return [Walk(tuple(blocks)) for (_, _, kind), blocks in grouped if kind in kinds]


def table(marker: str) -> list[list[str]]:
    """The rows of the table after a marker, without its head; it is in one document, once."""
    _, found, rest = EVERYTHING.partition(f"<!-- {marker} -->\n")
    assert found, marker
    assert f"<!-- {marker} -->\n" not in rest, f"{marker} is there twice"
    lines = rest.split("\n\n", 1)[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]
