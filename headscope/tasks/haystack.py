"""Long English text to hide needles in and to measure loss on."""

from __future__ import annotations

import re
from pathlib import Path

from headscope.errors import TaskError

_RULES = re.compile(r"[*=~^|+`-]{2,}")
_BLANKS = re.compile(r"[ \t]+")
_LINES = re.compile(r"\n{3,}")


def load_haystack(path: Path | None = None) -> str:
    """The text of ``path``, or by default the Python language reference that ships with Python.

    The default (`pydoc_data.topics`, 465 thousand characters of technical English) has its text-markup rules and
    repeated blanks removed; a file of your own is taken as it is. The default differs a little between Python
    versions: runs record the version.

    Raises:
        TaskError: if the file is missing, empty or not UTF-8 text.
    """
    if path is None:
        from pydoc_data import topics

        joined = "\n\n".join(str(text) for _, text in sorted(topics.topics.items()))
        return _LINES.sub("\n\n", _BLANKS.sub(" ", _RULES.sub("", joined))).strip()
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"the haystack {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"the haystack {path} is not UTF-8 text. Give a plain text file.") from error
    except ValueError as error:
        raise TaskError(f"the haystack {str(path)!r} is no file name ({error}).") from error
    if not text.strip():
        raise TaskError(f"the haystack {path} is empty. Give a text longer than the longest prompt.")
    return text
