"""Small models that come with the suite: their weights as safetensors, and the scripts that made them."""
