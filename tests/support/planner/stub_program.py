"""A program that "compiles" without XLA: it leaves the files that XLA would."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Stub:
    """Stands for a jitted function, its trace, its lowering and its executable.

    Args:
        dumps: where XLA's dumps go.
        files: names of what it writes there, with what they hold.
    """

    def __init__(self, dumps: Path, files: dict[str, str]) -> None:
        self.dumps = dumps
        self.files = files
        self.asked: dict[str, Any] = {}

    def trace(self, *arguments: Any) -> "Stub":
        self.asked["arguments"] = arguments
        return self

    def lower(self, lowering_platforms: tuple[str, ...]) -> "Stub":
        self.asked["platforms"] = lowering_platforms
        return self

    def compile(self, compiler_options: dict[str, Any]) -> "Stub":
        self.asked["options"] = compiler_options
        for name, text in self.files.items():
            (self.dumps / name).write_text(text)
        return self

    def as_text(self) -> str:
        return "HloModule stub"

    def memory_analysis(self) -> SimpleNamespace:
        return SimpleNamespace(
            argument_size_in_bytes=1,
            output_size_in_bytes=2,
            alias_size_in_bytes=3,
            temp_size_in_bytes=4,
            peak_memory_in_bytes=5,
        )
