"""What pyproject.toml cannot say: `templates/`, beside the package, goes into what is built of it."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithTemplates(build_py):
    """Copies `templates/` into the package that is built; an editable install reads it where it is."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "porting" / "templates"
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree("templates", target, dirs_exist_ok=True, ignore=ignored)


setup(cmdclass={"build_py": BuildWithTemplates})
