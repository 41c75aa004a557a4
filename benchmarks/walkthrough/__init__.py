"""The demo, piece by piece: processes, the commands of the main job, baselines, the report."""
