"""What an op is: its definition, its derivatives, its native libraries and its names in other libraries."""
