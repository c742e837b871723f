"""Folders of the repository and their import names; the rest stands in pyproject.toml.

``dataset_conversion`` and ``plans`` lie at the top of the repository and are installed as
``graphnn_unet.dataset_conversion`` and ``graphnn_unet.plans``: no general name lands in
site-packages.
"""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["graphnn_unet", "graphnn_unet.*"]),
        "graphnn_unet.dataset_conversion",
        "graphnn_unet.plans",
    ],
    package_dir={
        "graphnn_unet": "graphnn_unet",
        "graphnn_unet.dataset_conversion": "dataset_conversion",
        "graphnn_unet.plans": "plans",
    },
    package_data={
        "graphnn_unet": ["py.typed", "__init__.pyi"],
        "graphnn_unet.benchmarking": ["published.csv"],
        "graphnn_unet.dataset_conversion": ["*.json"],
        "graphnn_unet.plans": ["recipes/*.toml"],
        "graphnn_unet.report": ["*.css", "*.js", "niivue/*"],
    },
)
