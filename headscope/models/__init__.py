"""Load anything into one `HookedModel`."""

from headscope.models.catalog import CatalogEntry, catalog, load

__all__ = ["CatalogEntry", "catalog", "load"]
