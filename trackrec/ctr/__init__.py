"""CTR nets, their features, and their training.

The nets are exported here, so that a configuration can name them. They are imported when one of them is asked for,
since a server computes the features of this room without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trackrec.ctr.connectors.gated import GatedConnector
    from trackrec.ctr.connectors.hea import HEAConnector
    from trackrec.ctr.connectors.mlp import MLPConnector
    from trackrec.ctr.features.features import FeatureSpec
    from trackrec.ctr.nets.autoint import AutoInt
    from trackrec.ctr.nets.bst import BST
    from trackrec.ctr.nets.dcnv2 import DCNv2
    from trackrec.ctr.nets.deepfm import DeepFM
    from trackrec.ctr.nets.dien import DIEN
    from trackrec.ctr.nets.din import DIN
    from trackrec.ctr.nets.dnn import DNN
    from trackrec.ctr.nets.fibinet import FiBiNET
    from trackrec.ctr.nets.lightfm import LightFM
    from trackrec.ctr.nets.xdeepfm import xDeepFM

_HOMES = {
    "GatedConnector": "connectors.gated",
    "HEAConnector": "connectors.hea",
    "MLPConnector": "connectors.mlp",
    "FeatureSpec": "features.features",
    "AutoInt": "nets.autoint",
    "BST": "nets.bst",
    "DCNv2": "nets.dcnv2",
    "DeepFM": "nets.deepfm",
    "DIEN": "nets.dien",
    "DIN": "nets.din",
    "DNN": "nets.dnn",
    "FiBiNET": "nets.fibinet",
    "LightFM": "nets.lightfm",
    "xDeepFM": "nets.xdeepfm",
}

__all__ = [
    "BST",
    "DIEN",
    "DIN",
    "DNN",
    "AutoInt",
    "DCNv2",
    "DeepFM",
    "FeatureSpec",
    "FiBiNET",
    "GatedConnector",
    "HEAConnector",
    "LightFM",
    "MLPConnector",
    "xDeepFM",
]


def __getattr__(name: str) -> Any:
    """An exported class. The first that is asked for brings all: a command line offers those that are loaded."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    homes = {exported: importlib.import_module(f"{__name__}.{home}") for exported, home in _HOMES.items()}
    globals().update({exported: getattr(module, exported) for exported, module in homes.items()})
    return globals()[name]
