"""Train a float32 version."""

import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from models.datasets import Rows
from models.samples import TrainedRecipe

_SEED = 0


def train(recipe: TrainedRecipe, rows: Rows) -> Any:
    """Return a fitted scikit-learn pipeline; the same recipe and rows give the same weights on one machine."""
    classifier = (
        MLPClassifier(recipe.hidden_layers, max_iter=recipe.epochs, random_state=_SEED)
        if recipe.hidden_layers
        else LogisticRegression(max_iter=recipe.epochs, random_state=_SEED)
    )
    pipeline = make_pipeline(StandardScaler(), classifier)
    # One thread: the order of sums, and so the weights, would change with the cores, and on a busy machine the
    # threads of BLAS wait for each other by spinning (measured here: 344 ms instead of 76 for one product).
    with threadpool_limits(limits=1), warnings.catch_warnings():
        # The recipe's epochs are the budget; that the last one could still improve is known.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return pipeline.fit(rows.features, rows.labels)
