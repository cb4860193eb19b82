"""What was recorded, and how a message looks: both programs stand on it."""
