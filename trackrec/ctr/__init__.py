"""CTR nets, their features, and their training.

The nets are exported here, so that a configuration can name them. Lightning is imported by ``data``, ``module`` and
``train`` only.
"""

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
