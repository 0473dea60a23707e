"""What imports what: the rules of pyproject.toml, no circles, and that the package and its command stay light."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
# files that import each other, and so can only be read together: to be none
KNOWN_CIRCLES: tuple[set[str], ...] = ()
HEAVY = ("torch", "peft", "transformers", "datasets", "sklearn", "scipy", "matplotlib")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_imports_point_one_way() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = run("-c", code)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def circles(imports: dict[str, set[str]]) -> list[set[str]]:
    """Groups of names that lead to each other."""
    reached: dict[str, set[str]] = {}
    for start in imports:
        reached[start], waiting = set(), list(imports[start])
        while waiting:
            name = waiting.pop()
            if name not in reached[start]:
                reached[start].add(name)
                waiting.extend(imports[name])
    groups = {frozenset(other for other in reached[name] if name in reached[other]) for name in imports}
    return [set(group) for group in groups if group]


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": set()}) == [{"a", "b"}]
    two = circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a", "e"}, "e": {"d"}})
    assert sorted(map(sorted, two)) == [["a", "b", "c"], ["d", "e"]]


def test_no_files_import_each_other() -> None:
    """Those for type checkers count, and those within functions."""
    graph = grimp.build_graph("tapertune", exclude_type_checking_imports=False, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    new = [sorted(circle) for circle in circles(imports) if not any(circle <= known for known in KNOWN_CIRCLES)]
    assert not new, f"these import each other: {new}"
    gone = [sorted(known) for known in KNOWN_CIRCLES if not any(circle <= known for circle in circles(imports))]
    assert not gone, f"no circle any more, so no exception either: {gone}"


@pytest.mark.parametrize("module", ["tapertune", "tapertune.cli.main", "tapertune.events"])
def test_import_is_light(module: str) -> None:
    done = run("-c", f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["demo", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        "import sys; from tapertune.cli.main import main\n"
        f"code = main({arguments})\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
        "sys.exit(code)"
    )
    done = run("-c", code)
    assert done.returncode == 0
    assert done.stderr.strip() == "[]"
