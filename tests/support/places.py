"""Where things lie in the source tree. No tests here."""

from pathlib import Path

#: What a test's own process needs on its path to import `support`.
TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
CONFIGS = ROOT / "configs"
#: Scripts that tests run as processes of their own.
WORKERS = TESTS / "support" / "workers"
