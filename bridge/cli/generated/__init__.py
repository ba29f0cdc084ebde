"""Commands about generated plugins."""
