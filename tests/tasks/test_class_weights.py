from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tapertune.errors import TapertuneError
from tapertune.tasks import text_classification
from tapertune.tasks.class_weights import weights_of
from tapertune.tasks.kinds import Encoded, get_kind
from tapertune.tasks.kinds.losses import weighted_binary_cross_entropy, weighted_cross_entropy


def test_balanced_is_scikit_learns() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = [0] * 9 + [1] * 2 + [2]
    wanted = compute_class_weight("balanced", classes=np.array([0, 1, 2]), y=labels)
    assert weights_of("balanced", ("a", "b", "c"), np.bincount(labels).tolist(), len(labels)) == pytest.approx(wanted)


def test_a_batch_in_two_passes_has_the_loss_of_one() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    loss = weighted_cross_entropy([1.0, 4.0, 0.5])
    whole = loss({"logits": logits}, labels)
    pairs = zip(logits.split(3), labels.split(3), strict=True)
    halves = [loss({"logits": part}, numbers, num_items_in_batch=6) for part, numbers in pairs]
    assert torch.allclose(whole, sum(halves, torch.zeros(())))
    by_row = F.cross_entropy(logits, labels, reduction="none") * torch.tensor([1.0, 4.0, 0.5])[labels]
    assert torch.allclose(whole, by_row.mean())


def test_weights_of_one_are_the_models_own_losses() -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    truth = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    several = weighted_binary_cross_entropy([1.0] * 3)({"logits": logits}, truth)
    assert torch.allclose(several, F.binary_cross_entropy_with_logits(logits, truth.float()))
    one = weighted_cross_entropy([1.0] * 3)({"logits": logits}, torch.tensor([0, 1, 2, 0]))
    assert torch.allclose(one, F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])))


def test_balanced_counts_the_training_rows() -> None:
    task = text_classification(labels=("a", "b"), class_weights="balanced")
    rows = [{"input_ids": [1], "labels": label} for label in (0, 0, 0, 1)]
    loss = get_kind(task.kind).training_loss(task, Encoded(rows=rows, examples=rows, owners=[0, 1, 2, 3]))
    logits = torch.zeros(2, 2)
    assert float(loss({"logits": logits}, torch.tensor([0, 1]))) == pytest.approx((4 / 6 + 2) / 2 * np.log(2))
    with pytest.raises(TapertuneError, match="rows of a stream"):
        get_kind(task.kind).training_loss(task, None)
