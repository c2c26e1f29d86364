"""First line of every notebook: goes to the repository root, shows figures below their cells, and reads settings."""

import os
import sys
import warnings
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", str, int)
ROOT = Path(__file__).resolve().parents[1]

os.chdir(ROOT)
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

warnings.filterwarnings("ignore", message="IProgress not found")  # progress bars are plain text without ipywidgets

try:
    from IPython import get_ipython
except ImportError:  # a test that reads settings
    pass
else:
    if shell := get_ipython():
        shell.run_line_magic("matplotlib", "inline")


def setting(name: str, default: T) -> T:
    """The value in the environment, of the default's type; the default where there is none.

    Raises:
        ValueError: it is no number, and the default is one.
    """
    given = os.environ.get(name, "").strip()
    try:
        return type(default)(given) if given else default
    except ValueError as error:
        raise ValueError(f"{name}={given} must be a whole number, such as {default}") from error
