"""Why a tensor is wrong: candidate causes, each applied, and believed only if parity returns.

`lab` holds a port at a faulty tensor and runs it with changes; `site` is what a candidate sees of it; each
file in `candidates/` proposes hypotheses of one kind; `engine` tries them and groups what has one cause.
"""
