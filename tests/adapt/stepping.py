"""Small real optimizers of the kinds that keep, move or hide more than torch's own do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer


class Soap(Optimizer):
    """Adam in the eigenbases of lists of preconditioners, one for each axis (SOAP)."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["step"], state["exp_avg"], state["exp_avg_sq"] = 0, torch.zeros_like(p), torch.zeros_like(p)
                    state["GG"] = [torch.eye(n) * 1e-3 for n in p.shape]
                    state["Q"] = [torch.eye(n) for n in p.shape]
                state["step"] += 1
                grad = p.grad
                for axis, (gg, q) in enumerate(zip(state["GG"], state["Q"], strict=True)):
                    flat = grad.movedim(axis, 0).flatten(1) if grad.dim() > 1 else grad.unsqueeze(1)
                    gg.lerp_(flat @ flat.mT, 0.1)
                    q.copy_(torch.linalg.qr(gg @ q).Q)
                turned = self._turn(grad, state["Q"])
                state["exp_avg"].lerp_(turned, 0.1)
                state["exp_avg_sq"].lerp_(turned.square(), 0.05)
                update = state["exp_avg"] / (state["exp_avg_sq"].sqrt() + 1e-8)
                p.sub_(self._turn(update, [q.mT for q in state["Q"]]), alpha=group["lr"])

    def _turn(self, value: Tensor, bases: list[Tensor]) -> Tensor:
        for basis in bases:
            value = torch.tensordot(value, basis, dims=[[0], [0]])
        return value


class Shampoo(Optimizer):
    """A preconditioner of each axis under a name of its own, square as a square parameter's moments are."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state.update({f"precond_{i}": torch.eye(n) * 1e-2 for i, n in enumerate(p.shape)})
                update = p.grad
                for i in range(p.dim()):
                    flat = update.flatten(1) if update.dim() > 1 else update.unsqueeze(1)
                    state[f"precond_{i}"].add_(flat @ flat.mT)
                    root = torch.linalg.inv(torch.linalg.cholesky(state[f"precond_{i}"]))
                    update = torch.tensordot(update, root.mT, dims=[[0], [0]])
                p.sub_(update, alpha=group["lr"])


class Average:
    """A moving average in an object."""

    def __init__(self, p: Tensor) -> None:
        self.value = torch.zeros_like(p)

    def take(self, grad: Tensor) -> Tensor:
        return self.value.lerp_(grad, 0.1)


class Objects(Optimizer):
    """Keeps an object for each parameter in its state."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    own = self.state[p].setdefault("average", Average(p))
                    p.sub_(own.take(p.grad), alpha=group["lr"])


class Lists(Optimizer):
    """Keeps a list of moments beside its parameters, not in its state; ``how`` they are kept."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float = 1e-2, how: str = "list") -> None:
        super().__init__(params, {"lr": lr})
        (group,) = self.param_groups
        zeros = [torch.zeros_like(p) for p in group["params"]]
        self.how = how
        if how == "list":
            self.moments: Any = zeros
        elif how == "groups":
            self.moments = [zeros]
        elif how == "by parameter":
            self.moments = dict(zip(group["params"], zeros, strict=True))
        elif how == "by id":
            self.moments = {id(p): {"moment": zero} for p, zero in zip(group["params"], zeros, strict=True)}
        elif how == "in the group":
            group["moments"] = zeros
        elif how == "in objects":
            self.moments = [Average(p) for p in group["params"]]
        elif how == "flat":
            self.moments = torch.zeros(sum(p.numel() for p in group["params"]))

    def _moments(self, group: dict[str, Any]) -> list[Tensor]:
        if self.how == "groups":
            return self.moments[0]
        if self.how in ("by parameter", "by id"):
            return [v["moment"] if isinstance(v, dict) else v for v in self.moments.values()]
        if self.how == "in the group":
            return group["moments"]
        if self.how == "in objects":
            return [average.value for average in self.moments]
        if self.how == "flat":
            parts = self.moments.split([p.numel() for p in group["params"]])
            return [part.view(p.shape) for part, p in zip(parts, group["params"], strict=True)]
        return self.moments

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p, moment in zip(group["params"], self._moments(group), strict=True):
                if p.grad is not None:
                    p.sub_(moment.lerp_(p.grad, 0.1), alpha=group["lr"])


class Slow:
    """Slow weights beside an optimizer, to which parameters are drawn every third step, whether or not they have a
    gradient. ``where`` the slow weights are: ``state`` or ``list``."""

    def hold(self, inner: Optimizer, where: str) -> None:
        self.inner, self.count = inner, 0
        self.param_groups = inner.param_groups
        parameters = [p for g in self.param_groups for p in g["params"]]
        copies = [p.detach().clone() for p in parameters]
        self.copies = copies if where == "list" else None
        self.state: Any = {} if self.copies else {p: {"slow": c} for p, c in zip(parameters, copies, strict=True)}

    @torch.no_grad()
    def draw(self) -> None:
        self.count += 1
        parameters = [p for g in self.param_groups for p in g["params"]] if self.count % 3 == 0 else []
        for i, p in enumerate(parameters):
            slow = self.copies[i] if self.copies else self.state.get(p, {}).get("slow")
            if slow is not None:
                p.copy_(slow.lerp_(p, 0.5))


class Lookahead(Slow, Optimizer):
    """Slow weights around another optimizer."""

    def __init__(self, inner: Optimizer, where: str = "state") -> None:
        Optimizer.__init__(self, [p for g in inner.param_groups for p in g["params"]], {})
        self.hold(inner, where)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.draw()


class Unhooked(Slow, Optimizer):
    """The same, without torch's ``__init__``, and so without its hooks."""

    def __init__(self, inner: Optimizer) -> None:
        self.hold(inner, "state")
        self.defaults = inner.defaults

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.draw()


class Chained:
    """Two optimizers in an object that is none of torch's."""

    def __init__(self, *optimizers: Optimizer) -> None:
        self.optimizers = list(optimizers)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def step(self) -> None:
        for optimizer in self.optimizers:
            optimizer.step()

    def zero_grad(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()


class Front(Optimizer):
    """Passes on to another optimizer, with hooks of its own."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__([p for g in inner.param_groups for p in g["params"]], {})
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        self.inner.step()


class Bare:
    """The same, and no torch optimizer."""

    def __init__(self, inner: Optimizer) -> None:
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self) -> None:
        self.inner.step()

    def zero_grad(self) -> None:
        self.inner.zero_grad()


class Slotted:
    """One whose step cannot be replaced."""

    __slots__ = ("inner", "param_groups")

    def __init__(self, inner: Optimizer) -> None:
        self.inner, self.param_groups = inner, inner.param_groups

    def step(self) -> None:
        self.inner.step()


class Dummy(Optimizer):
    """Does nothing: each parameter is stepped inside backward."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        return None


def inside_backward(parameters: list[nn.Parameter], set_to_none: bool = True) -> Dummy:
    """A dummy in front of an optimizer for each parameter, which steps as soon as the gradient is there."""
    inner = {p: AdamW([p], lr=1e-2) for p in parameters}

    def now(p: Tensor) -> None:
        inner[p].step()  # type: ignore[index]
        inner[p].zero_grad(set_to_none=set_to_none)  # type: ignore[index]

    for p in parameters:
        p.register_post_accumulate_grad_hook(now)
    return Dummy(parameters, {"lr": 1e-2})


def adafactor(parameters: list[nn.Parameter]) -> Optimizer:
    from transformers import Adafactor

    return Adafactor(parameters, lr=1e-2, relative_step=False, scale_parameter=False, beta1=0.9)


def muon_and_adamw(parameters: list[nn.Parameter]) -> Any:
    """Muon for matrices and AdamW for vectors, as Muon is meant to be used."""
    matrices, vectors = ([p for p in parameters if (p.dim() == 2) is dense] for dense in (True, False))
    matrix_optimizer = getattr(torch.optim, "Muon", torch.optim.SGD)(matrices, lr=1e-2)
    return Chained(matrix_optimizer, AdamW(vectors, lr=1e-2)) if vectors else matrix_optimizer


Maker = Callable[[list[nn.Parameter]], Any]
OPTIMIZERS: dict[str, Maker] = {
    "adamw": lambda p: AdamW(p, lr=1e-2),
    "sgd with momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
    "soap": Soap,
    "shampoo": Shampoo,
    "objects": Objects,
    **{f"lists: {how}": lambda p, how=how: Lists(p, how=how) for how in (
        "list", "groups", "by parameter", "by id", "in the group", "in objects", "flat"
    )},
    "lookahead": lambda p: Lookahead(AdamW(p, lr=1e-2)),
    "lookahead, lists": lambda p: Lookahead(AdamW(p, lr=1e-2), where="list"),
    "lookahead without hooks": lambda p: Unhooked(AdamW(p, lr=1e-2)),
    "lookahead around soap": lambda p: Lookahead(Soap(p)),
    "front": lambda p: Front(AdamW(p, lr=1e-2)),
    "bare": lambda p: Bare(AdamW(p, lr=1e-2)),
    "chained": lambda p: Chained(AdamW(p[::2], lr=1e-2), torch.optim.SGD(p[1::2], lr=1e-2, momentum=0.9)),
    "muon and adamw": muon_and_adamw,
    "adafactor": adafactor,
    "torch's adafactor": lambda p: torch.optim.Adafactor(p, lr=1e-2),
}  # fmt: skip
# what keeps something that cannot be cut with its factor, and so starts anew there or stays masked
ANEW = {"soap", "shampoo", "objects", "lookahead around soap", "adafactor", "torch's adafactor"}
MASKED = {"lists: in objects", "lists: flat"}
