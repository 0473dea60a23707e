"""What each of two processes runs; a module of its own, so that a spawned process can import it."""

from __future__ import annotations

import os


def worker(rank: int, port: int, commands: list[list[str]]) -> None:
    """Runs commands one after the other, as torchrun would start them on a machine without accelerators."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="localhost")
    import torch
    from processes import leave, nodes_everywhere

    from tapertune.cli.main import main

    torch.set_num_threads(1)
    nodes_everywhere()
    for command in commands:
        assert main(command) == 0, command
    leave()
