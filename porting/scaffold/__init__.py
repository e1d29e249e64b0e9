"""How a new port begins, and how far it is: `new-port`.

write.py       a port from `templates/port/`, as a package of its own or into this tree
settings.py    what a port's `port.toml` says: its checkpoint, where its stages end, what it does not have
steps.py       the steps, in order: the first that fails is the next to do, those behind it wait
work.py        what the steps look at: the port, a checkpoint of the original, traces of both
checks.py      what each step asks of a port; forward.py: those that compare tensors
unfinished.py  the error that functions of the template raise
"""

from porting.scaffold.unfinished import UnfinishedError

__all__ = ["UnfinishedError"]
