"""What must outlive the program: the cluster as the operator described it, and the jobs with their steps."""
