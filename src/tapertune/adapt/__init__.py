"""Decisions: which parts of a chain go on training, and from when they do not."""

from __future__ import annotations

from .actuators import freeze, optimizer_bytes
from .averages import Averages
from .bottom_up import BottomUp
from .controller import Controller
from .decision import Decision, Policy, PolicyScope
from .importance import Gradient, GradientOverWeight, GradientTimesWeight, Scores
from .parameter import AdapterParameter, Handle
from .penalties import L1, Orthogonality
from .plan import Plan, make_plans, merge
from .policies import LowestFraction, MeanBelowQuantile, Proximal, RankBudget
from .schedules import Constant, Cubic, Join, Quadratic, Schedule, in_steps

__all__ = [
    "L1",
    "AdapterParameter",
    "Averages",
    "BottomUp",
    "Constant",
    "Controller",
    "Cubic",
    "Decision",
    "Gradient",
    "GradientOverWeight",
    "GradientTimesWeight",
    "Handle",
    "Join",
    "LowestFraction",
    "MeanBelowQuantile",
    "Orthogonality",
    "Plan",
    "Policy",
    "PolicyScope",
    "Proximal",
    "Quadratic",
    "RankBudget",
    "Schedule",
    "Scores",
    "freeze",
    "in_steps",
    "make_plans",
    "merge",
    "optimizer_bytes",
]
