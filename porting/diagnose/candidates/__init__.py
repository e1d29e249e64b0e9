"""The candidates that every port has, in the order in which they are tried: the specific before the general.

A candidate is a function from a `Site` to hypotheses. Adding one: a file here with such a function, its name
in the list below, and a fault in benchmarks/localisation.py that it explains. What only one architecture has
(relative-position buckets, attention masks) is among that port's own candidates (`Port.candidates`).
"""

from __future__ import annotations

from porting.diagnose.candidates.activation import another_activation
from porting.diagnose.candidates.configuration import another_configuration
from porting.diagnose.candidates.normalisation import another_norm
from porting.diagnose.candidates.order import another_order
from porting.diagnose.candidates.projection import another_projection
from porting.diagnose.candidates.rounding import rounded
from porting.diagnose.candidates.scale import scaled
from porting.diagnose.candidates.sources import another_source
from porting.diagnose.candidates.sums import another_sum
from porting.diagnose.candidates.vector import constant_vector
from porting.diagnose.candidates.weights import another_parameter, rearranged_weights, wrong_weights

# What a comparison with the original's own config and weights proves comes before what a formula fits.
FIRST = (another_configuration, wrong_weights)
CANDIDATES = (
    rearranged_weights,
    rounded,
    another_activation,
    another_norm,
    scaled,
    another_source,
    another_sum,
    another_projection,
    another_order,
    constant_vector,
    another_parameter,
)
