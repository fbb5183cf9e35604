import time
from axe_playwright_python.sync_playwright import Axe
from app.pages import PAGES
from playwright.sync_api import expect


def test_x(served, new_context):
    ctx = new_context(color_scheme="light", viewport={"width": 1440, "height": 900})
    for fresh in (False, True):
        for shown in PAGES:
            t = [time.time()]
            page = (
                new_context(color_scheme="light", viewport={"width": 1440, "height": 900}) if fresh else ctx
            ).new_page()
            t.append(time.time())
            page.goto(f"{served}{shown.path}")
            t.append(time.time())
            expect(page.locator(f"#page-{shown.name}")).to_be_visible()
            t.append(time.time())
            page.wait_for_load_state("networkidle")
            t.append(time.time())
            for grid in page.locator(".ag-root-wrapper").all():
                grid.scroll_into_view_if_needed()
                expect(grid.locator(".ag-header-cell").first).to_be_visible()
            t.append(time.time())
            Axe().run(page, options={"resultTypes": ["violations"]})
            t.append(time.time())
            Axe().run(
                page,
                options={
                    "resultTypes": ["violations"],
                    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
                },
            )
            t.append(time.time())
            page.close()
            print(fresh, shown.name, *[f"{b - a:.2f}" for a, b in zip(t, t[1:])], flush=True)
