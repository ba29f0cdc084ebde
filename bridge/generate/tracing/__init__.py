"""From an operator's body to regions: what it launches, for every extent of a profile."""
