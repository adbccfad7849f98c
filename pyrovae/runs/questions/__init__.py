"""What a trained run is asked: codes, scores, test figures, restored images."""
