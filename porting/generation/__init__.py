"""What both sides generate.

`decoding` asks the original, `flips` finds where the port leaves it, `incremental` holds the port's cache
against its full path, and `comparison` is what they hand on.
"""
