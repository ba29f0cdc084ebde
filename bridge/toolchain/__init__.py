"""What compiles libraries of ops: the build backend of packages, and builds in place."""
