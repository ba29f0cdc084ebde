"""`bridge report`: an engine file as one HTML page, which needs no network and runs no script but its own."""
