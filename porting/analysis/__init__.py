"""What is behind a comparison: which tensors are wrong by themselves, and what rounding explains.

`isolation` runs the port on the original's tensors, `rounding` in float64, `noise` turns what that changes
into floors, `passes` makes all the runs, and `explain` hands what they find to `porting.diagnose`.
"""
