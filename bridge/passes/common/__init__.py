"""What every pass uses: reading nodes, constants, editing, strides, outcomes."""
