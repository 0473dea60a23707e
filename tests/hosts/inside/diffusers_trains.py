"""A small UNet in a plain loop, as diffusers' training scripts have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import STEPS, Findings, acted, config


def unet(folder: Path) -> Path:
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8, block_out_channels=(16,), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), attention_head_dim=4,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def train(findings: Findings, start: Path, method: str) -> None:
    import torch
    from diffusers import UNet2DConditionModel
    from peft import get_peft_model

    import tapertune
    from tapertune.events import EventLog
    from tapertune.interop import export_lora

    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    scope = {"projection_scope": "all"} if method == "aflora" else {}  # there is attention alone here
    adapter = config(method, target_modules=targets, **scope)
    model: Any = get_peft_model(UNet2DConditionModel.from_pretrained(start), adapter)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    out = findings.folder / method
    controller = tapertune.attach(model, optimizer, total_steps=STEPS, events=EventLog(out / "events.jsonl"))
    for _ in range(STEPS):
        noisy, text = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 16)
        (model(noisy, 3, text).sample - noisy).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    controller.finish()
    acted(out / "events.jsonl", method)
    model.save_pretrained(out / "adapter")
    model.eval()
    torch.manual_seed(0)
    with torch.no_grad():
        expected = model(torch.randn(1, 4, 8, 8), 3, torch.randn(1, 4, 16)).sample.flatten()[:16].tolist()
    findings.load_later(
        f"{method}: loaded without tapertune", by="unet", adapter=out / "adapter", base=start, expected=expected
    )
    export_lora(out / "adapter", out / "lora")
    findings.load_later(
        f"{method}: exported, loaded without tapertune", by="unet", adapter=out / "lora", base=start, expected=expected
    )


if __name__ == "__main__":
    findings = Findings()
    start = findings.check("a small UNet", unet, findings.folder / "unet")
    for method in ("aflora", "adalora"):
        findings.check(f"{method}: trains", train, findings, start, method)
    findings.load()
