"""Training: objectives, the one loop for all of them, and the pipeline that runs the stages in order."""
