"""Gradients of the loss, from the loss towards the inputs.

`capture` takes the port's, `traces` opens the original's under the port's names, `comparison` compares them.
"""
