"""Runs: settings in, a run folder out. Submodules import what they need; this file imports nothing."""
