"""What a step costs, as a ratio to the frozen model's own. This file imports nothing."""
