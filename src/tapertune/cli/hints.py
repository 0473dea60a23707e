"""Commands and options that there are not: which one was meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..synonyms import folded, meant


def normalised(name: str) -> str:
    """An option's name as the command has it: ``--batch_size`` is ``--batch-size``."""
    return name.replace("_", "-") if name.startswith("--") else name


def usage_hint(error: Exception, arguments: Sequence[str]) -> str:
    """What to add to a usage error: the command that was meant, or for each option of those typed that the command does
    not have, the one that it has for the same thing. Nothing where the command takes settings by their names, or the
    error says it itself.

    Args:
        error: typer's.
        arguments: as they were typed.
    """
    context: Any = getattr(error, "ctx", None)
    command: Any = getattr(context, "command", None)
    commands = getattr(command, "commands", None)
    if commands:
        return _nearest_command(str(error.format_message()), commands, arguments)  # type: ignore[attr-defined]
    if command is None:
        return ""
    known = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    typed = [argument.partition("=")[0] for argument in arguments if argument.startswith("-") and argument != "--"]
    hints: list[str] = []
    for name in typed:
        if "." in name or folded(name) in map(folded, known):
            continue
        guess = meant(folded(name), [folded(option) for option in known])
        if guess is not None:
            option = next(option for option in known if folded(option) == guess)
            hints.append(f"{name} is no option of it: did you mean {option}?")
    return "".join(f" {hint}" for hint in hints)


def _nearest_command(message: str, commands: Iterable[str], arguments: Sequence[str]) -> str:
    """The command that was meant, which typer's message has from 0.20 on."""
    typed = next((argument for argument in arguments if not argument.startswith("-")), "")
    guess = None if "id you mean" in message else meant(typed, sorted(commands))
    return f" Did you mean {guess!r}?" if guess is not None else ""
