"""Signal propagation: what depth does to variances, correlations and the tangent kernel.

`propagation` has the maps of one layer, accurate next to ρ = 1; `phases` their fixed points, phases and depth scales;
`critical` the edge of chaos of each activation; `profile` the tangent kernel of deep networks, layer by layer. Each
imports only from those before it.
"""

from ntklib.depth.critical import CriticalPoint, critical_point, edge_of_chaos
from ntklib.depth.phases import DepthScales, depth_scales, fixed_point, fixed_points, phase
from ntklib.depth.profile import DepthProfile, ntk_depth_profile
from ntklib.depth.propagation import chi, correlation_map, decorrelation_map, variance_map

__all__ = [
    "CriticalPoint",
    "DepthProfile",
    "DepthScales",
    "chi",
    "correlation_map",
    "critical_point",
    "decorrelation_map",
    "depth_scales",
    "edge_of_chaos",
    "fixed_point",
    "fixed_points",
    "ntk_depth_profile",
    "phase",
    "variance_map",
]
