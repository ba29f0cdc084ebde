"""What an exported graph is: capture, dynamic extents, the model's lines."""
