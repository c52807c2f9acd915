"""CTR nets, their features, and their training.

The nets are exported here, so that a configuration can name them. Lightning is imported by ``data``, ``module`` and
``train`` only.
"""

from trackrec.ctr.autoint import AutoInt
from trackrec.ctr.bst import BST
from trackrec.ctr.connector import MLPConnector
from trackrec.ctr.dcnv2 import DCNv2
from trackrec.ctr.deepfm import DeepFM
from trackrec.ctr.dien import DIEN
from trackrec.ctr.din import DIN
from trackrec.ctr.dnn import DNN
from trackrec.ctr.features import FeatureSpec
from trackrec.ctr.fibinet import FiBiNET
from trackrec.ctr.gated import GatedConnector
from trackrec.ctr.hea import HEAConnector
from trackrec.ctr.lightfm import LightFM
from trackrec.ctr.xdeepfm import xDeepFM

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
