"""The commands: parse, call one function, render, exit. A file for each; `common.py` is what all share.

Nothing heavy is imported before the arguments have been read: `--help` loads neither PyTorch nor TensorFlow.
"""

from porting.cli.compare import compare_outputs_command
from porting.cli.compare_reports import compare_reports_command
from porting.cli.convert import convert_checkpoint_command
from porting.cli.new_port import new_port_command
from porting.cli.suggest import suggest_rules_command

__all__ = [
    "compare_outputs_command",
    "compare_reports_command",
    "convert_checkpoint_command",
    "new_port_command",
    "suggest_rules_command",
]
