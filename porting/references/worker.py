"""What runs in the reference process: python -m porting.references.worker module:function FOLDER."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from porting.errors import PortingError
from porting.references.process import ERROR_FILE


def main(target: str, folder: str) -> int:
    """Call the target with the request in the folder; leave an error there if it raises ours."""
    module, _, function = target.partition(":")
    request = json.loads((Path(folder) / "request.json").read_text(encoding="utf-8"))
    try:
        getattr(importlib.import_module(module), function)(request)
    except PortingError as error:
        content = {"message": str(error).removesuffix(error.remedy).rstrip(), "remedy": error.remedy}
        (Path(folder) / ERROR_FILE).write_text(json.dumps(content), encoding="utf-8")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
