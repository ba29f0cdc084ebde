"""What knows nothing of torch graphs and of TensorRT: logging, files, locks, text, reversible patches."""
