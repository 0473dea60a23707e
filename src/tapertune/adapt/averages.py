"""The running averages of importance, for all of a plan's tensors at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from ..errors import bad_value
from .blocks import block_size, blocks
from .importance import Importance, Scores, _Importance
from .reaches import Reaches
from .sharding import gather

_FUSED = cast(Any, torch)  # the multi-tensor operations of torch.optim, which torch does not declare


class _Block(NamedTuple):
    """Consecutive tensors that are taken in together.

    Attributes:
        first, end: which ones.
        begin: where their elements begin in the flat buffers.
        signal: scratch for their elements.
        views: of the scratch, in their shapes.
    """

    first: int
    end: int
    begin: int
    signal: Tensor
    views: list[Tensor]


@dataclass
class Averages:
    """The running averages of a set of tensors, one flat buffer each for all, taken in block by block.

    Attributes:
        importance: what is averaged and how.
        names: of the tensors, in order.
        shapes: of each.
        routed: names of those that not every step reaches, such as an expert's: a step that gives them no gradient
            leaves their averages alone.
    """

    importance: Importance
    names: list[str]
    shapes: list[torch.Size]
    device: torch.device
    dtype: torch.dtype
    routed: frozenset[str] = frozenset()
    mean: Tensor = field(init=False)
    dev: Tensor = field(init=False)
    window: Tensor = field(init=False)
    _blocks: list[_Block] | None = field(init=False, default=None)
    _reaches: Reaches = field(init=False)

    @property
    def sizes(self) -> list[int]:
        """Elements of each tensor."""
        return [shape.numel() for shape in self.shapes]

    def __post_init__(self) -> None:
        count = sum(self.sizes)
        self.mean, self.dev = (torch.zeros(count, device=self.device, dtype=self.dtype) for _ in range(2))
        self.window = torch.zeros(count if self.importance.window else 0, device=self.device, dtype=self.dtype)
        self._reaches = Reaches(self.importance)

    @torch.no_grad()
    def observe(self, step: int, parameters: Sequence[Tensor], inverse_scale: float | Tensor = 1.0) -> None:
        """Takes in the gradients of one step. A gradient that is missing counts as zero, unless its tensor is routed;
        an element that is not finite leaves its averages as if it had been the mean.

        Args:
            step: index of the optimizer step, from 0; places the step in its window.
            parameters: in the order of ``names``.
            inverse_scale: multiplies gradients that a loss scaler has left scaled.
        """
        if self._blocks is None:
            self._blocks = self._layout()
        missed = self._missed(parameters)
        kept = [(part, part.clone()) for part in self._parts_of(missed)]
        for block in self._blocks:
            self._gather(block, parameters[block.first : block.end])
            signal = block.signal if self.importance.compares else block.signal.abs_()
            if isinstance(inverse_scale, Tensor) or inverse_scale != 1.0:
                signal.mul_(inverse_scale)
            self._take_in(step, signal, block)
        for part, before in kept:
            part.copy_(before)
        if self.routed:
            self._reaches.count({self.names[i] for i in missed}, self.routed.intersection(self.names))

    def _missed(self, parameters: Sequence[Tensor]) -> list[int]:
        """Which routed tensors this step has not reached."""
        if not self.routed:
            return []
        return [i for i, p in enumerate(parameters) if p.grad is None and self.names[i] in self.routed]

    def _parts_of(self, indices: Sequence[int]) -> Iterator[Tensor]:
        """The averages of some tensors, as views."""
        edges = list(itertools.accumulate(self.sizes, initial=0)) if indices else []
        for index in indices:
            for flat in (self.mean, self.dev, self.window) if self.importance.window else (self.mean, self.dev):
                yield flat[edges[index] : edges[index + 1]]

    def _layout(self) -> list[_Block]:
        """The blocks, all over one piece of scratch memory, with views of it in the tensors' shapes."""
        sizes = self.sizes
        edges = list(itertools.accumulate(sizes, initial=0))
        spans = list(blocks(sizes, block_size(self.device)))
        scratch = torch.empty(
            max((edges[b] - edges[a] for a, b in spans), default=0), device=self.device, dtype=self.dtype
        )
        made = []
        for a, b in spans:
            signal = scratch[: edges[b] - edges[a]]
            views = [v.view(s) for v, s in zip(signal.split(sizes[a:b]), self.shapes[a:b], strict=True)]
            made.append(_Block(a, b, edges[a], signal, views))
        return made

    def _gather(self, block: _Block, parameters: Sequence[Tensor]) -> None:
        """Fills a block with its tensors' raw signals."""
        views, grads = block.views, [p.grad for p in parameters]
        if any(grad is None for grad in grads):
            _FUSED._foreach_zero_([view for view, grad in zip(views, grads, strict=True) if grad is None])
            views = [view for view, grad in zip(views, grads, strict=True) if grad is not None]
        if views:
            _FUSED._foreach_copy_(views, gather([grad for grad in grads if grad is not None]))
        if self.importance.reads_weights:
            self.importance.weigh(block.views, [p.to(self.device) for p in gather(parameters)])

    def _take_in(self, step: int, signal: Tensor, block: _Block) -> None:
        """Moves a block's averages; ``signal`` is scratch."""
        part = slice(block.begin, block.begin + len(signal))
        length = self.importance.window
        if length is None:
            self._ema_update(part, signal)
            return
        window, place = self.window[part], step % length
        if place == 0 and self.importance.compares:
            self._compare(part, window, self.sizes[block.first : block.end])
        elif place == 0:
            self._ema_update(part, window)
            window.copy_(self.mean[part])
        # the running mean over the window; in a new one it starts with the first signal
        window.add_(_known(signal.sub_(window)), alpha=1 / (place + 1))

    def _compare(self, part: slice, window: Tensor, sizes: Sequence[int]) -> None:
        """``dev = abs(|window| - |mean|) / |mean|`` by tensor; the window becomes the mean, for the next one."""
        mean, dev = self.mean[part], self.dev[part]
        old, new = (
            torch.stack([torch.linalg.vector_norm(values) for values in flat.split(sizes)]) for flat in (mean, window)
        )
        change = torch.where(old > 0, (new - old).abs() / old, torch.ones_like(old))
        dev.copy_(change.repeat_interleave(torch.tensor(sizes, device=change.device)))
        mean.copy_(window)

    def _ema_update(self, part: slice, signal: Tensor) -> None:
        """``mean = b1 mean + (1 - b1) signal; dev = b2 dev + (1 - b2) |signal - mean|``; uses ``signal`` up."""
        assert isinstance(self.importance, _Importance), "others compare windows"
        b1, b2 = self.importance.beta1, self.importance.beta2
        mean, dev = self.mean[part], self.dev[part]
        gap = _known(signal.sub_(mean))
        mean.add_(gap, alpha=1 - b1)
        # from the new mean, the signal is b1 times as far away as from the old one
        dev.mul_(b2).add_(gap.abs_(), alpha=(1 - b2) * b1)

    def scores(self) -> Scores:
        elements = self.dev.clone() if self.importance.compares else self.mean * self.dev
        scores = Scores(list(self.names), elements, self.sizes, list(self.shapes))
        return self._reaches.corrected(scores, self.routed) if self.routed else scores

    def unreached(self) -> list[str]:
        """Names of the routed tensors of which nothing is known."""
        return [name for name in self.names if name in self.routed and not self._reaches.known(name)]

    def drop(self, names: Collection[str]) -> None:
        """Forgets tensors, and frees what they took."""
        gone = set(names)
        keep = [i for i, name in enumerate(self.names) if name not in gone]
        if len(keep) < len(self.names):
            self._rebuild(lambda parts: [parts[i] for i in keep])
            self.names = [self.names[i] for i in keep]

    def take(self, cuts: Mapping[str, tuple[int, Tensor]]) -> None:
        """Keeps some indices of tensors along an axis, as their parameters have been cut.

        Args:
            cuts: by name, the axis and the indices.
        """
        here = {name: cuts[name] for name in self.names if name in cuts}
        if here:
            self._rebuild(
                lambda parts: [
                    part.index_select(here[name][0], here[name][1].to(part.device)) if name in here else part
                    for name, part in zip(self.names, parts, strict=True)
                ]
            )

    def _rebuild(self, change: Callable[[list[Tensor]], list[Tensor]]) -> None:
        shapes = self.shapes
        for key in ("mean", "dev", "window") if self.importance.window else ("mean", "dev"):
            flat = getattr(self, key)
            parts = change([p.view(shape) for p, shape in zip(flat.split(self.sizes), self.shapes, strict=True)])
            setattr(self, key, torch.cat([flat.new_zeros(0), *(p.flatten() for p in parts)]))
            shapes = [part.shape for part in parts]
        self.shapes, self._blocks = shapes, None

    def state_dict(self) -> dict[str, Tensor]:
        state = {"mean": self.mean, "dev": self.dev, "window": self.window}
        return {**state, "reached": self._reaches.state(self.names)} if self.routed else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key in ("mean", "dev", "window"):
            mine = getattr(self, key)
            if key not in state or state[key].shape != mine.shape:
                found = tuple(state[key].shape) if key in state else None
                raise bad_value(f"saved averages, {key}", found, f"of shape {tuple(mine.shape)}")
            setattr(self, key, state[key].to(self.device, self.dtype, copy=True))
        if self.routed and "reached" in state:
            self._reaches.load(self.names, state["reached"])


def _known(gap: Tensor) -> Tensor:
    """Sets to zero, in place, what is not finite."""
    return gap.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
