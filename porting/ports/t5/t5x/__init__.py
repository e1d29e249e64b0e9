"""T5 as T5X has it: what its checkpoints call the weights, what its gin says, its runs, and the way back."""
