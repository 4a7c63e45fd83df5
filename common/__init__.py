"""Machinery shared by the chapters.

Importing it readies the process: TensorFlow starts quietly, Keras runs on TensorFlow, and what
stands in the way is said in one line (`common.environment`). It does not import TensorFlow.
"""

from common.environment import prepare

prepare()
