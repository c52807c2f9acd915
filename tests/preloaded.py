"""What a `trackrec` command imports until it is done. The fork server of `forks` imports it, and runs none of it."""

# ruff: noqa: E402, F401
from trackrec.runtime.lightning_import import import_lightning

import_lightning()

import datasets
import peft
import scipy.sparse
import sentence_transformers
import sklearn.linear_model
import sklearn.pipeline
import sklearn.preprocessing
import transformers.models.bert.modeling_bert
import transformers.models.llama.modeling_llama

import trackrec.cli.app
import trackrec.recipe.scoring
import trackrec.recipe.writing
