"""A server's answers beside the reference's: the largest difference of a log-probability, and whether texts agree."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def rows(reference: dict[str, Any], found: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for the base and for each method.

    Differences are over the reference's most probable tokens, at each token up to where the texts part.
    """
    return [_row(name, reference[name], reference["base"], found) for name in reference if name in found]


def _row(name: str, expected: dict[str, Any], base: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    answer = found[name]
    same = _common(expected["tokens"], answer["tokens"])
    differences = [
        abs(answer["steps"][i][str(token)] - logprob)
        for i in range(min(same + 1, len(expected["steps"])))
        for token, logprob in expected["steps"][i]
        if str(token) in answer["steps"][i]
    ]
    return {
        "server": found["server"],
        "version": found["version"],
        "model": "SmolLM2-135M",
        "method": name,
        "largest_difference": max(differences),
        "compared": len(differences),
        "moved": moved(expected["steps"][0], base["steps"][0]),
        "greedy_text_equal": answer["tokens"] == expected["tokens"],
    }


def moved(found: list[list[float]], alone: list[list[float]]) -> float:
    """How far an adapter moves a log-probability at least: of a token that is not among the base's most probable ones,
    the base's is below theirs."""
    known = {int(token): logprob for token, logprob in alone}
    lowest = min(known.values())
    both = [abs(logprob - known[int(token)]) for token, logprob in found if int(token) in known]
    return max([*both, *(logprob - lowest for token, logprob in found if int(token) not in known)])


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )


if __name__ == "__main__":
    print(json.dumps(rows(*(json.loads(Path(name).read_text()) for name in sys.argv[1:3])), indent=2))
