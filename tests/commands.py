"""The commands of this project as tests run them: as processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

BIN = Path(sys.executable).parent
"""The folder of the installed commands."""

Command = Callable[..., subprocess.CompletedProcess[str]]
"""The type of the fixture `command`."""
