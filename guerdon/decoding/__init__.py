"""Writing outputs with a policy: greedy search, sampling, beam search; and choosing among outputs.

Everything here is written once against `guerdon.models.policy.Policy`: ids in, ids out.
"""

from guerdon.decoding.beam import BeamOptions, beam_search
from guerdon.decoding.choosing import SamplingOptions
from guerdon.decoding.limits import LengthLimit
from guerdon.decoding.options import DecodingOptions, changed
from guerdon.decoding.outputs import Hypothesis, Samples
from guerdon.decoding.rerank import best_of_n, minimum_bayes_risk
from guerdon.decoding.sampling import greedy, sample

__all__ = [
    "BeamOptions",
    "DecodingOptions",
    "Hypothesis",
    "LengthLimit",
    "Samples",
    "SamplingOptions",
    "beam_search",
    "best_of_n",
    "changed",
    "greedy",
    "minimum_bayes_risk",
    "sample",
]
