"""What a run is told and what is kept of it: settings, recipes, record. This file imports nothing."""
