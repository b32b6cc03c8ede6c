"""What drives: campaign file, graph, the three nodes, command line."""
