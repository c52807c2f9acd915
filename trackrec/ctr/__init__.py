"""CTR nets, their features, and their training.

The nets are exported here, so that a configuration can name them. Lightning is imported by ``data``, ``module`` and
``train`` only.
"""

from trackrec.ctr.connector import MLPConnector
from trackrec.ctr.deepfm import DeepFM
from trackrec.ctr.din import DIN
from trackrec.ctr.features import FeatureSpec
from trackrec.ctr.lightfm import LightFM

__all__ = ["DIN", "DeepFM", "FeatureSpec", "LightFM", "MLPConnector"]
