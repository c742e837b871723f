"""Names that stock nnU-Net looks for; it reads every module of this folder, so there is one."""

from graphnn_unet.trainers.bcp import BCPTrainer
from graphnn_unet.trainers.graphcl import GraphCLTrainer
from graphnn_unet.trainers.supervised import SupervisedTrainer

__all__ = ["BCPTrainer", "GraphCLTrainer", "SupervisedTrainer"]
