"""Signal propagation: what depth does to variances, correlations and the tangent kernel.

- `propagation`: the maps of variance and correlation by one layer, accurate near ρ = 1.
- `phases`: the fixed points of these maps, the phases, and the depth scales.
- `critical`: the edge of chaos of an activation.
- `profile`: the tangent kernel of deep networks, layer by layer.

Each module imports only from modules above it in this list.
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
