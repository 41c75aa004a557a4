"""SplitFrozen server: uploads, training jobs, adapters, split inference."""
