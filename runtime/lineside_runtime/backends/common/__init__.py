"""What several engines need: error texts, names of tensors, options, operator times, versions."""
