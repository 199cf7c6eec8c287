"""What the READMEs say: their code blocks, links and paths. No tests here."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from support.places import ROOT

FILES = (
    ROOT / "README.md",
    *sorted(
        path
        for room in ("configs", "launch", "moe_jax")
        for path in (ROOT / room).rglob("README.md")
    ),
)


@dataclass(frozen=True)
class Block:
    """A code block, and the README that has it."""

    readme: Path
    number: int
    code: str

    def __str__(self) -> str:
        return f"{self.readme.relative_to(ROOT)}-{self.number}"


def blocks(language: str) -> list[Block]:
    """Return the blocks of a language in all READMEs."""
    return [
        Block(readme, number, code)
        for readme in FILES
        for number, code in enumerate(
            re.findall(rf"```{language}\n(.*?)```", readme.read_text(), flags=re.DOTALL)
        )
    ]


def commands(*programs: str) -> list[list[str]]:
    """Return the words of the command lines that begin with `programs`, each once; () is all."""
    lines = [line for block in blocks("bash") for line in block.code.splitlines()]
    read = [shlex.split(line, comments=True) for line in dict.fromkeys(lines)]
    return [words for words in read if words and (not programs or words[0] in programs)]


def links(readme: Path) -> list[str]:
    """Return the targets of a README's links to files of this tree."""
    targets = re.findall(r"\]\(([^)]+)\)", prose(readme))
    return [target for target in targets if "://" not in target]


def anchors(readme: Path) -> set[str]:
    """Return the names that a README's headings have in links."""
    headings = re.findall(r"^#+ (.*)$", prose(readme), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def paths(readme: Path) -> set[str]:
    """Return what stands in backticks and looks like a file with a suffix, or like a folder."""
    return set(
        re.findall(r"`([\w.-][\w./-]*(?:\.(?:py|toml|sh|env|yaml|sbatch|ipynb)|/))`", prose(readme))
    )


def prose(readme: Path) -> str:
    """Return the text of a README without its code blocks."""
    return re.sub(r"```.*?```", "", readme.read_text(), flags=re.DOTALL)
