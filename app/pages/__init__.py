"""The pages of the dashboard, in the order of the menu. A new page is a module with a ``PAGE`` and a line here."""

from __future__ import annotations

from app.frame.page import Page
from app.pages import circuit, codes, compare, guide, head, heads, jobs, lab, patterns, policies, runs, variants

PAGES: tuple[Page, ...] = (
    runs.PAGE,
    heads.PAGE,
    head.PAGE,
    lab.PAGE,
    patterns.PAGE,
    compare.PAGE,
    circuit.PAGE,
    codes.PAGE,
    policies.PAGE,
    variants.PAGE,
    jobs.PAGE,
    guide.PAGE,
)
