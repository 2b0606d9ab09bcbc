"""What can be seen in a run: each symptom's texts stand beside the function that tells it from the numbers."""
