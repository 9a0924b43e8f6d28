"""INT8 and dynamic quantization, and the search for layers that stay in float."""
