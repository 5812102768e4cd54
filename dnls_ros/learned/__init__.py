"""Measurement models that are trained: networks, learned noise and their files (layer 5)."""

from dnls_ros.learned.encoder import PairHead as PairHead
from dnls_ros.learned.encoder import PairMotion as PairMotion
from dnls_ros.learned.encoder import TactileEncoder as TactileEncoder
from dnls_ros.learned.encoder import TactileNet as TactileNet
from dnls_ros.learned.model_file import NETWORKS as NETWORKS
from dnls_ros.learned.model_file import ModelCard as ModelCard
from dnls_ros.learned.model_file import Network as Network
from dnls_ros.learned.model_file import build_network as build_network
from dnls_ros.learned.model_file import read_model as read_model
from dnls_ros.learned.model_file import save_model as save_model
from dnls_ros.learned.model_file import sha256 as sha256
from dnls_ros.learned.tactile_model import TrainedTactileModel as TrainedTactileModel
from dnls_ros.learned.tactile_model import load_model as load_model
from dnls_ros.learned.weights import LearnedSigma as LearnedSigma
from dnls_ros.learned.wrench import ContactReading as ContactReading
from dnls_ros.learned.wrench import WrenchNet as WrenchNet
from dnls_ros.learned.wrench import push_signals as push_signals
