"""What `benchmarks/convert.py` rests on: checkpoints of full size, and measured processes."""
