"""From the model's logits to text: reading a prompt, choosing, writing."""
