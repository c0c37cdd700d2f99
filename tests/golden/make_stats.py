#!/usr/bin/env python3
"""Writes tests/golden/stats.json: what test_stats.c compares with.

    python3 tests/golden/make_stats.py

Bootstrap intervals by scipy (percentile method, 200,000 draws; of clusters by drawing clusters with
numpy), rank correlations by scipy, areas under ROC curves by scikit-learn's definition written out
(the share of pairs in order, ties by half).
"""
import json
import os

import numpy as np
import scipy.stats

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stats.json")
DRAWS = 200_000


def plain(rng, n):
    x = rng.normal(1, 2, n)
    r = scipy.stats.bootstrap((x,), np.mean, n_resamples=DRAWS, method="percentile", batch=2000, rng=rng)
    return {"cluster": list(range(n)), "x": x.tolist(), "mean": x.mean(), "low": r.confidence_interval.low,
            "high": r.confidence_interval.high}


def clustered(rng, clusters, ratio=False):
    sizes = rng.integers(1, 6, clusters)
    of = np.repeat(np.arange(clusters), sizes)
    x = rng.normal(0, 1, clusters)[of] + rng.normal(0, 0.2, of.size)
    y = 3 + rng.normal(0, 1, clusters)[of]
    sx, sy, sn = (np.bincount(of, w, clusters) for w in (x, y, np.ones_like(x)))
    pick = rng.integers(0, clusters, (DRAWS, clusters))
    draws = sx[pick].sum(1) / (sy if ratio else sn)[pick].sum(1)
    low, high = np.quantile(draws, [0.025, 0.975])
    out = {"cluster": of.tolist(), "x": x.tolist(), "mean": x.mean() / y.mean() if ratio else x.mean(), "low": low, "high": high}
    return {**out, "y": y.tolist()} if ratio else out


def auc(score, member):
    a, b = score[member][:, None], score[~member][None]
    return float(((a > b) + 0.5 * (a == b)).mean())


def main():
    rng = np.random.default_rng(3)
    pairs, areas = [], []
    for n, ties in ((20, False), (40, True), (3, False)):
        x = rng.integers(0, 6, n).astype(float) if ties else rng.normal(size=n)
        y = x + rng.normal(0, 2, n).round(1)
        pairs.append({"x": x.tolist(), "y": y.tolist(), "rho": scipy.stats.spearmanr(x, y).statistic})
        member = rng.random(n) < 0.4
        member[:2] = True, False
        areas.append({"score": x.tolist(), "member": member.tolist(), "auc": auc(x, member)})
    json.dump({"intervals": [plain(rng, 30), plain(rng, 8), clustered(rng, 25), clustered(rng, 12), clustered(rng, 20, True)],
               "spearman": pairs, "auc": areas}, open(OUT, "w"), indent=1)


if __name__ == "__main__":
    main()
