"""Features: numbers taken from one message, the same whenever they are taken again."""

#: For axes and tables; what is not here has a unit that only its maker knows.
UNITS = {
    "power_log_log_slope": "no unit",
    "mean": "intensity",
    "standard_deviation": "intensity",
    "laplacian_variance": "squared intensity",
    "green_sum": "summed intensity",
}
