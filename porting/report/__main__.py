"""Draw the pages of reports again, from their JSON: python -m porting.report [DIRECTORY]"""

from __future__ import annotations

import sys
from pathlib import Path

from porting.report.index import redraw

if __name__ == "__main__":
    redraw(Path(sys.argv[1] if len(sys.argv) > 1 else "reports"))
