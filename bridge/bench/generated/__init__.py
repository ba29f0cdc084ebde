"""`bridge bench --generated`: plugins that bridge generated, in engines, beside Triton and Inductor themselves."""
