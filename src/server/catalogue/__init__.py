"""The catalogue: providers and models as files say they are.

`load_catalog` reads what ships with the gateway and the operator's file into one immutable `Catalog`, or says
everything that is wrong with them. `ReloadingCatalog` keeps it current while the gateway runs.
"""

from server.catalogue.load import load_catalog, read_catalog, shipped_directory
from server.catalogue.problems import CatalogError, LoadedCatalog, Problem
from server.catalogue.watch import ReloadingCatalog

__all__ = [
    "CatalogError",
    "LoadedCatalog",
    "Problem",
    "ReloadingCatalog",
    "load_catalog",
    "read_catalog",
    "shipped_directory",
]
