"""What a run costs: parameters and operations, estimated before it and measured after. This file imports nothing."""
