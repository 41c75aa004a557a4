"""The precisions of a device graph: how weights and products are coded, and what calibrates it."""
