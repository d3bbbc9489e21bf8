#!/usr/bin/env python3
"""Clustering speakers, judging the clusters, planning an epoch: seconds and memory.

    python tests/benchmarks/bench_clusters.py [--speakers 6000] [--clusters 50]

on random embeddings around more centers than there are clusters, which is harder
than real ones. Source of no assertion: it measures. OMP_NUM_THREADS sets the threads;
on a busy machine, the processor's seconds of one thread tell more than the clock's.
"""

import argparse
import resource
import time

import torch

from hamsb import PoincareBall, SpeakerBatchSampler
from hamsb.analysis.cluster_quality import cluster_quality, distance_matrix, medoids
from hamsb.analysis.kmeans import ball_kmeans, kmeans
from hamsb.dataio.clusters import make_clusters
from hamsb.nnet.similarities import CosineSimilarity, HyperbolicSimilarity


def speaker_embeddings(speakers, dimension):
    """Means of speakers around ten times as many centers as a fine clustering has."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(500, dimension, generator=generator)
    around = torch.randint(500, (speakers,), generator=generator)
    noise = torch.randn(speakers, dimension, generator=generator)
    return centers[around] + noise


def measure(name, function, *arguments, **options):
    """Print seconds and the process's largest memory so far; the result."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function(*arguments, **options)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"| {name} | {clock:.2f} | {processor:.2f} | {peak:.2f} |", flush=True)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speakers", type=int, default=6000)
    parser.add_argument("--dimension", type=int, default=192)
    parser.add_argument("--clusters", type=int, default=50)
    parser.add_argument("--utterances", type=int, default=1_000_000)
    options = parser.parse_args()
    k = options.clusters
    embeddings = speaker_embeddings(options.speakers, options.dimension)

    print(f"{options.speakers} speakers x {options.dimension}, {k} clusters, ", end="")
    print(f"{torch.get_num_threads()} threads")
    print("| what | seconds | of the processor | peak memory so far, GiB |")
    print("| --- | ---: | ---: | ---: |")
    labels, centers = measure("k-means, 10 starts", kmeans, embeddings, k)
    similarity = CosineSimilarity()
    points, centers = similarity.project(embeddings), similarity.project(centers)
    cosine = measure("cosine distances", distance_matrix, points, similarity.distances)
    to_centers = similarity.distances(points, centers.float())
    measure("three measures, mean centers", cluster_quality, cosine, labels, to_centers)
    measure("medoids", medoids, cosine, labels)
    skewed = (torch.arange(options.speakers) == 0).long()
    measure("three measures, one large cluster", cluster_quality, cosine, skewed)
    del cosine

    in_ball = HyperbolicSimilarity(PoincareBall(curvature=1.0))
    points = in_ball.project(embeddings)
    ball_labels, _ = measure("k-means in the ball, 10 starts", ball_kmeans, points, k, 1.0)
    hyperbolic = measure("hyperbolic distances", distance_matrix, points, in_ball.distances)
    measure("three measures in the ball", cluster_quality, hyperbolic, ball_labels)
    del hyperbolic

    names = [f"id{i:05d}" for i in range(options.speakers)]
    drawn = torch.randint(options.speakers, (options.utterances,)).tolist()
    speakers = [names[i] for i in drawn]
    clusters = make_clusters(names, labels, similarity.distances(centers, centers))
    for size in (650, 128, 32):
        for ratio in (0.0, 0.5, 1.0):
            sampler = SpeakerBatchSampler(
                speakers, size, options.utterances // (2 * size), 0, clusters, ratio
            )
            name = f"an epoch of {options.utterances:,} utterances, S = {size}, "
            measure(f"{name}hard_ratio {ratio}", list, sampler)


if __name__ == "__main__":
    main()
