"""Imports Lightning without packages that no stage uses, so that ``--help`` and errors appear within seconds."""

from __future__ import annotations

_UNUSED = ("transformers", "scipy")


def import_lightning() -> None:
    """Import Lightning without transformers and scipy.

    torchmetrics imports transformers for its text metrics and scipy.signal for its audio metrics whenever they are
    installed, which takes four seconds. While it is imported, both are reported to it as not installed.
    """
    from lightning_utilities.core import imports

    met = imports.RequirementCache.__bool__
    installed = imports.package_available

    def classification_only(self: imports.RequirementCache) -> bool:
        return not (self.requirement or "").startswith(_UNUSED) and met(self)

    def without_unused(package_name: str) -> bool:
        return package_name not in _UNUSED and installed(package_name)

    imports.RequirementCache.__bool__ = classification_only  # type: ignore[method-assign]
    imports.package_available = without_unused  # type: ignore[assignment]
    try:
        import torchmetrics  # noqa: F401
    finally:
        imports.RequirementCache.__bool__ = met  # type: ignore[method-assign]
        imports.package_available = installed
