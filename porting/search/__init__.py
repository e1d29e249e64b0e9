"""Inputs that reveal.

`revealing` chooses them, `search` tries them, `beside` does so beside the original, `shrink` cuts down
one that fails, and `reproduce` writes it out as a test.
"""
