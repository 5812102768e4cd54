"""Measurement models that are trained: networks, learned noise and their files (layer 5)."""

from dnls_ros.learned.encoder import PairHead as PairHead
from dnls_ros.learned.encoder import PairMotion as PairMotion
from dnls_ros.learned.encoder import TactileEncoder as TactileEncoder
from dnls_ros.learned.encoder import TactileNet as TactileNet
from dnls_ros.learned.weights import LearnedSigma as LearnedSigma
