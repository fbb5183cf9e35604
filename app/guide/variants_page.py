"""Write ``docs/variants.md`` anew from the registry: ``python -m app.guide.variants_page``."""

from __future__ import annotations

from pathlib import Path

from app.views.variants import variants_page

PAGE = Path(__file__).parents[2] / "docs" / "variants.md"

if __name__ == "__main__":
    PAGE.write_text(variants_page(), encoding="utf-8", newline="\n")
