"""What the precisions of a device segment cost: activations, gradients, loss, bytes."""
