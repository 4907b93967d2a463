"""What every test shares: how many random examples a property sees."""

from hypothesis import HealthCheck, settings

# A deadline would make a busy machine fail tests that are right.
settings.register_profile(
    "modest", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("modest"), max_examples=2_000)
settings.load_profile("modest")
