"""From an exported program to a network, and from that to engine bytes."""
