#!/usr/bin/env python3
"""Writes tests/golden/readouts.json: what test_readout.c compares with.

    .cache/parity/bin/python tests/golden/make_readouts.py      (numpy, scikit-learn)

Features have three decimals, so that they are the same numbers as float32 to 1e-7. Standardisation, logistic
regression, ridge, discriminants, ROC areas and log-losses are scikit-learn's.
"""
import json
import os

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "readouts.json")


def features(rng, n, d, classes):
    y = np.arange(n) % classes
    x = rng.normal(size=(n, d)) * rng.uniform(0.3, 3, d) + rng.normal(size=(classes, d))[y] + rng.normal(size=d)
    return np.float32(x.round(3)), y


def targets(y, classes):
    return np.where(y == 1, 1.0, -1.0)[:, None] if classes == 2 else np.eye(classes)[y]


def lda(z, y):
    """Of two classes the logit's weights; of more, each class's. Σ: of what is left of rows without their class's mean, over n."""
    m = LinearDiscriminantAnalysis(solver="lsqr").fit(z, y)
    return m.coef_, m.intercept_


def case(rng, n, d, classes, lam, raw):
    x, y = features(rng, n, d, classes)
    z = x.astype(float) if raw else StandardScaler().fit_transform(x.astype(float))
    c = {"n": n, "d": d, "classes": classes, "lambda": lam, "raw": raw, "x": [round(float(v), 3) for v in x.ravel()], "y": y.tolist()}
    m = LogisticRegression(C=1 / (n * lam), tol=1e-10, max_iter=100000).fit(z, y)
    c["logistic"] = {"w": m.coef_.ravel().tolist(), "b": m.intercept_.tolist()}
    m = Ridge(alpha=n * lam).fit(z, targets(y, classes))
    c["ridge"] = {"w": np.ravel(m.coef_).tolist(), "b": np.ravel(m.intercept_).tolist()}
    if n > d:
        w, b = lda(z, y)
        c["lda"] = {"w": w.ravel().tolist(), "b": b.tolist()}
    return c


def main():
    rng = np.random.default_rng(11)
    cases = [case(rng, 60, 6, 2, 0.1, False), case(rng, 40, 5, 2, 0.02, True), case(rng, 45, 4, 3, 0.05, False),
             case(rng, 16, 40, 2, 0.3, False), case(rng, 15, 24, 3, 0.01, True)]
    json.dump({"cases": cases}, open(OUT, "w"), separators=(",", ":"))


if __name__ == "__main__":
    main()
