"""What leaves the machine: plans, deployment folders and what other runtimes take."""
