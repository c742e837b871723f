# The public functions and their modules; graphnn_unet/__init__.py reads this list.
from graphnn_unet import graph as graph
from graphnn_unet import metrics as metrics
from graphnn_unet import trainers as trainers
from graphnn_unet._version import __version__ as __version__
from graphnn_unet.benchmark.run import benchmark as benchmark
from graphnn_unet.classification.run import classify as classify
from graphnn_unet.clustering.cluster import cluster as cluster
from graphnn_unet.data.plan_and_preprocess import plan_and_preprocess as plan_and_preprocess
from graphnn_unet.dataset_conversion.convert import convert as convert
from graphnn_unet.metrics.evaluate import evaluate as evaluate
from graphnn_unet.models.export import export as export
from graphnn_unet.models.install import install_model as install_model
from graphnn_unet.models.predict import predict as predict
from graphnn_unet.report.comparison import report_comparison as report_comparison
from graphnn_unet.report.demo import demo as demo
from graphnn_unet.report.pseudo_labels import draw_pseudo_labels as draw_pseudo_labels
from graphnn_unet.trainers.run import train as train
