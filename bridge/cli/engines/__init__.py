"""Commands that make engines and run them, with what their flags are made of."""
