"""`bridge verify`: what a machine that got an engine asks first."""
